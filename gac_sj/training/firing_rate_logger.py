"""A callback that logs how a network fires and what its gates do (``--log-firing-rates``)."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from gac_sj.analysis.gates import GateStatistics, gate_statistics
from gac_sj.training.state import Test

if TYPE_CHECKING:
    from gac_sj.training.engine import Training

__all__ = ["FiringRateLogger"]


class FiringRateLogger:
    """Log the firing rate of each layer, and mean, spread and silent units of each gate, on the test images.

    The numbers are ``firing_rate/LAYER``, ``gate_mean/GATE``, ``gate_spread/GATE`` and ``gate_silent/GATE``
    (:class:`gac_sj.analysis.gates.GateStatistics`). Networks without a gate have firing rates alone. Of several
    processes the first one measures its test images.
    """

    def __init__(self) -> None:
        self._hooks = ExitStack()
        self._gates: dict[str, GateStatistics] = {}

    def on_test_start(self, training: Training) -> None:
        self._hooks.close()  # an interrupted test has left its hooks
        self._gates = self._hooks.enter_context(gate_statistics(training.step.tested))

    def on_test_end(self, training: Training, test: Test) -> dict[str, float]:
        self._hooks.close()
        numbers = {f"firing_rate/{layer}": rate for layer, rate in test.rates.items()}
        for name, gate in self._gates.items():
            numbers |= {f"gate_mean/{name}": gate.mean, f"gate_spread/{name}": gate.spread}
            if gate.silent is not None:
                numbers[f"gate_silent/{name}"] = gate.silent
        return numbers
