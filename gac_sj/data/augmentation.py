"""Augmentation: of single images (timm's and torchvision's transforms) and of batches (erasing, MixUp, CutMix)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, cast

import torch
from PIL.Image import Image, new
from timm.data import Mixup, create_transform, str_to_interp_mode
from timm.data.auto_augment import posterize
from timm.data.mixup import mixup_target
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision import transforms

from gac_sj._utils.configuration import setting
from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj.data.events import as_frames

__all__ = ["Augmentation", "BatchAugmentation", "train_transform"]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training images are changed. ``crop_fraction`` and ``interpolation`` apply to evaluation too."""

    crop: str = setting(
        "augmentation", "pad", "pad and crop (CIFAR), crop and resize (ImageNet)", ("pad", "resize", "none")
    )
    crop_padding: int = setting("augmentation", 4, "pixels around the image for crop=pad", least=0)
    crop_scale: float = setting("augmentation", 0.08, "smallest area for crop=resize", least=1e-3, most=1)
    crop_fraction: float | None = setting(
        "augmentation", None, "part of the side kept in evaluation (None: the network's)", least=1e-3, most=1
    )
    interpolation: str = setting("augmentation", "bilinear", "when resizing", ("bilinear", "bicubic"))
    hflip: float = setting("augmentation", 0.5, "probability of a horizontal flip", least=0, most=1)
    color_jitter: float = setting("augmentation", 0.0, "strength of colour jitter", least=0)
    auto_augment: str | None = setting("augmentation", None, "timm's string: original, rand-m9-n1-mstd0.4-inc1 ...")
    cutout: int = setting("augmentation", 0, "side in pixels of a square of mean colour inside the image", least=0)
    random_erasing: float = setting("augmentation", 0.0, "probability of random erasing", least=0, most=1)
    erasing_mode: str = setting("augmentation", "pixel", "content of an erased area", ("const", "rand", "pixel"))
    mixup: float = setting("augmentation", 0.0, "alpha of MixUp; drawn for each batch", least=0)
    cutmix: float = setting("augmentation", 0.0, "alpha of CutMix; drawn for each batch", least=0)
    mix_probability: float = setting("augmentation", 1.0, "probability of mixing a batch", least=0, most=1)
    mix_switch: float = setting("augmentation", 0.5, "probability of CutMix where both are on", least=0, most=1)
    mix_off_epoch: int = setting("augmentation", 0, "epochs after which nothing is mixed; 0: never", least=0)
    label_smoothing: float = setting("augmentation", 0.0, "part of the label spread over all classes", least=0, most=1)
    repeats: int = setting("augmentation", 0, "repeated augmentation: draws of each image; 0: off", least=0)

    @property
    def mixes(self) -> bool:
        """Whether MixUp or CutMix is on."""
        return self.mixup > 0 or self.cutmix > 0


def train_transform(
    augmentation: Augmentation, size: tuple[int, int], mean: Sequence[float], frames: bool = False
) -> Callable[[Any], Tensor]:
    """The transform of a training item; every draw comes from the global generators.

    timm's ``create_transform`` has no pad-and-crop, so that comes from torchvision and everything else from timm.

    Args:
        augmentation: what to do.
        size: height and width of the result.
        mean: per channel, of values in [0, 1]; fills what a geometric operation leaves empty.
        frames: whether items are frames of events.

    Returns:
        From a PIL image to bytes ``[C, H, W]``; with ``frames`` from ``[T, C, H, W]`` to the same, padded, cropped and
        flipped alike at all steps.

    Raises:
        UsageError: timm does not know the auto-augmentation, or an augmentation is for images only and these are
            frames.
    """
    if frames:
        return _frames_transform(augmentation, size)
    try:
        timm_transform = create_transform(
            size,
            is_training=True,
            use_prefetcher=True,  # bytes: the loader normalises on the device
            scale=(augmentation.crop_scale, 1.0),
            hflip=augmentation.hflip,
            color_jitter=cast(float, augmentation.color_jitter or None),  # None: off
            auto_augment=augmentation.auto_augment,
            interpolation=augmentation.interpolation,
            mean=tuple(mean),
        )
    except (AssertionError, KeyError, ValueError) as error:
        raise UsageError(
            f"must be a string that timm can read, got {augmentation.auto_augment!r} ({first_sentence(error)})",
            argument="auto_augment",
        ) from error
    for step in timm_transform.transforms:
        for change in (*getattr(step, "ops", ()), *chain.from_iterable(getattr(step, "policy", ()))):
            if change.aug_fn is posterize:
                change.aug_fn = _posterize
    if augmentation.crop == "resize":
        return timm_transform
    _, *rest = timm_transform.transforms
    crop = [transforms.RandomCrop(size, padding=augmentation.crop_padding)] if augmentation.crop == "pad" else []
    return transforms.Compose([_Fit(size, augmentation.interpolation), *crop, *rest])


