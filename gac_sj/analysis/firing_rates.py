"""Firing rates: the fraction of ones in each neuron layer's output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from spikingjelly.activation_based import monitor, neuron
from torch import Tensor, nn

__all__ = ["firing_rates"]


@contextmanager
def firing_rates(model: nn.Module) -> Iterator[dict[str, float]]:
    """Measure the firing rate of every SpikingJelly neuron over all calls inside the block.

    Args:
        model: any network with SpikingJelly neurons.

    Yields:
        A dict that the end of the block fills: module name -> spikes per neuron and time step (0 to 1), in the
        order of the modules, over all elements that the calls put out. A neuron that was not called is left out.
    """

    def count(spikes: Tensor) -> tuple[Tensor, int]:
        # float64: float32 and the half types cannot count the spikes of a large layer
        return spikes.detach().sum(dtype=torch.float64), spikes.numel()

    spikes = monitor.OutputMonitor(model, neuron.BaseNode, count)
    rates: dict[str, float] = {}
    try:
        yield rates
    finally:
        spikes.remove_hooks()
        for name in spikes.monitored_layers:
            if spikes[name]:
                rates[name] = float(sum(fired for fired, _ in spikes[name])) / sum(total for _, total in spikes[name])
