"""The definition of the multi-step LIF neuron, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gac_sj.ops.neuron import LIFDynamics

__all__ = ["lif"]

_HALF = (torch.float16, torch.bfloat16)


def lif(
    x_seq: Tensor,
    dynamics: LIFDynamics,
    surrogate: Callable[[Tensor], Tensor],
    v: Tensor | None = None,
    *,
    store_v_seq: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Leaky integrate-and-fire over T steps, as :class:`gac_sj.ops.neuron.LIFDynamics` describes it.

    The membrane potential of a float16 or bfloat16 input is kept in float32.

    Args:
        x_seq: input current ``[T, N, *]``, T at least 1.
        dynamics: of the neuron.
        surrogate: a surrogate function: Heaviside step forward, its own derivative backward.
        v: membrane potential before the first step, ``[N, *]``; None: the resting potential.
        store_v_seq: whether to return the potential of every step.

    Returns:
        Spikes ``[T, N, *]`` in the dtype of ``x_seq``, the last potential ``[N, *]`` and the potentials after each
        step's reset ``[T, N, *]`` (None without ``store_v_seq``), both in the dtype of the state.
    """
    state_dtype = torch.float32 if x_seq.dtype in _HALF else x_seq.dtype
    tau, decay_input, v_threshold, v_reset, detach_reset = dynamics
    rest, decay = dynamics.rest(), dynamics.decay()
    spikes, potentials = [], []
    # the backward pass of unbind is one stack; that of indexing would write T zero-filled copies of the sequence
    for x in x_seq.to(state_dtype).unbind(0):
        if v is None:
            h = rest + x / tau if decay_input else rest + x
        elif decay_input:
            h = v + (x - (v - rest)) / tau
        elif rest:
            h = rest + decay * (v - rest) + x
        else:
            h = decay * v + x
        spike = surrogate(h - v_threshold)
        reset = spike.detach() if detach_reset else spike
        v = h - reset * v_threshold if v_reset is None else (1.0 - reset) * h
        if rest:
            v = v + reset * rest
        spikes.append(spike)
        if store_v_seq:
            potentials.append(v)
    assert v is not None  # T is at least 1
    return torch.stack(spikes).to(x_seq.dtype), v, torch.stack(potentials) if store_v_seq else None
