"""1x1 convolutions with a stride without the pixels that it skips: the same results, and where the module is called."""

import pytest
import torch
from spikingjelly.activation_based import layer
from torch import nn
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from gac_sj.nn import strided
from gac_sj.nn.strided import convolve


@pytest.fixture
def shapes(monkeypatch):
    """The inputs of the convolutions that it runs itself."""
    seen, conv2d = [], strided.F.conv2d
    monkeypatch.setattr(nn.Conv2d, "_conv_forward", lambda self, x, weight, bias: conv2d(x, weight, bias, self.stride))
    monkeypatch.setattr(
        strided.F, "conv2d", lambda x, *rest, **options: seen.append(x.shape) or conv2d(x, *rest, **options)
    )
    return seen


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
def test_results_gradients_and_memory_are_those_of_the_module(memory, shapes):
    conv = layer.Conv2d(3, 5, 1, stride=(2, 3), step_mode="m").double()
    x = torch.randn(8, 3, 7, 10, dtype=torch.float64).contiguous(memory_format=memory).unflatten(0, (4, 2))
    x.requires_grad_()
    found, expected = convolve(conv, x), conv(x)
    assert shapes == [(8, 3, 4, 4)]
    assert found.stride() == expected.stride()
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(y.square().sum(), [x, *conv.parameters()]) for y in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_the_module_is_called_where_that_matters(shapes):
    x, seen = torch.randn(4, 2, 4, 8, 8), []
    hooked, pruned = (layer.Conv2d(4, 6, 1, 2, step_mode="m") for _ in range(2))
    hooked.register_forward_hook(lambda *arguments: seen.append(arguments))
    prune.random_unstructured(pruned, "weight", 0.5)
    others = [layer.Conv2d(4, 6, 3, 2, step_mode="m"), layer.Conv2d(4, 6, 1, 2, 1, step_mode="m"), nn.Identity()]
    for module in (hooked, pruned, *others):
        assert torch.equal(convolve(module, x), module(x))
    with FlopCounterMode(display=False) as counter:
        convolve(layer.Conv2d(4, 6, 1, 2, step_mode="m"), x)
    assert counter.get_total_flops() == 2 * 4 * 2 * 6 * 4 * 16
    assert not shapes and len(seen) == 2
