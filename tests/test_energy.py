"""Energy: networks computed by hand, SpikingJelly's own counters, the published table, and errors."""

from dataclasses import replace

import pytest
import timm
import torch
from helpers.networks import sequence, small_network
from spikingjelly.activation_based import functional, layer, neuron
from spikingjelly.activation_based.model import sew_resnet, spiking_resnet
from torch import nn

import gac_sj
from gac_sj._utils.errors import UsageError
from gac_sj.analysis import measure_energy
from gac_sj.analysis.energy_profile import energy_profile

try:
    from spikingjelly.activation_based import op_counter
except ImportError:
    op_counter = None
NEEDS_COUNTERS = pytest.mark.skipif(op_counter is None, reason="SpikingJelly 0.0.0.0.14 has no op_counter")


def by_name(energy):
    return {layer.name: layer for layer in energy.layers}


class TestHandComputed:
    def test_layers(self):
        layers = by_name(measure_energy(small_network(), [sequence()]))
        first, last = layers["0"], layers["3"]
        assert (first.receives, first.dense_macs, first.effective_macs, first.effective_acs) == ("floats", 16, 12, 0)
        assert (last.receives, last.dense_macs, last.effective_macs, last.effective_acs) == ("spikes", 48, 0, 18)
        assert first.firing_rate == 3 / 4 and last.firing_rate == 6 / 16
        assert not first.after_encoder and last.after_encoder

    def test_energies(self):
        energy = measure_energy(small_network(), [sequence()])
        assert energy.complete_pj == pytest.approx(12 * 4.6 + 18 * 0.9)
        assert energy.paper_pj == pytest.approx(8 * 4.6 + 6 / 16 * 48 * 0.9)  # the first layer once
        assert energy.firing_rate == pytest.approx(6 / 16)
        assert energy.paper_pj_at(0.5) == pytest.approx(8 * 4.6 + 0.5 * 48 * 0.9)
        assert energy.encoder_pj == 0

    def test_other_constants(self):
        costs = replace(energy_profile("45nm"), mac=2.0, ac=1.0)
        energy = measure_energy(small_network(), [sequence()], energy=costs)
        assert energy.complete_pj == 12 * 2 + 18

    def test_counts_are_per_image(self):
        x = sequence()
        one = measure_energy(small_network(), [x])
        batched = measure_energy(small_network(), [x.expand(2, 5, 1, 2, 2), (x, torch.tensor([0]))])
        assert batched.images == 6
        assert batched.layers == one.layers

    def test_border_pixels_reach_fewer_outputs(self):
        network = nn.Sequential(layer.Conv2d(1, 1, 3, padding=1, bias=False), neuron.IFNode())
        image = torch.zeros(1, 1, 3, 3)
        image[..., 0, 0] = 0.5  # a corner reaches 4 of the 9 outputs
        (found,) = measure_energy(network, [image]).layers
        assert (found.dense_macs, found.effective_macs) == (81, 4)

    @pytest.mark.parametrize("groups, channels", [(1, 4), (2, 4), (4, 8)])
    def test_groups_strides_and_transposition(self, groups, channels):
        for cls in (nn.Conv2d, nn.ConvTranspose2d):
            conv = cls(4, channels, 3, stride=2, padding=1, groups=groups, bias=False)
            nn.init.ones_(conv.weight)
            x = (torch.rand(2, 4, 5, 5) < 0.3).float()
            found = measure_energy(nn.Sequential(conv, neuron.IFNode()), [x]).layers[0]
            # with all weights 1 the outputs add up to the number of accumulations
            assert found.effective_acs == pytest.approx(conv(x).sum().item() / 2)
            full = measure_energy(nn.Sequential(conv, neuron.IFNode()), [torch.ones(2, 4, 5, 5)]).layers[0]
            positions = 5 * 5 if cls is nn.ConvTranspose2d else 3 * 3
            assert full.dense_macs == positions * 9 * 4 * channels / groups

    def test_gate_of_two_float_maps_and_of_spikes(self):
        class Gate(nn.Module):
            def forward(self, x):
                return x * torch.tensor([[0.5], [0.25]]) * 2.0  # the plain factor folds away

        floats = torch.tensor([[[3.0], [0.0]]])
        found = measure_energy(nn.Sequential(nn.Identity(), Gate(), nn.Linear(1, 1), neuron.IFNode()), [(floats, [0])])
        assert by_name(found)["1 (gate)"].effective_macs == 1
        assert by_name(found)["1 (gate)"].paper_pj == 0
        found = measure_energy(nn.Sequential(Gate(), nn.Linear(1, 1), neuron.IFNode()), [(floats / 3, [0])])
        assert by_name(found)["0 (gate)"].effective_acs == 1
        assert by_name(found)["0 (gate)"].effective_macs == 0


