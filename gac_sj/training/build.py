"""From settings to the network and its data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import timm
from torch import nn

from gac_sj.data import (
    DATASETS,
    DataSet,
    ResidentLoader,
    evaluation_loader,
    load_datasets,
    read_images,
    train_transform,
    training_loader,
)
from gac_sj.training.distributed import World
from gac_sj.training.settings import Settings

__all__ = ["Data", "build_model", "load_data"]


def build_model(settings: Settings, data: Data) -> nn.Module:
    """The network of a run; its ``pretrained_cfg`` has the data set's mean and deviation, or what its encoder needs.

    Raises:
        ValueError, TypeError: ``model_options``, encoder and recipe do not fit each other.
    """
    mean, std = DATASETS[settings.dataset]
    options: dict[str, Any] = dict(settings.model_options)
    if settings.recipe is not None:
        options["recipe"] = settings.recipe
    try:
        return timm.create_model(
            settings.model,
            T=settings.T,
            encoder=settings.encoder,
            num_classes=len(data.train.classes),
            in_chans=data.train.channels,
            pretrained_cfg_overlay={"mean": mean, "std": std, "input_size": (data.train.channels, *data.size)},
            **options,
        )
    except TypeError as error:
        raise ValueError(f"model_options is {settings.model_options}, and the network says: {error}.") from error


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
        return self.train.fingerprint() + self.test.fingerprint()

    def training(self, settings: Settings, model: nn.Module, world: World) -> Iterable:
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
        return training_loader(
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

    def testing(self, settings: Settings, model: nn.Module, world: World) -> Iterable:
        """The test loader of this process."""
        place = dict(rank=world.rank, world_size=world.size)
        # as many as a training step holds: without its graph they need less memory
        batch_size = -(-settings.batch_size // world.size)
        mean, std = self._statistics(model)
        if self.images is not None:
            return ResidentLoader(*self.images[1], batch_size, mean, std, world.device, **place)
        return evaluation_loader(
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

    def _statistics(self, model: nn.Module) -> list[tuple[float, ...]]:
        return [tuple(model.pretrained_cfg[name][: self.train.channels]) for name in ("mean", "std")]


def load_data(settings: Settings) -> Data:
    """The data of a run.

    Raises:
        ValueError, OSError: see :func:`gac_sj.data.load_datasets`; a training set that is too small for its limit.
    """
    config = timm.get_pretrained_cfg(settings.model)
    size = config.input_size[1:]
    train, test = load_datasets(
        settings.dataset, settings.data_dir, settings.T, (config.num_classes, 3, config.input_size[-1])
    )
    if settings.dataset == "digits":
        size = (8, 8)
    if settings.train_limit:
        train = train.balanced(settings.train_limit)
    images = tuple(read_images(part, size) for part in (train, test)) if settings.loader == "resident" else None
    return Data(train, test, size, images)
