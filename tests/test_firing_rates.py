"""Firing rates of neurons of every kind; tests/test_figures.py has those by step."""

import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

from gac_sj.analysis import firing_rates


class Pair(neuron.IFNode):
    """A neuron that outputs its spikes twice."""

    def forward(self, x):
        spikes = super().forward(x)
        return spikes, spikes


def rates_of(node, x):
    network = nn.Sequential(node)
    with torch.no_grad(), firing_rates(network) as rates:
        network(x)
    assert not node._forward_hooks
    return rates


def test_rate_is_the_fraction_of_ones():
    x = torch.tensor([[2.0, 0.0], [2.0, 2.0]])[..., None]
    assert rates_of(neuron.IFNode(step_mode="m"), x) == {"0": 0.75}


def test_neurons_with_several_outputs_and_other_layers_are_left_out():
    assert rates_of(Pair(step_mode="m"), torch.ones(2, 1, 3)) == {}
    assert rates_of(layer.Linear(3, 3, step_mode="m"), torch.ones(2, 1, 3)) == {}


@pytest.mark.skipif(not hasattr(neuron, "PSN"), reason="this SpikingJelly has no PSN")
def test_neurons_that_are_not_a_base_node_count():
    node = neuron.PSN(T=2)
    nn.init.eye_(node.weight)
    nn.init.constant_(node.bias, -0.5)
    assert not isinstance(node, neuron.BaseNode)
    assert rates_of(node, torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]])) == {"0": 0.75}
