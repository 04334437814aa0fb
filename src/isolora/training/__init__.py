"""One training loop: a stack of K members on one frozen base."""
