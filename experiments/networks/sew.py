"""A narrow SEW ResNet for small images, for ``--model experiments/networks/sew.py:narrow``.

Residual blocks that add spikes, "Deep Residual Learning in Spiking Neural Networks" (arXiv 2102.04159), as SpikingJelly
has them; three of them, with 16, 32 and 64 channels, behind a 3x3 stem (ours).
"""

from __future__ import annotations

from spikingjelly.activation_based import layer, neuron, surrogate
from spikingjelly.activation_based.model.sew_resnet import BasicBlock, conv1x1, conv3x3
from torch import nn


def narrow(num_classes: int, in_chans: int) -> nn.Module:
    """The network, with SpikingJelly's layers in step mode "s" and the neuron of the other networks of SpikingJelly.

    Args:
        num_classes: of the data set.
        in_chans: channels of the images.
    """
    settings = {"surrogate_function": surrogate.ATan(), "detach_reset": True}

    def block(channels: int, width: int, stride: int) -> BasicBlock:
        shortcut = nn.Sequential(conv1x1(channels, width, stride), layer.BatchNorm2d(width)) if stride > 1 else None
        return BasicBlock(channels, width, stride, shortcut, cnf="ADD", spiking_neuron=neuron.LIFNode, **settings)

    return nn.Sequential(
        *(conv3x3(in_chans, 16), layer.BatchNorm2d(16), neuron.LIFNode(**settings)),
        *(block(16, 16, 1), block(16, 32, 2), block(32, 64, 2)),
        *(layer.AdaptiveAvgPool2d(1), layer.Flatten(), layer.Linear(64, num_classes)),
    )
