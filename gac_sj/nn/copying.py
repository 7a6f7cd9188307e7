"""Copies of networks, in whatever state they are."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from spikingjelly.activation_based import base
from torch import Tensor, nn

from gac_sj.nn.neuron import reset_states

__all__ = ["copy_network"]

_Network = TypeVar("_Network", bound=nn.Module)


def copy_network(network: _Network) -> _Network:
    """A deep copy in the reset state of its neurons. The network itself keeps its state.

    After a pass memories (SpikingJelly's word for state) are tensors of the graph, which ``copy.deepcopy`` refuses; so
    are the weights that pruning and ``torch.nn.utils.weight_norm`` compute anew in every pass.

    Args:
        network: any network.
    """
    memo: dict[int, Any] = {}  # what stands in it is not copied again
    for module in network.modules():
        if isinstance(module, base.MemoryModule):
            memo[id(module._memories)] = copy.deepcopy(module._memories_rv)
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    copied = copy.deepcopy(network, memo)
    reset_states(copied)
    return copied
