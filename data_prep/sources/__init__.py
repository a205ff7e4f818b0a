"""One importer per export format."""
