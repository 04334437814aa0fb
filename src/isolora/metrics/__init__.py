"""How good predictions are: pure functions from what is true and what was predicted to numbers, one file a family."""
