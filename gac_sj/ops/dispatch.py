"""Which path an operator takes: our kernels on a GPU or a CPU, SpikingJelly's kernels, or plain PyTorch.

- ``cupy``: the CUDA kernels of this folder, compiled by CuPy for a GPU
- ``cpp``: the same kernels, built for the CPU by a C++ compiler
- ``spikingjelly``: SpikingJelly 2.0.0's LIF kernels (Triton) on a GPU
- ``torch``: the definition, on every device

By default an operator uses the first available path of its device (:data:`ORDER`) and logs why it fell back. An
explicit request (``GAC_SJ_OPS`` or ``path=``) is honoured or raises. Graphs that leave PyTorch (``torch.export``, ONNX,
TorchScript) contain the definition. So does by default what a dispatch mode looks at, such as a counter of operations;
SpikingJelly's own counters get SpikingJelly's own operations.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from spikingjelly.activation_based import functional
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from gac_sj.ops import cpp, cupy
from gac_sj.ops.neuron import Derivative
from gac_sj.ops.source import ELEMENTS, BuildError
from gac_sj.ops.surrogates import cuda_derivative, is_changed, spikingjelly_equivalent

__all__ = [
    "KERNELS",
    "MAX_STEPS",
    "OPERATORS",
    "ORDER",
    "PATHS",
    "choose",
    "has_dispatch_mode",
    "is_counted_by_spikingjelly",
    "is_transformed",
    "remember_failure",
    "why_not",
    "why_not_numbers",
]

OPERATORS = ("lif", "gated_lif", "norm_lif", "norm_add")
PATHS = ("cupy", "cpp", "spikingjelly", "torch")
#: The paths that run kernels of this folder.
KERNELS = ("cupy", "cpp")
#: Maximum length of a sequence: a thread keeps the potentials of all steps in its memory.
MAX_STEPS = 256
#: The paths that an operator tries by default on each kind of device, in this order.
ORDER = {"cuda": ("cupy", "spikingjelly", "torch"), "cpu": ("cpp", "torch")}

_logger = logging.getLogger("gac_sj")


def choose(
    operator: str,
    x: Tensor,
    surrogate: Callable | None,
    requested: str | None = None,
    steps: int = 1,
    unsupported: str | None = None,
    only_kernels: str | None = None,
) -> str:
    """The path of an operator for an input and a surrogate function.

    Args:
        operator: one of :data:`OPERATORS`.
        x: input, of which the device and the dtype matter.
        surrogate: surrogate function of the neuron; None: the operator has none.
        requested: one of :data:`PATHS`; None: that of ``GAC_SJ_OPS``, or the first available one.
        steps: length of the sequence.
        unsupported: what no kernel supports in the other arguments; None if kernels support them all.
        only_kernels: what SpikingJelly's kernels do not support in them, and ours do; None if there is nothing.

    Returns:
        One of :data:`PATHS`.

    Raises:
        ValueError: the requested path does not exist or is not available.
    """
    if is_changed(surrogate):
        unsupported = unsupported or f"{type(surrogate).__name__} has a hook or another forward"
    derivative, no_derivative = (None, None) if surrogate is None else cuda_derivative(surrogate)
    _, no_equivalent = spikingjelly_equivalent(surrogate)
    if steps > MAX_STEPS:
        no_derivative = f"its kernels take at most {MAX_STEPS} steps, got {steps}"
    expression = derivative.expression if derivative else ""
    no_derivative, no_equivalent = unsupported or no_derivative, unsupported or only_kernels or no_equivalent
    return _choose(operator, x.device.type, x.dtype, no_derivative, no_equivalent, expression, requested)


@torch.compiler.assume_constant_result  # torch.compile cannot trace the search for compilers and libraries
def _choose(
    operator: str,
    device: str,
    dtype: torch.dtype,
    no_derivative: str | None,
    no_equivalent: str | None,
    expression: str,
    requested: str | None,
) -> str:
    if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing():
        return "torch"
    if is_transformed():
        no_derivative = no_equivalent = "forward-mode derivatives and torch.func need the definition"
    source = "path" if requested else "GAC_SJ_OPS"
    requested = requested or os.environ.get("GAC_SJ_OPS") or None
    if requested == "spikingjelly" and operator != "lif":
        return "torch"  # the modules then call their neuron, whose lif runs SpikingJelly's kernel
    if requested is not None:
        if requested not in PATHS:
            raise ValueError(f"{source} must be one of {', '.join(PATHS)}, got {requested!r}.")
        reason = why_not(requested, operator, device, dtype, no_derivative, no_equivalent, expression)
        if reason:
            raise ValueError(f"{source} requests {requested!r}, which is not available for {operator}: {reason}.")
        return requested
    if has_dispatch_mode():
        return "torch"
    reasons = []
    for path in ORDER.get(device, ("torch",)):
        reason = why_not(path, operator, device, dtype, no_derivative, no_equivalent, expression)
        if reason is None:
            break
        reasons.append(f"not {path}: {reason}")
    if reasons:
        warn = device == "cuda" or any(failed == expression for _, failed in _failures)
        _report_once(f"gac_sj's {operator} runs on the path {path!r} ({'; '.join(reasons)}).", warn)
    return path


def why_not(
    path: str,
    operator: str,
    device: str,
    dtype: torch.dtype = torch.float32,
    no_derivative: str | None = None,
    no_equivalent: str | None = None,
    expression: str = "",
) -> str | None:
    """Why an operator cannot take a path.

    Args:
        path: one of :data:`PATHS`.
        operator: one of :data:`OPERATORS`.
        device: type of the input's device: "cuda", "cpu", ...
        dtype: of the input.
        no_derivative: why our kernels do not support the arguments, such as a surrogate function without a CUDA C
            expression; None if they do.
        no_equivalent: why SpikingJelly's kernels do not support the arguments; None if they do.
        expression: derivative of the surrogate function, of which kernels may have failed (:func:`remember_failure`).

    Returns:
        The reason; None if the path is available.
    """
    if path == "torch":
        return None
    needed = "cpu" if path == "cpp" else "cuda"
    if device != needed:
        return f"it needs a {needed.upper()} tensor, got one on {device!r}"
    if dtype not in ELEMENTS:
        return f"it needs float32, float16 or bfloat16, got {str(dtype).removeprefix('torch.')}"
    if path == "spikingjelly":
        return f"SpikingJelly has no {operator}" if operator != "lif" else no_equivalent or _why_not_spikingjelly()
    return no_derivative or _failures.get((path, expression)) or (cpp.why_not() if path == "cpp" else cupy.why_not())


def remember_failure(path: str, derivative: Derivative | None, error: BuildError) -> None:
    """Remember that kernels cannot be built; from then on their path is not available to this derivative.

    Args:
        path: of the kernels.
        derivative: of the surrogate function, which is part of their source; None: there is none.
        error: why.
    """
    _failures[path, derivative.expression if derivative else ""] = str(error)


_failures: dict[tuple[str, str], str] = {}  # of this process: (path, derivative) -> reason


@cache
def _why_not_spikingjelly() -> str | None:
    if not hasattr(functional, "lif_multi_step"):
        return "this SpikingJelly has no functional.lif_multi_step; pip install -U spikingjelly (2.0.0)"
    try:
        found = functional.neuron_implementation("lif", torch.device("cuda"))
    except Exception as error:  # Triton may be missing or broken
        return f"its kernels are not available ({error})"
    if found["implementation"] in ("cuda", "triton"):
        return None
    reasons = "; ".join(f"{name}: {reason}" for name, reason in found["unavailable"].items())
    return f"its kernels are not available ({reasons})"


def has_dispatch_mode() -> bool:
    """Whether a ``TorchDispatchMode`` looks at every operation, which a kernel would hide from it."""
    return torch._C._len_torch_dispatch_stack() > 0


def is_counted_by_spikingjelly() -> bool:
    """Whether one of the counters of SpikingJelly 2.0.0 (``op_counter``) looks at every operation."""
    if torch.compiler.is_compiling():
        return False
    return any(type(mode).__module__.startswith("spikingjelly.") for mode in _get_current_dispatch_mode_stack())


def is_transformed(*tensors: Tensor) -> bool:
    """Whether ``torch.func``, forward-mode differentiation or a batched gradient (``is_grads_batched``) is active.

    Args:
        tensors: the gradients, which tell whether they are batched.
    """
    if torch.compiler.is_compiling():
        return False
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
        or any(map(torch._C._functorch.is_legacy_batchedtensor, tensors))
    )


def why_not_numbers(*values: Any) -> str | None:
    """Why kernels do not support parameters of a neuron or gate: they take plain numbers, not tensors.

    Args:
        values: the parameters.

    Returns:
        The reason; None if all are plain numbers or None.
    """
    if all(value is None or isinstance(value, (int, float)) for value in values):
        return None
    return "a parameter such as tau, v_threshold, v_reset or gain is a tensor, not a number"


@cache
def _report_once(message: str, warn: bool) -> None:
    """Report once: as a warning if a GPU path was missed or a kernel failed, at INFO level otherwise."""
    if warn:
        warnings.warn(message, stacklevel=2)
    else:
        _logger.info(message)
