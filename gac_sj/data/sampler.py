"""The order of an epoch, which may start inside it."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any, NamedTuple, cast

from timm.data.distributed_sampler import RepeatAugSampler
from torch.utils.data import DistributedSampler, Sampler

from gac_sj._utils.errors import UsageError
from gac_sj._utils.randomness import derive_seed

__all__ = ["EpochSampler", "SampleKey"]


class SampleKey(NamedTuple):
    """An item at a position of an epoch, from which the seed of its augmentation is derived.

    Attributes:
        epoch: counted from 0.
        position: in the epoch, counted over all processes.
        item: index into the data set.
    """

    epoch: int
    position: int
    item: int


class EpochSampler(Sampler[list[SampleKey]]):
    """Batches of sample keys: the order of an epoch depends on seed and epoch alone, and may start inside it.

    Process r of n takes positions r, r + n, ...; so batch k of all processes together holds the same items, augmented
    in the same way, as batch k of one process with the n-fold batch.

    Args:
        dataset: its length is used.
        batch_size: images in a batch of one process.
        seed: seed of the order.
        repeats: times that an item is drawn with different augmentations (timm's repeated augmentation); 0 or 1: once.
        rank: number of this process.
        world_size: number of processes.

    Raises:
        UsageError: an epoch has less than one batch.
    """

    def __init__(
        self, dataset: Sized, batch_size: int, seed: int, repeats: int = 0, rank: int = 0, world_size: int = 1
    ):
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        items = cast(Any, dataset)  # both samplers are typed for data sets and use the length
        # timm's has no attribute for the seed, and would round to a multiple of 256, or up, so that the number of
        # batches depended on the number of processes
        self.order: Any = (
            RepeatAugSampler(items, world_size, rank, num_repeats=repeats, selected_round=1)
            if repeats > 1
            else DistributedSampler(items, world_size, rank, drop_last=True)
        )
        self.set_epoch(0)
        if not len(self):
            raise UsageError(
                f"must be at most the number of training images, {len(dataset)}, got {batch_size * world_size}",
                "use a smaller one or more images",
                argument="batch_size",
            )

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose what the next pass yields.

        Args:
            epoch: counted from 0.
            start: the first batch of the pass.
        """
        self.epoch, self.start = epoch, start
        # both samplers seed their generator with this number; consecutive ones would share orders between seeds
        self.order.seed = 0
        self.order.set_epoch(derive_seed(self.seed, "order", epoch))

    def __len__(self) -> int:
        """Number of batches in a whole epoch; incomplete batches are dropped."""
        return len(self.order) // self.batch_size

    def __iter__(self) -> Iterator[list[SampleKey]]:
        items = list(self.order)
        for batch in range(self.start, len(self)):
            numbers = range(batch * self.batch_size, (batch + 1) * self.batch_size)
            yield [SampleKey(self.epoch, self.rank + self.world_size * n, items[n]) for n in numbers]
