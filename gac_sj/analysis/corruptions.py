"""Corruptions of images with pixels in [0, 1] at five severities, and dropped time steps.

Noise, contrast and blur have the strengths of CIFAR-10-C (arXiv 1903.12261, code); occlusion and dropped steps are
ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from gac_sj._utils.errors import UsageError
from gac_sj._utils.randomness import seeded
from gac_sj.encoders.base import Encoder

__all__ = ["CORRUPTIONS", "DROPPED_STEPS", "SEVERITIES", "Corruption", "corrupt", "dropped_steps"]

SEVERITIES = (1, 2, 3, 4, 5)
#: Probability that a time step is dropped, by severity (ours).
DROPPED_STEPS = (0.1, 0.2, 0.3, 0.4, 0.5)


class Corruption(NamedTuple):
    """A corruption and its strengths.

    Args:
        apply: a function of pixels ``[N, C, H, W]`` in [0, 1] and a strength.
        strengths: the strength of each severity.
    """

    apply: Callable[[Tensor, float], Tensor]
    strengths: tuple[float, ...]


def gaussian_noise(pixels: Tensor, strength: float) -> Tensor:
    """Add normal noise to every value; the strength is its standard deviation."""
    return transforms.gaussian_noise(pixels, sigma=strength)


def salt_and_pepper(pixels: Tensor, strength: float) -> Tensor:
    """Set values to 0 or 1, each with half the probability, channel by channel; the strength is the probability."""
    draw = torch.rand_like(pixels)
    return pixels.masked_fill(draw < strength / 2, 0.0).masked_fill(draw >= 1 - strength / 2, 1.0)


def blur(pixels: Tensor, strength: float) -> Tensor:
    """Blur with a Gaussian, the image mirrored at its border; the strength is the standard deviation in pixels."""
    # four standard deviations, as CIFAR-10-C; fewer if the image is smaller than what would be mirrored
    radius = min(math.ceil(4 * strength), *(side - 1 for side in pixels.shape[-2:]))
    return transforms.gaussian_blur(pixels, [2 * radius + 1] * 2, [strength]).clamp(0, 1)


def contrast(pixels: Tensor, strength: float) -> Tensor:
    """Move every channel towards its mean over the image; the strength is the fraction of the distance that is left."""
    # torchvision's adjust_contrast moves all channels towards one grey; CIFAR-10-C does not
    return pixels.mean((-2, -1), keepdim=True).lerp(pixels, strength).clamp(0, 1)


def occlusion(pixels: Tensor, strength: float) -> Tensor:
    """Hide a random square of each image with mid-grey; the strength is its side relative to the shorter side."""
    height, width = pixels.shape[-2:]
    side = round(strength * min(height, width))
    corners = torch.rand(len(pixels), 2) * torch.tensor([height - side + 1, width - side + 1])
    grey = torch.full((), 0.5, dtype=pixels.dtype, device=pixels.device)
    occluded = [
        transforms.erase(image, top, left, side, side, grey)
        for image, (top, left) in zip(pixels, corners.int().tolist())
    ]
    return torch.stack(occluded)


#: Corruptions by name; occlusion's squares are exact where the shorter side of the image is a multiple of 8.
CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "salt_and_pepper": Corruption(salt_and_pepper, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "blur": Corruption(blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "contrast": Corruption(contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "occlusion": Corruption(occlusion, (0.125, 0.25, 0.375, 0.5, 0.625)),
}


def corrupt(pixels: Tensor, name: str, severity: int, seed: int = 0, first: int = 0) -> Tensor:
    """Corrupt images.

    The random numbers of an image depend only on seed, name and the image's index, not on the batch. Nor do they depend
    on the severity, so severities differ in strength alone.

    Args:
        pixels: ``[N, C, H, W]`` in [0, 1], at least one image.
        name: a key of :data:`CORRUPTIONS`.
        severity: 1 to 5.
        seed: seed of the random numbers.
        first: index of the first image in the data set.

    Returns:
        ``[N, C, H, W]`` in [0, 1].

    Raises:
        UsageError: an unknown corruption or severity.
    """
    if name not in CORRUPTIONS:
        raise UsageError(f"must be a corruption, got {name!r}", argument="name", options=CORRUPTIONS, given=name)
    if severity not in SEVERITIES:
        raise UsageError(f"must be a severity, got {severity!r}", argument="severity", options=SEVERITIES)
    apply, strengths = CORRUPTIONS[name]
    images = []
    for index, image in enumerate(pixels.split(1), first):
        with seeded("corruption", seed, name, index):
            images.append(apply(image, strengths[severity - 1]))
    return torch.cat(images)


@contextmanager
def dropped_steps(encoder: Encoder, probability: float, seed: int = 0) -> Iterator[None]:
    """Set each step of each image's sequence to zero with a probability inside the block (ours).

    Args:
        encoder: its output is ``[T, N, C, H, W]``, in step mode "m".
        probability: 0 to 1.
        seed: seed of the random numbers, which are the same at every call of the encoder, random encoders included.

    Raises:
        UsageError: the encoder is in step mode "s".
    """
    if encoder.step_mode != "m":
        raise UsageError(
            f"must be in step mode 'm', because steps are dropped from whole sequences, got {encoder.step_mode!r}",
            "set its step mode to 'm'",
            argument="encoder",
        )

    def drop(module: nn.Module, inputs: tuple[Any, ...], sequence: Tensor) -> Tensor:
        with seeded("dropped steps", seed):
            dropped = torch.rand(sequence.shape[:2]) < probability
        return sequence.masked_fill(dropped[:, :, None, None, None].to(sequence.device), 0.0)

    hook = encoder.register_forward_hook(drop)
    try:
        yield
    finally:
        hook.remove()
