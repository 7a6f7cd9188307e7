"""Which path an operator takes: our kernels on a GPU or a CPU, SpikingJelly's kernels, or plain PyTorch.

- ``cupy``: the CUDA kernels of this folder, on a GPU with CuPy
- ``cpp``: the same kernels on the CPU, built by its C++ compiler
- ``spikingjelly``: SpikingJelly 2.0.0's LIF kernels (Triton), on a GPU
- ``torch``: the definition, everywhere

By themselves operators take the first one that can be had, and say why where that is not the first one of their device.
Who asks for one, by the environment variable ``GAC_SJ_OPS`` or an argument, gets it or an error. Graphs that leave
PyTorch (``torch.export``, ONNX, TorchScript) hold the definition.
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

from gac_sj.ops import cpp, cupy
from gac_sj.ops.source import ELEMENTS
from gac_sj.ops.surrogates import cuda_derivative, spikingjelly_equivalent

__all__ = ["KERNELS", "MOST_STEPS", "ORDER", "PATHS", "choose", "require_numbers", "why_not"]

PATHS = ("cupy", "cpp", "spikingjelly", "torch")
#: The paths that run kernels of this folder.
KERNELS = ("cupy", "cpp")
#: A thread holds the potentials of all steps; longer sequences would fill its memory.
MOST_STEPS = 256
#: What an operator tries by itself on a device, in this order.
ORDER = {"cuda": ("cupy", "spikingjelly", "torch"), "cpu": ("cpp", "torch")}

_logger = logging.getLogger("gac_sj")


def choose(
    operator: str,
    x: Tensor,
    surrogate: Callable,
    requested: str | None = None,
    steps: int = 1,
    unfit: str | None = None,
) -> str:
    """The path of ``operator`` for an input and a surrogate function.

    Args:
        operator: "lif" or "gated_lif".
        x: input; its device and type matter.
        surrogate: of the neuron.
        requested: one of :data:`PATHS`, which then must be possible; None: that of ``GAC_SJ_OPS``, or the best one.
        steps: length of the sequence.
        unfit: what in the arguments no kernel can compute; None where all is well.

    Raises:
        ValueError: the path that was asked for does not exist, or is not possible.
    """
    _, no_text = cuda_derivative(surrogate)
    _, no_equivalent = spikingjelly_equivalent(surrogate)
    if steps > MOST_STEPS:
        no_text = f"its kernels hold up to {MOST_STEPS} steps at once"
    return _choose(operator, x.device.type, x.dtype, unfit or no_text, unfit or no_equivalent, requested)


@torch.compiler.assume_constant_result  # the compiler need not follow the look for compilers and libraries
def _choose(
    operator: str,
    device: str,
    dtype: torch.dtype,
    no_text: str | None,
    no_equivalent: str | None,
    requested: str | None,
) -> str:
    if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing():
        return "torch"
    if _is_transformed():  # torch.func, or derivatives forward
        no_text = no_equivalent = "forward-mode derivatives and torch.func need the definition"
    source = "the argument" if requested else "GAC_SJ_OPS"
    requested = requested or os.environ.get("GAC_SJ_OPS") or None
    if requested == "spikingjelly" and operator == "gated_lif":
        return "torch"  # the encoder calls its neuron then, whose lif is SpikingJelly's
    if requested is not None:
        if requested not in PATHS:
            raise ValueError(f"{source} is {requested!r}; the paths are {', '.join(PATHS)}.")
        reason = why_not(requested, operator, device, dtype, no_text, no_equivalent)
        if reason:
            raise ValueError(f"{source} asks for {requested}, which {operator} cannot take here: {reason}.")
        return requested
    reasons = []
    for path in ORDER.get(device, ("torch",)):
        reason = why_not(path, operator, device, dtype, no_text, no_equivalent)
        if reason is None:
            break
        reasons.append(f"not {path}: {reason}")
    if reasons:
        _say(f"gac_sj's {operator} runs on the path {path!r} ({'; '.join(reasons)}).", device)
    return path


def why_not(
    path: str,
    operator: str,
    device: str,
    dtype: torch.dtype = torch.float32,
    no_text: str | None = None,
    no_equivalent: str | None = None,
) -> str | None:
    """What keeps ``operator`` from a path; None where nothing does.

    Args:
        path, operator: see :func:`choose`.
        device: "cuda", "cpu", ...
        dtype: of the input.
        no_text: why our kernels cannot compute it; such as a surrogate function without CUDA text.
        no_equivalent: why SpikingJelly's cannot.
    """
    if path == "torch":
        return None
    needed = "cpu" if path == "cpp" else "cuda"
    if device != needed:
        return f"it takes {needed.replace('cuda', 'CUDA').replace('cpu', 'CPU')} tensors, and this one is on {device!r}"
    if dtype not in ELEMENTS:
        return f"it takes float32, float16 and bfloat16, and the input is {str(dtype).removeprefix('torch.')}"
    if path == "spikingjelly":
        return f"SpikingJelly has no {operator}" if operator != "lif" else no_equivalent or _why_not_spikingjelly()
    return no_text or (cpp.why_not() if path == "cpp" else cupy.why_not())


@cache
def _why_not_spikingjelly() -> str | None:
    if not hasattr(functional, "lif_multi_step"):
        return "this SpikingJelly has no functional.lif_multi_step; pip install -U spikingjelly (2.0.0)"
    try:
        found = functional.neuron_implementation("lif", torch.device("cuda"))
    except Exception as error:  # Triton may be absent or broken
        return f"its kernels cannot be had ({error})"
    if found["implementation"] in ("cuda", "triton"):
        return None
    reasons = "; ".join(f"{name}: {reason}" for name, reason in found["unavailable"].items())
    return f"its kernels cannot be had ({reasons})"


def _is_transformed() -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None or torch.autograd.forward_ad._current_level >= 0


def require_numbers(*values: Any) -> str | None:
    """What keeps a neuron with such parameters from kernels, which know numbers alone; None where nothing does."""
    if all(value is None or isinstance(value, (int, float)) for value in values):
        return None
    return "tau, v_threshold or v_reset is a tensor"


@cache
def _say(message: str, device: str) -> None:
    """Once: aloud where a GPU idles, into the log on a CPU."""
    if device == "cuda":
        warnings.warn(message, stacklevel=2)
    else:
        _logger.info(message)
