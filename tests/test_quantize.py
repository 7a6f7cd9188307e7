"""Layers with integer weights: the path on bytes against the definition, and which layers and neurons are chosen."""

import copy
import pickle

import pytest
import timm
import torch
from helpers.networks import wake
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import gac_sj
from gac_sj import LIFNode, fold_batch_norm, quantize
from gac_sj._utils.errors import UsageError
from gac_sj.analysis import firing_rates, measure_energy
from gac_sj.nn.quantized import BITS, Quantized, quantized_layer, why_not_quantized
from gac_sj.ops import int8

NAME = "gac_ms_resnet8_cifar"
SHORTCUTS = ["stages.1.0.shortcut.1", "stages.2.0.shortcut.1"]

on_bytes = pytest.mark.skipif(int8.why_not() is not None, reason=f"no products of bytes: {int8.why_not()}")
#: layers, and the shapes of their inputs
LAYERS = [
    (nn.Conv2d(16, 24, 3, padding=1), (2, 16, 9, 7)),
    (layer.Conv2d(16, 24, 3, stride=2, padding=(2, 1), groups=4, bias=False, step_mode="m"), (3, 2, 16, 9, 7)),
    (nn.Conv2d(6, 5, (3, 5), dilation=2, padding="same"), (2, 6, 12, 13)),
    (nn.Conv2d(16, 8, 1, stride=2), (2, 16, 9, 7)),
    (nn.Conv2d(130, 70, 3, padding="valid"), (130, 5, 5)),
    (nn.Conv2d(8, 8, 3, padding=1, groups=8), (1, 8, 5, 5)),
    (layer.Conv1d(8, 12, 3, padding=1, step_mode="m"), (3, 2, 8, 11)),
    (nn.Linear(33, 7), (3, 4, 33)),
    (layer.Linear(33, 7, bias=False, step_mode="m"), (4, 2, 33)),
    (nn.Linear(5, 3), (5,)),
]


@pytest.fixture(autouse=True)
def quiet(one_thread, default_ops):
    with torch.no_grad():
        yield


def network(name=NAME, T=2, **options):
    return wake(timm.create_model(name, T=T, **options), torch.randn(4, 3, 32, 32))


def relative(found, expected):
    return ((found.double() - expected.double()).abs().max() / expected.double().abs().max()).item()


def quantised(model):
    return [name for name, module in model.named_modules() if isinstance(module, Quantized)]


