"""Experiments: sweeps over many runs, phases in other domains, and what they say about the claims that they test."""