class TestPublishedTable:
    @pytest.mark.medium
    @pytest.mark.parametrize(
        "name, T, rate, millijoules",
        [
            ("gac_ms_resnet18", 4, 0.157, 1.49),
            ("gac_ms_resnet18", 6, 0.199, 2.34),
            ("gac_ms_resnet34", 4, 0.131, 2.20),
            ("gac_ms_resnet34", 6, 0.149, 3.38),
        ],
    )
    def test_paper_convention(self, name, T, rate, millijoules):
        energy = measure_energy(timm.create_model(name, T=T), [torch.randn(1, 3, 224, 224)])
        assert energy.paper_pj_at(rate) / 1e9 == pytest.approx(millijoules, rel=0.05)
        # what was left out alone needs more than a whole network of this table
        spatial = [layer for layer in energy.layers if layer.name.startswith("encoder.gau.spatial_channel.")]
        assert sum(layer.dense_macs for layer in spatial) == pytest.approx(1644.2e6, rel=1e-3)
        assert 4.6 * 1644.2e6 / 1e9 > 3.38


class TestEncoders:
    def test_an_image_is_encoded_once(self):
        encoder = gac_sj.GatedAttentionCoding(T=3, channels=4)
        network = nn.Sequential(encoder, layer.Flatten(), layer.Linear(4 * 36, 2))
        functional.set_step_mode(network, "m")
        image = torch.randn(2, 3, 6, 6)
        once = by_name(measure_energy(network, [image]))
        repeated = by_name(measure_energy(network, [image.expand(3, -1, -1, -1, -1)]))
        for name in ("0.stem.0", "0.gau.spatial_channel.convolutions.1"):
            assert repeated[name].dense_macs == 3 * once[name].dense_macs
            assert repeated[name].paper_macs == once[name].paper_macs
        assert once["0.stem.0"].paper_macs == 6 * 6 * 4 * 27
        spatial = once["0.gau.spatial_channel.convolutions.0"]
        assert spatial.paper_pj == spatial.paper_dense == 0
        assert {layer.name for layer in measure_energy(network, [image]).layers if layer.in_encoder} == {
            "0.stem.0", "0.gau.temporal.squeeze", "0.gau.temporal.excite",
            "0.gau.spatial_channel.convolutions.0", "0.gau.spatial_channel.convolutions.1", "0.gau (gate)"
        }  # fmt: skip

    def test_gated_spikes_are_floats_and_pixels_of_poisson_coding_are_spikes(self):
        gated = nn.Sequential(gac_sj.GatedAttentionCoding(T=2, channels=4), layer.Conv2d(4, 2, 1))
        poisson = nn.Sequential(gac_sj.PoissonCoding(T=2, channels=4), neuron.LIFNode())
        functional.set_step_mode(gated, "m"), functional.set_step_mode(poisson, "m")
        assert by_name(measure_energy(gated, [3 * torch.randn(1, 3, 6, 6)]))["1"].receives == "floats"
        stem = by_name(measure_energy(poisson, [torch.rand(1, 3, 6, 6)]))["0.stem.0"]
        assert stem.receives == "spikes" and stem.effective_acs > 0 == stem.effective_macs

    @pytest.mark.parametrize("gate", ["after", "before"])
    def test_a_lite_gate_by_hand(self, gate):
        """One depthwise convolution of the image, its product with the temporal attention, and that with the input."""
        encoder = gac_sj.GatedAttentionCoding(T=3, channels=4, form="lite", gate=gate).eval()
        network = nn.Sequential(encoder, layer.Conv2d(4, 2, 1, bias=False))
        functional.set_step_mode(network, "m")
        image = 3 * torch.randn(2, 3, 6, 6)
        found, spikes = by_name(measure_energy(network, [image])), (encoder(image) != 0).sum().item() / 2
        assert found["0.gau.spatial_channel.convolutions.0"].dense_macs == 6 * 6 * 4 * 9
        products = found["0.gau (gate)"]
        assert products.dense_macs == 2 * 3 * 6 * 6 * 4 and products.in_attention
        assert products.effective_acs == (spikes if gate == "after" else 0) < products.effective_macs
        behind = found["1"]
        assert behind.receives == ("floats" if gate == "after" else "spikes") and spikes > 0
        assert (behind.effective_macs, behind.effective_acs)[gate == "before"] == 2 * spikes

    def test_matched_direct_coding_has_no_attention_to_leave_out(self):
        energy = measure_energy(
            timm.create_model("ms_resnet8_cifar", encoder="direct_matched"), [torch.randn(1, 3, 32, 32)]
        )
        for at in range(2):
            branch = by_name(energy)[f"encoder.spatial_channel.convolutions.{at}"]
            assert branch.paper_dense == branch.dense_macs > 0 and branch.paper_pj > 0

    def test_own_encoder_names_its_attention(self):
        class Attended(gac_sj.Encoder):
            attention_names = ("weighting",)

            def __init__(self):
                super().__init__(T=2, channels=4)
                self.weighting = nn.Conv2d(4, 4, 1)
                self.mixing = nn.Conv2d(4, 4, 1)

            def encode(self, x):
                z = self.features(x)
                return self.over_time(self.mixing(z * self.weighting(z)))

        energy = measure_energy(nn.Sequential(Attended(), neuron.IFNode(step_mode="m")), [torch.randn(1, 3, 8, 8)])
        assert [layer.name for layer in energy.layers if layer.in_attention] == ["0.weighting"]
        assert energy.attention_pj == pytest.approx(by_name(energy)["0.weighting"].complete_pj)
        assert by_name(energy)["0.weighting"].paper_dense == 0 < by_name(energy)["0.mixing"].paper_dense

    def test_encoder_part(self):
        energy = measure_energy(timm.create_model("gac_ms_resnet8_cifar"), [torch.randn(1, 3, 32, 32)])
        parts = [layer.complete_pj for layer in energy.layers if layer.name.startswith("encoder.")]
        assert energy.encoder_pj == pytest.approx(sum(parts)) and 0 < energy.encoder_pj < energy.complete_pj


