"""Augmentation: of single images (timm's and torchvision's transforms) and of batches (erasing, MixUp, CutMix)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from PIL.Image import Image, new
from timm.data import Mixup, create_transform, str_to_interp_mode
from timm.data.auto_augment import posterize
from timm.data.mixup import mixup_target
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision import transforms

from gac_sj._utils.configuration import setting
from gac_sj.data.events import as_frames

__all__ = ["Augmentation", "BatchAugmentation", "train_transform"]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is done to training images. ``crop_fraction`` and ``interpolation`` hold in evaluation too."""

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
    erasing_mode: str = setting("augmentation", "pixel", "what it puts there", ("const", "rand", "pixel"))
    mixup: float = setting("augmentation", 0.0, "alpha of MixUp; drawn for each batch", least=0)
    cutmix: float = setting("augmentation", 0.0, "alpha of CutMix; drawn for each batch", least=0)
    mix_probability: float = setting("augmentation", 1.0, "probability of mixing a batch", least=0, most=1)
    mix_switch: float = setting("augmentation", 0.5, "of CutMix where both are on", least=0, most=1)
    mix_off_epoch: int = setting("augmentation", 0, "epochs after which nothing is mixed; 0: never", least=0)
    label_smoothing: float = setting("augmentation", 0.0, "part of the label spread over all classes", least=0, most=1)
    repeats: int = setting("augmentation", 0, "repeated augmentation: times an image is drawn; 0: off", least=0)

    @property
    def mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0


def train_transform(
    how: Augmentation, size: tuple[int, int], mean: Sequence[float], frames: bool = False
) -> Callable[[Any], Tensor]:
    """From a PIL image to bytes ``[C, H, W]`` of that size, augmented; every draw comes from the global generators.

    With ``frames``, from an event set's ``[T, C, H, W]`` to the same, padded, cropped and flipped alike at all steps.

    timm's ``create_transform`` has no pad-and-crop, so that comes from torchvision and everything else from timm.

    Raises:
        ValueError: timm does not know the auto-augmentation, or it is for images and these are frames.
    """
    if frames:
        if (
            how.crop == "resize"
            or how.auto_augment
            or how.color_jitter
            or how.mixes
            or how.random_erasing
            or how.cutout
        ):
            raise ValueError(
                "Frames of events are padded, cropped and flipped only; leave the other augmentations out."
            )
        crop = [_PadAndCrop(how.crop_padding)] if how.crop == "pad" else []
        return transforms.Compose([as_frames, *crop, transforms.RandomHorizontalFlip(how.hflip)])
    try:
        timm_transform = create_transform(
            size,
            is_training=True,
            use_prefetcher=True,  # bytes: the loader normalises on the device
            scale=(how.crop_scale, 1.0),
            hflip=how.hflip,
            color_jitter=how.color_jitter or None,
            auto_augment=how.auto_augment,
            interpolation=how.interpolation,
            mean=tuple(mean),
        )
    except (AssertionError, KeyError, ValueError) as error:
        raise ValueError(f"auto_augment is {how.auto_augment!r}, which timm cannot read ({error}).") from error
    for step in timm_transform.transforms:
        for change in (*getattr(step, "ops", ()), *chain.from_iterable(getattr(step, "policy", ()))):
            if change.aug_fn is posterize:
                change.aug_fn = _posterize
    if how.crop == "resize":
        return timm_transform
    _, *rest = timm_transform.transforms
    crop = transforms.RandomCrop(size, padding=how.crop_padding)
    return transforms.Compose([_Fit(size, how.interpolation), *([crop] if how.crop == "pad" else []), *rest])


def _posterize(image: Image, bits: int, **_: Any) -> Image:
    """timm keeps 0 bits at the largest magnitude, which Pillow 13 refuses; the image is black, as before."""
    return posterize(image, bits) if bits else new(image.mode, image.size)


class _Fit:
    """Resizes the shorter side and cuts out the centre; images of the right size pass."""

    def __init__(self, size: tuple[int, int], interpolation: str):
        self.size = size
        self.resize = transforms.Resize(min(size), str_to_interp_mode(interpolation))
        self.cut = transforms.CenterCrop(size)

    def __call__(self, image: Image) -> Image:
        return image if image.size == self.size[::-1] else self.cut(self.resize(image))


class _PadAndCrop:
    """torchvision's, for frames of any size."""

    def __init__(self, padding: int):
        self.padding = padding

    def __call__(self, frames: Tensor) -> Tensor:
        return transforms.RandomCrop(frames.shape[-2:], padding=self.padding)(frames)


class BatchAugmentation:
    """Erasing and mixing of a normalised batch; every draw comes from the global generators.

    Args:
        how: the augmentation.
        classes: number of classes.
        size: height and width of the images.
        device: of the batches.
        cutout: whether the square is cut out here; the resident loader has done it already.

    Raises:
        ValueError: a cutout that is not smaller than the images.
    """

    def __init__(self, how: Augmentation, classes: int, size: tuple[int, int], device: Any, cutout: bool = True):
        self.classes, self.smoothing, self.off = classes, how.label_smoothing, how.mix_off_epoch
        self.erasings = []
        if how.cutout >= min(size):
            raise ValueError(f"cutout is {how.cutout} on images of {list(size)} pixels; make it smaller.")
        if how.cutout and cutout:
            area = how.cutout**2 / (size[0] * size[1])
            square = dict(min_area=area, max_area=area, min_aspect=1.0, max_aspect=1.0)
            self.erasings.append(RandomErasing(1.0, mode="const", device=device, **square))
        if how.random_erasing:
            self.erasings.append(RandomErasing(how.random_erasing, mode=how.erasing_mode, device=device))
        self.mix = None
        if how.mixes:
            self.mix = Mixup(
                mixup_alpha=how.mixup,
                cutmix_alpha=how.cutmix,
                prob=how.mix_probability,
                switch_prob=how.mix_switch,
                label_smoothing=how.label_smoothing,
                num_classes=classes,
            )

    @property
    def is_random(self) -> bool:
        """Whether it draws anything."""
        return bool(self.erasings) or self.mix is not None

    def __call__(self, images: Tensor, labels: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Images ``[N, C, H, W]`` (changed in place) and soft labels ``[N, classes]`` in epoch 0, 1, ..."""
        for erase in self.erasings:
            images = erase(images)
        if self.mix is None or (self.off and epoch >= self.off):
            return images, mixup_target(labels, self.classes, smoothing=self.smoothing)
        return self.mix(images, labels)
