"""The networks as timm and SpikingJelly users use them."""

import copy
import io
import multiprocessing
import os
import pickle
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
import torch.nn.functional as F
from helpers.encoders import AVAILABLE
from spikingjelly.activation_based import base, functional, layer, neuron, surrogate
from timm.data import resolve_data_config
from torch import nn

import gac_sj
from gac_sj.analysis import firing_rates, summarize
from gac_sj.models import MSBlock, MSResNet

PUBLISHED = [
    ("gac_ms_resnet18_cifar", dict(T=6), 12_633_198),
    ("gac_ms_resnet18_cifar", dict(T=6, num_classes=100), 12_679_368),
    ("ms_resnet18_cifar", {}, 12_502_090),
    ("max_resnet18_cifar", {}, 12_502_090),
    ("gac_max_resnet18_cifar", {}, 12_633_178),
    ("gac_ms_resnet18", {}, 11_824_824),
    ("gac_ms_resnet34", {}, 21_932_984),
    ("ms_resnet18", {}, 11_693_736),
    ("ms_resnet34", {}, 21_801_896),
    ("ms_resnet104", {}, 77_350_504),
    ("gac_ms_resnet104", {}, 77_350_504 + 131_072 + 16),
]
MAX_POOLED = dict(neuron="sigmoid", downsample="max")
NAMES = sorted({name for name, _, _ in PUBLISHED} | {"gac_ms_resnet8_cifar", "ms_resnet8_cifar"})


def small(**options):
    return timm.create_model("gac_ms_resnet8_cifar", **options)


def images(n=2, size=16, channels=3):
    return torch.rand(n, channels, size, size)


@pytest.mark.parametrize("name,options,parameters", PUBLISHED)
def test_parameter_counts(name, options, parameters):
    with torch.device("meta"):
        model = timm.create_model(name, **options)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_timm_lists_every_network():
    assert timm.list_models(module="ms_resnet") == sorted(NAMES, key=timm.models._registry._natural_key)


@pytest.mark.parametrize("name", NAMES)
def test_first_conv_and_classifier_are_where_timm_looks(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    first = model.get_submodule(model.pretrained_cfg["first_conv"])
    assert isinstance(first, nn.Conv2d)
    assert first.in_channels == 3
    assert model.get_submodule(model.pretrained_cfg["classifier"]) is model.get_classifier()
    assert model.num_classes == model.pretrained_cfg["num_classes"]


@pytest.mark.medium
def test_ms_resnet104_strides():
    """Stem and every stage halve the image; the stem has biases; shortcuts pool."""
    with torch.device("meta"):
        model = timm.create_model("ms_resnet104").eval()
        assert model.forward_features(torch.rand(1, 3, 64, 64)).shape == (4, 1, 512, 2, 2)
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == 109
    assert all(model.encoder.stem[at].bias is not None for at in range(3))
    assert all(isinstance(stage[0].shortcut[0], nn.AvgPool2d) for stage in model.stages)
    assert model.dropout.p == 0.2


@pytest.mark.parametrize(
    "name,strided,pools",
    [("ms_resnet18_cifar", 4, 0), ("max_resnet18_cifar", 0, 4), ("gac_max_resnet18_cifar", 0, 4)],
)
def test_max_resnet18_pools_in_place_of_strides(name, strided, pools):
    with torch.device("meta"):
        model = timm.create_model(name)
        x, shapes = model.encoder(torch.rand(2, 3, 30, 30)), []
        for stage in model.stages:
            x = stage(x)
            shapes.append(tuple(x.shape))
    assert shapes == [(4, 2, 128, 30, 30), (4, 2, 256, 15, 15), (4, 2, 512, 8, 8)]
    modules = list(model.stages.modules())
    assert sum(m.stride != (1, 1) for m in modules if isinstance(m, nn.Conv2d)) == strided
    assert [(m.kernel_size, m.stride, m.padding) for m in modules if isinstance(m, nn.MaxPool2d)] == pools * [(3, 2, 1)]
    nodes = [m for m in modules if isinstance(m, gac_sj.LIFNode)]
    assert {isinstance(node.surrogate_function, surrogate.Sigmoid) for node in nodes} == {bool(pools)}


@pytest.mark.parametrize(
    "downsample,branch,shortcut",
    [
        ("stride", [0, -2, -8, -10], [0, -2, -8, -10]),
        ("avg_shortcut", [0, -2, -8, -10], [-2.5, -4.5, -10.5, -12.5]),
        ("max", [0, -1, -4, -5], [0, -1, -4, -5]),
        ("max_branch", [0, -1, -4, -5], [0, -2, -8, -10]),
    ],
)
@torch.no_grad()
def test_downsampling_equals_hand_computed_values(downsample, branch, shortcut):
    """Convolutions are identities on the pixels 0 ... 15; BatchNorm's weight -1 shows on which side of it a pool is."""
    block = MSBlock(1, 1, 2, nn.Identity, downsample).eval()
    for conv in (block.conv1, block.conv2, block.shortcut[1]):
        nn.init.dirac_(conv.weight)
    pixels = torch.arange(16.0).view(1, 1, 1, 4, 4)
    for norm, other in ((block.bn1, block.shortcut[2]), (block.shortcut[2], block.bn1)):
        norm.weight.fill_(-1)
        other.weight.zero_()
        expected = torch.tensor(branch if norm is block.bn1 else shortcut, dtype=torch.float32).view(1, 1, 1, 2, 2)
        torch.testing.assert_close(block(pixels), expected, rtol=1e-4, atol=1e-4)


def test_max_branch_equals_spikingjellys_max_resnet():
    """Its MaxResNet follows the published code; SpikingJelly 0.0.0.0.14 has none."""
    theirs = pytest.importorskip("spikingjelly.activation_based.model.ms_resnet").MaxResNet(
        num_classes=10,
        layers=(2, 2, 1),
        base_channels=8,
        stage_channels=(16, 16, 24),
        stem_kernel_size=3,
        stem_stride=1,
    )
    ours = MSResNet(
        (2, 2, 1), (16, 16, 24), stem_channels=8, neuron="sigmoid", downsample="max_branch", encoder="direct", T=3
    )
    theirs, ours = theirs.double(), ours.double()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)), strict=True)
    x = 2 * torch.randn(3, 4, 3, 13, 13, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)
    assert ours.lif.v.any()
    ours(x).square().sum().backward()
    functional.reset_net(theirs)
    theirs(x).square().sum().backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-8, atol=1e-10, msg=name)


