"""A run with a body, on which cost and training both stand: what it learns from, its batches, its budget, its optimiser."""
