"""Scores recomputed from what was saved."""

from isolora.evaluation.harness import harness
from isolora.evaluation.held_out import evaluate, forget
from isolora.evaluation.lighteval import lighteval

__all__ = ["evaluate", "forget", "harness", "lighteval"]
