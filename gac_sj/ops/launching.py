"""What launches of all operators share: the layout of sequences, the shape of the grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gac_sj.ops import cpp, cupy
from gac_sj.ops.source import ELEMENTS, Macros, source

__all__ = [
    "Launch",
    "canonical",
    "empty_sequence",
    "neuron_numbers",
    "no_second_derivative",
    "readable_steps",
    "require_one_device",
]

_BLOCK = 128  # threads
_REGISTERS = 48  # of a thread for numbers of all steps; measured: more of them slow a GPU down
_GRAIN = 1 << 15  # fewer elements than that are not worth a further thread of a CPU


@dataclass(frozen=True)
class Launch:
    """Who works on what.

    Args:
        sequence: one of the tensors, ``[T, N, *]``: its length, type and device are those of the launch.
        size: elements that are shared out, in each of ``rows`` rows.
        rows: parts that no thread shares.
        most: threads that share the elements of a row at most.
        held: numbers of each step that the kernels hold in registers.
    """

    sequence: Tensor
    size: int
    rows: int = 1
    most: int = 1 << 40
    held: int = 1

    @property
    def lanes(self) -> int:
        """Neighbours that a thread takes where memory is aligned: a power of two that divides ``size``."""
        if not self.sequence.is_cuda:
            return min(16, self.size & -self.size)  # the vector registers of a CPU
        registers = _REGISTERS // (len(self.sequence) * self.held)
        most = min(16 // self.sequence.element_size(), 1 << max(registers, 1).bit_length() - 1)
        return min(most, self.size & -self.size)

    @property
    def threads(self) -> int:
        """Threads that share the elements of a row."""
        if not self.size:
            return 1
        if not self.sequence.is_cuda:
            return min(-(-self.workers // self.rows), self.most)
        return -(-min(self.size // self.lanes, self.most) // _BLOCK) * _BLOCK

    @property
    def workers(self) -> int:
        """Threads of a CPU that are worth it."""
        wanted = -(-self.size * self.rows * len(self.sequence) // _GRAIN)
        return max(1, min(torch.get_num_threads(), wanted))

    def __call__(
        self, operator: str, kernel: str, macros: Macros, arguments: tuple[Tensor | int | float | None, ...]
    ) -> None:
        """Run a kernel; tensors go as pointers, ints as 64-bit and floats as 32-bit numbers, None as null."""
        if not self.size * self.rows:
            return
        tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
        aligned = all(tensor.data_ptr() % 16 == 0 for tensor in tensors)
        lanes = self.lanes if aligned else 1
        shape = ("T", len(self.sequence)), ("LANES", lanes), ("ELEMENT", ELEMENTS[self.sequence.dtype])
        code = source(operator, (*shape, *macros))
        if self.sequence.is_cuda:
            grid = (self.threads // _BLOCK, min(self.rows, 65535))
            cupy.load(code, self.sequence.device.index).launch(kernel, grid, _BLOCK, arguments)
        else:
            cpp.load(code).launch(kernel, (self.threads, self.rows), 1, arguments, self.workers)


def neuron_numbers(tau: float, v_threshold: float, v_reset: float | None, numbers: list[float]) -> tuple[float, ...]:
    """The kernels' tau, decay, threshold, resting potential, and the three numbers of the surrogate function."""
    return tau, 1.0 - 1.0 / tau, v_threshold, 0.0 if v_reset is None else v_reset, *(numbers + [0.0] * 3)[:3]


def empty_sequence(x_seq: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """``[T, N, *]`` with one step behind the other, each in the memory format of ``x_seq``'s steps."""
    step = torch.empty_like(x_seq[0], device="meta")
    return x_seq.new_empty_strided(x_seq.shape, (step.numel(), *step.stride()), dtype=dtype or x_seq.dtype)


def canonical(x: Tensor, like: Tensor) -> Tensor:
    """``x``, or a copy of it, laid out in memory as the dense tensor ``like``, to whose shape it is broadcast."""
    return (
        x
        if x.stride() == like.stride() and x.shape == like.shape
        else torch.empty_strided(like.shape, like.stride(), dtype=x.dtype, device=x.device).copy_(x)
    )


def readable_steps(x_seq: Tensor, like: Tensor) -> tuple[Tensor, int]:
    """A sequence laid out as ``like``, and its elements from step to step: 0 where all steps are the same memory."""
    if x_seq.stride(0) == 0 and x_seq.stride()[1:] == like.stride()[1:]:
        return x_seq, 0
    return canonical(x_seq, like), like.stride(0)


def require_one_device(operator: str, *tensors: Tensor | None) -> None:
    """Kernels get addresses, and those of another device mean nothing.

    Raises:
        ValueError: the tensors are on more than one device.
    """
    devices = {str(tensor.device) for tensor in tensors if tensor is not None}
    if len(devices) > 1:
        raise ValueError(f"{operator} got tensors on {' and '.join(sorted(devices))}; move them to one device.")


def no_second_derivative(ctx: Any, *grads: Tensor) -> None:
    """The autograd formula of the operators' backward passes.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError("gac_sj's kernels have no second derivative; set GAC_SJ_OPS=torch to differentiate twice.")
