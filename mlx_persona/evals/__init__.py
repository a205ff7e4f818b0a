"""Is it really them? Measures of a persona."""
