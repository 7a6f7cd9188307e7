"""Gates: how open they are, how much they change over time, and how many units of the temporal attention are silent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gac_sj.nn import functional
from gac_sj.nn.attention import GatedAttentionUnit, TemporalAttention

__all__ = ["GateStatistics", "gate_statistics"]


@dataclass(frozen=True)
class GateStatistics:
    """A gate over all calls (ours).

    Args:
        mean: of the gate over images, steps, channels and pixels, 0 to its gain.
        spread: standard deviation over the steps, mean over images, channels and pixels; 0: every step has one gate.
        silent: share of the hidden units of the temporal attention that output 0 for every image (with ReLU they then
            have no gradient either), 0 to 1; None without hidden units.
    """

    mean: float
    spread: float
    silent: float | None


@contextmanager
def gate_statistics(model: nn.Module) -> Iterator[dict[str, GateStatistics]]:
    """Measure every gate of Gated Attention Coding in a network over all calls inside the block.

    Hooks on the two attentions of a gate see what it is made of, so that a fused kernel stays in use.

    Args:
        model: any network; without a :class:`gac_sj.nn.attention.GatedAttentionUnit` nothing is measured.

    Yields:
        A dict that is filled at the end of the block: module name -> statistics. Gates that were not called are left
        out.
    """
    gates = {name: _Gate(module) for name, module in model.named_modules() if isinstance(module, GatedAttentionUnit)}
    found: dict[str, GateStatistics] = {}
    with ExitStack() as hooks:
        for gate in gates.values():
            gate.watch(hooks)
        try:
            yield found
        finally:
            found |= {name: gate.statistics() for name, gate in gates.items() if gate.count}


class _Gate:
    """Sums over the calls of one gate."""

    def __init__(self, unit: GatedAttentionUnit):
        self.unit = unit
        self.count = 0
        self.sums: Tensor | float = 0.0
        self.temporal: Tensor | None = None
        self.active: Tensor | bool = False

    def watch(self, hooks: ExitStack) -> None:
        unit = self.unit
        if isinstance(unit.temporal, TemporalAttention):
            hooks.callback(unit.temporal.squeeze.register_forward_hook(self._see_hidden).remove)
        if unit.temporal is not None:
            hooks.callback(unit.temporal.register_forward_hook(self._see_temporal).remove)
        if unit.spatial_channel is not None:
            hooks.callback(unit.spatial_channel.register_forward_hook(self._see_spatial_channel).remove)

    def _see_hidden(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.active = self.active | (output.detach() > 0).flatten(0, -2).any(0)  # [hidden], before the ReLU

    def _see_temporal(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.temporal = output.detach()
        if self.unit.spatial_channel is None:
            self._add(None)

    def _see_spatial_channel(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if self.unit.temporal is None or self.temporal is not None:
            self._add(output.detach())

    def _add(self, spatial_channel: Tensor | None) -> None:
        gate = functional.gate(self.temporal, spatial_channel, self.unit.gain).float()
        self.temporal = None
        gate = gate if gate.dim() == 5 else gate.unsqueeze(0)
        # float64: float32 cannot add up millions of values
        self.sums = self.sums + torch.stack(
            [part.mean(dtype=torch.float64) * gate.shape[1] for part in (gate, gate.std(0, correction=0))]
        )
        self.count += gate.shape[1]

    def statistics(self) -> GateStatistics:
        mean, spread = (torch.as_tensor(self.sums) / self.count).tolist()
        silent = None if isinstance(self.active, bool) else 1.0 - self.active.double().mean().item()
        return GateStatistics(mean, spread, silent)
