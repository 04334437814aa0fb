"""Whether a measure is better when larger or when smaller, by its name: laws and searches need to know."""

from __future__ import annotations

from isolora.errors import ConfigError, unknown

SCORES = (
    *("accuracy", "exact", "f1", "matthews", "pearson", "precision", "recall", "spearman"),
    *("rouge1", "rouge2", "rougeL", "rougeLsum"),
)
"""Better when larger and 1 at best, under whatever further words: token_f1, f1.PERSON, best_exact, reviews/rougeL."""
REWARDS = ("reward_margin", "chosen_reward")
"""Better when larger, without an upper end."""
PER_TOKEN = ("loss", "train_loss", "perplexity")
"""Means over a language model's tokens: they compare between bases of one tokenizer alone."""
COSTS = (*PER_TOKEN, "bits_per_byte", "forgetting", "forgotten")
"""Better when smaller."""


def larger_is_better(name: str) -> bool:
    """Raises ConfigError for a measure that is not known."""
    if not is_known_measure(name):
        raise ConfigError(unknown("measure", name, (*SCORES, *REWARDS, *COSTS)))
    return _stem(name) not in COSTS


def is_known_measure(name: str) -> bool:
    return is_score(name) or _stem(name) in (*REWARDS, *COSTS)


def is_score(name: str) -> bool:
    """Whether its best value is 1."""
    words = _stem(name).split("_")
    return "threshold" not in words and not set(SCORES).isdisjoint(words)


def _stem(name: str) -> str:
    """A measure's name without the task in front of it (`reviews/`) and the class or source behind it (`.PERSON`)."""
    return name.rpartition("/")[2].partition(".")[0]
