"""Loaders: timm's, made resumable. Order and augmentation are functions of seed, epoch and position in the epoch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from timm.data import create_loader
from timm.data.distributed_sampler import OrderedDistributedSampler, RepeatAugSampler
from timm.data.loader import PrefetchLoader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler, get_worker_info

from gac_sj._utils.randomness import derive_seed, random_state, seed_all, set_random_state
from gac_sj.data.datasets import CorruptImageError, DataSet
from gac_sj.data.events import as_frames

__all__ = ["EpochSampler", "Loader", "evaluation_loader", "training_loader"]

_logger = logging.getLogger(__name__)


class Place(NamedTuple):
    """Which item, and where in which epoch it stands (counted over all processes)."""

    epoch: int
    position: int
    item: int


class EpochSampler(Sampler[list[Place]]):
    """Batches of places: the order of an epoch depends on seed and epoch alone, and may start inside it.

    Process r of n takes positions r, r + n, ...; so batch k of all processes together holds the same items, augmented
    in the same way, as batch k of one process with the n-fold batch.

    Args:
        dataset: its length is used.
        batch_size: of one process.
        seed: of the order.
        repeats: times that an item is drawn with different augmentations (timm's repeated augmentation), 0 or 1: once.
        rank, world_size: of this process.

    Raises:
        ValueError: an epoch has less than one batch.
    """

    def __init__(
        self, dataset: Dataset, batch_size: int, seed: int, repeats: int = 0, rank: int = 0, world_size: int = 1
    ):
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        if repeats > 1:
            # timm would round to a multiple of 256, or up, so that the number of batches depended on the processes
            self.order = RepeatAugSampler(dataset, world_size, rank, num_repeats=repeats, selected_round=1)
        else:
            self.order = DistributedSampler(dataset, world_size, rank, drop_last=True)
        self.set_epoch(0)
        if not len(self):
            raise ValueError(
                f"The training set has {len(dataset)} images, fewer than a batch of {batch_size * world_size}; "
                "use a smaller batch_size or more images."
            )

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """The next pass is this epoch, from batch ``start`` on."""
        self.epoch, self.start = epoch, start
        # both samplers seed their generator with this number; consecutive ones would share orders between seeds
        self.order.seed = 0
        self.order.set_epoch(derive_seed(self.seed, "order", epoch))

    def __len__(self) -> int:
        """Batches of a whole epoch; what is left over at its end is left out."""
        return len(self.order) // self.batch_size

    def __iter__(self) -> Iterator[list[Place]]:
        items = list(self.order)
        for batch in range(self.start, len(self)):
            numbers = range(batch * self.batch_size, (batch + 1) * self.batch_size)
            yield [Place(self.epoch, self.rank + self.world_size * n, items[n]) for n in numbers]


class Samples(Dataset):
    """Transformed items; item places are seeded, plain items are not.

    Args:
        dataset: the items.
        transform: of the image; timm's ``create_loader`` replaces it.
        seed: of the augmentation.
        skip_corrupt: take the next readable item for one that cannot be read.
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

    def __getitems__(self, places: Sequence[Place | int]) -> list[tuple[Any, int]]:
        # workers have no other use for the generators; the main process has
        state = random_state() if get_worker_info() is None else None
        samples = []
        for place in places:
            if isinstance(place, Place):
                seed_all(derive_seed(self.seed, "image", place.epoch) + place.position)
                place = place.item
            samples.append(self[place])
        if state is not None:
            set_random_state(state)
        return samples

    def read(self, item: int) -> tuple[Any, int]:
        """The item, or with ``skip_corrupt`` the next readable one, untransformed.

        Raises:
            CorruptImageError: it, or with ``skip_corrupt`` every item, cannot be read.
        """
        for step in range(len(self)):
            place = (item + step) % len(self)
            try:
                return self.dataset[place]
            except CorruptImageError as error:
                if not self.corrupt[place] and self.skip_corrupt:
                    _logger.warning("%s The next one is taken.", error)
                self.corrupt[place] = True
                if not self.skip_corrupt:
                    raise
        raise CorruptImageError("No image of the data set can be read; check its folder.")


class Loader:
    """Batches on the device, normalised: images ``[N, C, H, W]`` (event sets: ``[T, N, C, H, W]``) and labels ``[N]``.

    Args:
        batches: timm's loader or :class:`OnDevice`.
        samples: what it reads.
        sampler: of a training loader.
        valid: items of this process in evaluation; more are repetitions that make all processes equal.
    """

    def __init__(self, batches: Any, samples: Samples, sampler: EpochSampler | None = None, valid: int | None = None):
        self.batches, self.samples, self.sampler, self.valid = batches, samples, sampler, valid
        batches.loader.generator = torch.Generator()  # without one, each pass draws a number from the global one

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def corrupt(self) -> set[int]:
        """The items that this process could not read so far."""
        return set(self.samples.corrupt.nonzero().flatten().tolist())

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        self.sampler.set_epoch(epoch, start)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        left = self.valid
        try:
            for images, labels in self.batches:
                if left is not None and len(labels) > left:
                    images, labels = images[..., :left, :, :, :], labels[:left]
                if left != 0:
                    yield images, labels
                left = None if left is None else left - len(labels)
        except Exception:
            # a worker's error arrives with its traceback in the message: raise it again here
            if self.samples.corrupt.any():
                self.samples.read(int(self.samples.corrupt.nonzero()[0]))
            raise


def training_loader(
    dataset: DataSet,
    batch_size: int,
    transform: Callable[[Any], Tensor],
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    seed: int = 0,
    repeats: int = 0,
    workers: int = 0,
    skip_corrupt: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> Loader:
    """Shuffled batches of one process, always whole.

    timm's ``create_loader`` takes no sampler and cannot start inside an epoch, so the parts that it is made of are put
    together here.

    Raises:
        ValueError: fewer images than a batch.
    """
    samples = Samples(dataset, transform, seed, skip_corrupt)
    sampler = EpochSampler(dataset, batch_size, seed, repeats, rank, world_size)
    batches = DataLoader(
        samples,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate_frames if dataset.is_events else None,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )
    if dataset.is_events:
        return Loader(OnDevice(batches, device), samples, sampler)
    return Loader(PrefetchLoader(batches, mean, std, channels=dataset.channels, device=device), samples, sampler)


def evaluation_loader(
    dataset: DataSet,
    batch_size: int,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    workers: int = 0,
    skip_corrupt: bool = False,
    crop_fraction: float = 1.0,
    interpolation: str = "bilinear",
    rank: int = 0,
    world_size: int = 1,
) -> Loader:
    """Every image once, in order, resized and centre-cropped as timm does; the processes share them."""
    samples = Samples(dataset, as_frames if dataset.is_events else None, skip_corrupt=skip_corrupt)
    share = OrderedDistributedSampler(dataset, world_size, rank)
    if dataset.is_events:
        batches: Any = DataLoader(samples, batch_size, sampler=share, num_workers=workers, collate_fn=collate_frames)
        batches = OnDevice(batches, device)
    else:
        batches = create_loader(
            samples,
            (dataset.channels, *size),
            batch_size,
            mean=tuple(mean),
            std=tuple(std),
            crop_pct=crop_fraction,
            interpolation=interpolation,
            num_workers=workers,
            persistent_workers=workers > 0,  # earlier releases of timm do not look
            distributed=world_size > 1,
            device=device,
            pin_memory=device.type == "cuda",
        )
    return Loader(batches, samples, valid=len(range(rank, len(dataset), world_size)))


class OnDevice:
    """Batches of a plain loader, moved to the device; timm's prefetching casts to bytes, which frames are not."""

    def __init__(self, loader: DataLoader, device: torch.device):
        self.loader, self.device = loader, device

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for frames, labels in self.loader:
            yield frames.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)


def collate_frames(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """``[T, N, C, H, W]`` and labels ``[N]``."""
    return torch.stack([frames for frames, _ in samples], dim=1), torch.tensor([label for _, label in samples])
