"""Exports of networks: split, NIR, ONNX and torch.export, each compared with the network that was exported."""

import importlib.util
import os
import subprocess
import sys

import pytest
import timm
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import gac_sj
from gac_sj._utils.errors import UsageError
from gac_sj.export import split, to_nir, to_onnx, to_program

IMAGES = 16
NAME = "gac_ms_resnet8_cifar"
FORMS = ["low_threshold", "reference"]
BEFORE = dict(form="lite", gate="before")
needs_nir = pytest.mark.skipif(
    importlib.util.find_spec("spikingjelly.activation_based.nir_exchange") is None,
    reason="this SpikingJelly cannot exchange NIR graphs",
)


def lively(name=NAME, opened=40.0, **options):
    """A network in which every layer fires and the gate has different values, as in a trained network."""
    model = timm.create_model(name, **dict(T=4, spike_driven=True) | options)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.constant_(module.weight, 2.0)
            nn.init.normal_(module.bias, 0.0, 0.3)
            module.momentum = None  # the mean over all batches
    if hasattr(model.encoder, "gau"):
        for part in (model.encoder.gau.temporal, model.encoder.gau.spatial_channel):
            parameters = list(part.parameters())
            for parameter in parameters:
                parameter.data *= opened ** (1 / len(parameters) / 2)
    nn.init.normal_(model.head.weight)
    with torch.no_grad():
        model.train()(torch.randn(8, 3, 32, 32))
    return model.eval()


def with_learnable_numbers(network, tau=2.0):
    """A network whose neurons have tensors for numbers, as a learnable time constant needs them."""
    for node in network.modules():
        if isinstance(node, gac_sj.LIFNode):
            node.tau = nn.Parameter(torch.tensor(tau))
            node.v_threshold = nn.Parameter(torch.tensor([node.v_threshold]))
            node.v_reset = torch.tensor(node.v_reset)
    return network


@torch.no_grad()
def decisive(model, count=IMAGES):
    """Images for which no potential is within a rounding error of its threshold, so spikes agree everywhere."""
    images = torch.randn(3 * count, 3, 32, 32)
    margins = torch.full((len(images),), torch.inf, dtype=torch.float64)
    encoder, backbone = (part.double() for part in split(model))

    def record_margins(module, inputs):
        margin = inputs[0].abs()
        margin[margin == 0] = torch.inf  # of sums of spikes, which are exact everywhere
        torch.minimum(margins, margin.flatten(1).amin(1), out=margins)

    for module in (*encoder.modules(), *backbone.modules()):
        if isinstance(module, gac_sj.LIFNode):
            module.surrogate_function.register_forward_pre_hook(record_margins)
    backbone(encoder(images.double()))
    best = margins.topk(count)
    assert best.values.min() > 2e-6
    return images[best.indices]


@torch.no_grad()
def spikes(network, x):
    """The output of a network, and the spikes of every neuron by name."""
    found = {}

    def record(name):
        def hook(module, inputs, output):
            found[name] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [
        module.register_forward_hook(record(name.removesuffix(".module").replace(".", "_").lstrip("_")))
        for name, module in network.named_modules()
        if isinstance(module, neuron.BaseNode) or type(module).__name__ == "_NIRStatefulModule"
    ]
    output = network(x)
    for handle in handles:
        handle.remove()
    return output, found


@torch.no_grad()
def assert_same_spikes(backbone, sequence, source, **options):
    """The graph read from ``source`` has the backbone's spikes in every layer at every step, and its mean logits."""
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    functional.reset_net(backbone)
    expected_logits, expected = spikes(backbone, sequence)
    (logits, _), found = spikes(import_from_nir(source, step_mode="m", **options), sequence)
    assert sorted(found) == sorted(expected) and len(found) > 0
    for name, of_layer in expected.items():
        assert of_layer.shape[:2] == sequence.shape[:2]
        assert torch.equal(found[name], of_layer), name
        assert 0 < of_layer.mean() < 1, f"{name} is silent, so the comparison means nothing"
    if expected_logits.dim() == 2:
        logits = logits.mean(0)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-5, atol=1e-5)


