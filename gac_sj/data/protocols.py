"""What training, evaluation and benchmarks rely on in a loader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

__all__ = ["BatchLoader", "EpochLoader"]


class BatchLoader(Protocol):
    """Batches of normalised images ``[N, C, H, W]`` (or frames ``[T, N, C, H, W]``) and labels ``[N]``."""

    @property
    def corrupt(self) -> set[int]:
        """The items that this process could not read so far."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...

    def __len__(self) -> int:
        """Number of batches in a whole epoch."""


class EpochLoader(BatchLoader, Protocol):
    """A loader for training: order and augmentation of a batch are functions of seed, epoch and position."""

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose what the next pass yields.

        Args:
            epoch: counted from 0.
            start: the first batch of the pass.
        """