def test_max_pooled_network_fires_little_behind_the_gate_at_initialisation():
    gac, direct = (summarize(small(**MAX_POOLED, encoder=name)).firing_rates for name in ("gac", "direct"))
    assert gac["stages.0.0.lif1"] < 0.03 < direct["stages.0.0.lif1"]
    assert gac["lif"] > 0


@pytest.mark.parametrize("name", AVAILABLE)
@pytest.mark.parametrize("T", [1, 2, 5])
def test_gradients_reach_every_parameter_for_every_encoder_and_T(name, T):
    model = small(T=T, encoder=name, num_classes=7)
    x = images()
    x[..., ::2] = 1.0  # a single phase (T = 1) fires for this value only
    F.cross_entropy(model(x), torch.tensor([1, 6])).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert any(p.grad.any() for p in model.encoder.parameters())


def test_features_head_and_sequence_compose_to_forward():
    model = small(T=3).eval()
    x = images()
    features = model.forward_features(x)
    assert features.shape == (3, 2, 64, 4, 4)
    assert set(features.unique().tolist()) <= {0.0, 1.0}
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (3, 2, 64)
    steps = model.forward_sequence(x)
    assert steps.shape == (3, 2, 10)
    torch.testing.assert_close(steps, model.head(pooled))
    torch.testing.assert_close(model(x), steps.mean(0))
    torch.testing.assert_close(model.forward_head(features), steps.mean(0))


def test_each_call_starts_from_a_reset_state():
    model = small().eval()
    x = images()
    first = model(x)
    assert torch.equal(model(x), first)
    model(images(5))
    assert torch.equal(model(x), first)
    model.train()
    for _ in range(2):  # without a reset, the second backward would run through the first one's graph
        model(x).sum().backward()


def test_neurons_replaced_later_are_reset_too():
    model = small().eval()
    x = images()
    functional.reset_net(model)
    model(x)
    model.stages[0][0].lif1 = gac_sj.lif_preset("cifar")
    assert torch.equal(model(x), model(x))


def test_reset_net_works_and_single_step_mode_is_refused():
    model = small().eval()
    x = images()
    expected = model(x)
    functional.set_step_mode(model, "m")
    functional.reset_net(model)
    assert all(not isinstance(node.v, torch.Tensor) for node in model.modules() if isinstance(node, neuron.BaseNode))
    assert torch.equal(model(x), expected)
    with pytest.raises(ValueError, match=r"'m'.*\"s\""):
        functional.set_step_mode(model, "s")
    assert torch.equal(model(x), expected)
    assert isinstance(model, base.StepModule)


