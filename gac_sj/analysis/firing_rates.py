"""Firing rates: the fraction of ones in each neuron layer's output, as a whole or step by step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import zip_longest
from typing import Any, Literal, overload

import torch
from spikingjelly.activation_based import monitor, neuron
from torch import Tensor, nn

__all__ = ["firing_rates"]


@overload
def firing_rates(model: nn.Module, by_step: Literal[False] = False) -> AbstractContextManager[dict[str, float]]: ...
@overload
def firing_rates(model: nn.Module, by_step: Literal[True]) -> AbstractContextManager[dict[str, list[float]]]: ...
@contextmanager
def firing_rates(model: nn.Module, by_step: bool = False) -> Iterator[dict[str, Any]]:
    """Measure the firing rate of every SpikingJelly neuron (BaseNode) over all calls inside the block.

    Args:
        model: any network with SpikingJelly neurons.
        by_step: one rate per time step in place of one in all. A neuron in step mode "m" puts out all steps
            ``[T, N, *]`` at every call, and a step's rate is that of all calls. In "s" every call is the next step, so
            the block should then hold one sequence.

    Yields:
        A dict that the end of the block fills: module name -> spikes per neuron and time step (0 to 1), in the
        order of the modules, over all elements that the calls put out; with ``by_step`` a list of T such rates. A
        neuron that was not called is left out.
    """

    def count(spikes: Tensor) -> tuple[Tensor, int]:
        # float64: float32 and the half types cannot count the spikes of a large layer
        if by_step:
            return spikes.detach().reshape(len(spikes), -1).sum(1, dtype=torch.float64), spikes[0].numel()
        return spikes.detach().sum(dtype=torch.float64), spikes.numel()

    spikes = monitor.OutputMonitor(model, neuron.BaseNode, count)
    rates: dict[str, Any] = {}
    try:
        yield rates
    finally:
        spikes.remove_hooks()
        for name in spikes.monitored_layers:
            if not spikes[name]:
                continue
            if by_step:
                rates[name] = _by_step(spikes[name], model.get_submodule(name).step_mode)
            else:
                rates[name] = float(sum(fired for fired, _ in spikes[name])) / sum(total for _, total in spikes[name])


def _by_step(calls: list[tuple[Tensor, int]], step_mode: str) -> list[float]:
    """The rate of every step: a call has the spikes of each item of its first dimension, and the elements of one."""
    if step_mode == "s":
        return [float(spikes.sum()) / (total * len(spikes)) for spikes, total in calls]
    sequences = [[(fired, total) for fired in spikes.tolist()] for spikes, total in calls]
    # sequences may differ in length: a step's rate is that of the calls which reach it
    steps = zip_longest(*sequences, fillvalue=(0.0, 0))
    return [sum(fired for fired, _ in step) / sum(total for _, total in step) for step in steps]