@NEEDS_COUNTERS
class TestSpikingJellyCounters:
    """Where the definitions coincide: dense MACs of what receives floats, accumulations of what receives spikes."""

    @staticmethod
    def counters(model, x):
        ignored = [neuron.BaseNode, nn.BatchNorm2d, nn.BatchNorm1d]
        macs = op_counter.MACCounter(extra_ignore_modules=ignored)
        synops = op_counter.SynOpCounter(extra_ignore_modules=ignored)
        functional.reset_net(model)
        with torch.no_grad(), op_counter.DispatchCounterMode([macs, synops]):
            model.eval()(x)
        functional.reset_net(model)
        return macs.get_total(), synops.get_total()

    @pytest.mark.parametrize("name", ["gac_ms_resnet8_cifar", "ms_resnet8_cifar"])
    def test_our_networks(self, name):
        self.check(timm.create_model(name, T=3), torch.randn(2, 3, 32, 32), 2)

    def test_spiking_resnet(self):
        network = spiking_resnet.spiking_resnet18(spiking_neuron=neuron.IFNode, v_threshold=0.1, num_classes=10)
        functional.set_step_mode(network, "m")
        self.check(network, torch.randn(2, 2, 3, 32, 32), 2)

    def test_products_of_spikes_and_spikes(self):
        from spikingjelly.activation_based.model import spikformer

        network = spikformer.Spikformer(
            T=2, img_size_h=32, img_size_w=32, patch_size=4, num_classes=10, embed_dims=32, num_heads=2, depths=1
        )
        for module in network.modules():
            if isinstance(module, neuron.BaseNode):
                module.v_threshold = 0.05  # at initialisation its attention is silent
        self.check(network, torch.randn(2, 3, 32, 32), 2)
        attention = [
            layer for layer in measure_energy(network, [torch.randn(2, 3, 32, 32)]).layers if "attn" in layer.name
        ]
        assert any(layer.effective_acs > 0 for layer in attention)

    def check(self, model, x, images):
        macs, synops = self.counters(model, x)
        contractions = [layer for layer in measure_energy(model, [x]).layers if not layer.name.endswith("(gate)")]
        assert synops > 0
        assert images * sum(layer.effective_acs for layer in contractions) == pytest.approx(synops)
        floats = [layer.dense_macs for layer in contractions if layer.receives == "floats"]
        assert images * sum(floats) == pytest.approx(macs)