def test_copies_after_a_training_step_compute_the_same():
    model = small()
    x = images()
    model(x).sum().backward()
    model.eval()
    expected = model(x)
    for duplicate in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(duplicate(x), expected)
    model.train()(x)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=False).T == 4


@pytest.mark.parametrize("name", ["gac_ms_resnet8_cifar", "ms_resnet8_cifar"])
def test_state_dict_round_trip_keeps_the_results(name):
    model, other = timm.create_model(name), timm.create_model(name)
    model(images(4))
    other.load_state_dict(model.state_dict(), strict=True)
    x = images()
    assert torch.equal(model.eval()(x), other.eval()(x))


@pytest.mark.medium
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            options, marks=[] if options == dict(encoder="gac") else [pytest.mark.slow, pytest.mark.one_release]
        )
        for options in [dict(encoder=name) for name in AVAILABLE] + [MAX_POOLED]
    ],
    ids=str,
)
def test_compiled_evaluation_has_no_graph_break_and_equal_results(options):
    """With a backend that only captures the graph; test_slow.py tests the code generator.

    Behind most encoders is the same network.
    """
    model = small(**options).eval()
    plain = model if options in (dict(encoder="gac"), MAX_POOLED) else model.encoder
    x = images()
    torch.manual_seed(0)
    with torch.no_grad():
        expected = plain(x)
    torch.manual_seed(0)
    torch._dynamo.reset()
    compiled = torch.compile(plain, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(x), expected)
    compiled(x).sum().backward()
    assert any(p.grad.any() for p in model.encoder.parameters())


def test_classifier_can_be_replaced_and_removed():
    model = small()
    model.reset_classifier(3)
    assert model(images()).shape == (2, 3)
    assert model.num_classes == 3
    model.reset_classifier(0)
    assert model(images()).shape == (2, model.num_features)
    with pytest.raises(ValueError, match=r"^global_pool .*'max'"):
        model.reset_classifier(3, "max")
    assert small(num_classes=0)(images()).shape == (2, 64)


def test_sequences_and_grey_images_are_accepted():
    assert small(in_chans=1, T=3)(images(channels=1)).shape == (2, 10)
    model = small(in_chans=2, T=3)
    assert model(torch.rand(3, 2, 2, 16, 16)).shape == (2, 10)
    with pytest.raises(ValueError, match="T=5"):
        model(torch.rand(5, 2, 2, 16, 16))


def test_dropout_has_one_mask_for_all_steps():
    model = small(drop_rate=0.5)
    model.dropout.train()
    pooled = model.dropout(torch.ones(4, 2, 64))
    assert torch.equal(pooled, pooled[:1].expand_as(pooled))
    assert 0 < (pooled == 0).float().mean() < 1


@pytest.mark.parametrize("name,mean", [("gac", 0.4914), ("direct", 0.4914), ("poisson", 0.0), ("latency", 0.0)])
def test_timms_data_config_matches_the_encoders_pixel_range(name, mean):
    config = resolve_data_config({}, model=small(encoder=name))
    assert config["mean"][0] == mean
    assert config["std"][0] == (0.2023 if mean else 1.0)
    assert config["input_size"] == (3, 32, 32)


@pytest.mark.parametrize("name,kaiming", [("gac_ms_resnet18", True), ("ms_resnet18", False)])
def test_imagenet_initialisation_is_the_published_one(name, kaiming):
    model = timm.create_model(name)
    for block in model.modules():
        if isinstance(block, MSBlock):
            assert (block.bn1.weight == 0.5).all()
            assert (block.bn2.weight == 0).all()
    assert (model.encoder.stem[1].weight == 0.5).all()
    weight = model.stages[3][1].conv2.weight
    fan = weight.shape[0] * 9
    expected = (2 / fan) ** 0.5 if kaiming else (1 / (3 * fan)) ** 0.5
    assert abs(weight.std().item() / expected - 1) < 0.02
    node = model.lif
    assert (node.v_threshold, node.tau, node.decay_input, node.detach_reset) == (0.5, 4 / 3, False, True)


