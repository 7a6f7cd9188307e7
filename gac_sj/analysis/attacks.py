"""Adversarial images: FGSM (arXiv 1412.6572) and PGD (arXiv 1706.06083), L-infinity, on pixels in [0, 1].

The gradient is that of the neurons' surrogate functions. A network may resist only because that gradient misleads the
attack, so an accuracy under attack is an upper bound of the robust accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from gac_sj._utils.errors import UsageError
from gac_sj._utils.randomness import seeded
from gac_sj.analysis.inputs import input_spec
from gac_sj.analysis.modes import in_mode
from gac_sj.nn.neuron import is_neuron

__all__ = ["ATTACKS", "EPSILONS", "PGD_STEPS", "OnPixels", "fgsm", "pgd", "pixel_gradient"]

#: Largest change of a pixel, by severity (ours, around the usual 8/255).
EPSILONS = (1 / 255, 2 / 255, 4 / 255, 6 / 255, 8 / 255)
PGD_STEPS = 10


@runtime_checkable
class StraightThrough(Protocol):
    """An encoder whose spikes have no gradient unless a straight-through estimate is switched on."""

    straight_through: bool


class OnPixels(nn.Module):
    """A network of :mod:`gac_sj.models` with its normalisation in front: pixels in [0, 1] -> logits, mean over time.

    Random encoders draw the same numbers at every call, so attacks and tests see the same network.

    Args:
        network: a network with an encoder and ``pretrained_cfg``.
        seed: seed of the encoder's draws; it may be changed between calls.
    """

    def __init__(self, network: nn.Module, seed: int = 0):
        super().__init__()
        encoder, config = input_spec(network)
        mean, std = (config[name][: encoder.in_channels] for name in ("mean", "std"))
        self.normalise, self.network, self.seed = v2.Normalize(mean, std), network, seed

    def forward(self, pixels: Tensor) -> Tensor:
        with seeded("encoder", self.seed):
            logits: Tensor = self.network(self.normalise(pixels))
            return logits


@contextmanager
def pixel_gradient(model: nn.Module) -> Iterator[str]:
    """Give pixels a gradient through every encoder inside the block.

    Args:
        model: a network, or an encoder alone.

    Yields:
        The kind of gradient: "surrogate" (all the way), or "straight-through" if the encoder itself has none (Poisson,
        latency, weighted phase): the gradient of each of its spikes with respect to the pixel of that step is then 1.
    """
    encoders = [module for module in model.modules() if isinstance(module, StraightThrough)]
    before = [encoder.straight_through for encoder in encoders]
    try:
        for encoder in encoders:
            encoder.straight_through = True
        yield "straight-through" if encoders else "surrogate"
    finally:
        for encoder, enabled in zip(encoders, before):
            encoder.straight_through = enabled


def fgsm(model: nn.Module, pixels: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Fast gradient sign method: ``clamp(x + eps sign(dL/dx), 0, 1)`` (arXiv 1412.6572, section 4).

    Args:
        model: pixels -> logits ``[N, classes]``; it is attacked in evaluation mode.
        pixels: ``[N, C, H, W]`` in [0, 1].
        labels: ``[N]``.
        eps: largest change of a pixel, in the unit of pixels.

    Returns:
        ``[N, C, H, W]`` in [0, 1].

    Raises:
        UsageError: pixels get no gradient (see :func:`pixel_gradient`).
    """
    return (pixels + eps * _gradient(model, pixels, labels).sign()).clamp(0, 1)


def pgd(model: nn.Module, pixels: Tensor, labels: Tensor, eps: float, steps: int = PGD_STEPS) -> Tensor:
    """Projected gradient descent from a random start, in steps of ``2.5 eps / steps`` (arXiv 1706.06083).

    Args:
        model: pixels -> logits ``[N, classes]``; it is attacked in evaluation mode.
        pixels: ``[N, C, H, W]`` in [0, 1].
        labels: ``[N]``.
        eps: largest change of a pixel, in the unit of pixels.
        steps: number of steps, at least 1.

    Returns:
        ``[N, C, H, W]`` in [0, 1]. The start is drawn from torch's global CPU generator.

    Raises:
        UsageError: pixels get no gradient (see :func:`pixel_gradient`).
    """
    low, high = (pixels - eps).clamp(min=0), (pixels + eps).clamp(max=1)
    start = torch.empty(pixels.shape, dtype=pixels.dtype).uniform_(-eps, eps).to(pixels.device)
    adversarial = torch.clamp(pixels + start, low, high)
    for _ in range(steps):
        step = 2.5 * eps / steps * _gradient(model, adversarial, labels).sign()
        adversarial = torch.clamp(adversarial + step, low, high)
    return adversarial


#: Attacks by name.
ATTACKS: dict[str, Callable[[nn.Module, Tensor, Tensor, float], Tensor]] = {"fgsm": fgsm, "pgd": pgd}


def _gradient(model: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
    """The gradient of the cross-entropy, summed over the images, with respect to the pixels."""
    pixels = pixels.detach().requires_grad_()
    with in_mode(model, training=False), torch.enable_grad():
        for module in filter(is_neuron, model.modules()):
            module.train()  # those of SpikingJelly 0.0.0.0.14 have the same spikes in evaluation, without gradient
        loss = F.cross_entropy(model(pixels), labels, reduction="sum")
        gradient = torch.autograd.grad(loss, pixels, allow_unused=True)[0] if loss.requires_grad else None
    if gradient is None:
        raise UsageError(
            "The network gives pixels no gradient, which the attack needs",
            "attack inside gac_sj.analysis.attacks.pixel_gradient(model)",
        )
    return gradient
