"""What has to be different while tensors have no values: libraries take them for real ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from isolora import registry
from isolora.errors import ConfigError, PlugInError, UserError, in_brief
from isolora.models.uninitialised import replaced


@contextmanager
def refused_in_one_line(model: str) -> Iterator[None]:
    """Within the context, whatever a model or a method does to tensors without values that these cannot bear is a ConfigError."""
    try:
        yield
    except (UserError, PlugInError):
        raise
    except Exception as failure:
        if registry.blamed(failure):  # an error of a plug-in's own is told as such
            raise
        reason = in_brief(failure)
        raise ConfigError(f"model: {model} cannot be rehearsed without weights: {reason}") from failure


@contextmanager
def taken_for_real() -> Iterator[None]:
    """transformers makes masks that it would leave out of a real step when it sees that tensors have no values; torch cannot move
    the weights of a module of such tensors, and warns when one is copied."""
    from transformers.utils import import_utils

    with (
        replaced(import_utils, "is_fake_tensor", lambda tensor: False),
        replaced(torch.utils, "swap_tensors", _take_over),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        yield


def _take_over(kept: Any, moved: Any) -> None:
    kept.data, kept.fake_device = moved.data, moved.fake_device
