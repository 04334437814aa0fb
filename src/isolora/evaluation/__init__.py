"""Scores recomputed from what was saved."""

from isolora.evaluation.forget import forget
from isolora.evaluation.held_out import evaluate

__all__ = ["evaluate", "forget"]
