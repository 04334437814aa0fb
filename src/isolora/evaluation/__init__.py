"""Scores recomputed from what was saved."""