def _frames_transform(augmentation: Augmentation, size: tuple[int, int]) -> Callable[[Any], Tensor]:
    """Resize, pad, crop and flip frames ``[T, C, H, W]``, all steps alike."""
    defaults = Augmentation()
    images_only = ["auto_augment", "color_jitter", "mixup", "cutmix", "random_erasing", "cutout"]
    given = [name for name in images_only if getattr(augmentation, name) != getattr(defaults, name)]
    if augmentation.crop == "resize":
        given.insert(0, "crop")
    if given:
        raise UsageError(
            f"must be left out for event frames, which are only padded, cropped and flipped, got "
            f"{getattr(augmentation, given[0])!r}",
            argument=given[0],
        )
    crop = [_PadAndCrop(augmentation.crop_padding)] if augmentation.crop == "pad" else []
    return transforms.Compose(
        [partial(as_frames, size=size), *crop, transforms.RandomHorizontalFlip(augmentation.hflip)]
    )


def _posterize(image: Image, bits: int, **_: Any) -> Image:
    """timm's posterize, which keeps 0 bits at the largest magnitude: a black image. Pillow 13 refuses 0 bits."""
    return posterize(image, bits) if bits else new(image.mode, image.size)


class _Fit:
    """Resize the shorter side and cut out the centre; images of the right size stay as they are."""

    def __init__(self, size: tuple[int, int], interpolation: str):
        self.size = size
        self.resize = transforms.Resize(min(size), str_to_interp_mode(interpolation))
        self.cut = transforms.CenterCrop(size)

    def __call__(self, image: Image) -> Image:
        return image if image.size == self.size[::-1] else self.cut(self.resize(image))


class _PadAndCrop:
    """torchvision's pad-and-crop for frames of any size."""

    def __init__(self, padding: int):
        self.padding = padding

    def __call__(self, frames: Tensor) -> Tensor:
        return transforms.RandomCrop(frames.shape[-2:], padding=self.padding)(frames)


class BatchAugmentation:
    """Erasing and mixing of a normalised batch; every draw comes from the global generators.

    Args:
        augmentation: what to do.
        classes: number of classes.
        size: height and width of the images.
        device: of the batches.
        cutout: whether the square is cut out here; the resident loader has done it already.

    Raises:
        UsageError: the side of the cutout is not smaller than the images.
    """

    def __init__(
        self,
        augmentation: Augmentation,
        classes: int,
        size: tuple[int, int],
        device: torch.device,
        cutout: bool = True,
    ):
        self.classes, self.smoothing = classes, augmentation.label_smoothing
        self.mix_off_epoch = augmentation.mix_off_epoch
        self.erasings: list[RandomErasing] = []
        side = augmentation.cutout
        if side >= min(size):
            raise UsageError(
                f"must be smaller than the images, {size[0]} x {size[1]} pixels, got {side}", argument="cutout"
            )
        if side and cutout:
            area = side**2 / (size[0] * size[1])
            self.erasings.append(
                RandomErasing(
                    1.0, min_area=area, max_area=area, min_aspect=1.0, max_aspect=1.0, mode="const", device=str(device)
                )
            )
        if augmentation.random_erasing:
            self.erasings.append(
                RandomErasing(augmentation.random_erasing, mode=augmentation.erasing_mode, device=str(device))
            )
        self.mix = None
        if augmentation.mixes:
            self.mix = Mixup(
                mixup_alpha=augmentation.mixup,
                cutmix_alpha=augmentation.cutmix,
                prob=augmentation.mix_probability,
                switch_prob=augmentation.mix_switch,
                label_smoothing=augmentation.label_smoothing,
                num_classes=classes,
            )

    @property
    def is_random(self) -> bool:
        """Whether it draws anything."""
        return bool(self.erasings) or self.mix is not None

    def __call__(self, images: Tensor, labels: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Augment one batch.

        Args:
            images: ``[N, C, H, W]``, changed in place.
            labels: ``[N]``.
            epoch: counted from 0.

        Returns:
            Images and soft labels ``[N, classes]``.
        """
        for erase in self.erasings:
            images = erase(images)
        if self.mix is None or (self.mix_off_epoch and epoch >= self.mix_off_epoch):
            return images, mixup_target(labels, self.classes, smoothing=self.smoothing)
        return self.mix(images, labels)
