"""Who takes the steps of a run: one file a trainer, each ending in `trainer = ...`, over the same batches and weights."""
