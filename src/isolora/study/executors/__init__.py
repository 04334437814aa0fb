"""Where the stacks of a study are trained: one file an executor, each ending in `executor = ...`."""
