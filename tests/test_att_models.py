"""MA-SNN's networks: attention on the membrane potentials of every block."""

import copy
import io
import pickle

import pytest
import run_cifar
import timm
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional
from torch import nn

import gac_sj
from gac_sj.analysis import measure_energy, non_spiking_layers, summarize
from gac_sj.checkpoint import save_pretrained
from gac_sj.checkpoint.runs import build_model
from gac_sj.encoders import encoder_label
from gac_sj.export import split
from gac_sj.models import MASNN, MODULES, MSBlock, MSResNet
from gac_sj.nn.membrane_attention import ATTENTIONS, ChannelAttention, MembraneAttention, SpatialAttention
from gac_sj.nn.sync_batchnorm import convert_sync_batchnorm
from gac_sj.results.run_tables import attention_energy
from gac_sj.training.build import load_data
from gac_sj.training.settings import Settings

NAMES = [f"att_ms_resnet{size}" for size in ("8_cifar", "18_cifar", "18", "34", "104")] + ["ma_snn"]


def small(**options):
    return timm.create_model("att_ms_resnet8_cifar", **options)


def small_ma_snn(**options):
    return timm.create_model("ma_snn", **dict(T=4, channels=(8, 8, 16), hidden=12, img_size=32) | options)


KINDS = [
    pytest.param(small, lambda n=2: torch.rand(n, 3, 16, 16), id="att_ms_resnet"),
    pytest.param(small_ma_snn, lambda n=2: torch.rand(4, n, 2, 32, 32), id="ma_snn"),
]


def count(name, **options):
    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(name, **options).parameters())


def fill(module, value):
    for parameter in module.parameters():
        nn.init.constant_(parameter, value)
    return module


@torch.no_grad()
def test_attention_equals_hand_computed_values():
    """T = 2, one image, C = 2, one row of two pixels."""
    x = torch.tensor([[[1.0, 3.0], [-2.0, 0.0]], [[0.0, 2.0], [4.0, -4.0]]]).view(2, 1, 2, 1, 2)
    # channels: means 1.5 and -0.5, maxima 3 and 4; one hidden unit, ReLU(1.5 - 0.5) + ReLU(3 + 4) with weights 1
    channel = fill(ChannelAttention(2, reduction=2), 1.0)
    assert channel(x).flatten().tolist() == [8.0, 8.0]
    nn.init.constant_(channel.excite.weight[1:], -0.5)
    assert channel(x).flatten().tolist() == [8.0, -4.0]
    # pixels: means 0.75 and 0.25, maxima 4 and 3; the kernel's centre row sees both pixels
    spatial = fill(SpatialAttention(3), 1.0)
    assert spatial(x).flatten().tolist() == [8.0, 8.0]
    fill(spatial, 0.0).convolution.weight[0, :, 1, 1] = torch.tensor([4.0, 1.0])
    assert spatial(x).flatten().tolist() == [7.0, 4.0]
    # all weights 0: every sigmoid is a half, and the ReLU removes negative values
    for attention in ATTENTIONS:
        weighed = fill(MembraneAttention(attention, T=2, channels=2), 0.0)(x)
        assert torch.equal(weighed, F.relu(x) / 2 ** (len(attention) - 1))
    # steps: means 0.5 and 0.5, maxima 3 and 4; with the identity on both sides 3.5 and 4.5
    temporal = MembraneAttention("TA", T=2, channels=2)
    for layer in (temporal.temporal.squeeze, temporal.temporal.excite):
        nn.init.eye_(layer.weight)
    weights = torch.sigmoid(torch.tensor([3.5, 4.5])).view(2, 1, 1, 1, 1)
    torch.testing.assert_close(temporal(x), F.relu(x * weights))


def test_attentions_are_applied_one_after_the_other():
    x = torch.randn(3, 2, 8, 5, 4)
    together = MembraneAttention("TCSA", T=3, channels=8)
    expected = x
    for attention in (together.temporal, together.channel, together.spatial):
        expected = expected * torch.sigmoid(attention(expected))
    torch.testing.assert_close(together(x), F.relu(expected))


