"""Phases of training: the signal, the regimes, and a controller that acts on them; pure functions on arrays."""
