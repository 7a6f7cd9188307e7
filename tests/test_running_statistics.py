"""Running statistics of images that run once and stand for T equal frames, plain and compiled."""

import copy

import pytest
import timm
import torch
from helpers.networks import skip_where_layers_cannot_be_traced
from spikingjelly.activation_based import layer
from torch import nn

from gac_sj import GatedAttentionCoding
from gac_sj.nn.running_statistics import RepeatedImages
from gac_sj.nn.sync_batchnorm import SyncBatchNorm, convert_sync_batchnorm

T = 4
NORMS = {
    "torch": lambda: nn.BatchNorm2d(8),
    "torch, cumulative": lambda: nn.BatchNorm2d(8, momentum=None),
    "torch, untracked": lambda: nn.BatchNorm2d(8, track_running_stats=False),
    "spikingjelly": lambda: layer.BatchNorm2d(8, step_mode="m"),
    "ours": lambda: SyncBatchNorm(8),
}


def encoder(norm, **options):
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), norm)
    return GatedAttentionCoding(T, channels=8, stem=stem, **options).double()


def train(module, batches):
    """Outputs, gradients and running statistics of several training steps."""
    outputs = []
    for x in batches:
        outputs.append(module(x))
        outputs[-1].square().sum().backward()
    return outputs, [parameter.grad for parameter in module.parameters()], list(module.buffers())


def batches(count=2):
    return [torch.rand(3, 3, 6, 5, dtype=torch.float64) + step for step in range(count)]


@pytest.mark.parametrize("name", NORMS)
def test_encoding_once_equals_the_general_path(name):
    once = encoder(NORMS[name]())
    general = copy.deepcopy(once)
    images = batches()
    found, expected = train(once, images), train(general, [x.expand(T, *x.shape) for x in images])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["torch", "spikingjelly", "ours"])
def test_a_compiled_training_step_equals_the_general_path(name):
    """In one graph, forward and backward."""
    if name == "spikingjelly":
        skip_where_layers_cannot_be_traced()
    once = encoder(NORMS[name]())
    general = copy.deepcopy(once)
    images = batches()
    compiled = torch.compile(once, fullgraph=True, backend="aot_eager")
    found, expected = train(compiled, images), train(general, [x.expand(T, *x.shape) for x in images])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("convert", [lambda model: model, convert_sync_batchnorm], ids=["torch", "ours"])
def test_a_compiled_training_step_of_a_network_equals_the_plain_one(convert):
    network = convert(timm.create_model("gac_ms_resnet8_cifar", T=T)).double()
    plain = copy.deepcopy(network)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    images = [torch.rand(2, 3, 16, 16, dtype=torch.float64) for _ in range(2)]
    torch.testing.assert_close(train(compiled, images), train(plain, images), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["torch", "spikingjelly", "ours"])
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_hooks_of_a_user_fire(name, compiled):
    if name == "spikingjelly" and compiled:
        skip_where_layers_cannot_be_traced()
    norm, seen = NORMS[name](), []
    norm.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    norm.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[-3:]))
    module = encoder(norm, form="current")
    before = copy.deepcopy(module)
    run = torch.compile(module, fullgraph=True, backend="aot_eager") if compiled else module
    x = batches(1)[0]
    run(x)
    assert seen == [(8, 6, 5)]
    before(x.expand(T, *x.shape))
    torch.testing.assert_close(norm.running_var, before.stem[1].running_var, rtol=1e-12, atol=1e-12)


def test_layers_gain_no_hooks():
    module = encoder(nn.BatchNorm2d(8))
    registered = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "register_forward_hook", lambda *arguments: registered.append(arguments))
        patch.setattr(nn.Module, "register_forward_pre_hook", lambda *arguments: registered.append(arguments))
        module(batches(1)[0])
    assert registered == []


def test_evaluation_leaves_the_statistics_alone():
    norm = nn.BatchNorm2d(8).double().eval()
    before = copy.deepcopy(norm.state_dict())
    with RepeatedImages(T):
        norm(torch.rand(2, 8, 3, 3, dtype=torch.float64))
    torch.testing.assert_close(dict(norm.state_dict()), dict(before), rtol=0, atol=0)


def test_functions_outside_batchnorm_are_unchanged():
    x = torch.rand(2, 8, 3, 3, requires_grad=True)
    with RepeatedImages(T):
        inside = nn.functional.conv2d(x, x).relu().mean()
    assert torch.equal(inside, nn.functional.conv2d(x, x).relu().mean())
