"""When a constant current fires, in closed form (ours): it decides the spikes of a static image without a recursion.

From rest, with a hard reset to 0 and an input that is not decayed, the potential of a constant current z is
``z (1 + b + ... + b^(j-1))`` after j steps, b = 1 - 1 / tau. So the neuron fires at k, 2k, 3k, ..., with k the first j
that passes the threshold. Every rounded operation of the recursion is monotone in z; so for every j there is a smallest
float that fires within j steps, and comparing with these floats gives the recursion's spikes bit for bit.
"""

from __future__ import annotations

from functools import cache

import torch

from gac_sj.ops.lif.reference import lif

__all__ = ["first_currents"]


@cache
def first_currents(T: int, tau: float, v_threshold: float, strict: bool = False) -> tuple[float, ...]:
    """The smallest constant currents that fire within 1, 2, ..., T steps: float32, descending.

    Args:
        T: number of steps.
        tau, v_threshold: of the neuron; a threshold above 0.
        strict: whether it fires above the threshold only.
    """
    settings = dict(tau=tau, decay_input=False, v_threshold=v_threshold, v_reset=0.0, detach_reset=False)
    fires = torch.gt if strict else torch.ge
    # positive floats are ordered as their bits are: bisect between 0, which does not fire, and infinity, which does
    silent = torch.zeros(T, dtype=torch.int32, device="cpu")
    firing = torch.full((T,), float("inf"), dtype=torch.float32, device="cpu").view(torch.int32)
    within = torch.arange(T, device="cpu")
    for _ in range(31):
        middle = silent + (firing - silent) // 2
        current = middle.view(torch.float32).expand(T, T)
        spikes, _, _ = lif(current, **settings, surrogate=lambda x: fires(x, 0).float())
        fired = spikes.cumsum(0)[within, within] > 0
        silent, firing = torch.where(fired, silent, middle), torch.where(fired, middle, firing)
    return tuple(firing.view(torch.float32).tolist())
