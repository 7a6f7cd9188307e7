"""A network to compute by hand, and networks that behave as after some training."""

import pytest
import torch
from packaging.version import Version
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def skip_where_layers_cannot_be_traced():
    """torch.compile traces the layers of SpikingJelly 0.0.0.0.14 in one graph from PyTorch 2.12 on."""
    if not hasattr(functional, "lif_multi_step") and Version(torch.__version__) < Version("2.12"):
        pytest.skip("this PyTorch cannot trace the layers of SpikingJelly 0.0.0.0.14")


def small_network():
    """1x1 convolution to two channels, LIF, linear; of both channels only the first reaches the threshold."""
    network = nn.Sequential(
        layer.Conv2d(1, 2, 1, bias=False),
        neuron.LIFNode(tau=2.0, decay_input=False),
        layer.Flatten(),
        layer.Linear(8, 3, bias=False),
    )
    functional.set_step_mode(network, "m")
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([1.0, 0.25]).view(2, 1, 1, 1))
    return network


def sequence():
    """Two steps of one image of 2x2 pixels for the small network: three of them 2, one 0."""
    return torch.tensor([[2.0, 2.0], [2.0, 0.0]]).expand(2, 1, 1, 2, 2)


def wake(network, x, weight=(0.8, 1.6), bias=(0.1, 0.8)):
    """Make the neurons of a new network fire, and put it into evaluation mode.

    Every BatchNorm gets weights and biases drawn from uniform distributions and the statistics of one batch.

    Args:
        network: changed in place, and returned.
        x: the batch.
        weight: bounds of the weights.
        bias: bounds of the biases.
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, *weight)
            nn.init.uniform_(module.bias, *bias)
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(x)
    functional.reset_net(network)
    return network.eval()