class TestAnyNetwork:
    def test_single_steps_count_as_the_sequence(self):
        network = sew_resnet.sew_resnet18(spiking_neuron=neuron.IFNode, cnf="ADD", v_threshold=0.1, num_classes=10)
        image = torch.randn(1, 3, 32, 32)
        functional.set_step_mode(network, "m")
        multi = measure_energy(network, [image.expand(3, -1, -1, -1, -1)])
        functional.set_step_mode(network, "s")
        single = measure_energy(network, [image], T=3)
        assert by_name(single)["layer1.0.conv1"].effective_acs > 0
        assert [layer.name for layer in single.layers] == [layer.name for layer in multi.layers]
        assert single.complete_pj == pytest.approx(multi.complete_pj)
        assert single.paper_pj == pytest.approx(multi.paper_pj)
        given = measure_energy(network, [image.expand(3, -1, -1, -1, -1)], T=3)
        assert given.complete_pj == pytest.approx(single.complete_pj)

    def test_batches_start_from_a_reset_state(self):
        network, x = small_network(), sequence()
        twice = measure_energy(network, [x, x])
        assert twice.layers == measure_energy(network, [x]).layers

    def test_network_is_not_changed(self):
        network = timm.create_model("gac_ms_resnet8_cifar").train()
        network.head.eval()
        before = {name: value.clone() for name, value in network.state_dict().items()}
        measure_energy(network, [torch.randn(1, 3, 32, 32)])
        assert network.training and network.encoder.training and not network.head.training
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())

    def test_no_hooks_remain_after_an_error(self):
        network = timm.create_model("gac_ms_resnet8_cifar")
        with pytest.raises(ValueError, match=r"got .*5, 32, 32"):
            measure_energy(network, [torch.randn(1, 5, 32, 32)])
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())

    def test_half_precision_counts_exactly(self):
        network, x = small_network().to(torch.bfloat16), sequence().to(torch.bfloat16)
        assert measure_energy(network, [x]).complete_pj == pytest.approx(12 * 4.6 + 18 * 0.9)

    def test_printed_table(self):
        lines = str(measure_energy(small_network(), [sequence()])).splitlines()
        assert [line.split()[0] for line in lines] == ["layer", "0", "3", "total"]
        assert lines[-1].split()[1:4] == ["64", "12", "18"]


