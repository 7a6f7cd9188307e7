"""Folded networks: fewer layers, the same result."""

from functools import partial

import pytest
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

import gac_sj

CASES = [
    ("gac_ms_resnet8_cifar", {}),
    ("ms_resnet8_cifar", dict(spike_driven=True)),
    ("gac_ms_resnet8_cifar", dict(downsample="avg_shortcut", spike_driven=True)),
    ("gac_ms_resnet8_cifar", dict(neuron="sigmoid", downsample="max")),
    ("gac_ms_resnet18", dict(num_classes=5)),
]


def trained(name, **options):
    """A network whose BatchNorms have statistics and weights as after training."""
    torch.manual_seed(0)
    model = timm.create_model(name, T=2, **options)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        model(torch.rand(4, 3, 32, 32))
    return model.double()


@pytest.mark.parametrize("name,options", CASES, ids=str)
def test_the_outputs_are_the_same(name, options):
    model = trained(name, **options)
    folded = gac_sj.fold_batch_norm(model)
    assert not any(isinstance(module, _BatchNorm) for module in folded.modules())
    assert any(isinstance(module, _BatchNorm) for module in model.modules())
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(folded(images), model.eval()(images), rtol=1e-9, atol=1e-9)


def test_a_folded_network_is_refused():
    folded = gac_sj.fold_batch_norm(trained("gac_ms_resnet8_cifar"))
    with pytest.raises(ValueError, match=r"^model must have a BatchNorm"):
        gac_sj.fold_batch_norm(folded)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)],
        [nn.Conv2d(3, 4, 3), nn.AvgPool2d(2, padding=1), nn.BatchNorm2d(4)],
        [nn.Conv2d(3, 4, 3), nn.AvgPool2d(2, divisor_override=1), nn.BatchNorm2d(4)],
        [nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4)],
        [weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)],
        [nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)],
        [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)],
    ],
    ids=["activation", "padded mean", "sum", "transposed", "parametrised", "other order", "statistics of the batch"],
)
def test_what_cannot_be_folded_stays(layers):
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), *layers).eval()
    images = torch.rand(2, 3, 8, 8)
    folded = gac_sj.fold_batch_norm(model)
    assert sum(isinstance(module, _BatchNorm) for module in folded.modules()) == 1
    torch.testing.assert_close(folded(images), model(images), rtol=1e-5, atol=1e-5)


class Scaled(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return 2 * super()._conv_forward(x, weight, bias)


class Reversed(nn.Sequential):
    def forward(self, x):
        for layer in list(self)[::-1]:
            x = layer(x)
        return x


class Block(gac_sj.models.MSBlock):
    def forward(self, x):
        return self.conv1(self.bn1(self.lif1(x)))


def changed(at, change):
    """Three layers that could be folded, and a change of one of them."""
    layers = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.AvgPool2d(1), nn.BatchNorm2d(3))
    change(layers[at])
    return layers


CHANGES = {
    f"{name} of {part}": partial(changed, at, change)
    for at, part in enumerate(("convolution", "mean", "norm"))
    for name, change in {
        "hook": lambda module: module.register_forward_hook(lambda module, inputs, output: output.round(decimals=1)),
        "pre-hook": lambda module: module.register_forward_pre_hook(
            lambda module, inputs: (inputs[0].round(decimals=1),)
        ),
        "forward": lambda module: setattr(module, "forward", lambda x: x.round(decimals=1)),
    }.items()
} | {
    "subclass": lambda: nn.Sequential(Scaled(3, 3, 1), nn.BatchNorm2d(3)),
    "order": lambda: Reversed(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)),
    "pruned": lambda: nn.Sequential(prune.l1_unstructured(nn.Conv2d(3, 3, 1), "weight", 0.3), nn.BatchNorm2d(3)),
    "pruned norm": lambda: nn.Sequential(nn.Conv2d(3, 3, 1), prune.l1_unstructured(nn.BatchNorm2d(3), "weight", 0.3)),
    "block": lambda: nn.Sequential(nn.Unflatten(0, (1, -1)), Block(3, 3, 1, gac_sj.LIFNode), nn.Flatten(0, 1)),
}


@pytest.mark.parametrize("build", CHANGES.values(), ids=CHANGES)
def test_what_a_user_changed_stays(build):
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), build())
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    norms, images = sum(isinstance(module, _BatchNorm) for module in model[1].modules()), torch.rand(2, 3, 8, 8)
    with torch.no_grad():  # pruned layers can be copied then
        model.eval()(images)
    for module in model.modules():
        if isinstance(module, gac_sj.LIFNode):
            module.reset()
    folded = gac_sj.fold_batch_norm(model)
    assert sum(isinstance(module, _BatchNorm) for module in folded.modules()) == norms
    torch.testing.assert_close(folded(images), model.eval()(images), rtol=1e-5, atol=1e-5)


def test_an_adapter_in_a_block_stays():
    """It wraps a convolution, and the BatchNorm behind it stays as well."""
    model = trained("gac_ms_resnet8_cifar")
    block = model.stages[0][0]
    block.conv1 = nn.Sequential(block.conv1)
    folded, images = gac_sj.fold_batch_norm(model), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    assert isinstance(folded.stages[0][0].bn1, _BatchNorm)
    torch.testing.assert_close(folded(images), model.eval()(images), rtol=1e-9, atol=1e-9)
