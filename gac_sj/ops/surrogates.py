"""Derivatives of surrogate functions as CUDA C expressions, and which of them SpikingJelly's own kernels support.

Kernels support a surrogate of yours if it has a method ``cuda_derivative()``. The method returns a CUDA C expression of
the float ``x``, the potential minus the threshold, and up to three numbers that the expression calls ``a``, ``b`` and
``c``: for example ``("fabsf(x) < b ? a : 0.0f", self.alpha, 0.5 / self.alpha)``. Besides CUDA's functions of floats the
expression may use those of ``neuron.cuh``: ``clamp_min``, ``square``, ``sigmoid``, ``sigmoid_slope``. An attribute
``strict`` that is true says that the neuron fires above the threshold only, not at it too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from spikingjelly.activation_based import surrogate as spikingjelly_surrogate
from torch import nn

from gac_sj.ops.neuron import Derivative
from gac_sj.ops.shortcuts import has_hooks, overrides

__all__ = ["cuda_derivative", "is_changed", "spikingjelly_equivalent"]

_MODULE = spikingjelly_surrogate.__name__
# SpikingJelly's classes: parameters, expression, numbers. PiecewiseLeakyReLU is not here: its two releases differ.
_SPIKINGJELLY: dict[str, tuple[tuple[str, ...], str, Callable[..., tuple[float, ...]]]] = {
    "Sigmoid": (("alpha",), "a * sigmoid_slope(a * x)", lambda alpha: (alpha,)),
    "ATan": (("alpha",), "a / (1.0f + square(b * x))", lambda alpha: (alpha / 2, math.pi / 2 * alpha)),
    "PiecewiseQuadratic": (
        ("alpha",),
        "fabsf(x) > c ? 0.0f : b * fabsf(x) + a",
        lambda alpha: (alpha, -(alpha**2), 1 / alpha),
    ),
    "PiecewiseExp": (("alpha",), "a * expf(b * fabsf(x))", lambda alpha: (alpha / 2, -alpha)),
    "SoftSign": (("alpha",), "1.0f / (a * square(b + fabsf(x)))", lambda alpha: (2 * alpha, 1 / alpha)),
    "SuperSpike": (("alpha",), "a / square(fabsf(x) + 1.0f)", lambda alpha: (alpha,)),
    "Erf": (("alpha",), "expf(-square(x * a)) * b", lambda alpha: (alpha, alpha / math.sqrt(math.pi))),
    "Rect": (("alpha",), "fabsf(x) < b ? a : 0.0f", lambda alpha: (alpha, 0.5 / alpha)),
    "NonzeroSignLogAbs": (("alpha",), "1.0f / (a + fabsf(x))", lambda alpha: (1 / alpha,)),
    "QPseudoSpike": (("alpha",), "powf(1.0f + a * fabsf(x), b)", lambda alpha: (2 / (alpha - 1), -alpha)),
    "LogTailedReLU": (("alpha",), "x > 1.0f ? 1.0f / x : (x <= 0.0f ? a : 1.0f)", lambda alpha: (alpha,)),
    "LeakyKReLU": (("leak", "k"), "x >= 0.0f ? b : a", lambda leak, k: (leak, k)),
    "S2NN": (
        ("alpha", "beta"),
        "x < 0.0f ? a * sigmoid_slope(a * x) : b / (x + 1.0f)",
        lambda alpha, beta: (alpha, beta),
    ),
}
# those that SpikingJelly 2.0.0's LIF kernels support
_IN_ITS_KERNELS = ("Sigmoid", "ATan", "PiecewiseQuadratic", "PiecewiseExp", "SoftSign", "SuperSpike", "Erf")


def cuda_derivative(surrogate: Callable) -> tuple[Derivative | None, str | None]:
    """The derivative of a surrogate function for our kernels.

    Args:
        surrogate: a surrogate function, SpikingJelly's or one with a method ``cuda_derivative()``.

    Returns:
        The derivative and None; or None and the reason why kernels do not support the function.
    """
    cls = type(surrogate)
    strict = bool(getattr(surrogate, "strict", False))
    if not getattr(surrogate, "spiking", True):
        return None, f"{cls.__name__}(spiking=False) outputs no spikes"
    if hasattr(surrogate, "cuda_derivative"):
        if not _applies_to(cls, "cuda_derivative"):
            return None, f"{cls.__name__} changes the function whose cuda_derivative() it inherits"
        expression, *values = surrogate.cuda_derivative()
        return Derivative(strict, expression, values), None
    if cls.__module__ != _MODULE or cls.__name__ not in _SPIKINGJELLY:
        return None, f"the surrogate {cls.__name__} has no cuda_derivative() (see gac_sj.ops.surrogates)"
    parameters, expression, numbers = _SPIKINGJELLY[cls.__name__]
    values = [getattr(surrogate, parameter) for parameter in parameters]
    if not all(isinstance(value, (int, float)) for value in values):
        return None, f"{cls.__name__} has parameters that are not plain numbers"
    return Derivative(strict, expression, [*numbers(*values)]), None


def spikingjelly_equivalent(surrogate: Any) -> tuple[Any, str | None]:
    """The surrogate function of SpikingJelly that equals this one and that SpikingJelly's LIF kernels support.

    Args:
        surrogate: a surrogate function.

    Returns:
        The equal function and None; or None and the reason why there is none.
    """
    name, equal = type(surrogate).__name__, surrogate
    if hasattr(surrogate, "spikingjelly_equivalent") and _applies_to(type(surrogate), "spikingjelly_equivalent"):
        equal = surrogate.spikingjelly_equivalent()
    known = type(equal).__module__ == _MODULE and type(equal).__name__ in _IN_ITS_KERNELS
    if not known or not equal.spiking or not isinstance(equal.alpha, (int, float)):
        return None, f"SpikingJelly's kernels do not support the surrogate {name}"
    return equal, None


def is_changed(surrogate: Any) -> bool:
    """Whether a hook watches a surrogate function, or one of its methods was replaced after its construction.

    Args:
        surrogate: a surrogate function.
    """
    return isinstance(surrogate, nn.Module) and (
        has_hooks(surrogate) or overrides(surrogate, type(surrogate), *_FUNCTION)
    )


@torch.compiler.assume_constant_result  # a question about classes, which torch.compile cannot trace
def _applies_to(cls: type, method: str) -> bool:
    """Whether a method describes the class's function: it must be defined where the function is, or in a subclass."""
    for parent in cls.__mro__:
        if method in parent.__dict__:
            return True
        if any(name in parent.__dict__ for name in _FUNCTION):
            return False
    return False


_FUNCTION = ("spiking_function", "forward")
