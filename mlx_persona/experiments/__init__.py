"""Experiments that tell whether the phases of training are there, and whether acting on them helps."""
