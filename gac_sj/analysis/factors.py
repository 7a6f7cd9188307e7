"""The products of one operation, and what it reads and writes: its factors, each of them spikes, floats or weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import torch
from torch import Tensor

__all__ = ["Factor", "Operands", "Products", "convolution", "elementwise", "matrix"]

aten = torch.ops.aten


@dataclass(frozen=True)
class Factor:
    """A factor of an operation.

    Args:
        values: its numbers.
        is_weight: whether they are weights.
        address: of the weights; 0 if they were computed, as by a parametrisation.
    """

    values: Tensor
    is_weight: bool = False
    address: int = 0

    @cached_property
    def spikes(self) -> bool:
        """Whether the numbers are all zero or one, and no weights."""
        return not self.is_weight and bool(((self.values == 0) | (self.values == 1)).all())

    @cached_property
    def active(self) -> int:
        """How many of its numbers are not zero."""
        return int(self.values.count_nonzero())

    @property
    def elements(self) -> int:
        """How many numbers it has; a weight that is expanded has no more than the weight itself."""
        x = self.values
        return prod(size for size, stride in zip(x.shape, x.stride()) if stride) if self.is_weight else x.numel()


@dataclass
class Operands:
    """What operations read and wrote, over all calls: numbers of elements.

    Args:
        weights: for each weight, by address and number of elements: how often it was applied.
        spikes: inputs that are spikes, the silent ones included.
        active_spikes: those of them that are not silent.
        floats: other inputs.
        active_floats: those of them that are not zero.
        outputs: of the operations.
    """

    weights: dict[tuple[int, int], int] = field(default_factory=dict)
    spikes: int = 0
    active_spikes: int = 0
    floats: int = 0
    active_floats: int = 0
    outputs: int = 0

    def add(self, operation: Products) -> None:
        """Count another operation.

        Args:
            operation: that ran.
        """
        self.outputs += operation.outputs
        for factor in operation.factors:
            elements = factor.elements
            if factor.is_weight:
                weight = factor.address, elements
                self.weights[weight] = self.weights.get(weight, 0) + operation.runs
                continue
            if factor.spikes:
                self.spikes += elements
                self.active_spikes += factor.active
            else:
                self.floats += elements
                self.active_floats += factor.active


@dataclass(frozen=True)
class Products:
    """The products of one operation.

    Args:
        dense: multiply-accumulates, zeros included.
        pairs: pairs of factors that count.
        factors: all of them.
        rated: the inputs whose fraction of nonzero numbers is the firing rate.
        outputs: number of elements of the result.
        runs: how often its weights are applied: to each image and step, or to each row of a matrix.
    """

    dense: int
    pairs: int
    factors: tuple[Factor, ...]
    rated: tuple[Factor, ...]
    outputs: int
    runs: int

    @property
    def spikes(self) -> bool:
        """Whether a factor is spikes."""
        return any(factor.spikes for factor in self.factors)


def elementwise(x: Factor, y: Factor) -> Products:
    """The product of every element of one factor and the one at its place in the other.

    Args:
        x: a factor; shapes broadcast.
        y: the other one.
    """
    inputs = [factor for factor in (x, y) if not factor.is_weight]
    rated = tuple(factor for factor in inputs if factor.spikes) or tuple(inputs)
    pairs = torch.logical_and(*torch.broadcast_tensors(x.values != 0, y.values != 0))
    outputs = pairs.numel()
    return Products(outputs, int(pairs.count_nonzero()), (x, y), rated, outputs, outputs)


def convolution(
    x: Factor,
    kernel: Factor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Products:
    """Each nonzero input counts once for every output that it reaches, which at borders are fewer.

    Args:
        x: the input, ``[N, C, *]``.
        kernel: the weights.
        stride: as PyTorch's operation has it; so are the others.
        padding: see stride.
        dilation: see stride.
        transposed: see stride.
        output_padding: see stride.
        groups: see stride.
    """
    image, weight = x.values, kernel.values
    channels_out = weight.shape[1] if transposed else weight.shape[0] // groups  # of one group
    per_group = (image != 0).float().unflatten(1, (groups, -1)).sum(2)
    ones = torch.ones(groups, 1, *weight.shape[2:], device=image.device)
    reached = aten.convolution(per_group, ones, None, stride, padding, dilation, transposed, output_padding, groups)
    positions = per_group[:, :1] if transposed else reached[:, :1]  # of the whole kernel
    dense = positions.numel() * weight[0, 0].numel() * image.shape[1] * channels_out
    pairs = channels_out * int(reached.sum(dtype=torch.float64))
    return Products(dense, pairs, (x, kernel), (x,), channels_out * reached.numel(), len(image))


def matrix(x: Factor, y: Factor) -> Products:
    """The product ``[..., m, k] @ [..., k, n]``; a weight counts as if none of its numbers were zero.

    Args:
        x: the first factor.
        y: the second factor.
    """
    a, b = x.values, y.values
    rated = tuple(factor for factor in (x, y) if not factor.is_weight)
    if y.is_weight or (x.spikes and not y.spikes and not x.is_weight):
        pairs = x.active * b.shape[-1]
    elif x.is_weight or (y.spikes and not x.spikes):
        pairs = y.active * a.shape[-2]
    else:
        pairs = int(((a != 0).double() @ (b != 0).double()).sum())
    rows, columns = prod(a.shape[:-1]), prod(b.shape[:-2]) * b.shape[-1]
    runs = columns if x.is_weight else rows
    return Products(a.numel() * b.shape[-1], pairs, (x, y), rated, rows * b.shape[-1], runs)