def own_network(lif=neuron.LIFNode):
    """A network of SpikingJelly's layers behind the encoder, as in the documentation."""
    network = nn.Sequential(
        gac_sj.GatedAttentionCoding(T=3, in_channels=3, channels=8),
        layer.Conv2d(8, 12, 3, stride=2, padding=1, bias=False),
        layer.BatchNorm2d(12),
        lif(v_threshold=0.25),
        layer.Dropout(0.5),
        layer.AdaptiveAvgPool2d(1),
        layer.Flatten(),
        layer.Linear(12, 5),
    )
    functional.set_step_mode(network, "m")
    return network.eval()


class TestSplit:
    @pytest.mark.parametrize("form", FORMS)
    def test_encoder_and_backbone_are_the_network(self, form):
        model = lively(form=form)
        encoder, backbone = split(model)
        images = torch.randn(2, 3, 32, 32)
        sequence = encoder(images)
        assert sequence.shape == (4, 2, 16, 32, 32)
        assert torch.equal(backbone(sequence), model(images))
        assert torch.equal(backbone.forward_sequence(sequence), model.forward_sequence(images))

    def test_own_network(self):
        network, images = own_network(), torch.randn(2, 3, 8, 8)
        encoder, backbone = split(network)
        assert torch.equal(backbone(encoder(images)), network(images))

    def test_the_parts_are_copies(self):
        model = lively()
        encoder, backbone = split(model)
        for part in (encoder, backbone):
            for parameter in part.parameters():
                parameter.data.zero_()
        assert isinstance(model.encoder, gac_sj.GatedAttentionCoding)
        assert model.head.weight.any() and model.encoder.stem[0].weight.any()

    def test_without_one_encoder(self):
        encoder, backbone = split(lively())
        with pytest.raises(UsageError, match=r"MSResNet .*0 encoders.*one encoder"):
            split(backbone)
        with pytest.raises(UsageError, match=r"GatedAttentionCoding .*one encoder"):
            split(encoder)
        with pytest.raises(UsageError, match=r"Sequential .*2 encoders.*one encoder"):
            split(nn.Sequential(encoder, encoder.stem, gac_sj.DirectCoding()))


