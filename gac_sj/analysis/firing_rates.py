"""Firing rates: the fraction of ones in the output of each neuron layer, as a whole or step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import zip_longest
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from gac_sj.nn.neuron import is_neuron

__all__ = ["firing_rates"]

#: What one call of a neuron leaves: the number of its spikes, in all or ``[steps]``, and of the elements counted.
Counts = tuple[Tensor, int]


@overload
def firing_rates(model: nn.Module, by_step: Literal[False] = False) -> AbstractContextManager[dict[str, float]]: ...
@overload
def firing_rates(model: nn.Module, by_step: Literal[True]) -> AbstractContextManager[dict[str, list[float]]]: ...
@contextmanager
def firing_rates(model: nn.Module, by_step: bool = False) -> Iterator[dict[str, Any]]:
    """Measure the firing rate of every SpikingJelly neuron over all calls inside the block.

    Args:
        model: any network with SpikingJelly neurons (:func:`gac_sj.nn.neuron.is_neuron`).
        by_step: one rate per time step instead of one overall. A neuron in step mode "m" outputs all steps
            ``[T, N, *]`` at every call, and the rate of a step is that of all calls. In "s" every call is the next
            step, so the block should then hold one sequence.

    Yields:
        A dict that is filled at the end of the block: module name -> spikes per neuron and time step (0 to 1), in the
        order of the modules, over all elements of the outputs; with ``by_step`` a list of T such rates. Neurons that
        were not called, or that output anything other than one tensor, are left out.
    """

    def count(spikes: Tensor) -> Counts:
        # float64: float32 and the half types cannot count the spikes of a large layer
        if by_step:
            return spikes.detach().reshape(len(spikes), -1).sum(1, dtype=torch.float64), spikes[0].numel()
        return spikes.detach().sum(dtype=torch.float64), spikes.numel()

    def record(calls: list[Counts]) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                calls.append(count(output))

        return hook

    neurons = {name: module for name, module in model.named_modules() if is_neuron(module)}
    counts: dict[str, list[Counts]] = {name: [] for name in neurons}
    handles = [module.register_forward_hook(record(counts[name])) for name, module in neurons.items()]
    rates: dict[str, Any] = {}
    try:
        yield rates
    finally:
        for handle in handles:
            handle.remove()
        for name, calls in counts.items():
            if calls and by_step:
                rates[name] = _by_step(calls, str(neurons[name].step_mode))
            elif calls:
                rates[name] = float(sum(spikes for spikes, _ in calls)) / sum(elements for _, elements in calls)


def _by_step(calls: list[Counts], step_mode: str) -> list[float]:
    """The rate of every step.

    Args:
        calls: for each call the spikes of each item of its first dimension, and the elements of one item.
        step_mode: of the neuron: "m", where the items are steps, or "s", where the calls are.
    """
    if step_mode == "s":
        return [float(spikes.sum()) / (elements * len(spikes)) for spikes, elements in calls]
    sequences = [[(fired, elements) for fired in spikes.tolist()] for spikes, elements in calls]
    # sequences may differ in length: the rate of a step is that of the calls that reach it
    steps = zip_longest(*sequences, fillvalue=(0.0, 0))
    return [sum(fired for fired, _ in step) / sum(elements for _, elements in step) for step in steps]
