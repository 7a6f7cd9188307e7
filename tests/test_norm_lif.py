"""BatchNorm and LIF in one pass: the kernels, built for the CPU, against the definition; where it steps aside."""

import copy

import pytest
import timm
import torch
from helpers.neuron_cases import CIFAR, GRIDS, HARD, NEURONS, SOFT, grid, nan_filled  # noqa: F401
from spikingjelly.activation_based import layer
from torch import nn
from torch.nn.utils import parametrize

import gac_sj
from gac_sj import LIFNode, Triangle
from gac_sj.nn import norm_lif as fusing
from gac_sj.nn.norm_lif import norm_then_fire
from gac_sj.nn.running_statistics import RepeatedImages
from gac_sj.ops.norm_lif import layout, norm_lif
from gac_sj.ops.surrogates import cuda_derivative

pytestmark = pytest.mark.usefixtures("default_ops")

#: Relative errors of the results of a type: sums in another order, and for 16 bits the rounding of the result, and of
#: the gradient of the normalised value.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def current(*shape, dtype=torch.float32, channels_last=False):
    """Of a channel's own mean and standard deviation."""
    C = shape[2]
    x = torch.randn(shape) * torch.linspace(0.5, 3.0, C)[:, None, None] + torch.linspace(-4.0, 9.0, C)[:, None, None]
    memory = torch.channels_last if channels_last else torch.contiguous_format
    return x.to(dtype).flatten(0, 1).contiguous(memory_format=memory).unflatten(0, shape[:2])


def results(path, x, parameters, statistics, neuron, v, grads):
    leaves = [
        leaf if leaf is None else leaf.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        for leaf in (x, *parameters, v)
    ]
    x, weight, bias, v = leaves
    *outputs, found = norm_lif(x, weight, bias, statistics, 1e-5, neuron, Triangle(), v, path=path)
    gradients = torch.autograd.grad(outputs, [leaf for leaf in leaves if leaf is not None], grads)
    return [*outputs, *gradients, *found]


def assert_same(x, neuron=CIFAR, affine=True, statistics=None, v=None):
    C = x.shape[2]
    parameters = (0.5 + torch.rand(C), 0.4 + torch.rand(C)) if affine else (None, None)
    grads = torch.randn_like(x), torch.randn(x.shape[1:])
    expected = results("torch", x, parameters, statistics, neuron, v, grads)
    found = results("cpp", x, parameters, statistics, neuron, v, grads)
    flipped = (found[0] != expected[0]).float().mean()
    assert flipped <= 1e-3  # a value on the threshold; its pixel has other gradients
    if flipped:
        pytest.skip("a spike lies within a rounding of the threshold")
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        scale = theirs.double().abs().max().clamp_min(1e-3)
        assert (ours.double() - theirs.double()).abs().max() <= TOLERANCE[x.dtype] * max(1.0, x[0].numel() ** 0.25) * scale