@pytest.mark.medium
@needs_nir
class TestNIR:
    @pytest.fixture(autouse=True)
    def nir(self):
        pytest.importorskip("nir", reason="needs the extra nir")
        pytest.importorskip("nirtorch", reason="needs the extra nir")

    @pytest.mark.parametrize("form", FORMS)
    def test_spikes_are_equal(self, form, tmp_path):
        """As in the folded backbone and, if no potential is on its threshold, as in the network itself."""
        # the product of a saturated gate and a spike is exactly the threshold, where strict neurons must not fire
        model = lively(form=form, opened=40.0 if form == "low_threshold" else 4e4)
        encoder, backbone = split(model)
        images = torch.randn(IMAGES, 3, 32, 32)
        sequence = encoder(images).detach()
        assert form != "reference" or (sequence == 1).float().mean() > 0.01
        graph = to_nir(backbone, sequence[:, :2], tmp_path / "backbone.nir")
        assert os.listdir(tmp_path) == ["backbone.nir"]
        assert_same_spikes(gac_sj.fold_batch_norm(backbone), sequence, tmp_path / "backbone.nir")
        assert_same_spikes(gac_sj.fold_batch_norm(backbone), sequence, graph)
        if form == "low_threshold":
            assert_same_spikes(backbone, encoder(decisive(model)), graph)

    def test_a_gate_before_the_neuron_sends_spikes(self):
        model = lively(opened=4e4, **BEFORE)
        encoder, backbone = split(model)
        sequence = encoder(torch.randn(IMAGES, 3, 32, 32)).detach()
        assert set(sequence.unique().tolist()) == {0.0, 1.0}
        assert_same_spikes(gac_sj.fold_batch_norm(backbone), sequence, to_nir(backbone, sequence[:, :2]))
        sequence = encoder(decisive(model)).detach()
        assert_same_spikes(backbone, sequence, to_nir(backbone, sequence[:, :2]))

    def test_graph_has_only_spiking_layers_and_one_mean(self):
        import nir

        encoder, backbone = split(lively())
        graph = to_nir(backbone, encoder(torch.randn(1, 3, 32, 32)))
        classes = [type(node) for node in graph.nodes.values()]
        assert {cls: classes.count(cls) for cls in classes} == {
            nir.Input: 1,
            nir.Output: 1,
            nir.AvgPool2d: 1,
            nir.Flatten: 1,
            nir.Conv2d: 6 + 2 + 1,  # blocks, shortcuts, head
            nir.LIF: 7,
        }
        assert tuple(graph.nodes["head"].weight.shape) == (10, 64, 1, 1)
        threshold = {float(node.v_threshold.flat[0]) for node in graph.nodes.values() if isinstance(node, nir.LIF)}
        assert threshold == {1.0}

    def test_without_pooling_the_graph_ends_with_spikes(self):
        import nir

        model = lively(drop_path_rate=0.2)
        model.reset_classifier(0, "")
        encoder, backbone = split(model)
        graph = to_nir(backbone, encoder(torch.randn(1, 3, 16, 16)))
        assert not any(isinstance(node, nir.AvgPool2d) for node in graph.nodes.values())

    def test_a_strict_threshold_is_the_next_number(self):
        import numpy as np

        encoder, backbone = split(lively(form="reference"))
        graph = to_nir(backbone, encoder(torch.randn(1, 3, 32, 32)))
        assert float(graph.nodes["lif"].v_threshold.flat[0]) == float(np.nextafter(np.float32(1), np.float32(2)))

    def test_sums_of_many_blocks_round_as_ours(self):
        """Plain shortcuts, one behind the other. Currents are compared, because spikes may hide differences."""
        from spikingjelly.activation_based.nir_exchange import import_from_nir

        model = lively(blocks=(3, 1, 1))
        encoder, backbone = split(model)
        sequence = encoder(torch.randn(2, 3, 16, 16)).detach()
        network = import_from_nir(to_nir(backbone, sequence), step_mode="m")
        currents = []
        for node in (gac_sj.fold_batch_norm(backbone), network):
            for name, module in node.named_modules():
                if name.replace(".module", "").replace(".", "_") == "stages_1_0_lif1":
                    module.register_forward_pre_hook(lambda module, inputs: currents.append(inputs[0]))
                    break
            node(sequence)
        assert torch.equal(*currents)

    @pytest.mark.parametrize("preset", ["imagenet", "sigmoid"])
    def test_other_neurons(self, preset):
        """In float64, because SpikingJelly rounds tau = 4/3 differently, which could change spikes in float32."""
        model = lively(neuron=preset).double()
        encoder, backbone = split(model)
        sequence = encoder(torch.randn(IMAGES, 3, 32, 32, dtype=torch.float64)).detach()
        graph = to_nir(backbone, sequence[:, :1])
        assert_same_spikes(backbone, sequence, graph, dtype=torch.float64)

    def test_imagenet_in_float32(self):
        """Only potentials within a rounding error of the threshold may spike differently."""
        model = lively(neuron="imagenet")
        encoder, backbone = split(model)
        sequence = encoder(decisive(model)).detach()
        assert_same_spikes(gac_sj.fold_batch_norm(backbone), sequence, to_nir(backbone, sequence[:, :1]))

    @pytest.mark.parametrize(
        "options", [dict(downsample="avg_shortcut"), dict(encoder="direct"), dict(num_classes=3)], ids=str
    )
    def test_other_networks(self, options):
        encoder, backbone = split(lively(**options))
        sequence = encoder(torch.randn(2, 3, 32, 32)).detach()
        assert_same_spikes(gac_sj.fold_batch_norm(backbone), sequence, to_nir(backbone, sequence, dt=1e-3), dt=1e-3)

    @pytest.mark.parametrize(
        ("network", "size", "named"),
        [
            (lambda: lively(spike_driven=False), 32, r"MSResNet .*\(stages\.1\.0\.shortcut\.1, .*, head\)"),
            (lambda: own_network(), 8, r"Sequential .*\(1, 7\)"),  # gated spikes, means
        ],
        ids=["shortcuts", "behind the gate"],
    )
    def test_layers_without_spikes(self, network, size, named, tmp_path):
        encoder, backbone = split(network())
        sequence = encoder(torch.randn(IMAGES, 3, size, size)).detach()
        with pytest.raises(UsageError, match=f"^spikes_only .*{named}.*spike_driven=True.*spikes_only=False"):
            to_nir(backbone, sequence, tmp_path / "backbone.nir")
        assert not os.listdir(tmp_path)
        graph = to_nir(backbone, sequence, spikes_only=False)
        assert_same_spikes(gac_sj.fold_batch_norm(backbone), sequence, graph)

    @pytest.mark.parametrize("reset", [0.0, -0.25])
    def test_learnable_numbers_are_written_as_numbers(self, reset):
        node = gac_sj.LIFNode(tau=2.0, v_threshold=0.25, v_reset=reset)
        network = nn.Sequential(layer.Conv2d(3, 4, 3, step_mode="m"), node).eval()
        sequence = torch.randn(6, IMAGES, 3, 8, 8)
        expected = network(sequence)
        graph = to_nir(with_learnable_numbers(network, 4.0), sequence, spikes_only=False, dt=1.0)
        (found,) = (node for node in graph.nodes.values() if hasattr(node, "v_threshold"))
        assert (found.tau.flat[0], found.v_threshold.flat[0], found.v_reset.flat[0]) == (4.0, 0.25, reset)
        assert isinstance(node.tau, nn.Parameter)
        functional.reset_net(network)
        assert not torch.equal(network(sequence), expected)
        assert_same_spikes(network, sequence, graph, dt=1.0)
        node.tau = nn.Parameter(torch.full((4, 1, 1), 2.0))
        with pytest.raises(UsageError, match=r"one number .*1\.tau has more; use one number"):
            to_nir(network, sequence, spikes_only=False)

    def test_hook_or_other_forward_is_refused(self):
        class Doubled(gac_sj.models.MSResNet):
            def forward(self, x):
                return 2 * super().forward(x) + 1

        encoder, backbone = split(lively())
        sequence = encoder(torch.randn(1, 3, 32, 32)).detach()
        hook = backbone.head.register_forward_hook(lambda module, inputs, output: 2 * output + 1)
        with pytest.raises(UsageError, match=r"MSResNet .*hook.*as it was built"):
            to_nir(backbone, sequence)
        hook.remove()
        backbone.__class__ = Doubled
        with pytest.raises(UsageError, match=r"^Doubled calls movedim.*use a layer"):
            to_nir(backbone, sequence)

    def test_layers_without_a_node_are_refused(self):
        encoder, backbone = split(lively(downsample="max", neuron="sigmoid"))
        with pytest.raises(UsageError, match=r"MaxPool2d \(stages\.1\.0\.pool, .*replace"):
            to_nir(backbone, encoder(torch.randn(1, 3, 32, 32)))
        x = torch.ones(2, 1, 3, 8, 8)
        soft = nn.Sequential(layer.Conv2d(3, 4, 3, step_mode="m"), gac_sj.LIFNode(v_reset=None)).eval()
        with pytest.raises(UsageError, match=r"Sequential .*soft reset.*replace"):
            to_nir(soft, x)
        uneven = nn.Sequential(soft[0], gac_sj.LIFNode(), layer.AdaptiveAvgPool2d(4, step_mode="m")).eval()
        with pytest.raises(UsageError, match=r"^example .*windows of 2 .*\[6, 6\].*\[4, 4\]"):
            to_nir(uneven, x)

    @staticmethod
    def network_of(function):
        """A network: ``function(network, y)`` of the output y of a convolution of spikes."""

        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.lif = gac_sj.LIFNode(v_threshold=0.25)
                self.conv = layer.Conv2d(3, 3, 1, step_mode="m")
                self.shift = nn.Parameter(torch.ones(3, 1, 1))

            def forward(self, x):
                return function(self, self.conv(self.lif(x)))

        return Network().eval()

    @pytest.mark.parametrize(
        ("function", "words"),
        [
            (lambda network, y: torch.abs(y), r"calls abs.*use a layer"),
            (lambda network, y: y + 1, "use layers"),
            (lambda network, y: y + network.shift, "use layers"),
            (lambda network, y: y + y, "use layers"),
            (lambda network, y: (y, y), "one tensor"),
            (lambda network, y: y if y.sum() > 0 else -y, r"depends on its input.*only calls layers and adds"),
        ],
        ids=["function", "number", "parameter", "twice", "two outputs", "decision"],
    )
    def test_forwards_that_nir_cannot_express_are_refused(self, function, words, tmp_path):
        with pytest.raises(UsageError, match=f"Network .*{words}"):
            to_nir(self.network_of(function), torch.rand(2, 1, 3, 8, 8), tmp_path / "network.nir")
        assert not os.listdir(tmp_path)

    def test_sum_as_output(self):
        from spikingjelly.activation_based.nir_exchange import import_from_nir

        network = self.network_of(lambda network, y: y + network.conv(network.lif2(y)))
        network.lif2 = gac_sj.LIFNode(v_threshold=0.25).eval()
        sequence = torch.rand(4, IMAGES, 3, 8, 8)
        found, _ = import_from_nir(to_nir(network, sequence), step_mode="m")(sequence)
        torch.testing.assert_close(found, network(sequence))

    def test_wrong_examples(self):
        encoder, backbone = split(lively())
        with pytest.raises(UsageError, match=r"^example .*\[2, 3, 32, 32\].*encoder\(images\)"):
            to_nir(backbone, torch.randn(2, 3, 32, 32))
        with pytest.raises(UsageError, match=r"^example .*\[4, 1, 3, 32, 32\]"):
            to_nir(backbone, torch.randn(4, 1, 3, 32, 32))
        with pytest.raises(UsageError, match=r"MSResNet .*call eval\(\)"):
            to_nir(backbone.train(), encoder(torch.randn(1, 3, 32, 32)))

    def test_without_the_extra(self, monkeypatch):
        encoder, backbone = split(lively())
        for name in [name for name in sys.modules if "nir_exchange" in name]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "nirtorch", None)
        with pytest.raises(ValueError, match=r"nirtorch.*pip install 'gac_sj\[nir\]'"):
            to_nir(backbone, encoder(torch.randn(1, 3, 32, 32)))


