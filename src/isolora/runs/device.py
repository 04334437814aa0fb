"""Where steps run, and in which precision: one answer for training, for evaluation and for what rehearses them."""

from __future__ import annotations

import torch


def device() -> str:
    """ "cuda" where PyTorch sees a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def autocast(device: torch.device | str, precision: str) -> torch.autocast:
    """Mixed precision as a run asks for it: `training.precision` is "float32" or "bfloat16"."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16")
