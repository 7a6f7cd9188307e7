"""Derivatives of surrogate functions as CUDA C expressions, and which of them SpikingJelly's own kernels know.

A surrogate of yours takes part with a method ``cuda_derivative()``: a CUDA C expression of the float ``x``, the
potential minus the threshold, and up to three numbers that it calls ``a``, ``b``, ``c``; such as ``("fabsf(x) < b ? a :
0.0f", self.alpha, 0.5 / self.alpha)``. Besides CUDA's functions of floats it may use those of ``neuron.cuh``:
``clamp_min``, ``square``, ``sigmoid``, ``sigmoid_slope``. A true attribute ``strict`` says that the neuron fires above
the threshold only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from spikingjelly.activation_based import surrogate as stock

__all__ = ["Derivative", "cuda_derivative", "spikingjelly_equivalent"]

#: An expression of x, a, b, c, and what these three are.
Derivative = tuple[str, list[float]]

_MODULE = stock.__name__
# SpikingJelly's classes: parameters, expression, numbers. PiecewiseLeakyReLU is not here: its two releases differ.
_STOCK: dict[str, tuple[tuple[str, ...], str, Callable[..., tuple[float, ...]]]] = {
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
# those that SpikingJelly 2.0.0's LIF kernels know
_IN_ITS_KERNELS = ("Sigmoid", "ATan", "PiecewiseQuadratic", "PiecewiseExp", "SoftSign", "SuperSpike", "Erf")


def cuda_derivative(surrogate: Callable) -> tuple[Derivative | None, str | None]:
    """The derivative of a surrogate function for our kernels, and why there is none."""
    kind = type(surrogate)
    if not getattr(surrogate, "spiking", True):
        return None, f"{kind.__name__}(spiking=False) puts out no spikes"
    if hasattr(surrogate, "cuda_derivative"):
        if not _speaks_for(kind, "cuda_derivative"):
            return None, f"{kind.__name__} changes the function whose cuda_derivative() it inherits"
        text, *numbers = surrogate.cuda_derivative()
        return (text, numbers), None
    if kind.__module__ != _MODULE or kind.__name__ not in _STOCK:
        return (
            None,
            f"the surrogate {kind.__name__} has no cuda_derivative() (see gac_sj.ops.surrogates)",
        )
    parameters, text, numbers = _STOCK[kind.__name__]
    values = [getattr(surrogate, parameter) for parameter in parameters]
    if not all(isinstance(value, (int, float)) for value in values):
        return None, f"{kind.__name__} has parameters that are no plain numbers"
    return (text, [*numbers(*values)]), None


def spikingjelly_equivalent(surrogate: Any) -> tuple[Any, str | None]:
    """The stock surrogate function equal to this one that SpikingJelly's LIF kernels know, and why there is none."""
    name, equal = type(surrogate).__name__, surrogate
    if hasattr(surrogate, "stock_equivalent") and _speaks_for(type(surrogate), "stock_equivalent"):
        equal = surrogate.stock_equivalent()
    known = type(equal).__module__ == _MODULE and type(equal).__name__ in _IN_ITS_KERNELS
    if not known or not equal.spiking or not isinstance(equal.alpha, (int, float)):
        return None, f"SpikingJelly's kernels do not know the surrogate {name}"
    return equal, None


def _speaks_for(kind: type, method: str) -> bool:
    """Whether a class defines ``method`` where it defines its function, or below: it may have changed the function."""
    mro = kind.__mro__
    first = {name: next((at for at, c in enumerate(mro) if name in vars(c)), len(mro)) for name in (method, *_FUNCTION)}
    return all(first[method] <= first[name] for name in _FUNCTION)


_FUNCTION = ("spiking_function", "forward")
