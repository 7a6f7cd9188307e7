"""A network in training or evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["in_mode"]


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put every module into training or evaluation mode inside the block, and restore each module's mode on exit.

    Args:
        model: any network.
        training: whether the mode is training.
    """
    modes = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, before in modes.items():
            module.training = before
