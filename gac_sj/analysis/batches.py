"""What a loader yields: inputs alone, or with labels and whatever else behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import Tensor

from gac_sj._utils.errors import UsageError

__all__ = ["Batch", "inputs_and_labels", "no_images"]

#: Inputs, or a list or tuple of inputs, labels, and anything else. A loader is an iterable of batches.
Batch: TypeAlias = Tensor | Sequence[Any]


def inputs_and_labels(batch: Batch) -> tuple[Tensor, Tensor | None]:
    """The inputs of a batch, and its labels if it has any.

    Args:
        batch: as a loader yields it.
    """
    if isinstance(batch, Tensor):
        return batch, None
    return batch[0], batch[1] if len(batch) > 1 else None


def no_images() -> UsageError:
    """The error for a loader that yields no images."""
    return UsageError(
        "yields no images, so there is nothing to measure", "give it at least one batch", argument="loader"
    )
