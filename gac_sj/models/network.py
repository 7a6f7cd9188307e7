"""What the networks of this package share: an encoder in front, stages of blocks, timm's and our methods."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from spikingjelly.activation_based import base
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from gac_sj._utils.errors import UsageError
from gac_sj._utils.fixed import fixed
from gac_sj.encoders.base import Encoder
from gac_sj.models.spike_bytes import spikes_as_bytes
from gac_sj.models.threads import one_at_a_time
from gac_sj.nn.neuron import LIFNode, outputs_spikes, reset_states

__all__ = ["EncodedNetwork", "SpikingBlock"]


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

    def _convolve(self, layers: nn.Module, spikes: Tensor, node: nn.Module) -> Tensor:
        """Run layers on the output of a neuron."""
        with spikes_as_bytes(spikes) if self.spikes_as_bytes and outputs_spikes(node) else nullcontext():
            return layers(spikes)


class EncodedNetwork(nn.Module, base.MultiStepModule):
    """Base class of the networks: encoder, stages, head. Step mode "m" only; each call starts from a reset state.

    A subclass sets ``encoder``, ``stages`` (sequences of blocks), ``lif`` (the last neuron) and ``head``. It implements
    :meth:`forward_features`, :meth:`pool`, :meth:`_logits` and :meth:`new_head`.

    Args:
        T: number of time steps, at least 1.
        num_classes: number of logits; 0 removes the classifier.

    Raises:
        UsageError: ``num_classes`` is below 0.
    """

    T = fixed()
    encoder: Encoder
    stages: nn.Sequential
    lif: LIFNode
    head: nn.Module
    in_chans: int
    #: what timm knows about the network: input size, statistics of pixels, name of the classifier
    pretrained_cfg: dict[str, Any]
    _model_args: dict[str, Any]

    def __init__(self, T: int, num_classes: int):
        super().__init__()
        self.step_mode = "m"
        self.T = T
        self.num_classes = _classes(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Spikes of the last neuron before the head, ``[T, N, num_features, h, w]``."""
        raise NotImplementedError(f"{self._get_name()} must implement forward_features.")

    def pool(self, features: Tensor) -> Tensor:
        """The input of the classifier, ``[T, N, head_hidden_size]``."""
        raise NotImplementedError(f"{self._get_name()} must implement pool.")

    def _logits(self, features: Tensor) -> Tensor:
        """``[T, N, num_features, h, w]`` -> ``[T, N, num_classes]``."""
        raise NotImplementedError(f"{self._get_name()} must implement _logits.")

    def new_head(self, num_classes: int) -> nn.Module:
        """Build a classifier; with 0 classes, the identity."""
        raise NotImplementedError(f"{self._get_name()} must implement new_head.")

    def forward_stages(self, x: Tensor) -> Tensor:
        """Reset the network, and return the stages' output ``[T, N, C, h, w]`` for its input."""
        reset_states(self)
        return self.stages(self.encoder(x))

    def set_spikes_as_bytes(self, enable: bool = True) -> None:
        """Keep spikes for the backward pass as one byte each, with the same results."""
        for block in self._blocks():
            block.spikes_as_bytes = enable

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the input of each block, and run the block again in the backward pass (timm's name for it)."""
        for block in self._blocks():
            block.grad_checkpointing = enable

    @property
    def grad_checkpointing(self) -> bool:
        """Whether a block runs again in the backward pass; assigning is :meth:`set_grad_checkpointing`."""
        return any(block.grad_checkpointing for block in self._blocks())

    @grad_checkpointing.setter
    def grad_checkpointing(self, enable: bool) -> None:
        self.set_grad_checkpointing(enable)

    def _blocks(self) -> Iterator[SpikingBlock]:
        return (module for module in self.modules() if isinstance(module, SpikingBlock))

    @one_at_a_time
    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits ``[N, num_classes]``, averaged over time; with ``pre_logits`` the output of :meth:`pool`."""
        return self.pool(features) if pre_logits else self._logits(features).mean(0)

    @one_at_a_time
    def forward_sequence(self, x: Tensor) -> Tensor:
        """Logits of every step, ``[T, N, num_classes]``."""
        return self._logits(self.forward_features(x))

    @one_at_a_time
    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new, randomly initialised one; the pooling stays as it is.

        Args:
            num_classes: number of logits; 0 removes the classifier.
            global_pool: None or "avg" (timm's argument).

        Raises:
            UsageError: another ``global_pool``, or ``num_classes`` is below 0.
        """
        if global_pool not in (None, "avg"):
            raise UsageError(f"must be None or 'avg', got {global_pool!r}", "leave it out", argument="global_pool")
        self.num_classes = _classes(num_classes)
        weight = next(self.parameters())
        self.head = self.new_head(num_classes).to(weight.device, weight.dtype)

    def extra_repr(self) -> str:
        return f"T={self.T}, num_classes={self.num_classes}"


def _classes(number: int) -> int:
    if number < 0:
        raise UsageError(f"must be the number of classes, or 0 for no classifier, got {number}", argument="num_classes")
    return number


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
