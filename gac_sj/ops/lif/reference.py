"""The definition of the multi-step LIF neuron, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gac_sj.ops.neuron import LIFDynamics

__all__ = ["charge", "lif", "reset", "state_type"]


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
    state_dtype = state_type(x_seq.dtype)
    v = None if v is None else v.to(torch.promote_types(v.dtype, state_dtype))
    spikes, potentials = [], []
    # the backward pass of unbind is one stack; that of indexing would write T zero-filled copies of the sequence
    for x in x_seq.to(state_dtype).unbind(0):
        h = charge(x, v, dynamics)
        spike = surrogate(h - dynamics.v_threshold)
        v = reset(h, spike, dynamics)
        spikes.append(spike)
        if store_v_seq:
            potentials.append(v)
    assert v is not None  # T is at least 1
    return torch.stack(spikes).to(x_seq.dtype), v, torch.stack(potentials) if store_v_seq else None


def state_type(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the membrane potential for inputs of another one: float32 for the half types."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def charge(x: Tensor, v: Tensor | None, dynamics: LIFDynamics) -> Tensor:
    """The potential after the charge.

    Args:
        x: input current of one step ``[N, *]``.
        v: potential before the step, ``[N, *]``; None: the resting potential.
        dynamics: of the neuron.
    """
    rest, decay = dynamics.rest(), dynamics.decay()
    if v is None:
        return rest + x / dynamics.tau if dynamics.decay_input else rest + x
    if dynamics.decay_input:
        return v + (x - (v - rest)) / dynamics.tau
    return decay * v + x if _is_zero(rest) else rest + decay * (v - rest) + x


def reset(h: Tensor, spike: Tensor, dynamics: LIFDynamics) -> Tensor:
    """The potential after the reset.

    Args:
        h: potential after the charge, ``[N, *]``.
        spike: of the same shape.
        dynamics: of the neuron.
    """
    spike = spike.detach() if dynamics.detach_reset else spike
    v = h - spike * dynamics.v_threshold if dynamics.v_reset is None else (1.0 - spike) * h
    rest = dynamics.rest()
    return v if _is_zero(rest) else v + spike * rest


def _is_zero(rest: float | Tensor) -> bool:
    """Whether the resting potential is the number 0; a learnable one may be 0 and needs its gradient."""
    return not isinstance(rest, Tensor) and rest == 0.0
