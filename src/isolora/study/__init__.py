"""Studies: a grid of runs or a search, executed in stacks, and the proof of what they recommend."""

from isolora.study.demo import demo
from isolora.study.executors.base import StudyFailed
from isolora.study.run import run_study
from isolora.study.search import searched
from isolora.study.status import status, stop
from isolora.study.verify import verify

__all__ = ["StudyFailed", "demo", "run_study", "searched", "status", "stop", "verify"]
