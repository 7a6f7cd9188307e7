"""Neurons: a LIFNode that is equal on both SpikingJelly releases, and what is a neuron."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeGuard, cast

import torch
from spikingjelly.activation_based import base, neuron, surrogate
from torch import Tensor, nn

from gac_sj._compat import has_other_backend
from gac_sj.ops.dispatch import is_counted_by_spikingjelly
from gac_sj.ops.lif import lif, reference
from gac_sj.ops.neuron import LIFDynamics
from gac_sj.ops.shortcuts import does_only, overrides
from gac_sj.ops.surrogates import is_changed

__all__ = [
    "LIFNode",
    "PlainMemories",
    "is_neuron",
    "is_plain_lif",
    "outputs_spikes",
    "reset_states",
]


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


#: What a subclass may override of a step, and of the methods with explicit states of SpikingJelly 2.0.0.
_OF_STEP = ("neuronal_charge", "neuronal_fire", "neuronal_reset")
_FUNCTIONAL = ("single_step_functional_forward", "materialize_states")


class LIFNode(PlainMemories, neuron.LIFNode):
    """SpikingJelly's ``LIFNode`` with the same results on both releases, in training and in evaluation.

    Input and spikes are ``[T, N, *]`` in step mode "m" and ``[N, *]`` in "s". The membrane potential ``v`` stays
    float32 for float16 and bfloat16 input. A batch of another shape starts from the reset value. Source: SpikingJelly;
    :class:`gac_sj.ops.neuron.LIFDynamics` describes the dynamics.

    A subclass may override ``neuronal_charge``, ``neuronal_fire`` and ``neuronal_reset`` (on both releases), or with
    SpikingJelly 2.0.0 ``single_step_functional_forward`` and ``multi_step_functional_forward``; then it runs step by
    step. A surrogate function with a hook or another forward is called. SpikingJelly 2.0.0's operation counters count
    the operations of its own node.

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

    #: whether spikes are uint8 where no gradient of the input is asked for (:func:`gac_sj.quantize`)
    outputs_bytes = False
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

    def neuronal_charge(self, x: Tensor) -> None:
        """Add the input current ``[N, *]`` of a step to the potential ``v``."""
        self.v = reference.charge(x, cast(Tensor, self.v), self.dynamics)

    def neuronal_fire(self) -> Tensor:
        """The spikes ``[N, *]`` of the charged potential ``v``."""
        return self.surrogate_function(self.v - self.v_threshold)

    def neuronal_reset(self, spike: Tensor) -> None:
        """Reset the potential ``v`` where there is a spike."""
        self.v = reference.reset(cast(Tensor, self.v), spike, self.dynamics)

    def multi_step_forward(self, x_seq: Tensor) -> Tensor:
        if has_other_backend(self):
            return super().multi_step_forward(x_seq)
        if overrides(self, LIFNode, "multi_step_functional_forward"):
            return neuron.BaseNode.multi_step_forward(self, x_seq)
        if overrides(self, LIFNode, "single_step_forward", *_OF_STEP, *_FUNCTIONAL):
            return self._step_by_step(x_seq)
        if is_counted_by_spikingjelly():
            return _in_state_type(super().multi_step_forward, x_seq)
        spikes, v_seq = self._run(x_seq)
        if self.store_v_seq:
            self.v_seq = v_seq
        return spikes

    def single_step_forward(self, x: Tensor) -> Tensor:
        if overrides(self, LIFNode, *_FUNCTIONAL):
            return neuron.BaseNode.single_step_forward(self, x)
        if overrides(self, LIFNode, *_OF_STEP):
            spikes = _in_state_type(self._step, x)
        elif is_counted_by_spikingjelly():
            return _in_state_type(super().single_step_forward, x)
        else:
            spikes = self._run(x.unsqueeze(0))[0].squeeze(0)
        if self.store_v_seq:
            before, v = self.v_seq, cast(Tensor, self.v).unsqueeze(0)
            self.v_seq = v if before is None or before.shape[1:] != v.shape[1:] else torch.cat([before, v])
        return spikes

    def potential_before(self, x: Tensor) -> Tensor | None:
        """The potential ``[N, *]`` before a step with an input ``[N, *]``; None: the resting potential."""
        if isinstance(self.v, Tensor):
            # a single number, or the potentials of this batch; those of another batch are dropped
            return self.v if self.v.dim() == 0 or self.v.shape == x.shape else None
        if not isinstance(self.v_reset, Tensor) and self.v == (self.v_reset or 0.0):  # a learnable one is no start
            return None
        return x.new_full(x.shape, self.v, dtype=torch.promote_types(x.dtype, torch.float32))

    def _run(self, x_seq: Tensor) -> tuple[Tensor, Tensor | None]:
        """Spikes of a sequence, and the potentials of all steps if they are to be stored."""
        v, surrogate_function = self.potential_before(x_seq[0]), self.surrogate_function
        as_bytes = self.outputs_bytes and not (torch.is_grad_enabled() and x_seq.requires_grad)
        spikes, self.v, v_seq = lif(
            x_seq, self.dynamics, surrogate_function, v, store_v_seq=self.store_v_seq, as_bytes=as_bytes
        )
        return spikes, v_seq

    def _step(self, x: Tensor) -> Tensor:
        """Spikes of one step, by the methods that a subclass may override."""
        v = self.potential_before(x)
        self.v = torch.full_like(x, self.dynamics.rest()) if v is None else v.to(torch.promote_types(v.dtype, x.dtype))
        self.neuronal_charge(x)
        spikes = self.neuronal_fire()
        self.neuronal_reset(spikes)
        return spikes

    def _step_by_step(self, x_seq: Tensor) -> Tensor:
        spikes, potentials = [], []
        for x in x_seq.unbind(0):
            spikes.append(self.single_step_forward(x))
            potentials.append(cast(Tensor, self.v))
        if self.store_v_seq:
            self.v_seq = torch.stack(potentials)
        return torch.stack(spikes)


def _in_state_type(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Run a neuron in the dtype of its potential, and return spikes in the dtype of its input."""
    return forward(x.to(reference.state_type(x.dtype))).to(x.dtype)


def is_plain_lif(node: nn.Module | None) -> TypeGuard[LIFNode]:
    """Whether a call of a neuron does what :class:`LIFNode` does and nothing else: a kernel may replace it.

    Args:
        node: a neuron, or None.
    """
    methods = ("multi_step_forward", "single_step_forward", "multi_step_functional_forward", *_OF_STEP, *_FUNCTIONAL)
    return isinstance(node, LIFNode) and does_only(node, LIFNode, *methods) and not has_other_backend(node)


def outputs_spikes(node: nn.Module) -> bool:
    """Whether a neuron is known to output zeros and ones.

    Args:
        node: a neuron.
    """
    surrogate_function = getattr(node, "surrogate_function", None)
    return is_plain_lif(node) and getattr(surrogate_function, "spiking", False) and not is_changed(surrogate_function)


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
