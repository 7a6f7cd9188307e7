"""Folded networks: fewer layers, the same result."""

import pytest
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
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
