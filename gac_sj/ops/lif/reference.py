"""The definition of the multi-step LIF neuron, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)


def lif(
    x_seq: Tensor,
    v: Tensor | None = None,
    *,
    tau: float,
    decay_input: bool,
    v_threshold: float,
    v_reset: float | None,
    detach_reset: bool,
    surrogate: Callable[[Tensor], Tensor],
    store_v_seq: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Leaky integrate-and-fire over T steps (SpikingJelly's ``LIFNode``; the order of operations is ours).

    With decay ``b = 1 - 1 / tau`` and resting potential ``r = v_reset`` (0 where that is None), at every step

    - charge: ``h = r + b (v - r) + x``, or with ``decay_input`` ``h = v + (x - (v - r)) / tau``
    - fire: ``s = [h >= v_threshold]``, with the surrogate's derivative in the backward pass
    - reset: ``v = (1 - s) h + s v_reset`` (hard), or where ``v_reset`` is None ``v = h - s v_threshold`` (soft)

    The membrane potential of a float16 or bfloat16 input is kept in float32.

    Args:
        x_seq: input current ``[T, N, *]``.
        v: membrane potential before the first step, ``[N, *]``; None: the resting potential.
        tau: membrane time constant in steps, above 1.
        decay_input: whether the input is divided by ``tau`` as well.
        v_threshold: threshold of the membrane potential.
        v_reset: potential after a hard reset; None for the soft reset.
        detach_reset: whether the reset hides the spike from the backward pass.
        surrogate: a surrogate function: Heaviside step forward, its own derivative backward.
        store_v_seq: whether to return the potential of every step.

    Returns:
        Spikes ``[T, N, *]`` in the type of ``x_seq``, the last potential ``[N, *]`` and the potentials after each
        step's reset ``[T, N, *]`` (None where not asked for), both in the type of the state.
    """
    state_dtype = torch.float32 if x_seq.dtype in _HALF else x_seq.dtype
    rest = 0.0 if v_reset is None else v_reset
    decay = 1.0 - 1.0 / tau
    spikes, potentials = [], []
    # unbind has one stack as its backward; indexing would write T zero-filled copies of the sequence
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
    return torch.stack(spikes).to(x_seq.dtype), v, torch.stack(potentials) if store_v_seq else None
