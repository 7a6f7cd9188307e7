"""Inference: ours in several precisions and with integer weights, SpikingJelly's, the published one."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

import gac_sj
from gac_sj._utils.errors import UsageError
from gac_sj.analysis import firing_rates
from speeds.checking import WrongResultError
from speeds.measuring import Comparison
from speeds.passes import FORWARD
from speeds.stepping import add_arguments as add_network
from speeds.stepping import batch
from speeds.train import SideBySide

__all__ = ["HELP", "QUICK", "add_arguments", "compare"]

HELP = "inference in several precisions, and how far logits are from those of float32"
QUICK = {"model": "gac_ms_resnet8_cifar", "batch": 2, "repeats": 3}
#: Bits of weights by variant.
_BITS = {"int8": 8, "int16": 16}
#: Mean firing rate of a network that is worth timing; what it spikes decides how much rounding changes.
_FIRING = (0.05, 0.5)
#: Images on which logits are compared.
_COMPARED = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark.

    Args:
        parser: of the sub-command.
    """
    add_network(parser, "gac_ms_resnet18_cifar", 8)
    parser.add_argument(
        "--bits", nargs="*", choices=_BITS, default=[*_BITS], help="weights as integers (default: int8 int16)"
    )
    parser.set_defaults(repeats=10)


def compare(args: argparse.Namespace) -> list[Comparison]:
    """Build and check the networks.

    Args:
        args: the parsed arguments.

    Returns:
        One comparison of all of them.

    Raises:
        UsageError: the network does not exist, or a form is not available here.
        WrongResultError: a network computes another result, or hardly fires; then none is timed.
    """
    if any(each.has("cuda_graph") for each in args.forms):
        raise UsageError("cannot contain cuda_graph, a form of training", "leave it out", argument="forms")
    networks = SideBySide(args)
    networks.check(training=False)
    ours = networks.modules["ours"][0].eval()
    images, _ = batch(args, torch.contiguous_format)
    _require_firing(ours, images)
    runs = {}
    for name, (module, each) in networks.modules.items():
        runs[name] = _Forward(module.eval(), batch(args, each.memory_format)[0], each.autocast)
    for name in args.bits:
        try:
            runs[name] = _Forward(gac_sj.quantize(copy.deepcopy(ours), bits=_BITS[name], images=images), images)
        except UsageError as error:
            print(f"{name} is left out: {error}")
    further = _agreement(runs, images)
    return [networks.comparison(FORWARD, runs, networks.flops(training=False), further)]


class _Forward:
    """A forward pass without a graph.

    Args:
        module: in evaluation mode.
        images: ``[N, 3, H, W]``.
        autocast: dtype of autocast, or None.
    """

    def __init__(self, module: nn.Module, images: Tensor, autocast: torch.dtype | None = None):
        self.module, self.images, self.autocast = module, images, autocast

    def __call__(self, images: Tensor | None = None) -> Tensor:
        images = self.images if images is None else images
        with torch.no_grad(), torch.autocast(images.device.type, self.autocast, enabled=self.autocast is not None):
            return self.module(images)


def _require_firing(model: nn.Module, images: Tensor) -> None:
    """Refuse to time a network that is silent, or fires all the time.

    Raises:
        WrongResultError: its mean firing rate is out of range.
    """
    with torch.no_grad(), firing_rates(model) as rates:
        model(images)
    mean = sum(rates.values()) / len(rates)
    if not _FIRING[0] <= mean <= _FIRING[1]:
        raise WrongResultError(
            f"The network must fire at {_FIRING[0]:.0%} to {_FIRING[1]:.0%} of its steps, got {mean:.1%}; nothing was "
            "timed."
        )


def _agreement(runs: dict[str, Callable[..., Tensor]], like: Tensor) -> dict[str, dict[str, float]]:
    """Of each variant the percentage of images whose first class is that of float32, and the largest difference of a
    logit relative to the largest logit."""
    torch.manual_seed(2)
    images = torch.randn(_COMPARED, *like.shape[1:]).to(like.device).split(len(like))
    logits = {name: torch.cat([run(some).float() for some in images]) for name, run in runs.items()}
    expected = logits["ours"]
    return {
        name: {
            "top1_agreement": 100 * (found.argmax(1) == expected.argmax(1)).double().mean().item(),
            "logit_difference": ((found - expected).abs().max() / expected.abs().max()).item(),
        }
        for name, found in logits.items()
    }
