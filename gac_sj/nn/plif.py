"""The LIF neuron with a learnable membrane time constant."""

from __future__ import annotations

import math
from typing import Any

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from gac_sj.nn.neuron import LIFNode

__all__ = ["ParametricLIFNode"]


class ParametricLIFNode(LIFNode):
    """PLIF: :class:`LIFNode` with ``1 / tau = sigmoid(w)``, where w is one learnable number for the whole layer.

    Source: arXiv 2007.05785; SpikingJelly's ``ParametricLIFNode``, whose ``w`` has the same name in weights. It runs
    where :class:`LIFNode` runs (:mod:`gac_sj.ops.lif.learnable`), except that compiled code and SpikingJelly's kernels
    leave it to the definition.

    Args:
        tau: membrane time constant at which training starts, in steps, a float above 1.
        options: further keywords of :class:`LIFNode`.

    Raises:
        AssertionError: see :class:`LIFNode`.
    """

    w: nn.Parameter

    def __init__(self, tau: float = 2.0, **options: Any):
        super().__init__(tau, **options)

    @property
    def tau(self) -> Tensor:
        """The membrane time constant, float64, so that it is the number that kernels compute with."""
        return 1.0 / self.w.double().sigmoid()

    @tau.setter
    def tau(self, value: float) -> None:
        start = torch.tensor(-math.log(value - 1.0))
        if "w" in self._parameters:
            with torch.no_grad():
                self.w.copy_(start)
        else:
            self.w = nn.Parameter(start)

    def fixed(self) -> LIFNode:
        """A :class:`LIFNode` with the time constant that was learned, for what cannot hold a learnable one."""
        return LIFNode(
            tau=self.tau.item(),
            decay_input=self.decay_input,
            v_threshold=self.v_threshold,
            v_reset=self.v_reset,
            surrogate_function=self.surrogate_function,
            detach_reset=self.detach_reset,
            step_mode=self.step_mode,
            store_v_seq=self.store_v_seq,
        ).train(self.training)

    def extra_repr(self) -> str:
        return f"{neuron.BaseNode.extra_repr(self)}, decay_input={self.decay_input}, tau=learnable"