class TestLayers:
    @pytest.mark.parametrize("original,shape", LAYERS, ids=str)
    @pytest.mark.parametrize("bits", BITS)
    def test_both_paths_are_the_rounded_convolution(self, original, shape, bits):
        """7e-7: the rounding of float sums. 16 bits: within 1e-4 of the float layer."""
        spikes = torch.rand(shape) < 0.2
        expected = original(spikes.float())
        fast, slow = quantized_layer(original, bits), quantized_layer(original, bits, fast=False)
        results = [fast(spikes.to(torch.uint8)), fast(spikes.float()), slow(spikes.float()), slow(spikes.byte())]
        for found in results:
            assert found.shape == expected.shape and found.dtype == torch.float32
            assert relative(found, results[2]) < 7e-7
            assert relative(found, expected) < {8: 0.02, 16: 1e-4}[bits]

    @pytest.mark.parametrize("bits", BITS)
    def test_weights_by_hand(self, bits):
        original = nn.Linear(3, 2, bias=False)
        largest = {8: 127, 16: 32639}[bits]
        original.weight.copy_(torch.tensor([[1.0, -1.0, 0.6 / largest], [0.0, 0.0, 0.0]]))
        found = quantized_layer(original, bits)
        assert found.weight.dtype == torch.int8 and found.scale.tolist() == [pytest.approx(1 / largest), 1.0]
        numbers = found.weight.int() if bits == 8 else 256 * found.weight.int() + found.low.int()
        assert numbers.tolist() == [[largest, -largest, 1], [0, 0, 0]]
        assert found.rounded_weight()[0].tolist() == pytest.approx([1.0, -1.0, 1 / largest])

    def test_numbers_that_are_no_bytes_take_the_definition(self):
        found = quantized_layer(nn.Linear(6, 3), 8)
        for x in (torch.rand(4, 6), -torch.ones(4, 6), torch.full((4, 6), 256.0), torch.full((4, 6), torch.nan)):
            torch.testing.assert_close(
                found(x), x @ found.rounded_weight().T + found.bias, equal_nan=True, rtol=1e-5, atol=1e-5
            )

    @pytest.mark.parametrize("bits", BITS)
    def test_autocast_and_half_types(self, bits):
        original, spikes = nn.Conv2d(16, 8, 3), (torch.rand(2, 16, 6, 6) < 0.3).byte()
        found = quantized_layer(original, bits)
        with torch.autocast("cpu", torch.bfloat16):
            cast = found(spikes)
        assert cast.dtype == torch.bfloat16 and relative(cast, found(spikes)) < 1e-2
        assert found.half()(spikes).dtype == torch.float16
        assert found.double()(spikes).dtype == torch.float64

    def test_gradients_are_those_of_the_definition(self):
        found, x = quantized_layer(nn.Conv2d(4, 3, 3), 8), torch.ones(1, 4, 3, 3, requires_grad=True)
        with torch.enable_grad():
            found(x).sum().backward()
        torch.testing.assert_close(x.grad[0], found.rounded_weight().sum(0))

    def test_new_weights_are_used(self):
        """What was packed for the old ones is dropped, also in copies."""
        found, other = (quantized_layer(nn.Conv2d(4, 3, 1), 8) for _ in range(2))
        x = torch.ones(1, 4, 2, 2)
        before = found(x)
        for copied in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
            assert torch.equal(copied(x), before)
            copied.load_state_dict(other.state_dict())
            assert torch.equal(copied(x), other(x)) and not torch.equal(copied(x), before)

    @pytest.mark.parametrize(
        "module,reason",
        [
            (nn.Conv3d(1, 1, 1), "neither"),
            (nn.ConvTranspose2d(1, 1, 1), "neither"),
            (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "padding"),
            (nn.Conv2d(1, 1, 2, padding="same"), "padding"),
            (weight_norm(nn.Linear(2, 2)), "parametrisation"),
            (type("Mine", (nn.Linear,), {"forward": lambda self, x: x})(2, 2), "another forward"),
            (nn.Linear(2, 2).requires_grad_(False).apply(lambda module: module.weight.fill_(torch.inf)), "finite"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_layers_that_stay(self, module, reason):
        assert reason in why_not_quantized(module)


class TestNetworks:
    @pytest.mark.parametrize("bits", BITS)
    def test_layers_and_neurons_are_found(self, bits):
        model, images = network(), torch.randn(2, 3, 32, 32)
        found = quantize(model, bits, images)
        blocks = [f"stages.{stage}.0" for stage in range(3)]
        assert found.quantization.layers == tuple(f"{block}.conv{i}" for block in blocks for i in (1, 2))
        assert found.quantization.byte_neurons == tuple(f"{block}.lif{i}" for block in blocks for i in (1, 2))
        assert list(found.quantization.float_layers) == [*SHORTCUTS, "head"]
        assert set(quantised(found)) == set(found.quantization.layers) and quantised(model) == []
        definition = quantize(model, bits, images, backend="torch")
        assert relative(found(images), definition(images)) < 1e-5
        assert relative(found(images), model(images)) < 0.2
        assert not any(parameter.requires_grad for parameter in found.parameters())

    def test_a_spike_driven_network(self):
        """Its shortcuts and its head receive spikes too; the last neuron's are also those of forward_features."""
        model, images = network("ms_resnet8_cifar", spike_driven=True), torch.randn(2, 3, 32, 32)
        found = quantize(model, 16, images)
        assert {*SHORTCUTS, "head"} < set(found.quantization.layers) and found.quantization.float_layers == {}
        assert found.forward_features(images).dtype == torch.float32
        torch.testing.assert_close(found(images), model(images), rtol=0.01, atol=0.01)

    def test_a_gate_before_the_neuron_leaves_it_its_bytes(self):
        encoder = gac_sj.GatedAttentionCoding(4, 3, 8, form="lite", gate="before")
        net = nn.Sequential(encoder, layer.Conv2d(8, 8, 3), layer.BatchNorm2d(8), LIFNode(), layer.Conv2d(8, 4, 1))
        functional.set_step_mode(net, "m")
        images = torch.randn(2, 3, 8, 8)
        found = quantize(wake(net, images), 16, images)
        assert found.quantization.byte_neurons == ("0.neuron", "3")
        torch.testing.assert_close(found(images), net(images), rtol=0.01, atol=0.01)

    def test_pooled_spikes(self):
        """A max-pool of bytes is bytes, an average is not; a neuron that something else reads writes floats."""
        conv = nn.Conv2d
        net = nn.Sequential(conv(3, 8, 3), LIFNode(step_mode="s"), nn.MaxPool2d(2), conv(8, 8, 3), nn.BatchNorm2d(8))
        net += nn.Sequential(LIFNode(step_mode="s"), nn.AvgPool2d(2), conv(8, 4, 1), LIFNode(step_mode="s"))
        net += nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
        images = torch.randn(2, 3, 16, 40)
        wake(net, images)
        found = quantize(net, images=images)
        assert found.quantization.layers == ("3", "10") and found.quantization.byte_neurons == ("1", "8")
        assert found.quantization.byte_pools == ("2",)
        assert list(found.quantization.float_layers) == ["7"]  # the first layer is in front of the neurons
        assert relative(found(images), quantize(net, images=images, backend="torch")(images)) < 1e-5

    @pytest.mark.medium
    def test_networks_of_spikingjelly(self):
        """Its own neurons write floats, which the layers take as well."""
        model = gac_sj.models.create_network(
            "spikingjelly:spiking_resnet18", None, T=2, encoder="direct", form=None, num_classes=4, shape=(3, 32, 32),
            statistics={"mean": (0.5,) * 3, "std": (0.5,) * 3}, options={},
        )  # fmt: skip
        images = torch.randn(2, 3, 32, 32)
        wake(model, images)
        found = quantize(model, 16, images)
        assert len(found.quantization.layers) > 10
        assert relative(found(images), model(images)) < 0.05

    def test_spikingjelly_neurons_and_step_mode_s(self):
        net = nn.Sequential(layer.Conv2d(3, 4, 3), neuron.LIFNode(), layer.Conv2d(4, 5, 3, bias=False))
        images = 5 * torch.randn(2, 3, 8, 8)
        found = quantize(net.eval(), 16, images)
        assert found.quantization.layers == ("2",) and found.quantization.byte_neurons == ()
        for _ in range(3):
            torch.testing.assert_close(found(images), net(images), rtol=1e-4, atol=1e-4)

    def test_what_a_user_put_in_stays(self):
        model, seen = network(), []
        model.stages[0][0].conv1.register_forward_hook(lambda *_: seen.append(1))
        model.stages[1][0].lif2.register_forward_hook(lambda module, inputs, output: seen.append(output.mean()))
        model.stages[2][0].conv2 = nn.Sequential(model.stages[2][0].conv2, nn.Identity()).eval()
        images = torch.randn(2, 3, 32, 32)
        found = quantize(model, images=images)
        assert "hook" in found.quantization.float_layers["stages.0.0.conv1"]
        assert "stages.2.0.conv2.0" in found.quantization.layers
        assert {"stages.0.0.lif1", "stages.1.0.lif2"}.isdisjoint(found.quantization.byte_neurons)
        seen.clear()
        found(images)
        assert len(seen) == 2

    def test_silent_layers(self):
        """Zeros from a neuron are spikes; others say nothing about what the layer receives from other images."""
        silent = LIFNode(step_mode="s", v_threshold=1e9)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), silent, nn.Conv2d(4, 4, 3), silent, nn.AdaptiveAvgPool2d(1))
        net += nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        net[2].bias.zero_()
        found = quantize(net.eval(), images=torch.randn(2, 3, 8, 8)).quantization
        assert found.layers == ("2",) and "zeros only" in found.float_layers["6"]

    def test_a_layer_under_two_names(self):
        shared = nn.Linear(4, 4)
        net = nn.Sequential(nn.Linear(4, 4), LIFNode(step_mode="s", v_threshold=0.1), shared)
        net += nn.Sequential(LIFNode(step_mode="s", v_threshold=0.1), shared)
        found = quantize(net.eval(), images=torch.randn(8, 4, 1, 1).flatten(1))
        assert found[2] is found[4] and isinstance(found[2], Quantized)

    def test_analysis_of_a_quantised_network(self):
        """The energy of bytes: 0.1 pJ for an accumulation (Horowitz, ISSCC 2014), and once for each plane."""
        model, images = network(), torch.randn(2, 3, 32, 32)
        floats = measure_energy(fold_batch_norm(model), [images])
        for bits, ac in ((8, 0.1), (16, 0.2)):
            found = quantize(model, bits, images)
            energy = measure_energy(found, [images])
            assert [layer.name for layer in energy.layers] == [layer.name for layer in floats.layers]
            for by_layer, before in zip(energy.layers, floats.layers):
                assert (by_layer.dense_macs, by_layer.receives) == (before.dense_macs, before.receives)
                if by_layer.name in found.quantization.layers:
                    assert by_layer.complete_pj == pytest.approx(ac * by_layer.effective_acs)
            assert energy.paper_pj_at(0.5) < floats.paper_pj_at(0.5)
            with firing_rates(found, by_step=True) as rates:
                found(images)
            assert all(0 <= rate <= 1 for steps in rates.values() for rate in steps)

    def test_saved_weights(self, tmp_path):
        model, images = network(spike_driven=True), torch.randn(2, 3, 32, 32)
        for bits in BITS:
            found = quantize(model, bits, images)
            gac_sj.checkpoint.save_pretrained(found, tmp_path / str(bits))
            loaded = gac_sj.checkpoint.load_pretrained(tmp_path / str(bits))
            assert torch.equal(loaded(images), found(images))
            assert loaded.quantization.as_config() == found.quantization.as_config()
        (tmp_path / "8" / "config.json").write_text(
            (tmp_path / "8" / "config.json").read_text().replace('"bits": 8', '"bits": 4')
        )
        with pytest.raises(UsageError, match=r"quantization.*8 or 16"):
            gac_sj.checkpoint.load_pretrained(tmp_path / "8")

    @pytest.mark.medium
    def test_exports_have_the_integers(self, tmp_path):
        """Two planes of them with 16 bits."""
        onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
        net = nn.Sequential(
            gac_sj.create_encoder("direct", T=2, in_channels=3, channels=4),
            *(layer.Conv2d(4, 8, 3, bias=False), layer.BatchNorm2d(8), LIFNode(), layer.Conv2d(8, 5, 3), LIFNode()),
            *(layer.Flatten(), layer.Linear(80, 4)),
        )
        functional.set_step_mode(net, "m")
        images, others = torch.randn(2, 3, 8, 8), torch.randn(3, 3, 8, 8)
        found = quantize(wake(net, images), 16, images)
        assert len(found.quantization.layers) == len(found.quantization.byte_neurons) == 2
        gac_sj.export.to_onnx(found, tmp_path / "model.onnx", images)
        graph = onnx.load(tmp_path / "model.onnx").graph
        integers = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
        assert {f"{name}.{plane}" for name in found.quantization.layers for plane in ("weight", "low")} <= integers
        assert sum(node.op_type == "DequantizeLinear" for node in graph.node) == len(integers)
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
        (logits,) = session.run(None, {"images": others.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), found(others), rtol=1e-4, atol=1e-4)
        program = gac_sj.export.to_program(found, images)
        assert "gac_sj." not in program.graph_module.code
        torch.testing.assert_close(program.module()(others), found(others), rtol=1e-4, atol=1e-4)


@on_bytes
def test_the_neurons_write_bytes(monkeypatch):
    seen = []
    original = int8.Convolution.__call__
    monkeypatch.setattr(
        int8.Convolution,
        "__call__",
        lambda self, x, dtype: (
            seen.append((x.dtype, x.is_contiguous(memory_format=torch.channels_last))) or original(self, x, dtype)
        ),
    )
    model, images = network(), torch.randn(2, 3, 32, 32)
    found = quantize(model, images=images)
    inputs = []
    for name in found.quantization.layers:
        found.get_submodule(name).register_forward_pre_hook(lambda module, given: inputs.append(given[0].dtype))
    found(images)
    assert seen == [(torch.uint8, True)] * 6 and inputs == [torch.uint8] * 6


class TestErrors:
    def refused(self, match, model=None, **options):
        options = {"images": torch.randn(2, 3, 32, 32)} | options
        with pytest.raises(UsageError, match=match) as caught:
            quantize(network() if model is None else model, **options)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("bits", [4, 32, True, "8", None])
    def test_other_bits(self, bits):
        self.refused(r"^bits must be .* choose one of 8, 16", bits=bits)

    def test_training_mode(self):
        self.refused(r"training mode.*eval\(\)", network().train())

    def test_no_images(self):
        self.refused(r"^images must be a batch.*pass", images=None)

    def test_images_that_do_not_fit(self):
        self.refused(r"needs images \[N, 3, H, W\]", images=torch.randn(2, 5, 32, 32))
        net = nn.Sequential(nn.Conv2d(4, 4, 3), LIFNode(step_mode="s"), nn.Conv2d(4, 4, 3)).eval()
        self.refused(r"^images must be a batch that Sequential takes", net)

    def test_no_spikes(self):
        self.refused("no spiking neurons", nn.Sequential(nn.Conv2d(3, 4, 3)).eval())
        net = nn.Sequential(nn.Conv2d(3, 4, 3), LIFNode(step_mode="s")).eval()
        self.refused("No convolution or linear layer.*spikes of neurons", net)

    def test_quantised_already(self):
        self.refused("quantised already", quantize(network(), images=torch.randn(2, 3, 32, 32)))

    def test_backends(self, monkeypatch):
        self.refused(r"^backend must be.*auto, onednn, torch", backend="fbgemm")
        monkeypatch.setattr(int8, "why_not", lambda: "the CPU has no VNNI")
        self.refused(r"^backend cannot be 'onednn', because the CPU has no VNNI; pass 'auto'", backend="onednn")
        model, images = network(), torch.randn(2, 3, 32, 32)
        with pytest.warns(UserWarning, match="runs in floats: the CPU has no VNNI"):
            found = quantize(model, images=images)
        assert (found.quantization.path, found.quantization.reason) == ("torch", "the CPU has no VNNI")
        assert torch.equal(found(images), quantize(model, images=images, backend="torch")(images))
