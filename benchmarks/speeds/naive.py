"""The baseline: what the published GAC code does, a loop over steps and a stem that runs T times.

Written from the mathematics of GAC (arXiv 2308.06582) and of MS-ResNet (arXiv 2112.08954). It shares only weights with
the package, so it also checks the results of all variants.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gac_sj import DirectCoding, GatedAttentionCoding, LIFNode, Rectangle, Triangle
from gac_sj._utils.errors import UsageError

__all__ = ["NaiveDirect", "NaiveEncoder", "NaiveLIF", "naive_network", "with_parts"]


class _TriangleStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (1 - x.abs()).clamp(min=0)


class _RectangleStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (x.abs() < 0.5).to(x.dtype)


_STEPS = {Triangle: _TriangleStep, Rectangle: _RectangleStep}


class NaiveLIF(nn.Module):
    """A loop over the steps ``x[t]`` of ``[T, N, *]``; the potential has the dtype of the input.

    Args:
        node: a neuron with the same dynamics: no decayed input, hard reset to 0, Triangle() or Rectangle().

    Raises:
        UsageError: the published code has no such neuron.
    """

    def __init__(self, node: LIFNode):
        super().__init__()
        surrogate = node.surrogate_function
        published = type(surrogate) in _STEPS and surrogate.alpha == 1.0 and surrogate.spiking and not surrogate.strict
        if node.decay_input or node.v_reset != 0.0 or not published:
            raise UsageError(
                "must have the dynamics of the presets cifar or imagenet, as the published code", argument="node"
            )
        self.step = _STEPS[type(surrogate)]
        self.decay, self.threshold, self.detach = 1.0 - 1.0 / node.tau, node.v_threshold, node.detach_reset

    def forward(self, x: Tensor) -> Tensor:
        v = torch.zeros_like(x[0])
        spikes = []
        for t in range(x.shape[0]):
            v = self.decay * v + x[t]
            spike = self.step.apply(v - self.threshold)
            v = v * (1 - (spike.detach() if self.detach else spike))
            spikes.append(spike)
        return torch.stack(spikes)


class NaiveDirect(nn.Module):
    """Direct coding of T copies of images ``[N, C, H, W]``; the stem runs for each copy.

    Args:
        encoder: an encoder, whose parameters are copied.
    """

    def __init__(self, encoder: DirectCoding | GatedAttentionCoding):
        super().__init__()
        self.T = encoder.T
        self.stem = copy.deepcopy(encoder.stem)

    def forward(self, images: Tensor) -> Tensor:
        frames = images.repeat(self.T, 1, 1, 1, 1).flatten(0, 1)
        return self.stem(frames).unflatten(0, (self.T, -1))


class NaiveEncoder(NaiveDirect):
    """Gated Attention Coding of T copies of images: stem, attention and gate run for each copy.

    Args:
        encoder: an encoder, whose parameters are copied.
    """

    def __init__(self, encoder: GatedAttentionCoding):
        super().__init__(encoder)
        self.gau = copy.deepcopy(encoder.gau)
        self.lif = NaiveLIF(encoder.neuron)

    def forward(self, images: Tensor) -> Tensor:
        z = super().forward(images)
        gate = self.gau.gain * torch.sigmoid(self._temporal(z) * self._spatial_channel(z))
        return gate * self.lif(z)

    def _temporal(self, z: Tensor) -> Tensor:
        squeeze, excite = self.gau.temporal.squeeze, self.gau.temporal.excite
        mean, highest = z.mean((2, 3, 4)), z.amax((2, 3, 4))  # [T, N]
        weights = excite(torch.relu(squeeze(mean.t()))) + excite(torch.relu(squeeze(highest.t())))
        return weights.t()[:, :, None, None, None]

    def _spatial_channel(self, z: Tensor) -> Tensor:
        y = z.flatten(0, 1)
        for depth, convolution in enumerate(self.gau.spatial_channel.convolutions):
            size = convolution.kernel_size[0]
            left, right = (size - 1) // 2, size // 2
            y = convolution(F.pad(torch.relu(y) if depth else y, (left, right, left, right)))
        return y.unflatten(0, z.shape[:2])


def naive_network(model: nn.Module) -> nn.Module:
    """A copy of an MS-ResNet with naive neurons and a naive encoder.

    Args:
        model: an MS-ResNet with GAC or direct coding.

    Raises:
        UsageError: it has neurons that the published code does not have.
    """
    has_gate = isinstance(model.encoder, GatedAttentionCoding)
    return with_parts(model, NaiveEncoder if has_gate else NaiveDirect, NaiveLIF)


def with_parts(
    model: nn.Module, encoder: Callable[[nn.Module], nn.Module], neuron: Callable[[LIFNode], nn.Module]
) -> nn.Module:
    """A copy of an MS-ResNet with another encoder and other neurons.

    Args:
        model: the network.
        encoder: makes the encoder from its own.
        neuron: makes a neuron from one of its own.
    """
    model = copy.deepcopy(model)
    model.encoder = encoder(model.encoder)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LIFNode):
                setattr(parent, name, neuron(child))
    return model
