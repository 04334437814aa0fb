"""One training loop: a stack of K members on one frozen base."""

from isolora.training.run import train, train_stack

__all__ = ["train", "train_stack"]
