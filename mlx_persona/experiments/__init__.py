"""Experiments over many runs: sweeps, their tables, and what they say about the claims that they test."""
