"""Loaders: timm's, made resumable. Order and augmentation are functions of seed, epoch and position in the epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import torch
from timm.data import create_loader
from timm.data.distributed_sampler import OrderedDistributedSampler
from timm.data.loader import PrefetchLoader
from torch import Tensor
from torch.utils.data import DataLoader

from gac_sj.data.datasets import DataSet
from gac_sj.data.events import as_frames
from gac_sj.data.sampler import EpochSampler
from gac_sj.data.samples import Samples

__all__ = ["EvaluationLoader", "Loader", "TrainingLoader", "evaluation_loader", "training_loader"]


class OnDevice:
    """Batches of a plain loader, normalised on the device; timm's prefetching casts to bytes, which counts exceed.

    Args:
        loader: a loader of frames.
        device: where its batches go.
        mean: per channel, of counts.
        std: per channel, of counts.
    """

    def __init__(self, loader: DataLoader[Any], device: torch.device, mean: tuple[float, ...], std: tuple[float, ...]):
        self.loader, self.device = loader, device
        self.mean, self.std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (mean, std))

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for frames, labels in self.loader:
            frames = frames.to(self.device, non_blocking=True).sub_(self.mean).div_(self.std)
            yield frames, labels.to(self.device, non_blocking=True)


class Loader:
    """Batches on the device, normalised: images ``[N, C, H, W]`` (frames: ``[T, N, C, H, W]``) and labels ``[N]``.

    Args:
        batches: timm's loader or :class:`OnDevice`.
        samples: what it reads.
    """

    def __init__(self, batches: PrefetchLoader | OnDevice, samples: Samples):
        self.batches, self.samples = batches, samples
        # without a generator, each pass draws a number from the global one
        self.batches.loader.generator = torch.Generator()

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def corrupt(self) -> set[int]:
        """The items that this process could not read so far."""
        return set(self.samples.corrupt.nonzero().flatten().tolist())

    def set_worker_init(self, function: Callable[[int], None]) -> None:
        """Choose what each worker does first.

        Args:
            function: it is given the worker's number.
        """
        self.batches.loader.worker_init_fn = function

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        try:
            yield from self.batches
        except Exception:
            # a worker's error arrives with its traceback in the message: raise it again here
            if self.samples.corrupt.any():
                self.samples.read(int(self.samples.corrupt.nonzero()[0]))
            raise


class TrainingLoader(Loader):
    """A :class:`Loader` that chooses epoch and first batch of a pass.

    Args:
        batches: timm's loader or :class:`OnDevice`.
        samples: what it reads.
        sampler: the order.
    """

    def __init__(self, batches: PrefetchLoader | OnDevice, samples: Samples, sampler: EpochSampler):
        super().__init__(batches, samples)
        self.sampler = sampler

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose what the next pass yields.

        Args:
            epoch: counted from 0.
            start: the first batch of the pass.
        """
        self.sampler.set_epoch(epoch, start)


class EvaluationLoader(Loader):
    """A :class:`Loader` without the repeated images that give all processes equally many.

    Args:
        batches: timm's loader or :class:`OnDevice`.
        samples: what it reads.
        images: the number of different images of this process.
    """

    def __init__(self, batches: PrefetchLoader | OnDevice, samples: Samples, images: int):
        super().__init__(batches, samples)
        self.images = images

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        left = self.images
        for images, labels in super().__iter__():
            if left > 0:
                yield images[..., :left, :, :, :], labels[:left]
            left -= len(labels)


def training_loader(
    dataset: DataSet,
    batch_size: int,
    transform: Callable[[Any], Tensor],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device,
    seed: int = 0,
    repeats: int = 0,
    workers: int = 0,
    skip_corrupt: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> TrainingLoader:
    """Shuffled batches of one process; incomplete batches are dropped.

    timm's ``create_loader`` takes no sampler and cannot start inside an epoch, so its parts are combined here.

    Args:
        dataset: the items.
        batch_size: images in a batch of one process.
        transform: from an item to bytes ``[C, H, W]``, or to frames (:func:`gac_sj.data.train_transform`).
        mean: per channel, of values in [0, 1], or of counts.
        std: per channel, of values in [0, 1], or of counts.
        device: of the batches.
        seed: seed of order and augmentation.
        repeats: as for :class:`gac_sj.data.EpochSampler`.
        workers: processes that read images; 0: the main process reads them.
        skip_corrupt: replace an item that cannot be read by the next readable one.
        rank: number of this process.
        world_size: number of processes.

    Raises:
        UsageError: the data set has fewer images than a batch.
    """
    samples = Samples(dataset, transform, seed, skip_corrupt)
    sampler = EpochSampler(dataset, batch_size, seed, repeats, rank, world_size)
    batches: DataLoader[Any] = DataLoader(
        samples,
        batch_sampler=cast(Any, sampler),  # typed for integers; batches of keys go to Samples.__getitems__
        num_workers=workers,
        collate_fn=collate_frames if dataset.is_events else None,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )
    if dataset.is_events:
        return TrainingLoader(OnDevice(batches, device, mean, std), samples, sampler)
    prefetching = PrefetchLoader(batches, tuple(mean), tuple(std), channels=dataset.channels, device=device)
    return TrainingLoader(prefetching, samples, sampler)


def evaluation_loader(
    dataset: DataSet,
    batch_size: int,
    size: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device,
    workers: int = 0,
    skip_corrupt: bool = False,
    crop_fraction: float = 1.0,
    interpolation: str = "bilinear",
    rank: int = 0,
    world_size: int = 1,
) -> EvaluationLoader:
    """Every image once, in order, resized and centre-cropped as timm does; the processes share them.

    Args:
        dataset: the items.
        batch_size: images in a batch of one process.
        size: height and width of the images for the network.
        mean: per channel, of values in [0, 1], or of counts.
        std: per channel, of values in [0, 1], or of counts.
        device: of the batches.
        workers: processes that read images; 0: the main process reads them.
        skip_corrupt: replace an item that cannot be read by the next readable one.
        crop_fraction: part of the side that the centre crop keeps.
        interpolation: "bilinear" or "bicubic".
        rank: number of this process.
        world_size: number of processes.
    """
    transform = partial(as_frames, size=size) if dataset.is_events else None
    samples = Samples(dataset, transform, skip_corrupt=skip_corrupt)
    images = len(range(rank, len(dataset), world_size))
    if dataset.is_events:
        share = OrderedDistributedSampler(dataset, world_size, rank)
        frames: DataLoader[Any] = DataLoader(
            samples, batch_size, sampler=share, num_workers=workers, collate_fn=collate_frames
        )
        return EvaluationLoader(OnDevice(frames, device, mean, std), samples, images)
    batches = create_loader(
        cast(Any, samples),  # typed for timm's own data sets; it sets the transform and reads items
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
    return EvaluationLoader(cast(PrefetchLoader, batches), samples, images)


def collate_frames(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Stack sequences over the batch, which is the second dimension.

    Args:
        samples: frames ``[T, C, H, W]`` and label of each.

    Returns:
        ``[T, N, C, H, W]`` and labels ``[N]``.
    """
    return torch.stack([frames for frames, _ in samples], dim=1), torch.tensor([label for _, label in samples])
