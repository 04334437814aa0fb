"""Studies: a grid of runs, executed in stacks, and the proof of what it recommends."""

from isolora.study.demo import demo
from isolora.study.run import run_study
from isolora.study.verify import verify

__all__ = ["demo", "run_study", "verify"]
