"""What the launches of all operators share: the memory layout of sequences and the launch configuration."""

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
    "no_second_derivative",
    "readable_steps",
    "require_one_device",
]

_BLOCK = 128  # threads of a block on a GPU
_REGISTERS = 48  # registers of a GPU thread for the values of all steps; with more of them kernels measured slower
_GRAIN = 1 << 15  # minimum number of elements for another CPU thread


@dataclass(frozen=True)
class Launch:
    """Launch configuration: how elements are divided among threads.

    Args:
        sequence: one of the tensors, ``[T, N, *]``; its length, dtype and device are those of the launch.
        size: number of elements in each row.
        rows: number of rows; a thread works on one row at a time.
        max_threads: maximum number of threads that share a row.
        held: number of values that a thread keeps in registers for each step.
        unit: number of elements that a pack must divide; 0: ``size``.
        cpu_lanes: largest pack of a CPU thread; 32 are enough vectors to work on while others wait.
    """

    sequence: Tensor
    size: int
    rows: int = 1
    max_threads: int = 1 << 40
    held: int = 1
    unit: int = 0
    cpu_lanes: int = 32

    @property
    def lanes(self) -> int:
        """Neighbouring elements that a thread takes if memory is aligned: a power of two that divides the unit."""
        unit = self.unit or self.size
        if not self.sequence.is_cuda:
            return min(self.cpu_lanes, unit & -unit)
        registers = _REGISTERS // (len(self.sequence) * self.held)
        most = min(16 // self.sequence.element_size(), 1 << max(registers, 1).bit_length() - 1)
        return min(most, unit & -unit)

    @property
    def threads(self) -> int:
        """Number of threads that share the elements of a row."""
        if not self.size:
            return 1
        if not self.sequence.is_cuda:
            return min(-(-self.workers // self.rows), self.max_threads)
        return -(-min(self.size // self.lanes, self.max_threads) // _BLOCK) * _BLOCK

    @property
    def workers(self) -> int:
        """Number of CPU threads that pay off."""
        wanted = -(-self.size * self.rows * len(self.sequence) // _GRAIN)
        return max(1, min(torch.get_num_threads(), wanted))

    def __call__(
        self, operator: str, kernel: str, macros: Macros, arguments: tuple[Tensor | int | float | None, ...]
    ) -> None:
        """Run a kernel.

        Args:
            operator: name of the operator's folder.
            kernel: name of the kernel.
            macros: names and values of its macros, except those of the launch configuration.
            arguments: tensors become pointers, ints 64-bit and floats 32-bit numbers, None a null pointer.
        """
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


def empty_sequence(x_seq: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialised memory ``[T, N, *]``, one step after the other, each in the memory format of ``x_seq``'s steps.

    Args:
        x_seq: a sequence ``[T, N, *]``.
        dtype: of the new tensor; None: that of ``x_seq``.
    """
    step = torch.empty_like(x_seq[0], device="meta")
    return x_seq.new_empty_strided(x_seq.shape, (step.numel(), *step.stride()), dtype=dtype or x_seq.dtype)


def canonical(x: Tensor, like: Tensor) -> Tensor:
    """``x``, or a copy of it, with the shape and memory layout of another tensor.

    Args:
        x: a tensor that broadcasts to the shape of ``like``.
        like: a dense tensor.
    """
    return (
        x
        if x.stride() == like.stride() and x.shape == like.shape
        else torch.empty_strided(like.shape, like.stride(), dtype=x.dtype, device=x.device).copy_(x)
    )


def readable_steps(x_seq: Tensor, like: Tensor) -> tuple[Tensor, int]:
    """A sequence in the memory layout of another one, and the number of elements from one of its steps to the next.

    Args:
        x_seq: a sequence ``[T, N, *]``.
        like: a dense sequence of the same shape.

    Returns:
        The sequence, and its step: 0 if all steps are the same memory.
    """
    if x_seq.stride(0) == 0 and x_seq.stride()[1:] == like.stride()[1:]:
        return x_seq, 0
    return canonical(x_seq, like), like.stride(0)


def require_one_device(operator: str, *tensors: Tensor | None) -> None:
    """Refuse tensors on several devices, because kernels get addresses, which are valid on one device only.

    Args:
        operator: name of the operator, for the message.
        tensors: its tensors; None is ignored.

    Raises:
        ValueError: the tensors are on more than one device.
    """
    devices = {str(tensor.device) for tensor in tensors if tensor is not None}
    if len(devices) > 1:
        raise ValueError(
            f"{operator} needs all tensors on one device, got {' and '.join(sorted(devices))}; move them to one device."
        )


def no_second_derivative(ctx: Any, *grads: Tensor) -> None:
    """The autograd formula of the operators' backward passes: there is none.

    Args:
        ctx: context of the backward pass.
        grads: gradients of its outputs.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError("gac_sj's kernels have no second derivative; set GAC_SJ_OPS=torch to differentiate twice.")
