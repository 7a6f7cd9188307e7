"""From settings to the network and its data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import timm
from torch import nn

from gac_sj.data import (
    EVENT_SETS,
    DataSet,
    Loader,
    ResidentLoader,
    evaluation_loader,
    load_datasets,
    read_images,
    train_transform,
    training_loader,
)
from gac_sj.training.distributed import DistributedContext
from gac_sj.training.settings import Settings
from gac_sj.training.signals import leave_signals_to_parent

__all__ = ["Data", "generate_data", "load_data"]


@dataclass(frozen=True)
class Data:
    """Training and test set of a run, and the height and width of their images for the network.

    ``images`` has the decoded images and labels of both sets for the resident loader, else it is None.
    """

    train: DataSet
    test: DataSet
    size: tuple[int, int]
    images: tuple[Any, Any] | None = None

    def fingerprint(self) -> str:
        """Letters that stand for the content of both sets."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return self.train.fingerprint() + self.test.fingerprint()  # looks at every file

    def training(self, settings: Settings, model: nn.Module, world: DistributedContext) -> Iterable:
        """The training loader of this process; batches of ``batch_size / world.size``.

        Raises:
            ValueError: the batch cannot be divided, or the set is smaller than it.
        """
        if settings.batch_size % (world.size * settings.accumulate):
            raise ValueError(
                f"batch_size is {settings.batch_size}, to be divided among {world.size} processes and "
                f"{settings.accumulate} parts; make it a multiple of {world.size * settings.accumulate}."
            )
        batch_size = settings.batch_size // world.size
        if settings.mixes and batch_size % 2:
            raise ValueError(f"Each process gets {batch_size} images of a batch, and mixing pairs them; make it even.")
        place = dict(seed=settings.seed, rank=world.rank, world_size=world.size)
        mean, std = self._statistics(model)
        if self.images is not None:
            return ResidentLoader(*self.images[0], batch_size, mean, std, world.device, settings, **place)
        loader = training_loader(
            self.train,
            batch_size,
            train_transform(settings, self.size, mean, frames=self.train.is_events),
            mean,
            std,
            world.device,
            repeats=settings.repeats,
            workers=settings.workers,
            skip_corrupt=settings.skip_corrupt,
            **place,
        )
        return _with_calm_workers(loader)

    def testing(self, settings: Settings, model: nn.Module, world: DistributedContext) -> Iterable:
        """The test loader of this process."""
        place = dict(rank=world.rank, world_size=world.size)
        # as many as a training step holds: without its graph they need less memory
        batch_size = -(-settings.batch_size // world.size)
        if len(self.test) < world.size:
            raise ValueError(f"The test set has {len(self.test)} images for {world.size} processes; use fewer.")
        mean, std = self._statistics(model)
        if self.images is not None:
            return ResidentLoader(*self.images[1], batch_size, mean, std, world.device, **place)
        loader = evaluation_loader(
            self.test,
            batch_size,
            self.size,
            mean,
            std,
            world.device,
            workers=settings.workers,
            skip_corrupt=settings.skip_corrupt,
            crop_fraction=settings.crop_fraction or model.pretrained_cfg["crop_pct"],
            interpolation=settings.interpolation,
            **place,
        )
        return _with_calm_workers(loader)

    def sample(self, count: int) -> Data:
        """With at most ``count`` of the test images, as many of each class, the first ones."""
        labels = self.test.labels if self.test.index is None else [self.test.labels[item] for item in self.test.index]
        rarest = min(map(labels.count, range(len(self.test.classes))))
        per_class = max(1, min(count // len(self.test.classes), rarest))
        test = self.test.balanced(per_class * len(self.test.classes))
        return replace(self, test=test, images=self.images and (self.images[0], read_images(test, self.size)))

    def _statistics(self, model: nn.Module) -> list[tuple[float, ...]]:
        return [tuple(model.pretrained_cfg[name][: self.train.channels]) for name in ("mean", "std")]


def _with_calm_workers(loader: Loader) -> Loader:
    """Its workers outlive signals that others send to them too; the main process decides when they end."""
    loader.batches.loader.worker_init_fn = leave_signals_to_parent
    return loader


def load_data(settings: Settings, download: bool = True) -> Data:
    """The data of a run; CIFAR may be downloaded, and recordings be cut into frames.

    Raises:
        ValueError, OSError: see :func:`gac_sj.data.load_datasets`; a training set that is too small for its limit.
    """
    if settings.dataset == "synthetic":
        return generate_data(settings)
    return _prepare(settings, load_datasets(settings.dataset, settings.data_dir, settings.T, download=download))


def generate_data(settings: Settings) -> Data:
    """Generated images in place of a data set of images, with its shape and number of classes.

    Raises:
        ValueError: the data set has frames.
    """
    if settings.dataset in EVENT_SETS:
        raise ValueError(f"The data set {settings.dataset} has frames of events, and images cannot stand in for them.")
    default = timm.get_pretrained_cfg(settings.model).num_classes
    classes = {"digits": 10, "cifar10": 10, "cifar100": 100}.get(settings.dataset, default)
    channels = 1 if settings.dataset == "digits" else 3
    return _prepare(settings, load_datasets("synthetic", generated=(classes, channels, _size(settings)[0])))


def _size(settings: Settings) -> tuple[int, int]:
    """Height and width of the network's images; digits stay as they are."""
    return (8, 8) if settings.dataset == "digits" else timm.get_pretrained_cfg(settings.model).input_size[1:]


def _prepare(settings: Settings, parts: tuple[DataSet, DataSet]) -> Data:
    train, test = parts
    size = _size(settings)
    if settings.train_limit:
        train = train.balanced(settings.train_limit)
    images = tuple(read_images(part, size) for part in (train, test)) if settings.loader == "resident" else None
    return Data(train, test, size, images)
