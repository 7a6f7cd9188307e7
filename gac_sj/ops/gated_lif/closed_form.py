"""When a constant current fires, in closed form (ours): the spikes of a static image without a recursion.

From rest, with a hard reset to 0 and an input that is not decayed, the potential of a constant current z after j steps
is ``z (1 + b + ... + b^(j-1))`` with b = 1 - 1 / tau. So the neuron fires at steps k, 2k, 3k, ..., where k is the first
j whose potential reaches the threshold. Every rounded operation of the recursion is monotone in z. So for every j there
is a smallest float that fires within j steps, and comparisons with these floats give the spikes of the recursion bit
for bit.
"""

from __future__ import annotations

from functools import cache

import torch

from gac_sj.ops.lif import reference
from gac_sj.ops.neuron import LIFDynamics

__all__ = ["first_currents", "has_closed_form"]


def has_closed_form(dynamics: LIFDynamics) -> bool:
    """Whether the closed form holds for a neuron: a hard reset to 0, no decayed input, a threshold above 0.

    Args:
        dynamics: of the neuron.
    """
    return not dynamics.decay_input and dynamics.v_reset == 0.0 and dynamics.v_threshold > 0.0


@cache
def first_currents(T: int, dynamics: LIFDynamics, strict: bool = False) -> tuple[float, ...]:
    """The smallest constant currents that fire within 1, 2, ..., T steps: float32, descending.

    Args:
        T: number of steps.
        dynamics: of a neuron that has the closed form (:func:`has_closed_form`).
        strict: whether the neuron fires above the threshold only, not at it too.
    """
    fires = torch.gt if strict else torch.ge
    # positive floats are ordered like their bits: bisect between 0, which does not fire, and infinity, which does
    silent = torch.zeros(T, dtype=torch.int32, device="cpu")
    firing = torch.full((T,), float("inf"), dtype=torch.float32, device="cpu").view(torch.int32)
    within = torch.arange(T, device="cpu")
    for _ in range(31):
        middle = silent + (firing - silent) // 2
        current = middle.view(torch.float32).expand(T, T)
        spikes, _, _ = reference.lif(current, dynamics, lambda x: fires(x, 0).float())
        fired = spikes.cumsum(0)[within, within] > 0
        silent, firing = torch.where(fired, silent, middle), torch.where(fired, middle, firing)
    return tuple(firing.view(torch.float32).tolist())