class TestNoNIR:
    def test_a_gate_has_no_node(self):
        model = lively()
        example = torch.randn(4, 1, 3, 32, 32)
        for given in (model, model.encoder, model.encoder.gau, own_network()):
            with pytest.raises(UsageError, match=r"gate of .*backbone of gac_sj\.export\.split"):
                to_nir(given, example)
        with pytest.raises(UsageError, match=r"^DirectCoding \(encoder\) .*gac_sj\.export\.split"):
            to_nir(lively(encoder="direct"), example)

    @pytest.mark.parametrize("name", ["att_ms_resnet8_cifar", "ma_snn"])
    def test_attention_in_blocks_has_no_node(self, name):
        _, backbone = split(timm.create_model(name).eval())
        with pytest.raises(UsageError, match=r"attention on membrane potentials.*block_attention='none'"):
            to_nir(backbone, torch.zeros(4, 1, 16, 32, 32))

    def test_a_release_without_exchange(self, monkeypatch):
        encoder, backbone = split(lively())
        monkeypatch.setitem(sys.modules, "spikingjelly.activation_based.nir_exchange", None)
        with pytest.raises(ValueError, match=r"NIR graphs.*pip install -U spikingjelly"):
            to_nir(backbone, encoder(torch.randn(1, 3, 32, 32)))


