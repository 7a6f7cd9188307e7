"""What a loader yields: inputs alone, or with labels (and whatever else) behind them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["inputs_and_labels"]


def inputs_and_labels(batch: Any) -> tuple[Tensor, Tensor | None]:
    """The inputs of a batch, and its labels where it has some."""
    if not isinstance(batch, list | tuple):
        return batch, None
    return batch[0], batch[1] if len(batch) > 1 else None
