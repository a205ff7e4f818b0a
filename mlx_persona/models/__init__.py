"""Base models, adapters and their files."""
