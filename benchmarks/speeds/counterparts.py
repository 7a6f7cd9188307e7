"""The counterparts in the installed SpikingJelly: its LIFNode, its layers, its MSResNet (2.0.0 only)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

from gac_sj import GatedAttentionCoding, LIFNode, Rectangle
from gac_sj.nn.neuron import reset_states
from gac_sj.ops.surrogates import spikingjelly_equivalent
from speeds.checking import WrongResultError
from speeds.naive import with_parts

__all__ = [
    "Fresh",
    "SpikingJellyEncoder",
    "spikingjelly_network",
    "spikingjelly_neuron",
    "spikingjelly_path",
    "why_no_network",
    "with_spikingjelly",
]


class Fresh(nn.Module):
    """A module with neurons; each call starts from their reset state.

    Args:
        module: the module.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        reset_states(self.module)
        return self.module(x)


def spikingjelly_neuron(node: LIFNode) -> neuron.LIFNode:
    """SpikingJelly's neuron with the same dynamics.

    Args:
        node: a neuron of ours with one of our surrogate functions.
    """
    return neuron.LIFNode(step_mode="m", **_keywords(node))


def spikingjelly_path(node: LIFNode, device: torch.device, dtype: torch.dtype) -> str:
    """What runs SpikingJelly's neuron: a kernel of 2.0.0 (GPU, some surrogates, float32), or a loop ("torch").

    Args:
        node: the counterpart of ours.
        device: of the input.
        dtype: of the input.
    """
    _, no_kernel = spikingjelly_equivalent(node.surrogate_function)
    if device.type != "cuda" or dtype != torch.float32 or no_kernel or not hasattr(functional, "neuron_implementation"):
        return "torch"
    return functional.neuron_implementation("lif", device)["implementation"]


class SpikingJellyEncoder(nn.Module):
    """The encoder made of SpikingJelly's layers, on T copies of an image, with our gate on its general path.

    Args:
        encoder: an encoder with the default stem, whose parameters are copied.
    """

    def __init__(self, encoder: GatedAttentionCoding):
        super().__init__()
        self.T = encoder.T
        convolution, norm = encoder.stem
        channels = convolution.in_channels, convolution.out_channels
        self.stem = nn.Sequential(
            layer.Conv2d(*channels, convolution.kernel_size, 1, convolution.padding, bias=False, step_mode="m"),
            layer.BatchNorm2d(norm.num_features, step_mode="m"),
        )
        self.stem.load_state_dict(encoder.stem.state_dict())
        self.gau = copy.deepcopy(encoder.gau)
        self.neuron = Fresh(spikingjelly_neuron(encoder.neuron))

    def forward(self, images: Tensor) -> Tensor:
        z = self.stem(images.repeat(self.T, 1, 1, 1, 1))
        return self.gau(z, self.neuron(z))


def why_no_network(model: nn.Module) -> str | None:
    """Why SpikingJelly cannot build a network; None if it can.

    Args:
        model: an MS-ResNet with direct coding.
    """
    try:
        from spikingjelly.activation_based.model import ms_resnet  # noqa: F401
    except ImportError:
        return "this release has no MSResNet; pip install -U spikingjelly (2.0.0)"
    if model.downsample != "stride" or len(model.encoder.stem) != 2:
        return "its MSResNet has another stem or shortcut"
    return None


def spikingjelly_network(model: nn.Module) -> nn.Module:
    """SpikingJelly's MSResNet with the same layers and parameters.

    Args:
        model: an MS-ResNet with direct coding that SpikingJelly can build (:func:`why_no_network`).

    Raises:
        WrongResultError: the networks have different parameters.
    """
    from spikingjelly.activation_based.model.ms_resnet import MSResNet

    first = model.stages[0][0].conv1.stride[0]
    convolution = model.encoder.stem[0]
    network = type("MSResNet", (MSResNet,), {"_first_stage_stride": first})(
        T=model.T,
        in_channels=convolution.in_channels,
        num_classes=model.num_classes,
        layers=tuple(map(len, model.stages)),
        base_channels=convolution.out_channels,
        stem_kernel_size=convolution.kernel_size[0],
        stem_stride=convolution.stride[0],
        stage_channels=tuple(stage[0].conv1.out_channels for stage in model.stages),
        spiking_neuron=neuron.LIFNode,
        step_mode="m",
        **_keywords(model.lif),
    )
    ours, theirs = model.state_dict(), network.state_dict()
    if [value.shape for value in ours.values()] != [value.shape for value in theirs.values()]:
        raise WrongResultError("SpikingJelly's MSResNet must have the parameters of ours, got other shapes.")
    network.load_state_dict(dict(zip(theirs, ours.values())))
    return Fresh(network)


def with_spikingjelly(model: nn.Module) -> nn.Module:
    """A copy of an MS-ResNet with GAC with SpikingJelly's neurons, and its layers on T copies in the encoder.

    The other layers of the network are SpikingJelly's already.

    Args:
        model: the network.
    """
    return with_parts(model, SpikingJellyEncoder, lambda node: Fresh(spikingjelly_neuron(node)))


def _keywords(node: LIFNode) -> dict[str, Any]:
    ours = node.surrogate_function
    equal = surrogate.Rect if isinstance(ours, Rectangle) else surrogate.PiecewiseQuadratic
    return node.dynamics._asdict() | {"surrogate_function": equal(alpha=ours.alpha)}