def test_cifar_initialisation_is_torchs():
    model = timm.create_model("gac_ms_resnet18_cifar")
    assert all((m.weight == 1).all() for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    fan = 512 * 9
    assert abs(model.stages[2][1].conv2.weight.std().item() / (1 / (3 * fan)) ** 0.5 - 1) < 0.02


def test_reference_form_makes_every_neuron_strict():
    for encoder in ("gac", "direct", "direct_lif"):
        for options, strict in (({"form": "reference"}, True), ({}, False)):
            nodes = [m for m in small(encoder=encoder, **options).modules() if isinstance(m, gac_sj.LIFNode)]
            assert {node.surrogate_function.strict for node in nodes} == {strict}


@pytest.mark.parametrize(
    "options,words",
    [
        (dict(encoder="rate"), "^encoder .*'rate'.*choose one of gac, direct"),
        (dict(form="best"), "^form .*'best'.*choose one of reference"),
        (dict(encoder="direct", form="unit_gate"), "^form .*'reference'.*'direct'.*'unit_gate'"),
        (dict(T=0), "^T .*0"),
        (dict(stem="conv9"), "^stem .*'conv9'.*choose one of conv3, conv7, three"),
        (dict(neuron="mnist"), "'mnist'.*choose one of cifar"),
        (dict(downsample="min"), "^downsample .*'min'.*choose one of stride, avg_shortcut, max, max_branch"),
        (dict(neuron="sigmoid", form="reference"), "'reference'.*'sigmoid'.*choose"),
        (dict(neuron="sigmoid", encoder="direct", form="reference"), "'reference'.*'sigmoid'.*choose"),
        (dict(init="xavier"), "^init .*'xavier'.*choose one of cifar, ms, kaiming, att"),
        (dict(channels=[]), r"^channels .*\[\]"),
        (dict(blocks=3), "^blocks .*3"),
        (dict(blocks=(1, 1)), r"^blocks, channels and strides .*\(1, 1\), \(16, 32, 64\) and \(1, 2, 2\)"),
        (dict(strides=[0, 0, 0]), "^strides .*0"),
        (dict(drop_rate=5), "^drop_rate .*at least 0 and less than 1.*5"),
        (dict(num_classes=-1), "^num_classes .*-1"),
        (dict(colour="red"), "^colour is a keyword of neither MSResNet nor its encoder 'gac'; .* drop_rate, .*gain"),
        (dict(drop_paths_rate=0.1), "^drop_paths_rate .*did you mean 'drop_path_rate'"),
        (dict(depth=2, encoder="direct"), "^depth is a keyword of neither MSResNet nor its encoder 'direct'"),
        (dict(in_channels=1), "^in_channels .*did you mean 'in_chans'"),
        (dict(step_mode="s"), "^step_mode "),
    ],
)
def test_bad_arguments_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        small(**options)


def test_summary_reports_firing_rates_and_does_not_change_the_model():
    model = small(form="reference").eval()
    before = copy.deepcopy(model.state_dict())
    summary = summarize(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert summary.parameters == sum(p.numel() for p in model.parameters())
    assert set(summary.firing_rates) == {name for name, m in model.named_modules() if isinstance(m, gac_sj.LIFNode)}
    assert summary.shapes["encoder.neuron"] == (4, 8, 16, 32, 32)
    for name, rate in summary.firing_rates.items():
        assert f"{name} " in str(summary)
        assert f"{rate:.4f}" in str(summary)
    # our forms exist because the published one drives the first branch less at initialisation
    ours = summarize(small(form="unit_gate")).firing_rates["stages.0.0.lif1"]
    assert ours > 3 * summary.firing_rates["stages.0.0.lif1"]
    assert summarize(small(encoder="poisson")).firing_rates


def test_summary_handles_a_network_with_an_attached_encoder():
    """Its encoder has another name, and its neurons keep their state between calls."""
    network = nn.Sequential(
        *(layer.Conv2d(3, 4, 3, bias=False), layer.BatchNorm2d(4), neuron.LIFNode()),
        *(layer.Conv2d(4, 4, 3, bias=False), neuron.LIFNode()),
    )
    functional.set_step_mode(network, "m")
    gac_sj.attach(network, T=2, at="0")
    network(images(4))
    for count in (1, 2):
        summary = summarize(network, images(count))
        assert summary.parameters - summary.encoder_parameters == 4 * 4 * 9
        assert summary.shapes["4"] == (2, count, 4, 12, 12)
    assert network[4].v == 0.0
    with pytest.raises(ValueError, match=r"Sequential .*pass images"):
        summarize(network)


def test_firing_rates_count_spikes_over_all_calls():
    node = gac_sj.LIFNode(v_threshold=0.5, decay_input=False)
    network = nn.Sequential(node)
    with firing_rates(network) as rates:
        for current in (torch.ones(1, 3), torch.zeros(1, 1)):
            network(current)
            functional.reset_net(network)
    assert rates == {"0": 0.75}
    assert not node._forward_hooks


@pytest.mark.medium
@pytest.mark.parametrize("method,most", [("set_grad_checkpointing", 0.5), ("set_spikes_as_bytes", 0.85)])
@pytest.mark.parametrize(
    "options", [{}, dict(drop_rate=0.3, drop_path_rate=0.5), dict(encoder="direct", spike_driven=True)], ids=str
)
def test_memory_options_save_memory_and_keep_the_results(method, most, options):
    torch.manual_seed(0)
    model, results, kept = small(**options), [], []
    for enable in (False, True):
        network = copy.deepcopy(model)
        getattr(network, method)(enable)
        torch.manual_seed(1)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as memory:
            loss = network(images(4, 32)).square().sum()
        kept.append(sum(event.self_cpu_memory_usage for event in memory.key_averages()))
        loss.backward()
        results.append([loss, *(p.grad for p in network.parameters()), *network.buffers()])
    assert all(map(torch.equal, *results))
    assert 0 < kept[1] < most * kept[0]


def test_checkpointed_blocks_allow_two_backward_passes():
    model = small()
    model.set_grad_checkpointing()
    loss = model(images()).square().sum()
    loss.backward(retain_graph=True)
    once = [p.grad.clone() for p in model.parameters()]
    loss.backward()
    assert all(torch.equal(p.grad, 2 * grad) for p, grad in zip(model.parameters(), once))


def test_values_other_than_spikes_are_not_kept_as_bytes():
    model = small()
    for module in model.modules():
        if hasattr(module, "surrogate_function"):
            module.surrogate_function.spiking = False
    x, grads = images(), []
    for enable in (False, True):
        model.set_spikes_as_bytes(enable)
        model.zero_grad()
        network = copy.deepcopy(model)
        network(x).square().sum().backward()
        grads.append([p.grad for p in network.parameters()])
    assert all(map(torch.equal, *grads))


@pytest.mark.parametrize(
    "name,arguments",
    [("gac_ms_resnet8_cifar", ("T", "downsample", "drop_rate", "drop_path_rate")), ("ma_snn", ("T", "img_size"))],
)
def test_arguments_are_fixed_at_construction(name, arguments):
    with torch.device("meta"):
        model = timm.create_model(name)
    for argument in arguments:
        before = getattr(model, argument)
        with pytest.raises(ValueError, match=rf"^{argument} is fixed .*build a new (MSResNet|MASNN)"):
            setattr(model, argument, 9)
        assert getattr(model, argument) == before


class TestThreads:
    """Several threads share a network; their calls wait for each other."""

    @staticmethod
    def wrong(call, model, threads=4, calls=12):
        inputs = [torch.randn(2, 3, 32, 32) for _ in range(8)]
        with torch.no_grad():
            expected = [call(model, x) for x in inputs]
        assert not torch.equal(*expected[:2])

        def work(at):
            with torch.no_grad():
                return not torch.equal(call(model, inputs[at % 8]), expected[at % 8])

        with ThreadPoolExecutor(threads) as pool:
            return sum(pool.map(work, range(threads * calls)))

    @staticmethod
    def hold(model):
        """Keep calls of a network inside it: an event when one is there, one that lets them go, and the hook."""
        entered, leave = threading.Event(), threading.Event()

        def hold(*_):
            entered.set()
            assert leave.wait(60)

        return entered, leave, model.lif.register_forward_hook(hold)

    @pytest.mark.medium
    @pytest.mark.parametrize(
        "call",
        [
            lambda model, x: model(x),
            lambda model, x: model.forward_sequence(x),
            lambda model, x: model.forward_features(x),
        ],
        ids=["forward", "sequence", "features"],
    )
    def test_nothing_is_wrong(self, call):
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            assert self.wrong(call, small().eval()) == 0
        finally:
            sys.setswitchinterval(interval)

    def test_copies_wait_only_for_themselves(self):
        model = small().eval()
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        entered, leave, _ = self.hold(model)
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(model, images())
            assert entered.wait(60)
            for other in copies:
                other(images())
            encoded = []
            model.encoder.register_forward_hook(lambda *_: encoded.append(1))
            second = pool.submit(model.forward_sequence, images())
            time.sleep(0.3)
            assert not encoded
            leave.set()
            assert first.result(60).shape == (2, 10) and second.result(60).shape == (4, 2, 10)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside threads
    def test_a_forked_process_does_not_wait_for_a_thread_it_does_not_have(self):
        model = small().eval()
        entered, leave, hook = self.hold(model)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(model, images())
            assert entered.wait(60)
            hook.remove()
            child = multiprocessing.get_context("fork").Process(
                target=lambda: model.forward_head(torch.ones(4, 1, 64, 2, 2))
            )
            child.start()
            child.join(60)
            alive = child.is_alive()
            child.kill()
            leave.set()
            first.result(60)
        assert not alive
