"""Networks that behave as after some training."""

import pytest
import torch
from packaging.version import Version
from spikingjelly.activation_based import functional
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def skip_where_layers_cannot_be_traced():
    """torch.compile traces the layers of SpikingJelly 0.0.0.0.14 in one graph from PyTorch 2.12 on."""
    if not hasattr(functional, "lif_multi_step") and Version(torch.__version__) < Version("2.12"):
        pytest.skip("this PyTorch cannot trace the layers of SpikingJelly 0.0.0.0.14")


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
