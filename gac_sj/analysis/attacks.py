"""Adversarial images: FGSM (arXiv 1412.6572) and PGD (arXiv 1706.06083), L-infinity, on pixels in [0, 1].

The gradient is that of the neurons' surrogate functions. A network may resist only because that gradient misleads the
attack, so an accuracy under attack is an upper bound of the robust accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from gac_sj._utils.randomness import seeded
from gac_sj.analysis.modes import in_mode

__all__ = ["ATTACKS", "EPSILONS", "PGD_STEPS", "OnPixels", "fgsm", "pgd", "pixel_gradient"]

#: Largest changes of a pixel, by severity (ours, around the usual 8/255).
EPSILONS = (1 / 255, 2 / 255, 4 / 255, 6 / 255, 8 / 255)
PGD_STEPS = 10


class OnPixels(nn.Module):
    """A network of :mod:`gac_sj.models` with its normalisation in front: pixels in [0, 1] -> logits, mean over time.

    Random encoders draw the same at every call, so attacks meet the very network that is tested.

    Args:
        network: with ``encoder`` and ``pretrained_cfg``.
        seed: of the draws; may be changed between calls.
    """

    def __init__(self, network: nn.Module, seed: int = 0):
        super().__init__()
        mean, std = (network.pretrained_cfg[name][: network.encoder.in_channels] for name in ("mean", "std"))
        self.normalise, self.network, self.seed = v2.Normalize(mean, std), network, seed

    def forward(self, pixels: Tensor) -> Tensor:
        with seeded("encoder", self.seed):
            return self.network(self.normalise(pixels))


@contextmanager
def pixel_gradient(model: nn.Module) -> Iterator[str]:
    """Inside the block, pixels get a gradient through every encoder.

    Yields:
        Which one: "surrogate" (all the way), or "straight-through" where the encoder itself has none (Poisson, latency,
        weighted phase) and its spikes get the gradient 1 with regard to their step's pixel.
    """
    encoders = {module: module.straight_through for module in model.modules() if hasattr(module, "straight_through")}
    try:
        for encoder in encoders:
            encoder.straight_through = True
        yield "straight-through" if encoders else "surrogate"
    finally:
        for encoder, before in encoders.items():
            encoder.straight_through = before


def fgsm(model: nn.Module, pixels: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Fast gradient sign method: ``clamp(x + eps sign(dL/dx), 0, 1)`` (arXiv 1412.6572, section 4).

    Args:
        model: pixels -> logits ``[N, classes]``, attacked in evaluation mode.
        pixels: ``[N, C, H, W]`` in [0, 1].
        labels: ``[N]``.
        eps: largest change of a pixel, in the unit of pixels.

    Returns:
        ``[N, C, H, W]`` in [0, 1].

    Raises:
        ValueError: pixels get no gradient (see :func:`pixel_gradient`).
    """
    return (pixels + eps * _gradient(model, pixels, labels).sign()).clamp(0, 1)


def pgd(model: nn.Module, pixels: Tensor, labels: Tensor, eps: float, steps: int = PGD_STEPS) -> Tensor:
    """Projected gradient descent from a random start, in steps of ``2.5 eps / steps`` (arXiv 1706.06083).

    Args:
        model, pixels, labels, eps: see :func:`fgsm`.
        steps: number of steps, at least 1.

    Returns:
        ``[N, C, H, W]`` in [0, 1]. The start is drawn from torch's global generator of the CPU.

    Raises:
        ValueError: pixels get no gradient (see :func:`pixel_gradient`).
    """
    low, high = (pixels - eps).clamp(min=0), (pixels + eps).clamp(max=1)
    start = torch.empty(pixels.shape, dtype=pixels.dtype).uniform_(-eps, eps).to(pixels.device)
    adversarial = torch.clamp(pixels + start, low, high)
    for _ in range(steps):
        step = 2.5 * eps / steps * _gradient(model, adversarial, labels).sign()
        adversarial = torch.clamp(adversarial + step, low, high)
    return adversarial


#: By name.
ATTACKS: dict[str, Callable[[nn.Module, Tensor, Tensor, float], Tensor]] = {"fgsm": fgsm, "pgd": pgd}


def _gradient(model: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
    """Of the cross-entropy, summed over the images, with regard to the pixels."""
    pixels = pixels.detach().requires_grad_()
    with in_mode(model, training=False), torch.enable_grad():
        loss = F.cross_entropy(model(pixels), labels, reduction="sum")
        gradient = torch.autograd.grad(loss, pixels, allow_unused=True)[0] if loss.requires_grad else None
    if gradient is None:
        raise ValueError(
            "The network gives pixels no gradient, and the attack follows it; attack inside "
            "gac_sj.analysis.attacks.pixel_gradient(model)."
        )
    return gradient
