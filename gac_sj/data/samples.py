"""Transformed items of a data set, augmented with derived seeds, and what to do about corrupt ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, get_worker_info

from gac_sj._utils.randomness import derive_seed, random_state, seed_all, set_random_state
from gac_sj.data.datasets import CorruptImageError, DataSet
from gac_sj.data.sampler import SampleKey

__all__ = ["Samples"]

_logger = logging.getLogger(__name__)


class Samples(Dataset[tuple[Any, int]]):
    """Transformed items; indices given as :class:`SampleKey` are augmented with a derived seed, plain integers are not.

    Args:
        dataset: the items.
        transform: of the image; timm's ``create_loader`` replaces it.
        seed: seed of the augmentation.
        skip_corrupt: replace an item that cannot be read by the next readable one.
    """

    def __init__(
        self, dataset: DataSet, transform: Callable[[Any], Any] | None, seed: int = 0, skip_corrupt: bool = False
    ):
        self.dataset, self.transform, self.seed, self.skip_corrupt = dataset, transform, seed, skip_corrupt
        #: which items could not be read; shared with the workers
        self.corrupt = torch.zeros(len(dataset), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: int) -> tuple[Any, int]:
        image, label = self.read(item)
        return (image if self.transform is None else self.transform(image)), label

    def __getitems__(self, keys: Sequence[SampleKey | int]) -> list[tuple[Any, int]]:
        # workers have no other use for the generators; the main process has
        state = random_state() if get_worker_info() is None else None
        samples = []
        for key in keys:
            if isinstance(key, SampleKey):
                seed_all(derive_seed(self.seed, "image", key.epoch) + key.position)
                key = key.item
            samples.append(self[key])
        if state is not None:
            set_random_state(state)
        return samples

    def read(self, item: int) -> tuple[Any, int]:
        """The untransformed item; with ``skip_corrupt`` the next readable one if it is corrupt.

        Args:
            item: index into the data set.

        Raises:
            CorruptImageError: it, or with ``skip_corrupt`` every item, cannot be read.
        """
        for step in range(len(self)):
            place = (item + step) % len(self)
            try:
                return self.dataset[place]
            except CorruptImageError as error:
                if not self.corrupt[place] and self.skip_corrupt:
                    _logger.warning("%s The next image is used instead.", error)
                self.corrupt[place] = True
                if not self.skip_corrupt:
                    raise
        raise CorruptImageError("No image of the data set can be read", "check its folder")
