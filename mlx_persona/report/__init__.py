"""A run as one page to read: what was trained on what, what came of it, and what it cost.

mlx-persona report RUN
"""
