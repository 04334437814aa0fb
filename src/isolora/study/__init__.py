"""Studies: a grid of runs, executed in stacks, and the proof of what it recommends."""
