"""Neurons: a LIFNode that is equal on both SpikingJelly releases, presets of four published codes, what is a neuron."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from spikingjelly.activation_based import base, neuron, surrogate
from torch import Tensor, nn

from gac_sj._compat import has_other_backend
from gac_sj._utils.errors import UsageError
from gac_sj.nn.surrogate import Rectangle, Triangle
from gac_sj.ops.lif import lif
from gac_sj.ops.neuron import LIFDynamics

__all__ = ["PRESETS", "LIFNode", "PlainMemories", "is_neuron", "lif_preset", "reset_states"]


class PlainMemories:
    """Mixin: memories (SpikingJelly's word for state) that ``torch.compile``, ``deepcopy`` and pickling can handle.

    Copies have the reset values of the memories, because after a training step memories are tensors of the graph, which
    torch refuses to copy.
    """

    _memories: dict[str, Any]
    _memories_rv: dict[str, Any]

    def reset(self) -> None:
        """Set all memories to their reset values."""
        for name, value in self._memories_rv.items():
            plain = value is None or isinstance(value, (int, float))  # torch.compile cannot trace deepcopy everywhere
            self._memories[name] = value if plain else copy.deepcopy(value)

    def __getstate__(self) -> dict[str, Any]:
        state = cast(dict[str, Any], super().__getstate__())
        return state | {"_memories": copy.deepcopy(self._memories_rv)}


class LIFNode(PlainMemories, neuron.LIFNode):
    """SpikingJelly's ``LIFNode`` with the same results on both releases, in training and in evaluation.

    Input and spikes are ``[T, N, *]`` in step mode "m" and ``[N, *]`` in "s". The membrane potential ``v`` stays
    float32 for float16 and bfloat16 input. A batch of another shape starts from the reset value. Source: SpikingJelly;
    :class:`gac_sj.ops.neuron.LIFDynamics` describes the dynamics.

    Args:
        tau: membrane time constant in steps, a float above 1.
        decay_input: whether the input is divided by ``tau`` as well.
        v_threshold: threshold of the membrane potential.
        v_reset: potential after a hard reset; None for the soft reset.
        surrogate_function: the step, with the derivative of the backward pass; None: SpikingJelly's ``Sigmoid()``.
        detach_reset: whether the backward pass ignores the spike in the reset.
        step_mode: "m" (the default here) or "s".
        store_v_seq: whether to keep the potential of every step in ``v_seq``.
        kwargs: further keywords of the installed SpikingJelly's node. With ``backend="cupy"`` (0.0.0.0.14) the node
            runs SpikingJelly's own kernels.

    Raises:
        AssertionError: a parameter has the wrong type (SpikingJelly's check): ``tau`` must be a float above 1, the
            potentials floats.
    """

    # memories of SpikingJelly's node
    v: Tensor | float
    v_seq: Tensor | None

    def __init__(
        self,
        tau: float = 2.0,
        decay_input: bool = True,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate_function: nn.Module | None = None,
        detach_reset: bool = False,
        step_mode: str = "m",
        store_v_seq: bool = False,
        **kwargs: Any,
    ):
        super().__init__(
            tau=tau,
            decay_input=decay_input,
            v_threshold=v_threshold,
            v_reset=v_reset,
            surrogate_function=surrogate.Sigmoid() if surrogate_function is None else surrogate_function,
            detach_reset=detach_reset,
            step_mode=step_mode,
            store_v_seq=store_v_seq,
            **kwargs,
        )

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return state | {"v_seq": None} if "v_seq" in state else state

    @property
    def dynamics(self) -> LIFDynamics:
        """The numbers of this neuron, without its surrogate function."""
        return LIFDynamics(self.tau, self.decay_input, self.v_threshold, self.v_reset, self.detach_reset)

    def _run(self, x_seq: Tensor) -> tuple[Tensor, Tensor | None]:
        v: Tensor | None = None
        if isinstance(self.v, Tensor):
            # a single number, or the potentials of this batch; those of another batch are dropped
            v = self.v if self.v.dim() == 0 or self.v.shape == x_seq.shape[1:] else None
        elif self.v != (self.v_reset or 0.0):
            v = x_seq.new_full(x_seq.shape[1:], self.v, dtype=torch.promote_types(x_seq.dtype, torch.float32))
        spikes, self.v, v_seq = lif(x_seq, self.dynamics, self.surrogate_function, v, store_v_seq=self.store_v_seq)
        return spikes, v_seq

    def multi_step_forward(self, x_seq: Tensor) -> Tensor:
        if has_other_backend(self):
            return super().multi_step_forward(x_seq)
        spikes, v_seq = self._run(x_seq)
        if self.store_v_seq:
            self.v_seq = v_seq
        return spikes

    def single_step_forward(self, x: Tensor) -> Tensor:
        spikes, v_seq = self._run(x.unsqueeze(0))
        if v_seq is not None:
            before = self.v_seq
            self.v_seq = v_seq if before is None or before.shape[1:] != v_seq.shape[1:] else torch.cat([before, v_seq])
        return spikes.squeeze(0)


#: Keyword arguments of :class:`LIFNode` in four published codes. GAC (arXiv 2308.06582, code): decay 0.5,
#: threshold 1, triangle, reset in the graph; and decay 0.25, threshold 0.5, rectangle, reset detached. Max-ResNet
#: (arXiv 2505.18608, code): SpikingJelly's defaults (tau 2, input decayed, threshold 1, sigmoid), reset detached.
#: MA-SNN (arXiv 2209.13929, as SpikingJelly 2.0.0 reads its code): decay 0.3, threshold 0.3, rectangle of half that
#: width, reset detached; after a spike the published code continues from the threshold, this one from 0.
PRESETS: dict[str, dict[str, Any]] = {
    "cifar": dict(tau=2.0, decay_input=False, v_threshold=1.0, detach_reset=False),
    "imagenet": dict(tau=4.0 / 3.0, decay_input=False, v_threshold=0.5, detach_reset=True),
    "sigmoid": dict(tau=2.0, decay_input=True, v_threshold=1.0, detach_reset=True),
    "ma_snn": dict(tau=10.0 / 7.0, decay_input=False, v_threshold=0.3, detach_reset=True),
}
SURROGATES: dict[str, Callable[..., nn.Module]] = {
    "cifar": Triangle,
    "imagenet": Rectangle,
    "ma_snn": partial(Rectangle, alpha=2.0),
}


def lif_preset(name: str, strict: bool = False, **changes: Any) -> LIFNode:
    """A new :class:`LIFNode` with the parameters of a published code.

    Args:
        name: "cifar", "imagenet", "sigmoid" or "ma_snn".
        strict: fire above the threshold only, as the published code does; SpikingJelly fires at the threshold too. The
            difference matters when a potential equals the threshold, as it does when a saturated gate of 1 meets a
            spike.
        changes: keywords of :class:`LIFNode` that replace those of the preset.

    Raises:
        UsageError: the preset does not exist, or ``strict`` is set for "sigmoid", whose surrogate is SpikingJelly's.
    """
    if name not in PRESETS:
        raise UsageError(
            f"must be the name of a neuron preset, got {name!r}", argument="neuron", options=PRESETS, given=name
        )
    if name in SURROGATES:
        changes = {"surrogate_function": SURROGATES[name](strict=strict)} | changes
    elif strict:
        raise UsageError(
            f"must be a preset with a strict threshold (strict=True, the form 'reference'), got {name!r}",
            "or leave out strict or the form",
            argument="neuron",
            options=SURROGATES,
        )
    return LIFNode(**PRESETS[name] | changes)


def is_neuron(module: nn.Module) -> bool:
    """Whether a module is a spiking neuron: one of SpikingJelly's, or derived from one.

    Not all of them are a ``BaseNode``: ``PSN`` and ``FlexSN`` are not. SpikingJelly's non-spiking neurons do not count,
    because they output potentials.

    Args:
        module: any module; the modules inside it do not matter.
    """
    classes = [cls for cls in type(module).__mro__ if f"{cls.__module__}.".startswith(f"{neuron.__name__}.")]
    return bool(classes) and not any("NonSpiking" in cls.__name__ for cls in classes)


def reset_states(module: nn.Module) -> None:
    """Reset every SpikingJelly memory inside a module.

    Unlike SpikingJelly 2.0.0's ``functional.reset_net`` it keeps no list of neurons from an earlier call, so it also
    resets neurons that were added later.

    Args:
        module: changed in place.
    """
    for child in module.modules():
        if isinstance(child, base.MemoryModule):
            child.reset()
