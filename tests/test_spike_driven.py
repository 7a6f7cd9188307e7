"""Which layers receive anything other than spikes, and the networks without such layers."""

import pytest
import timm
import torch
from spikingjelly.activation_based import functional, neuron
from spikingjelly.activation_based.model import sew_resnet, spiking_resnet

from gac_sj import checkpoint
from gac_sj._utils.errors import UsageError
from gac_sj.analysis import measure_energy, non_spiking_layers

NETWORKS = ["gac_ms_resnet8_cifar", "ms_resnet8_cifar", "gac_ms_resnet18", "gac_ms_resnet104", "gac_max_resnet18_cifar"]


def images(name):
    """Small images, with enough contrast for the later layers to fire."""
    return 4 * torch.randn(1, 3, *((32, 32) if "cifar" in name else (64, 64)))


def lively(name, **options):
    """A network in which every neuron fires: in the ImageNet networks the last BatchNorm of a block starts at 0."""
    model = timm.create_model(name, T=3, num_classes=7, **options).eval()
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, neuron.BaseNode):
            module.v_threshold = 0.1
    for parameter_name, parameter in model.named_parameters():
        if ".bn" in parameter_name and parameter_name.endswith("weight"):
            torch.nn.init.constant_(parameter, 2.0)
        elif parameter_name.endswith("head.weight"):
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return model


class TestNames:
    def test_the_published_network(self):
        assert non_spiking_layers(lively("gac_ms_resnet8_cifar", form="reference"), images("cifar")) == [
            "stages.1.0.shortcut.1",
            "stages.2.0.shortcut.1",
            "head",
        ]

    def test_a_strided_first_stage_receives_gated_spikes(self):
        assert "stages.0.0.shortcut.1" in non_spiking_layers(lively("gac_ms_resnet18"), images("imagenet"))

    def test_networks_without_an_encoder_of_ours(self):
        network = spiking_resnet.spiking_resnet18(spiking_neuron=neuron.IFNode, v_threshold=0.05, num_classes=10)
        functional.set_step_mode(network, "m")
        x = 4 * torch.randn(2, 1, 3, 32, 32)
        assert "conv1" not in non_spiking_layers(network, x)
        sew = sew_resnet.sew_resnet18(spiking_neuron=neuron.IFNode, cnf="ADD", v_threshold=0.05, num_classes=10)
        functional.set_step_mode(sew, "m")
        assert "layer1.1.conv1" in non_spiking_layers(sew, x)  # sums of spikes are not spikes

    def test_of_a_measured_energy(self):
        model, x = lively("gac_ms_resnet8_cifar"), images("cifar")
        assert non_spiking_layers(measure_energy(model, [x])) == non_spiking_layers(model, x)

    def test_without_images(self):
        with pytest.raises(UsageError, match=r"^images .*batch"):
            non_spiking_layers(lively("gac_ms_resnet8_cifar"))


class TestSpikeDriven:
    @pytest.mark.medium
    @pytest.mark.parametrize("name", NETWORKS)
    def test_every_layer_receives_spikes(self, name):
        x = images(name)
        assert non_spiking_layers(lively(name), x)
        model = lively(name, spike_driven=True)
        assert non_spiking_layers(model, x) == []
        shortcuts = [layer for layer in measure_energy(model, [x]).layers if ".shortcut." in layer.name]
        assert shortcuts and all(layer.effective_acs > 0 for layer in shortcuts)

    def test_the_head_is_the_same(self):
        model = lively("gac_ms_resnet8_cifar", spike_driven=True).double()
        features = (torch.rand(3, 2, 64, 4, 4) < 0.4).double()
        expected = torch.nn.functional.linear(features.mean((-2, -1)), model.head.weight, model.head.bias).mean(0)
        torch.testing.assert_close(model.forward_head(features), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(model.forward_head(features, pre_logits=True), features.mean((-2, -1)))
        x = images("cifar").double()
        torch.testing.assert_close(model.forward_sequence(x).mean(0), model(x))

    def test_averaging_behind_the_convolution_gives_the_same(self):
        """Given the same spikes, in training too: the means reach the same BatchNorm."""
        usual, driven = (
            timm.create_model("ms_resnet104", T=2, spike_driven=spike_driven).double().train()
            for spike_driven in (False, True)
        )
        spikes = (torch.rand(2, 3, 64, 8, 8) < 0.3).double()
        shortcuts = [model.stages[1][0].shortcut for model in (usual, driven)]
        shortcuts[1].load_state_dict(
            dict(zip(shortcuts[1].state_dict(), shortcuts[0].state_dict().values(), strict=True))
        )
        torch.testing.assert_close(shortcuts[1](spikes), shortcuts[0](spikes), rtol=1e-10, atol=1e-12)

    def test_weights_of_the_usual_network_fit(self):
        usual, driven = (timm.create_model("gac_ms_resnet18", spike_driven=choice) for choice in (False, True))
        driven.load_state_dict(usual.state_dict())

    def test_dropout_drops_the_same_channels_at_every_pixel_and_step(self):
        model = timm.create_model("ms_resnet8_cifar", T=2, spike_driven=True, drop_rate=0.5).train()
        model.head = torch.nn.Linear(64, 64, bias=False)
        torch.nn.init.eye_(model.head.weight)
        logits = model._logits(torch.ones(2, 3, 64, 4, 4))
        assert set(logits.unique().tolist()) == {0.0, 2.0}
        assert torch.equal(logits[0], logits[1])
        model.eval()
        assert model._logits(torch.ones(2, 3, 64, 4, 4)).unique().tolist() == [1.0]

    def test_every_parameter_gets_a_gradient(self):
        model = timm.create_model("gac_ms_resnet8_cifar", spike_driven=True).train()
        model(images("cifar")).square().sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())

    def test_published_weights_are_refused(self):
        model = timm.create_model("ms_resnet18_cifar", spike_driven=True)
        with pytest.raises(ValueError, match=r"spike_driven.*create it without"):
            checkpoint.load_reference_state_dict(model, {})
