"""A variant whose result is wrong is not timed.

Results are an output, in training also all gradients and running statistics. The distance of two results is that of
their worst tensor: the relative L2 norm of the difference. A gradient far below the others is held to a thousandth of
their common norm, for it may be nothing but rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from speeds.passes import Variant

__all__ = [
    "DRAWS", "WrongResultError", "distance", "require_equal", "require_equal_as_timed", "require_equal_exactly", "wake",
]  # fmt: skip

#: In float64 sums differ in the last digits; a spike that flips would differ by far more.
EXACT = 1e-8
#: Of a pass as it is timed, beside twice the distance of ``naive``: some rounding at thresholds.
TOLERANCE = {torch.float32: 0.02, torch.bfloat16: 0.1, torch.float16: 0.1}
#: Rounding flips spikes, which in a deep network changes all that follows: a right variant is lucky in one of these.
DRAWS = 3

Results = list[list[Tensor]]


class WrongResultError(RuntimeError):
    """Variants do not compute the same."""


def distance(found: Results, expected: Results) -> float:
    """Of the worst tensor; infinite where shapes differ or a number is not finite."""
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
    """Refuse a variant that is too far off.

    Raises:
        WrongResultError: a distance is above what is allowed.
    """
    if not found <= allowed:
        raise WrongResultError(
            f"{name} is not what it must be equal to {how}: the worst tensor differs by {found:.2g} of its norm, and "
            f"{allowed:.2g} is allowed; nothing was timed."
        )


def require_equal_exactly(
    variants: Mapping[str, Variant], naive: Variant, x: Tensor, grad: Tensor | None = None
) -> None:
    """Hold all variants against ``naive`` in float64.

    Raises:
        WrongResultError: one differs by more than :data:`EXACT`.
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
    """Hold all variants in the precision that is timed against ``naive`` in float64.

    Each may differ by twice what ``naive`` itself differs in that precision, and :data:`TOLERANCE`, on one of several
    inputs: rounding flips spikes now and then, a mistake is one on all inputs.

    Raises:
        WrongResultError: one differs by more on all inputs.
    """
    left = {name: variant for name, variant in variants.items() if variant is not naive}
    for x, grad in inputs:
        with the_definition():
            expected = naive.exactly(x, grad).results()
        # running statistics follow from what is compared here, and a CUDA graph has warmed up on them
        distances = {
            name: distance(variant.on(x, grad, autocast).results()[:2], expected[:2])
            for name, variant in {**left, "naive": naive}.items()
        }
        allowed = 2 * distances["naive"] + TOLERANCE[autocast or torch.float32]
        left = {name: variant for name, variant in left.items() if not distances[name] <= allowed}
        if not left:
            return
    for name in left:
        require_equal(name, distances[name], allowed, "as it is timed")


@contextmanager
def the_definition() -> Iterator[None]:
    """Operators of the package on the path "torch", whatever GAC_SJ_OPS asks for: kernels know no float64."""
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
    """Give BatchNorms weights as after some training and the running statistics of images.

    At initialisation an evaluated network is all but silent, the weights that end a block may be zero, and the mean
    that temporal attention sees is zero up to rounding, whose sign then decides about a ReLU: there a wrong variant
    could not be told from a right one.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.2, 0.4)
        norm.momentum = 1.0
    model.train()(images)
    for norm in norms:
        norm.momentum = 0.1
