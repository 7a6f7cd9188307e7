"""Statistics of gates: what the gates of a network really are."""

import pytest
import timm
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import gac_sj
from gac_sj.analysis import gate_statistics


def statistics(network, *batches):
    with torch.no_grad(), gate_statistics(network) as found:
        for images in batches:
            network(images)
    assert not any(module._forward_hooks for module in network.modules())
    return found


def close(value):
    return pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("attention", ["both", "temporal", "spatial"])
@pytest.mark.parametrize("sequence", [False, True], ids=["images", "sequence"])
def test_of_every_attention(attention, sequence):
    encoder = gac_sj.GatedAttentionCoding(T=4, channels=5, attention=attention).eval()
    images = torch.rand(*([4] if sequence else []), 6, 3, 8, 8)
    found = statistics(encoder, images)["gau"]
    with torch.no_grad():
        gate = encoder.attention_maps(images).gate
    assert found.mean == close(gate.mean().item())
    assert found.spread == close(gate.std(0, correction=0).mean().item())
    assert (found.spread == 0) == (attention == "spatial" and not sequence)
    assert (found.silent is None) == (attention == "spatial")


def test_every_image_counts_once_however_they_are_batched():
    encoder, images = gac_sj.GatedAttentionCoding(T=4, channels=5).eval(), torch.rand(7, 3, 8, 8)
    whole, parts = (statistics(encoder, *images.split(size))["gau"] for size in (7, 3))
    assert (parts.mean, parts.spread, parts.silent) == (close(whole.mean), close(whole.spread), whole.silent)


def test_a_hidden_unit_is_silent_if_no_image_makes_it_fire():
    encoder = gac_sj.GatedAttentionCoding(T=8, channels=5).eval()
    squeeze = encoder.gau.temporal.squeeze
    with torch.no_grad():
        squeeze.weight.zero_()
        squeeze.weight[1] = 1.0  # the maximum of a normalised image is positive
    assert statistics(encoder, torch.rand(4, 3, 8, 8))["gau"].silent == 0.75


def test_one_step_does_not_spread():
    encoder = gac_sj.GatedAttentionCoding(T=1, channels=5).eval()
    assert statistics(encoder, torch.rand(2, 3, 8, 8))["gau"].spread == 0.0


def test_of_an_encoder_that_was_attached():
    network = nn.Sequential(
        layer.Conv2d(3, 8, 3, padding=1), layer.BatchNorm2d(8), neuron.IFNode(), layer.Flatten(), layer.Linear(512, 10)
    )
    functional.set_step_mode(network, "m")
    gac_sj.attach(network, T=3, at="0", until="2")
    assert list(statistics(network.eval(), torch.rand(2, 3, 8, 8))) == ["0.gau"]


def test_networks_without_a_gate_and_gates_that_are_not_called_have_none():
    images = torch.rand(2, 3, 16, 16)
    assert statistics(timm.create_model("ms_resnet8_cifar", T=2), images) == {}
    assert statistics(nn.Sequential(nn.Conv2d(3, 4, 3), neuron.IFNode()), images) == {}
    assert statistics(gac_sj.GatedAttentionCoding(T=2)) == {}


def test_what_a_network_computes_does_not_change():
    network = timm.create_model("gac_ms_resnet8_cifar", T=2).eval()
    images = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        expected = network(images)
        with gate_statistics(network):
            assert torch.equal(network(images), expected)
