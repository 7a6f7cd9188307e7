"""Checks of results: a variant that computes another result is not timed.

Results are an output, in training also all gradients and running statistics. The distance of two results is the largest
relative L2 norm of the difference among their tensors. For a gradient far below the others, the difference is relative
to a thousandth of their common norm, because the gradient may consist of rounding errors.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gac_sj._utils.errors import ExitError
from speeds.passes import Variant

__all__ = [
    "DRAWS",
    "WrongResultError",
    "distance",
    "require_equal",
    "require_equal_as_timed",
    "require_equal_exactly",
    "the_definition",
    "wake",
]

#: In float64, sums differ in the last digits; a flipped spike would make a far larger difference.
EXACT = 1e-8
#: Allowed distance of a timed pass, in addition to twice that of ``naive``, because roundings flip spikes.
TOLERANCE = {torch.float32: 0.02, torch.bfloat16: 0.1, torch.float16: 0.1}
#: Number of inputs, one of which must pass: a flipped spike changes everything after it in a deep network.
DRAWS = 3

Results = list[list[Tensor]]


class WrongResultError(ExitError):
    """Variants compute different results.

    Args:
        message: what differs.
    """

    def __init__(self, message: str):
        super().__init__(message, 2)


def distance(found: Results, expected: Results) -> float:
    """The distance of two results: infinite if shapes differ or a number is not finite.

    Args:
        found: groups of tensors.
        expected: the same groups.
    """
    worst = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        least = 1e-3 * sum(tensor.double().square().sum() for tensor in theirs) ** 0.5
        if [tensor.shape for tensor in ours] != [tensor.shape for tensor in theirs]:
            return float("inf")
        for one, other in zip(ours, theirs):
            difference, norm = (one.double() - other.double()).norm(), other.double().norm()
            relative = (difference / torch.maximum(norm, least)).item() if difference != 0 else 0.0
            worst = max(worst, relative if relative == relative else float("inf"))
    return worst


def require_equal(name: str, found: float, allowed: float, how: str) -> None:
    """Refuse a variant whose distance is too large.

    Args:
        name: of the variant.
        found: its distance.
        allowed: the largest allowed distance.
        how: in what precision, for the message.

    Raises:
        WrongResultError: the distance is too large.
    """
    if not found <= allowed:
        raise WrongResultError(
            f"{name} must compute the expected result {how} up to a relative difference of {allowed:.2g}, got "
            f"{found:.2g}; nothing was timed."
        )


def require_equal_exactly(
    variants: Mapping[str, Variant], naive: Variant, x: Tensor, grad: Tensor | None = None
) -> None:
    """Compare all variants with ``naive`` in float64.

    Args:
        variants: variants by name.
        naive: the expected one.
        x: the input.
        grad: gradient of the output, or None for inference.

    Raises:
        WrongResultError: a distance is above :data:`EXACT`.
    """
    with the_definition():
        expected = naive.exactly(x, grad).results()
        for name, variant in variants.items():
            require_equal(name, distance(variant.exactly(x, grad).results(), expected), EXACT, "in float64")


def require_equal_as_timed(
    variants: Mapping[str, Variant],
    naive: Variant,
    inputs: Iterable[tuple[Tensor, Tensor | None]],
    autocast: torch.dtype | None = None,
) -> None:
    """Compare all variants in the timed precision with ``naive`` in float64.

    On one of the inputs, the distance must be at most twice that of ``naive`` in the timed precision plus
    :data:`TOLERANCE`: roundings flip spikes on some inputs, a mistake shows on all of them.

    Args:
        variants: variants by name.
        naive: the expected one.
        inputs: inputs and gradients of the output (None for inference).
        autocast: dtype of autocast, or None.

    Raises:
        WrongResultError: a distance is too large on all inputs.
    """
    left = {name: variant for name, variant in variants.items() if variant is not naive}
    for x, grad in inputs:
        with the_definition():
            expected = naive.exactly(x, grad).results()
        # without running statistics: they follow from the outputs, and a CUDA graph has changed them while warming up
        distances = {
            name: distance(variant.on(x, grad, autocast).results()[:2], expected[:2])
            for name, variant in {**left, "naive": naive}.items()
        }
        allowed = 2 * distances["naive"] + TOLERANCE[autocast or torch.float32]
        left = {name: variant for name, variant in left.items() if not distances[name] <= allowed}
        if not left:
            return
    for name in left:
        require_equal(name, distances[name], allowed, "in the timed precision")


@contextmanager
def the_definition() -> Iterator[None]:
    """Run the operators of the package on the path "torch", whatever GAC_SJ_OPS says: kernels have no float64."""
    before = os.environ.get("GAC_SJ_OPS")
    os.environ["GAC_SJ_OPS"] = "torch"
    try:
        yield
    finally:
        del os.environ["GAC_SJ_OPS"]
        if before is not None:
            os.environ["GAC_SJ_OPS"] = before


@torch.no_grad()
def wake(model: nn.Module, images: Tensor) -> None:
    """Give BatchNorms weights as after some training, and the running statistics of images.

    At initialisation, a network in evaluation hardly spikes, the last weights of a block may be zero, and the mean that
    temporal attention gets is zero up to rounding, so that the sign of a rounding error decides about a ReLU. Wrong
    variants would go unnoticed.

    Args:
        model: changed in place.
        images: a batch of its input.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.2, 0.4)
        norm.momentum = 1.0
    model.train()(images)
    for norm in norms:
        norm.momentum = 0.1
