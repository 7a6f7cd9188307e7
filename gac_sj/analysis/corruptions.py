"""Corruptions of images, pixels in [0, 1], at five severities; and time steps that do not arrive.

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

from gac_sj._utils.randomness import seeded

__all__ = ["CORRUPTIONS", "DROPPED_STEPS", "SEVERITIES", "Corruption", "corrupt", "dropped_steps"]

SEVERITIES = (1, 2, 3, 4, 5)
#: Probabilities with which a time step is dropped, by severity (ours).
DROPPED_STEPS = (0.1, 0.2, 0.3, 0.4, 0.5)


class Corruption(NamedTuple):
    """A function of pixels ``[N, C, H, W]`` in [0, 1] and a strength, and its strengths by severity."""

    apply: Callable[[Tensor, float], Tensor]
    strengths: tuple[float, ...]


def gaussian_noise(pixels: Tensor, strength: float) -> Tensor:
    """Normal noise is added to every value; strength: its standard deviation."""
    return transforms.gaussian_noise(pixels, sigma=strength)


def salt_and_pepper(pixels: Tensor, strength: float) -> Tensor:
    """Values become 0 or 1, each with half the probability, every channel by itself; strength: the probability."""
    draw = torch.rand_like(pixels)
    return pixels.masked_fill(draw < strength / 2, 0.0).masked_fill(draw >= 1 - strength / 2, 1.0)


def blur(pixels: Tensor, strength: float) -> Tensor:
    """Gaussian blur, the image mirrored at its border; strength: the standard deviation in pixels."""
    # to four deviations, as CIFAR-10-C; less where the image is smaller than what would be mirrored
    radius = min(math.ceil(4 * strength), *(side - 1 for side in pixels.shape[-2:]))
    return transforms.gaussian_blur(pixels, [2 * radius + 1] * 2, [strength]).clamp(0, 1)


def contrast(pixels: Tensor, strength: float) -> Tensor:
    """Every channel moves towards its mean over the image; strength: the part of the distance that is left."""
    # torchvision's adjust_contrast moves all channels towards one grey, which CIFAR-10-C does not
    return pixels.mean((-2, -1), keepdim=True).lerp(pixels, strength).clamp(0, 1)


def occlusion(pixels: Tensor, strength: float) -> Tensor:
    """A square of mid-grey hides a part of each image, at a random place; strength: its side over the shorter side."""
    height, width = pixels.shape[-2:]
    side = round(strength * min(height, width))
    places = torch.rand(len(pixels), 2) * torch.tensor([height - side + 1, width - side + 1])
    grey = torch.full((), 0.5, dtype=pixels.dtype, device=pixels.device)
    covered = [
        transforms.erase(image, top, left, side, side, grey)
        for image, (top, left) in zip(pixels, places.int().tolist())
    ]
    return torch.stack(covered)


#: By name; occlusion's strengths are whole pixels on images of 8x8 and up.
CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "salt_and_pepper": Corruption(salt_and_pepper, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "blur": Corruption(blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "contrast": Corruption(contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "occlusion": Corruption(occlusion, (0.125, 0.25, 0.375, 0.5, 0.625)),
}


def corrupt(pixels: Tensor, name: str, severity: int, seed: int = 0, first: int = 0) -> Tensor:
    """Corrupted images.

    What is drawn for an image depends on seed, name and its place alone: not on the batch, and not on the severity, so
    that severities differ in strength alone.

    Args:
        pixels: ``[N, C, H, W]`` in [0, 1], at least one image.
        name: a key of :data:`CORRUPTIONS`.
        severity: 1 to 5.
        seed: of the draws.
        first: place of the first image among all.

    Returns:
        ``[N, C, H, W]`` in [0, 1].

    Raises:
        ValueError: an unknown corruption or severity.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"The corruption {name!r} does not exist; choose one of {', '.join(CORRUPTIONS)}.")
    if severity not in SEVERITIES:
        raise ValueError(f"The severity is {severity}; choose one of {', '.join(map(str, SEVERITIES))}.")
    apply, strengths = CORRUPTIONS[name]
    images = []
    for place, image in enumerate(pixels.split(1), first):
        with seeded("corruption", seed, name, place):
            images.append(apply(image, strengths[severity - 1]))
    return torch.cat(images)


@contextmanager
def dropped_steps(encoder: nn.Module, probability: float, seed: int = 0) -> Iterator[None]:
    """Inside the block, each step of each image's sequence is zero with a probability (ours).

    Args:
        encoder: puts out ``[T, N, C, H, W]``, in step mode "m".
        probability: 0 to 1.
        seed: of the draws, which are the same at every call of the encoder, whatever it draws itself.

    Raises:
        ValueError: the encoder is in step mode "s".
    """
    if encoder.step_mode != "m":
        raise ValueError(
            f"The encoder is in step mode {encoder.step_mode!r}, one step a call, and steps are dropped from a whole "
            "sequence; set its step mode to 'm'."
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