@pytest.mark.medium
@pytest.mark.parametrize("blocks,plain,name", [
    ((2, 2, 2, 2), 11_693_736, "att_ms_resnet18"),
    ((3, 4, 6, 3), 21_801_896, "att_ms_resnet34"),
    ((3, 8, 32, 8), 77_284_264, "att_ms_resnet104"),
])  # fmt: skip
def test_parameter_counts(blocks, plain, name):
    attention = sum(n * (2 * C * (C // 8) + 18) for n, C in zip(blocks, (64, 128, 256, 512)))
    assert count(name) == plain + attention == count(name.removeprefix("att_"), stem="conv7") + attention
    if name == "att_ms_resnet18":
        assert count(name) == 11_867_960  # SpikingJelly 2.0.0's
    if name == "att_ms_resnet104":
        assert (count(name), count(name, stem="three")) == (78_369_598, 78_435_838)
    assert count(name, T=4) == count(name)
    assert count(name, T=4, block_attention="TCSA") == count(name) + sum(blocks) * 2 * 4 * 4
    assert count(name, block_attention="none") == plain


def test_parameter_count_of_ma_snn_is_spikingjellys():
    assert count("ma_snn") == 2_340_535  # SpikingJelly 2.0.0's masnn_dvs128_gesture
    assert count("ma_snn", img_size=32, input_pool=1) == 2_340_535


def test_networks_are_registered_and_accepted_by_settings():
    assert set(NAMES) < set(timm.list_models(module=MODULES))
    assert Settings(model="att_ms_resnet18_cifar").encoder == "direct"
    with pytest.raises(ValueError, match=r"^model .*'att_resnet'.*choose one of .*att_ms_resnet8_cifar.*ma_snn"):
        Settings(model="att_resnet")


@pytest.mark.medium
def test_benchmark_compares_attention_in_blocks_with_attention_in_the_encoder():
    """Rows that differ only in encoder and options belong to one table."""
    args = run_cifar.build_parser().parse_args(["--dataset", "digits", "--output", "unused"])
    shared = run_cifar.read_settings(args)
    runs = [run_cifar.settings(shared, name, 0) for name in ("direct:block_attention=TCSA", "gac", "direct")]
    assert encoder_label(runs[0].encoder, runs[0].form, runs[0].model_options) == "direct:block_attention=TCSA"
    assert {(run.model, run.lr, run.epochs) for run in runs} == {("ms_resnet8_cifar", 0.1, 20)}
    data = load_data(runs[0])
    blocks = [sum(isinstance(m, MembraneAttention) for m in build_model(run, data.info).modules()) for run in runs]
    assert blocks == [3, 0, 0]
    named = Settings(model="att_ms_resnet8_cifar", dataset="digits")
    assert build_model(named, data.info).state_dict().keys() == build_model(runs[0], data.info).state_dict().keys()
    events = build_model(Settings(model="ma_snn", dataset="digits", model_options={"input_pool": 2}), data.info)
    assert (events.img_size, events.num_classes) == ((8, 8), 10)


@pytest.mark.medium
@pytest.mark.parametrize("name", NAMES)
def test_first_conv_and_classifier_are_where_timm_looks(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    first = model.get_submodule(model.pretrained_cfg["first_conv"])
    assert isinstance(first, nn.Conv2d)
    assert first.in_channels == model.pretrained_cfg["input_size"][0]
    classifier = model.get_submodule(model.pretrained_cfg["classifier"])
    assert isinstance(classifier, nn.Linear)
    assert classifier.out_features == model.num_classes == model.pretrained_cfg["num_classes"]


@pytest.mark.medium
@pytest.mark.parametrize("name", ["att_ms_resnet18", "att_ms_resnet34", "att_ms_resnet104"])
@pytest.mark.parametrize("T", [1, 4])
def test_imagenet_networks_have_the_published_shapes(name, T):
    with torch.device("meta"):
        model = timm.create_model(name, T=T).eval()
        x = torch.rand(2, 3, 64, 64)
        assert model.forward_features(x).shape == (T, 2, 512, 2, 2)
        assert model.forward_sequence(x).shape == (T, 2, 1000)
    blocks = [module for module in model.modules() if isinstance(module, MSBlock)]
    assert {block.attention.attention for block in blocks} == {"CSA"}
    assert timm.create_model("att_ms_resnet18").T == 1


def test_imagenet_initialisation_passes_gradients_through_the_relu():
    model = timm.create_model("att_ms_resnet18", channels=(8, 8, 8, 8), stem_channels=8)
    for block in (module for module in model.modules() if isinstance(module, MSBlock)):
        assert (block.bn1.weight == 0.5).all()
        torch.testing.assert_close(block.bn2.weight.detach(), torch.full((8,), 0.1))
    node = model.lif
    assert (node.v_threshold, node.tau, node.decay_input, node.detach_reset) == (0.5, 4 / 3, False, True)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("T", [1, 4])
def test_gradients_reach_every_attention_weight(attention, T):
    torch.manual_seed(0)
    model = small(T=T, block_attention=attention, num_classes=5)
    F.cross_entropy(model(torch.randn(8, 3, 16, 16)), torch.arange(8) % 5).backward()
    assert all(p.grad is not None for p in model.parameters())
    attentions = [module for module in model.modules() if isinstance(module, MembraneAttention)]
    assert len(attentions) == 3
    assert all(parameter.grad.any() for parameter in attentions[0].parameters())
    assert {name.split(".")[0] for name, _ in attentions[0].named_parameters()} == {
        part for letter, part in (("T", "temporal"), ("C", "channel"), ("S", "spatial")) if letter in attention
    }


@pytest.mark.medium
@pytest.mark.parametrize(
    ("attention", "T"), [("none", 4), ("TA", 60), ("CSA", 1), ("CSA", 60), ("TCSA", 1), ("TCSA", 4), ("TCSA", 60)]
)
def test_ma_snn_returns_rates_and_gradients(attention, T):
    torch.manual_seed(0)
    model = small_ma_snn(T=T, block_attention=attention, num_classes=3, img_size=(16, 32))
    rates = model(torch.randn(T, 4, 2, 16, 32).abs())
    assert rates.shape == (4, 3)
    torch.testing.assert_close(rates * T, (rates * T).round())
    (rates - 1).square().sum().backward()
    parts = [module for module in model.modules() if isinstance(module, MembraneAttention)]
    assert len(parts) == (0 if attention == "none" else 5 if "T" in attention else 3)
    assert all(p.grad is not None for p in model.parameters())
    # with few steps and narrow layers, little reaches the threshold through several attentions
    assert T < 60 or all(any(p.grad.any() for p in part.parameters()) for part in parts)


def test_ma_snn_sums_events_of_neighbouring_pixels():
    frames = torch.zeros(4, 1, 2, 32, 32)
    frames[0, 0, 1, 5, 6] = frames[0, 0, 1, 7, 4] = 3.0  # the same 4x4 pixels
    seen = small_ma_snn().encoder.stem[0](frames.flatten(0, 1))
    assert seen.shape == (4, 2, 8, 8)
    assert seen[0, 1, 1, 1] == seen.sum() == 6


@pytest.mark.medium
@pytest.mark.parametrize("build,draw", KINDS)
def test_features_head_and_sequence_compose_to_forward(build, draw):
    model, x = build().eval(), draw()
    features = model.forward_features(x)
    assert features.shape[:3] == (4, 2, model.num_features)
    assert set(features.unique().tolist()) <= {0.0, 1.0}
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (4, 2, model.head_hidden_size)
    steps = model.forward_sequence(x)
    assert steps.shape == (4, 2, model.num_classes)
    torch.testing.assert_close(model(x), steps.mean(0))


@pytest.mark.medium
@pytest.mark.parametrize("build,draw", KINDS)
def test_calls_are_independent_and_copies_compute_the_same(build, draw):
    model, x = build(), draw()
    for _ in range(2):  # without a reset, the second backward would run through the first one's graph
        model(x).sum().backward()
    model.eval()
    expected = model(x)
    model(draw(3))
    assert torch.equal(model(x), expected)
    functional.reset_net(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False), build()]
    copies[-1].load_state_dict(model.state_dict())
    for duplicate in copies:
        assert torch.equal(duplicate.eval()(x), expected)


@pytest.mark.parametrize("build,draw", KINDS)
def test_single_step_mode_and_other_lengths_are_refused(build, draw):
    model = build()
    functional.set_step_mode(model, "m")
    with pytest.raises(ValueError, match=r"'m'.*\"s\""):
        functional.set_step_mode(model, "s")
    with pytest.raises(ValueError, match="build it with T=3 or feed 4 steps"):
        model(draw()[:3] if draw().dim() == 5 else torch.rand(3, 2, 3, 16, 16))


@pytest.mark.parametrize("build,draw", KINDS)
def test_classifier_can_be_replaced_and_removed(build, draw):
    model = build()
    model.reset_classifier(3)
    assert model(draw()).shape == (2, model.num_classes) == (2, 3)
    model.reset_classifier(0)
    assert model(draw()).shape == (2, model.head_hidden_size)
    assert build(num_classes=0)(draw()).shape == (2, model.head_hidden_size)
    with pytest.raises(ValueError, match=r"^global_pool .*'max'"):
        model.reset_classifier(3, "max")
    for refused in (lambda: model.reset_classifier(-1), lambda: build(num_classes=-1)):
        with pytest.raises(ValueError, match=r"^num_classes .*-1"):
            refused()


@pytest.mark.parametrize("build,draw", KINDS)
def test_split_encoder_and_backbone_equal_the_network(build, draw):
    model, x = build().eval(), draw()
    encoder, backbone = split(model)
    assert torch.equal(backbone(encoder(x)), model(x))


@pytest.mark.medium
@pytest.mark.parametrize("build,draw", KINDS)
def test_compiled_evaluation_has_no_graph_break_and_equal_results(build, draw):
    model, x = build().eval(), draw()
    torch._dynamo.reset()
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(torch.compile(model, fullgraph=True, backend="aot_eager")(x), expected)


@pytest.mark.medium
@pytest.mark.parametrize("build,draw", KINDS)
@pytest.mark.parametrize("method", ["set_grad_checkpointing", "set_spikes_as_bytes"])
def test_memory_options_save_memory_and_keep_the_results(method, build, draw):
    model, x, results, kept = build(), draw(), [], []
    for enable in (False, True):
        network = copy.deepcopy(model)
        getattr(network, method)(enable)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as memory:
            loss = network(x).square().sum()
        kept.append(sum(event.self_cpu_memory_usage for event in memory.key_averages()))
        loss.backward()
        results.append([loss, *(p.grad for p in network.parameters()), *network.buffers()])
    assert all(map(torch.equal, *results))
    assert 0 < kept[1] < kept[0]


@pytest.mark.medium
@pytest.mark.parametrize("build,draw", KINDS)
def test_folded_and_synchronised_networks_compute_the_same(build, draw):
    model, x = build().double(), draw().double()
    for _ in range(3):
        model(x)
    folded = gac_sj.fold_batch_norm(model)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules()) == (2 if isinstance(model, MASNN) else 0)
    torch.testing.assert_close(folded(x), model.eval()(x))
    synchronised = convert_sync_batchnorm(copy.deepcopy(model))
    assert torch.equal(synchronised(x), model(x))


@pytest.mark.parametrize("build,draw", KINDS)
@pytest.mark.parametrize("attention", ["none", "CSA"])
@pytest.mark.parametrize("options", [dict(encoder="gac", form="current"), dict(encoder="direct")], ids=str)
def test_gradients_reach_other_encoders(build, draw, options, attention):
    torch.manual_seed(0)
    model = build(**options, block_attention=attention)
    (model(draw(8)) - 1).square().sum().backward()
    assert all(p.grad is not None for p in model.encoder.parameters())
    assert any(p.grad.any() for p in model.encoder.parameters())


def test_attentions_of_encoder_and_blocks_have_separate_keywords():
    model = small(encoder="gac", attention="temporal", block_attention="CA")
    assert model.encoder.gau.attention == "temporal"
    assert model.stages[0][0].attention.attention == "CA"


def test_energy_of_attention_is_counted_in_blocks_and_in_the_encoder():
    x = torch.randn(2, 3, 16, 16)
    one = measure_energy(small(encoder="gac", block_attention="none"), [x])
    assert 0 < one.attention_pj < one.encoder_pj
    assert {layer.name for layer in one.layers if layer.in_attention} == {
        "encoder.gau.temporal.squeeze", "encoder.gau.temporal.excite", "encoder.gau.spatial_channel.convolutions.0",
        "encoder.gau.spatial_channel.convolutions.1", "encoder.gau (gate)"
    }  # fmt: skip
    assert measure_energy(small(block_attention="none"), [x]).attention_pj == 0
    model = small(block_attention="SA")
    energy = measure_energy(model, [x])
    names = {layer.name for layer in energy.layers if layer.in_attention}
    assert names == {
        f"stages.{stage}.0.attention{part}" for stage in range(3) for part in (" (gate)", ".spatial.convolution")
    }
    for layer in energy.layers:
        if layer.in_attention:
            assert (layer.in_encoder, layer.after_encoder, layer.paper_pj) == (False, True, 0.0)
    # one 3x3 convolution of two maps of 16 x 16, 8 x 8 and 4 x 4 pixels, and a product for each of T * C * H * W
    dense = sum(layer.dense_macs for layer in energy.layers if layer.in_attention)
    assert dense == sum(18 * side**2 + 4 * C * side**2 for C, side in ((16, 16), (32, 8), (64, 4)))
    assert energy.encoder_pj < energy.complete_pj - energy.attention_pj
    assert "stages.0.0.attention.spatial.convolution" in non_spiking_layers(energy)
    for found in (one, energy):  # a row knows it by the names of layers
        by_layer = {layer.name: [0, layer.complete_pj] for layer in found.layers}
        assert attention_energy(by_layer) == pytest.approx(found.attention_pj)
    events = measure_energy(small_ma_snn(), [torch.rand(4, 2, 2, 32, 32).round()])
    assert {"attention.channel.squeeze", "hidden.attention.temporal.squeeze", "stages.0.0.attention (gate)"} <= {
        layer.name for layer in events.layers if layer.in_attention
    }


@pytest.mark.parametrize(
    "build,options,words",
    [
        (small, dict(block_attention="ACS"), "attention .*'ACS'.*choose one of TA, CA, SA, TCA, TSA, CSA, TCSA"),
        (small, dict(spike_driven=True), "^spike_driven .*block_attention='TCSA'.*leave one out"),
        (small, dict(block_channel_reduction=0), "^block_channel_reduction .*0"),
        (small, dict(block_attention="none", block_temporal_reduction=-5), "^block_temporal_reduction .*-5"),
        (small_ma_snn, dict(channels=[]), r"^channels .*\[\]"),
        (small_ma_snn, dict(block_attention="none", block_channel_reduction=0), "^block_channel_reduction .*0"),
        (small_ma_snn, dict(hidden=0), "^hidden .*0"),
        (small_ma_snn, dict(img_size="abc"), "^img_size .*'abc'"),
        (small_ma_snn, dict(img_size=[32]), r"^img_size .*multiple of 16.*\[32\].*input_pool"),
        (small_ma_snn, dict(img_size=20), "^img_size .*multiple of 16.*20.*input_pool"),
        (small_ma_snn, dict(input_pool=0), "^input_pool .*0"),
        (small_ma_snn, dict(block_attention="XA"), "attention .*'XA'.*choose one of TA"),
    ],
)
def test_bad_arguments_are_refused(build, options, words):
    with pytest.raises(ValueError, match=words):
        build(**options)


def test_ma_snn_config_and_summary_have_its_size():
    model = small_ma_snn(img_size=(32, 64))
    assert model.pretrained_cfg["input_size"] == (2, 32, 64)
    summary = summarize(model)
    assert summary.shapes["lif"] == (4, 8, 16, 2, 4)  # 8 sequences of events, 1/16 of the pixels


@pytest.mark.parametrize("num_classes", [0, 4])
def test_timm_adapts_ma_snn_to_another_number_of_classes(tmp_path, num_classes):
    model = small_ma_snn()
    nn.init.uniform_(model.hidden.norm.weight)
    save_pretrained(model, tmp_path / "net")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True, num_classes=num_classes)
    assert torch.equal(loaded.hidden.norm.weight, model.hidden.norm.weight)
    assert loaded(torch.rand(4, 2, 2, 32, 32)).shape == (2, num_classes or 12)


def test_bad_inputs_are_refused():
    with pytest.raises(ValueError, match=r"32 x 32 pixels.*64 x 32.*img_size=\(64, 32\)"):
        small_ma_snn()(torch.rand(4, 1, 2, 64, 32))
    with pytest.raises(ValueError, match=r"^kernel_size .*4"):
        SpatialAttention(4)
    with pytest.raises(ValueError, match=r"T=2.*3 steps"):
        MembraneAttention("TA", T=2, channels=3)(torch.rand(3, 1, 3, 2, 2))


def copy_weights(ours, theirs):
    """Copy by order, which is the same; SpikingJelly's attention has 3D convolutions as linear layers."""
    values = theirs.state_dict().values()
    own = ours.state_dict()
    ours.load_state_dict({name: value.view_as(own[name]) for name, value in zip(own, values, strict=True)})


def compare(ours, theirs, x):
    ours, theirs = ours.double(), theirs.double()
    with torch.no_grad():
        for parameter in theirs.parameters():  # BatchNorm's weights too
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.dim() == 1) * 0.5)
    copy_weights(ours, theirs)
    functional.reset_net(theirs)
    logits, others = ours(x), theirs(x)
    assert others.std() > 1e-3
    torch.testing.assert_close(logits, others, rtol=1e-9, atol=1e-9)
    for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):  # statistics of all layers' inputs
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)
    return logits, others


