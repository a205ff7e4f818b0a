"""The one engine that writes replies."""
