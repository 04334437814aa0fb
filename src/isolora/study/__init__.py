"""Studies: a grid of runs or a search, executed in stacks, and the proof of what they recommend.

Names are imported from their own files (`isolora.study.running`, `isolora.study.status`), so that a look at a study
loads no torch.
"""