@pytest.mark.medium
@pytest.mark.parametrize("T", [1, 3])
def test_att_ms_resnet_equals_spikingjellys(T):
    """SpikingJelly 0.0.0.0.14 has none."""
    masnn = pytest.importorskip("spikingjelly.activation_based.model.masnn")
    theirs = masnn.AttMSResNet(
        T, 3, 7, layers=(2, 1, 1, 1), base_channels=8, stage_channels=(8, 16, 16, 24), dropout=0.0
    )
    shape = dict(channels=(8, 16, 16, 24), blocks=(2, 1, 1, 1), stem_channels=8, drop_rate=0.0)
    ours = timm.create_model("att_ms_resnet18", T=T, num_classes=7, **shape)
    assert isinstance(ours, MSResNet)
    logits, others = compare(ours, theirs, 2 * torch.randn(3, 3, 64, 64, dtype=torch.float64))
    if T == 1:  # equal maxima of several steps: theirs gives the gradient to one of them, ours to all
        logits.square().sum().backward()
        others.square().sum().backward()
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine.grad.flatten(), other.grad.flatten(), rtol=1e-8, atol=1e-10)


@pytest.mark.medium
def test_att_ms_resnet18_equals_spikingjellys():
    """SpikingJelly 0.0.0.0.14 has none."""
    masnn = pytest.importorskip("spikingjelly.activation_based.model.masnn")
    theirs = masnn.att_ms_resnet18(dropout=0.0)
    compare(timm.create_model("att_ms_resnet18", drop_rate=0.0), theirs, torch.randn(2, 3, 64, 64).double())


def test_ma_snn_equals_spikingjellys():
    """SpikingJelly 0.0.0.0.14 has none."""
    masnn = pytest.importorskip("spikingjelly.activation_based.model.masnn")
    theirs = masnn.MASNN(10, 2, 5, (16, 8), (8, 16, 16), (1, 2, 2), 12)
    ours = small_ma_snn(T=10, num_classes=5, img_size=(16, 8), channels=(8, 16, 16), input_pool=1)
    compare(ours, theirs, torch.randn(10, 3, 2, 16, 8, dtype=torch.float64).abs())
