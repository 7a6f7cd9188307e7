"""Derivatives of surrogate functions as CUDA C expressions, and which of them SpikingJelly's own kernels know.

A surrogate of yours takes part with a method ``cuda_derivative()``: a CUDA C expression of the float ``x``, the
potential minus the threshold, such as ``"fabsf(x) < 0.5f ? 1.0f : 0.0f"``. Besides CUDA's functions of floats it may
use those of ``neuron.cuh``: ``clamp_min``, ``square``, ``sigmoid``, ``sigmoid_slope``. A true attribute ``strict`` says
that the neuron fires above the threshold only.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

from spikingjelly.activation_based import surrogate as stock

__all__ = ["cuda_derivative", "literal", "spikingjelly_equivalent"]

_MODULE = stock.__name__


def literal(value: float) -> str:
    """A number as CUDA C text of the float that PyTorch computes with."""
    return f"{struct.unpack('f', struct.pack('f', value))[0]!r}f"


# SpikingJelly's classes: parameters, derivative. PiecewiseLeakyReLU is not here: its two releases differ.
_STOCK: dict[str, tuple[tuple[str, ...], Callable[..., str]]] = {
    "Sigmoid": (("alpha",), lambda a: f"{literal(a)} * sigmoid_slope({literal(a)} * x)"),
    "ATan": (("alpha",), lambda a: f"{literal(a / 2)} / (1.0f + square({literal(math.pi / 2 * a)} * x))"),
    "PiecewiseQuadratic": (
        ("alpha",),
        lambda a: f"fabsf(x) > {literal(1 / a)} ? 0.0f : {literal(-(a**2))} * fabsf(x) + {literal(a)}",
    ),
    "PiecewiseExp": (("alpha",), lambda a: f"{literal(a / 2)} * expf({literal(-a)} * fabsf(x))"),
    "SoftSign": (("alpha",), lambda a: f"1.0f / ({literal(2 * a)} * square({literal(1 / a)} + fabsf(x)))"),
    "SuperSpike": (("alpha",), lambda a: f"{literal(a)} / square(fabsf(x) + 1.0f)"),
    "Erf": (("alpha",), lambda a: f"expf(-square(x * {literal(a)})) * {literal(a / math.sqrt(math.pi))}"),
    "Rect": (("alpha",), lambda a: f"fabsf(x) < {literal(0.5 / a)} ? {literal(a)} : 0.0f"),
    "NonzeroSignLogAbs": (("alpha",), lambda a: f"1.0f / ({literal(1 / a)} + fabsf(x))"),
    "QPseudoSpike": (("alpha",), lambda a: f"powf(1.0f + {literal(2 / (a - 1))} * fabsf(x), {literal(-a)})"),
    "LogTailedReLU": (("alpha",), lambda a: f"x > 1.0f ? 1.0f / x : (x <= 0.0f ? {literal(a)} : 1.0f)"),
    "LeakyKReLU": (("leak", "k"), lambda leak, k: f"x >= 0.0f ? {literal(k)} : {literal(leak)}"),
    "S2NN": (
        ("alpha", "beta"),
        lambda a, b: f"x < 0.0f ? {literal(a)} * sigmoid_slope({literal(a)} * x) : {literal(b)} / (x + 1.0f)",
    ),
}
# those that SpikingJelly 2.0.0's LIF kernels know
_IN_ITS_KERNELS = ("Sigmoid", "ATan", "PiecewiseQuadratic", "PiecewiseExp", "SoftSign", "SuperSpike", "Erf")


def cuda_derivative(surrogate: Callable) -> tuple[str | None, str | None]:
    """The derivative of a surrogate function as a CUDA C expression of ``x``, and why there is none."""
    name = type(surrogate).__name__
    if not getattr(surrogate, "spiking", True):
        return None, f"{name}(spiking=False) puts out no spikes"
    if hasattr(surrogate, "cuda_derivative"):
        return surrogate.cuda_derivative(), None
    if type(surrogate).__module__ != _MODULE or name not in _STOCK:
        return None, f"the surrogate {name} has no cuda_derivative() (gac_sj.ops.surrogates says how to add one)"
    parameters, text = _STOCK[name]
    values = [getattr(surrogate, parameter) for parameter in parameters]
    if not all(isinstance(value, (int, float)) for value in values):
        return None, f"{name} has parameters that are no plain numbers"
    return text(*values), None


def spikingjelly_equivalent(surrogate: Any) -> tuple[Any, str | None]:
    """The stock surrogate function equal to this one that SpikingJelly's LIF kernels know, and why there is none."""
    equal = surrogate.stock_equivalent() if hasattr(surrogate, "stock_equivalent") else surrogate
    name = type(surrogate).__name__
    known = type(equal).__module__ == _MODULE and type(equal).__name__ in _IN_ITS_KERNELS
    if not known or not equal.spiking or not isinstance(equal.alpha, (int, float)):
        return None, f"SpikingJelly's kernels do not know the surrogate {name}"
    return equal, None
