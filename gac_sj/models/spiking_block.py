"""What the blocks of the networks share: memory for the backward pass, saved in two ways."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from gac_sj.models.spike_bytes import spikes_as_bytes
from gac_sj.nn.neuron import LIFNode, outputs_spikes, reset_states

__all__ = ["SpikingBlock"]


class SpikingBlock(nn.Module):
    """Base class of blocks whose convolutions receive spikes; ``lif1`` is their first neuron."""

    #: whether the convolutions keep their spikes for the backward pass as bytes; compiled code cannot
    spikes_as_bytes = False
    #: whether the backward pass keeps only the input, and runs the block again
    grad_checkpointing = False
    lif1: LIFNode

    def __call__(self, x: Tensor) -> Tensor:
        if not (self.grad_checkpointing and torch.is_grad_enabled()):
            return super().__call__(x)
        return checkpoint(super().__call__, x, use_reentrant=False, context_fn=partial(_recompute, self))

    def _convolve(self, layers: Callable[[Tensor], Tensor], spikes: Tensor, node: nn.Module) -> Tensor:
        """Run layers on the output of a neuron."""
        with spikes_as_bytes(spikes) if self.spikes_as_bytes and outputs_spikes(node) else nullcontext():
            return layers(spikes)


class _Again:
    """Context of a block's second run: it starts from the same state, and its BatchNorms count no batch."""

    def __init__(self, block: nn.Module):
        self.block = block

    def __enter__(self) -> None:
        reset_states(self.block)
        self.norms: list[Any] = [module for module in self.block.modules() if isinstance(module, _BatchNorm)]
        self.before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in self.norms]
        for norm in self.norms:
            norm.momentum = 0.0

    def __exit__(self, *error: object) -> None:
        for norm, (momentum, batches) in zip(self.norms, self.before):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)


def _recompute(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """The contexts of a block's first and further runs."""
    return nullcontext(), _Again(block)
