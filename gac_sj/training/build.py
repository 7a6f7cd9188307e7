"""From settings to data and loaders."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from gac_sj._utils.errors import UsageError
from gac_sj.checkpoint.runs import data_info
from gac_sj.data import (
    BatchLoader,
    CorruptImageError,
    DataSet,
    DatasetInfo,
    EpochLoader,
    Loader,
    ResidentEvaluationLoader,
    ResidentTrainingLoader,
    evaluation_loader,
    generate_images,
    load_datasets,
    read_images,
    train_transform,
    training_loader,
)
from gac_sj.data.statistics import AUTO, as_size, measure, numbers_text, size_text
from gac_sj.models.protocols import Network
from gac_sj.training.distributed import DistributedContext
from gac_sj.training.settings import Settings
from gac_sj.training.signals import ignore_signals_in_worker

__all__ = ["Data", "generate_data", "load_data"]

_logger = logging.getLogger(__name__)
_AnyLoader = TypeVar("_AnyLoader", bound=Loader)
#: Bytes ``[n, C, H, W]`` and labels ``[n]``.
Images = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Data:
    """Training and test set of a run.

    Args:
        train: the training set.
        test: the test set.
        size: height and width of the images that the network receives.
        images: decoded images and labels of both sets for the resident loader; None for the standard loader.
        statistics: the settings ``mean`` and ``std`` where they are not those given: measured ones, and all of a user's
            data set, which has no record that would say them.
    """

    train: DataSet
    test: DataSet
    size: tuple[int, int]
    images: tuple[Images, Images] | None = None
    statistics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def info(self) -> DatasetInfo:
        """What the data set is, with its number of classes and the size for the network."""
        return replace(self.train.info, size=self.size)

    def resolved(self, settings: Settings) -> Settings:
        """The settings of a run on this data with the numbers for ``mean`` and ``std``; they are part of its key.

        Args:
            settings: settings of the run.
        """
        changed = {name: value for name, value in self.statistics.items() if getattr(settings, name) != value}
        return replace(settings, **changed) if changed else settings  # building settings anew checks them all

    def fingerprint(self) -> str:
        """The fingerprints of both sets (:meth:`gac_sj.data.DataSet.fingerprint`)."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return self.train.fingerprint() + self.test.fingerprint()  # looks at every file

    def training(self, settings: Settings, model: Network, world: DistributedContext) -> EpochLoader:
        """The training loader of this process, with batches of ``batch_size / world.size`` images.

        Args:
            settings: settings of the run.
            model: its network.
            world: its processes.

        Raises:
            UsageError: the batch cannot be divided, or the training set is smaller than it.
        """
        divisor = world.size * settings.accumulate
        if settings.batch_size % divisor:
            raise UsageError(
                f"must be a multiple of {divisor} ({world.size} processes, {settings.accumulate} micro-batches), got "
                f"{settings.batch_size}",
                argument="batch_size",
            )
        batch_size = settings.batch_size // world.size
        if settings.mixes and batch_size % 2:
            raise UsageError(
                f"must be even in each of {world.size} processes for MixUp and CutMix, which pair images, got "
                f"{settings.batch_size} / {world.size} = {batch_size}",
                argument="batch_size",
            )
        mean, std = self._statistics(model)
        if self.images is not None:
            return ResidentTrainingLoader(
                *self.images[0], batch_size, mean, std, world.device, settings, settings.seed, world.rank, world.size
            )
        loader = training_loader(
            self.train,
            batch_size,
            train_transform(settings, self.size, mean, frames=self.train.is_events),
            mean,
            std,
            world.device,
            seed=settings.seed,
            repeats=settings.repeats,
            workers=settings.workers,
            skip_corrupt=settings.skip_corrupt,
            rank=world.rank,
            world_size=world.size,
        )
        return _ignore_signals_in_workers(loader)

    def testing(self, settings: Settings, model: Network, world: DistributedContext) -> BatchLoader:
        """The test loader of this process.

        Args:
            settings: settings of the run.
            model: its network.
            world: its processes.

        Raises:
            UsageError: there are fewer test images than processes.
        """
        # as many as a training step holds: without its graph they need less memory
        batch_size = -(-settings.batch_size // world.size)
        if len(self.test) < world.size:
            raise UsageError(
                f"The test set has {len(self.test)} images, fewer than {world.size} processes", "use fewer processes"
            )
        mean, std = self._statistics(model)
        if self.images is not None:
            return ResidentEvaluationLoader(
                *self.images[1], batch_size, mean, std, world.device, rank=world.rank, world_size=world.size
            )
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
            rank=world.rank,
            world_size=world.size,
        )
        return _ignore_signals_in_workers(loader)

    def sample(self, count: int) -> Data:
        """The same data with fewer test images: the first ones of each class, equally many.

        Args:
            count: number of test images at most, but at least one of each class.
        """
        labels = self.test.targets
        rarest = min(map(labels.count, range(len(self.test.classes))))
        per_class = max(1, min(count // len(self.test.classes), rarest))
        test = self.test.balanced(per_class * len(self.test.classes))
        return replace(self, test=test, images=self.images and (self.images[0], read_images(test, self.size)))

    def _statistics(self, model: Network) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation with which the network's images are normalised."""
        channels = self.train.channels
        return tuple(model.pretrained_cfg["mean"][:channels]), tuple(model.pretrained_cfg["std"][:channels])


def _ignore_signals_in_workers(loader: _AnyLoader) -> _AnyLoader:
    """Make DataLoader workers ignore SIGINT and SIGTERM; only the main process stops them."""
    loader.set_worker_init(ignore_signals_in_worker)
    return loader


def load_data(settings: Settings, download: bool = True) -> Data:
    """The data of a run.

    Args:
        settings: settings of the run.
        download: whether CIFAR may be downloaded, and recordings be cut into frames.

    Raises:
        UsageError: see :func:`gac_sj.data.load_datasets`; a training set that is smaller than ``train_limit``.
        OSError: see :func:`gac_sj.data.load_datasets`.
    """
    info = data_info(settings)
    return _prepare(settings, load_datasets(info, settings.data_dir, settings.T, download))


def generate_data(settings: Settings) -> Data:
    """Generated images in the place of a data set of images, with its shape and number of classes.

    Args:
        settings: settings of the run.

    Raises:
        UsageError: the data set has event frames, or is a user's, which alone knows its shape.
    """
    info = data_info(settings)
    if info.is_events or info.source is not None:
        raise UsageError(f"must have images to be replaced by generated images, got {info.name!r}", argument="dataset")
    return _prepare(settings, generate_images(info))


def _prepare(settings: Settings, parts: tuple[DataSet, DataSet]) -> Data:
    train, test = parts
    if settings.train_limit:
        train = train.balanced(settings.train_limit)
    statistics = _measured(settings, train)
    given = None if settings.img_size is None else as_size(settings.img_size)
    info = train.info.normalised(statistics.get("mean"), statistics.get("std"))
    info = info.for_network(settings.model, info.classes, given)  # of a user's data set, it was not known before
    _, height, width = info.shape
    size = height, width
    train, test = replace(train, info=info), replace(test, info=info)
    _report_resizing(train, size)
    data = Data(train, test, size, statistics=statistics)
    if settings.loader != "resident":
        return data
    of_one_size = info.source is not None and given is None
    return replace(data, images=(read_images(train, size, of_one_size), read_images(test, size, of_one_size)))


def _measured(settings: Settings, train: DataSet) -> dict[str, str]:
    """The settings ``mean`` and ``std`` of :attr:`Data.statistics`."""
    is_own = train.info.source is not None
    wanted = {name for name in ("mean", "std") if getattr(settings, name) == AUTO}
    if settings.mean == AUTO or (is_own and not train.is_events):
        wanted |= {name for name in ("mean", "std") if getattr(settings, name) in (None, AUTO)}
    found = {"mean": train.info.mean, "std": train.info.std} if is_own else {}
    if wanted:
        mean, std = measure(train, settings.skip_corrupt)
        found |= {name: values for name, values in (("mean", mean), ("std", std)) if name in wanted}
        _log(f"Measured on the training set: mean {', '.join(map(str, mean))}, std {', '.join(map(str, std))}.")
    return {name: str(numbers_text(name, values)) for name, values in found.items()}


def _report_resizing(train: DataSet, size: tuple[int, int]) -> None:
    """Log if the first training item has another size than the network receives."""
    try:
        found = train.pixels(0).shape[-2:]
    except CorruptImageError:
        return
    if found != size:
        factor = min(size) / min(found)
        change = "shrunk" if factor < 1 else "stretched" if factor > 1 else "cut"
        _log(
            f"The first training item has {found[0]} x {found[1]} pixels; items are {change} to {size[0]} x {size[1]} "
            f"(img_size={size_text(found)} keeps them)."
        )


def _log(text: str) -> None:
    """Log in one process of a run."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_rank()):
        _logger.info(text)
