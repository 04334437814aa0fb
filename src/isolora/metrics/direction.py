"""Whether a measure is better when larger or when smaller, by its name: laws and searches need to know."""

from __future__ import annotations

import re
from collections.abc import Iterable

from isolora.errors import ConfigError, unknown

SCORES = (
    *("accuracy", "exact", "f1", "matthews", "pearson", "precision", "recall", "spearman"),
    *("rouge1", "rouge2", "rougeL", "rougeLsum"),
    *("acc", "auc", "auroc", "em", "kappa", "mcc", "r2"),
)
"""Better when larger and 1 at best, in either case and under whatever further words: token_f1, f1.PERSON, reviews/rougeL."""
REWARDS = ("reward_margin", "chosen_reward")
"""Better when larger, without an upper end."""
PER_TOKEN = ("loss", "train_loss", "perplexity", "ppl")
"""Means over a language model's tokens: they compare between bases of one tokenizer alone."""
COSTS = (
    *(*PER_TOKEN, "bits_per_byte", "bpb", "forgetting", "forgotten"),
    *("mae", "mse", "rmse", "cer", "wer", "error", "error_rate"),
)
"""Better when smaller."""
_SCORE_WORDS = frozenset(name.lower() for name in SCORES)
_NO_SCORE = frozenset({"threshold", "std", "stderr", "grad", "gradient", "step", "steps"})
"""Words beside which the name of a score is none: acc_stderr, grad_acc_steps."""
_HELD_OUT = frozenset({"eval", "evaluation", "val", "valid", "validation", "test", "dev"})
_SAME = {
    "acc": "accuracy",
    "auroc": "auc",
    "bpb": "bits_per_byte",
    "em": "exact_match",
    "mcc": "matthews_correlation",
    "matthews_corrcoef": "matthews_correlation",
    "ppl": "perplexity",
}
"""Names of one measure."""


def larger_is_better(name: str) -> bool:
    """Raises ConfigError for a measure that is not known."""
    if not is_known_measure(name):
        raise ConfigError(unknown("measure", name, (*SCORES, *REWARDS, *COSTS)))
    return not _is_cost(name)


def is_known_measure(name: str) -> bool:
    return is_score(name) or _stem(name) in REWARDS or _is_cost(name)


def is_score(name: str) -> bool:
    """Whether its best value is 1."""
    words = _words(_stem(name))
    return _NO_SCORE.isdisjoint(words) and not _SCORE_WORDS.isdisjoint(words) and not _is_cost(name)


def column_of(measure: str, columns: Iterable[str]) -> str:
    """The column that a measure is in: of that very name, else the only one that says the same in other words (`eval_acc` of
    accuracy); the measure itself where there is none, or several."""
    known = list(columns)
    alike = [column for column in known if _plain(column) == _plain(measure)]
    return measure if measure in known or len(alike) != 1 else alike[0]


def _is_cost(name: str) -> bool:
    stem = _stem(name)
    return stem in COSTS or "_".join(word for word in _words(stem) if word not in _HELD_OUT) in COSTS


def _plain(name: str) -> str:
    """A measure's name in lower case, without what says that it is held out."""
    joined = "_".join(word for word in _words(name) if word not in _HELD_OUT)
    return _SAME.get(joined, joined)


def _words(name: str) -> list[str]:
    return re.split(r"[^0-9a-z]+", name.lower())


def _stem(name: str) -> str:
    """A measure's name without the task in front of it (`reviews/`) and the class or source behind it (`.PERSON`)."""
    return name.rpartition("/")[2].partition(".")[0]