@pytest.mark.medium
class TestONNX:
    @pytest.fixture(autouse=True)
    def onnx(self):
        for name in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(name, reason="needs the extra onnx")

    @staticmethod
    def run(path, images):
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    @pytest.mark.parametrize(
        "options",
        [
            dict(),
            BEFORE,
            pytest.param(dict(form="reference"), marks=pytest.mark.slow),
            pytest.param(dict(encoder="direct", spike_driven=False, neuron="imagenet"), marks=pytest.mark.slow),
        ],
        ids=str,
    )
    def test_logits_are_equal(self, options, tmp_path):
        model = lively(**options)
        images = decisive(model)
        to_onnx(model, tmp_path / "model.onnx", images[:1])
        assert os.listdir(tmp_path) == ["model.onnx"]
        for batch in (images, images[:1]):
            with torch.no_grad():
                torch.testing.assert_close(self.run(tmp_path / "model.onnx", batch), model(batch), rtol=0, atol=1e-4)

    def test_a_sequence(self, tmp_path):
        model = lively(T=2, encoder="direct")
        sequence = torch.stack([decisive(model, 1)] * 2)
        to_onnx(model, tmp_path / "model.onnx", sequence)
        both = torch.cat([sequence, sequence], 1)
        logits = self.run(tmp_path / "model.onnx", both)
        assert torch.equal(logits[0], logits[1]) and logits.shape == (2, 10)

    @pytest.mark.slow
    def test_learnable_numbers(self, tmp_path):
        network = nn.Sequential(gac_sj.DirectCoding(T=3, channels=4), gac_sj.LIFNode(v_threshold=0.25)).eval()
        images = torch.randn(2, 3, 8, 8)
        to_onnx(with_learnable_numbers(network, 3.0), tmp_path / "model.onnx", images)
        assert torch.equal(self.run(tmp_path / "model.onnx", images), network(images))

    def test_pixel_encoders_stay_on_the_host(self, tmp_path):
        model = timm.create_model(NAME, T=2, encoder="latency").eval()
        encoder, backbone = split(model)
        images = torch.rand(2, 3, 16, 16)
        with pytest.raises(UsageError, match=r"gac_sj\.encode_pixels.*gac_sj\.export\.split"):
            to_onnx(model, tmp_path / "model.onnx", images)
        to_onnx(backbone, tmp_path / "backbone.onnx", encoder(images))
        assert os.listdir(tmp_path) == ["backbone.onnx"]

    def test_an_encoder_for_the_host(self, tmp_path):
        network = own_network()
        to_onnx(network[0], tmp_path / "encoder.onnx", torch.randn(1, 3, 8, 8))
        images = torch.randn(3, 3, 8, 8)
        found = self.run(tmp_path / "encoder.onnx", images)
        torch.testing.assert_close(found, network[0](images), rtol=0, atol=1e-5)

    def test_a_difference_is_an_error_and_the_file_stays(self, tmp_path):
        path = tmp_path / "model.onnx"
        path.write_bytes(b"old")
        encoder, images = gac_sj.DirectCoding(T=2, channels=8).eval(), 1e6 * torch.randn(1, 3, 32, 32)
        with pytest.raises(UsageError, match=r"^tolerance .*larger tolerance"):
            to_onnx(encoder, path, images, tolerance=0.0)
        for tolerance in (-1.0, float("nan")):
            with pytest.raises(UsageError, match=f"^tolerance .*got {tolerance}"):
                to_onnx(encoder, path, images, tolerance=tolerance)
        assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["model.onnx"]

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
    def test_types_that_onnxruntime_lacks(self, dtype, tmp_path):
        encoder = gac_sj.GatedAttentionCoding(T=2, channels=4).to(dtype).eval()
        with pytest.raises(UsageError, match=f"GatedAttentionCoding in {dtype} .*export float32"):
            to_onnx(encoder, tmp_path / "encoder.onnx", torch.randn(1, 3, 8, 8, dtype=dtype))
        assert not os.listdir(tmp_path)

    def test_one_output(self, tmp_path):
        class Two(nn.Conv2d):
            def forward(self, x):
                return (super().forward(x),) * 2

        with pytest.raises(UsageError, match=r"Two .*one tensor"):
            to_onnx(Two(3, 4, 1).eval(), tmp_path / "two.onnx", torch.randn(1, 3, 8, 8))

    def test_without_the_extra(self, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(UsageError, match=r"onnxruntime.*pip install 'gac_sj\[onnx\]'"):
            to_onnx(lively(), tmp_path / "model.onnx", torch.randn(1, 3, 32, 32))


@pytest.mark.medium
class TestProgram:
    @pytest.mark.parametrize(
        "options",
        [
            dict(),
            BEFORE,
            pytest.param(dict(form="reference"), marks=pytest.mark.slow),
            pytest.param(dict(encoder="direct"), marks=pytest.mark.slow),
        ],
        ids=str,
    )
    def test_it_loads_back_equal(self, options, tmp_path):
        model = lively(**options)
        path = tmp_path / "model.pt2"
        to_program(model, torch.randn(1, 3, 32, 32), path)
        assert os.listdir(tmp_path) == ["model.pt2"]
        loaded = torch.export.load(path).module()
        with torch.no_grad():
            for count in (1, 5):
                images = torch.randn(count, 3, 32, 32)
                assert torch.equal(loaded(images), model(images))
                assert torch.equal(loaded(images), model(images))  # no state from the last call

    def test_learnable_numbers(self):
        """A learnable tau stays a parameter of the program."""
        model, images = with_learnable_numbers(lively(T=2), 3.0), torch.randn(2, 3, 16, 16)
        program = to_program(model, images)
        with torch.no_grad():
            assert torch.equal(program.module()(images), model(images))
        assert program.state_dict["lif.tau"] == 3.0

    def test_the_network_stays_usable(self):
        model = lively(T=2)
        images = torch.randn(2, 3, 16, 16)
        before = model(images)
        to_program(model, images)
        assert not any(isinstance(node.v, torch.Tensor) for node in model.modules() if isinstance(node, gac_sj.LIFNode))
        assert torch.equal(model(images), before)

    @pytest.mark.parametrize("lif", [gac_sj.LIFNode, neuron.LIFNode], ids=["ours", "spikingjelly"])
    def test_own_network(self, lif):
        network, images = own_network(lif), torch.randn(2, 3, 8, 8)
        if lif is neuron.LIFNode and not hasattr(functional, "lif_multi_step"):  # 0.0.0.0.14 scripts its neurons
            with pytest.raises(UsageError, match=r"Sequential .*gac_sj\.LIFNode"):
                to_program(network, images)
            return
        program = to_program(network, images).module()
        with torch.no_grad():
            torch.testing.assert_close(program(images), network(images))

    @pytest.mark.skipif(not hasattr(functional, "lif_multi_step"), reason="this SpikingJelly scripts its neurons")
    @pytest.mark.slow
    def test_spikingjellys_neurons_load_without_spikingjelly(self, tmp_path):
        classes = neuron.IFNode, neuron.LIFNode, neuron.ParametricLIFNode
        nodes = [cls(v_threshold=0.25, step_mode="m") for cls in classes]
        network = nn.Sequential(gac_sj.DirectCoding(T=2, channels=4), *nodes).eval()
        images = torch.randn(2, 3, 8, 8)
        with torch.no_grad():
            expected = network(images)
        assert 0 < expected.mean() < 1
        to_program(network, images, tmp_path / "model.pt2")
        torch.save((images, expected), tmp_path / "case.pt")
        code = (
            "import torch; images, expected = torch.load('case.pt');"
            "assert torch.equal(torch.export.load('model.pt2').module()(images), expected)"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def test_errors(self, tmp_path, monkeypatch):
        model, images = lively(T=2), torch.randn(2, 3, 16, 16)
        with pytest.raises(ValueError, match=r"\[2, 1, 16, 16\]"):
            to_program(model, images[:, :1])
        with pytest.raises(UsageError, match=r"missing .*create it"):
            to_program(model, images, tmp_path / "missing" / "model.pt2")
        with pytest.raises(UsageError, match=r"is a folder.*name of a file"):
            to_program(model, images, tmp_path)
        with pytest.raises(UsageError, match=r"MSResNet .*call eval\(\)"):
            to_program(model.train(), images)
        monkeypatch.setenv("GAC_SJ_OPS", "cpp")
        with pytest.raises(UsageError, match=r"^GAC_SJ_OPS .*'cpp'.*unset"):
            to_program(model.eval(), images)
        assert not os.listdir(tmp_path)