class Functional(nn.Module):
    """The same convolution in front of a neuron and behind it, called as a function."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1, 1, 1))
        self.neuron = neuron.IFNode(v_threshold=0.5)

    def forward(self, x):
        x = self.neuron(nn.functional.conv2d(x, self.weight))
        return nn.functional.conv2d(nn.functional.avg_pool2d(x, 2), self.weight)


class TestHowPyTorchRuns:
    """The counts do not depend on it."""

    def test_calls_in_front_of_a_neuron_and_behind_it_are_two_layers(self):
        image = torch.tensor([[[[1.0, 0.2], [0.2, 0.2]]]])
        before, after = measure_energy(Functional(), [image]).layers
        assert (before.dense_macs, after.dense_macs) == (4, 1)
        assert not before.after_encoder and after.after_encoder and after.receives == "floats"

    def test_autocast(self):
        network, x = small_network(), sequence()
        with torch.autocast("cpu", torch.bfloat16):
            assert measure_energy(network, [x]).layers == measure_energy(network, [x]).layers
            found = measure_energy(network, [x])
        assert found.layers == measure_energy(network, [x]).layers

    def test_inference_mode(self):
        network = small_network()
        with torch.inference_mode():
            assert measure_energy(network, [sequence()]).complete_pj == pytest.approx(12 * 4.6 + 18 * 0.9)

    def test_fused_attention(self):
        class Attention(nn.Module):
            def __init__(self, fused):
                super().__init__()
                self.neuron, self.fused = neuron.IFNode(v_threshold=0.5), fused

            def forward(self, x):
                s = self.neuron(x)
                if self.fused:
                    return nn.functional.scaled_dot_product_attention(s, s, s)
                return (s @ s.transpose(-2, -1) / s.shape[-1] ** 0.5).softmax(-1) @ s

        x = torch.rand(2, 3, 5, 4)
        fused, plain = (measure_energy(Attention(fused), [(x, [0, 1])]) for fused in (True, False))
        assert fused.total("dense_macs") >= plain.total("dense_macs") == 2 * 3 * 5 * 5 * 4

    def test_the_batch_size_does_not_matter_at_one_step(self):
        model, images = timm.create_model("gac_ms_resnet8_cifar", T=1), torch.randn(2, 3, 32, 32)
        alone = measure_energy(model, [images[:1], images[1:]])
        assert alone.complete_pj == pytest.approx(measure_energy(model, [images]).complete_pj)

    def test_a_first_linear_layer_counts_once(self):
        network = nn.Sequential(layer.Linear(3, 2), neuron.IFNode(), layer.Linear(2, 2))
        functional.set_step_mode(network, "m")
        found = by_name(measure_energy(network, [torch.rand(4, 5, 3)]))["0"]
        assert (found.dense_macs, found.paper_macs) == (24, 6)
        tokens = measure_energy(nn.Sequential(nn.Linear(3, 2), neuron.IFNode()), [(torch.rand(5, 7, 3), range(5))])
        assert by_name(tokens)["0"].paper_macs == 42

    def test_loaders_with_more_than_labels(self):
        x, labels = sequence(), torch.tensor([0])
        for batch in ((x,), (x, labels, "more"), [x, labels]):
            assert measure_energy(small_network(), [batch]).images == 1


class TestErrors:
    def test_network_without_neurons(self):
        with pytest.raises(UsageError, match=r"Sequential .*SpikingJelly neurons"):
            measure_energy(nn.Sequential(nn.Linear(2, 2)), [torch.randn(1, 2)])

    def test_loader_without_images(self):
        with pytest.raises(UsageError, match=r"^loader .*at least one batch"):
            measure_energy(small_network(), [])

    def test_network_without_products(self):
        with pytest.raises(UsageError, match=r"Sequential .*whole network"):
            measure_energy(nn.Sequential(neuron.IFNode()), [torch.randn(1, 2)])

    @pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
    def test_rate_outside_0_to_1(self, rate):
        with pytest.raises(UsageError, match=rf"^rate .*got {rate}"):
            measure_energy(small_network(), [sequence()]).paper_pj_at(rate)
