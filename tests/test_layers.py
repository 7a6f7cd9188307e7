"""Layers are called: what users put on the layers of an encoder or network acts, as in any PyTorch network."""

import copy
import warnings
from importlib.util import find_spec

import pytest
import timm
import torch
from helpers.encoders import AVAILABLE
from spikingjelly.activation_based import layer as sj_layer
from spikingjelly.activation_based import neuron
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.flop_counter import FlopCounterMode

import gac_sj
from gac_sj.encoders import create_encoder
from gac_sj.nn.membrane_attention import MembraneAttention
from gac_sj.nn.sync_batchnorm import convert_sync_batchnorm

HAS_COUNTERS = find_spec("spikingjelly.activation_based.op_counter") is not None
MODELS = [name for module in ("ms_resnet", "att_ms_resnet", "ma_snn") for name in timm.list_models(module=module)]
ENCODERS = pytest.mark.parametrize("name", AVAILABLE)
#: modules with convolutions or linear layers of their own, and the shape of their input
PARTS = {
    "gac": (lambda: gac_sj.GatedAttentionCoding(4, channels=8), (2, 3, 6, 7)),
    "gac, current": (lambda: gac_sj.GatedAttentionCoding(4, channels=8, form="current"), (2, 3, 6, 7)),
    "direct_matched": (lambda: gac_sj.MatchedDirectCoding(4, channels=8), (2, 3, 6, 7)),
    "unit": (lambda: gac_sj.GatedAttentionUnit(4, 8), (2, 8, 6, 7)),
    "membrane": (lambda: MembraneAttention("TCSA", 4, 8), (4, 2, 8, 6, 7)),
}


def weighted(module):
    """Names and modules of the layers that have parameters of their own."""
    return {name: child for name, child in module.named_modules() if list(child.parameters(recurse=False))}


def never_called(module, run):
    called = set()
    hooks = [
        child.register_forward_hook(lambda *_, name=name: called.add(name)) for name, child in weighted(module).items()
    ]
    run()
    for hook in hooks:
        hook.remove()
    return set(weighted(module)) - called


@ENCODERS
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_every_layer_of_an_encoder_is_called(name, training, step_mode):
    encoder = create_encoder(name, T=3, channels=8, step_mode=step_mode).train(training)
    images = torch.rand(2, 3, 6, 7)
    for x in (images, images.expand(3, *images.shape)):
        encoder.reset()
        assert never_called(encoder, lambda x=x: encoder(x)) == set()


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_of_a_network_is_called(name):
    with torch.device("meta"):
        model = timm.create_model(name)
        x = torch.rand(1, *model.pretrained_cfg["input_size"])
        assert never_called(model, lambda: model(x)) == set()


@ENCODERS
@pytest.mark.parametrize("options", [{}, dict(block_attention="TCSA"), dict(spike_driven=True)], ids=str)
def test_every_layer_of_a_network_behind_any_encoder_is_called(name, options):
    model = timm.create_model("gac_ms_resnet8_cifar", T=2, encoder=name, **options)
    model.set_spikes_as_bytes()
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        assert never_called(model, lambda: model(torch.rand(1, 3, 8, 8))) == set()


def layers(module):
    return [child for child in module.modules() if isinstance(child, nn.Conv2d | nn.Linear)]


class Half(nn.Module):
    def forward(self, weight):
        return 0.5 * weight


class Halved(nn.Module):
    """An adapter: it wraps a layer and adds a trained part."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.scale = layer, nn.Parameter(torch.tensor(-0.5))

    def forward(self, x):
        y = self.layer(x)
        return y + self.scale * y


def wrap(module):
    for name, child in list(module.named_modules()):
        if isinstance(child, nn.Conv2d | nn.Linear):
            module.set_submodule(name, Halved(child))


def hook(module):
    for layer in layers(module):
        assert layer.bias is None
        layer.register_forward_hook(lambda layer, inputs, output: 0.5 * output)


def parametrise(module):
    for layer in layers(module):
        parametrize.register_parametrization(layer, "weight", Half())


def scale(module):
    with torch.no_grad():
        for layer in layers(module):
            layer.weight.mul_(0.5)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("change", [hook, parametrise, wrap], ids=["hook", "parametrisation", "adapter"])
def test_what_changes_a_layer_changes_the_output(part, change):
    """Half of every layer, in three ways, is half of every weight."""
    build, shape = PARTS[part]
    expected = build().eval()
    changed = copy.deepcopy(expected)
    scale(expected)
    change(changed)
    x = torch.rand(shape)
    torch.testing.assert_close(changed(x), expected(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("part", PARTS)
def test_pruned_layers_train(part):
    """The mask holds, and every step sees the weights of the last one."""
    build, shape = PARTS[part]
    module = build()
    for layer in layers(module):
        prune.l1_unstructured(layer, "weight", 0.3)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    x, losses = torch.rand(shape), []
    for _ in range(3):
        loss = module(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] != losses[1] != losses[2]
    for layer in layers(module):
        assert not layer.weight_orig.grad[layer.weight_mask == 0].any()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "normalise", [parametrizations.weight_norm, parametrizations.spectral_norm, nn.utils.weight_norm]
)
def test_normalised_weights_train(part, normalise):
    build, shape = PARTS[part]
    module = build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old weight_norm
        for layer in layers(module):
            normalise(layer)
    for _ in range(2):
        module.zero_grad()
        module(torch.rand(shape)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_adapters_get_gradients():
    encoder = gac_sj.GatedAttentionCoding(4, channels=8)
    wrap(encoder.gau)
    encoder(torch.rand(2, 3, 6, 7)).square().sum().backward()
    adapters = [module for module in encoder.modules() if isinstance(module, Halved)]
    assert len(adapters) == 4
    assert all(adapter.scale.grad for adapter in adapters)


@pytest.mark.filterwarnings("ignore")  # torch.ao is deprecated
def test_dynamic_quantisation_is_close():
    model = timm.create_model("gac_ms_resnet8_cifar", T=4).eval()
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    features = torch.randn(2, 16, 8, 8)
    expected, found = (network.encoder.gau.temporal(features) for network in (model, quantised))
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.005 * features.abs().max().item())
    assert quantised(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("part", PARTS)
def test_operation_counters_see_every_product(part):
    build, shape = PARTS[part]
    module = build().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.rand(shape))
    counted = {name.partition(".")[2] for name, flops in counter.get_flop_counts().items() if sum(flops.values())}
    assert {name for name, layer in weighted(module).items() if isinstance(layer, nn.Conv2d | nn.Linear)} <= counted


class TestShortcutsStepAside:
    """Where the package computes something without a call, what users put in brings the call back."""

    @staticmethod
    def encoder(**options):
        return gac_sj.GatedAttentionCoding(4, channels=8, **options)

    def test_the_neuron_of_the_encoder(self):
        class Sticky(gac_sj.LIFNode):
            def neuronal_reset(self, spike):
                pass

        class Same(gac_sj.LIFNode):
            """It may be fused: a subclass that changes no method of a step."""

        x = torch.rand(2, 3, 6, 7)
        settings = dict(decay_input=False, surrogate_function=gac_sj.Triangle(), v_threshold=0.5)
        plain, sticky, same = (self.encoder(neuron=cls(**settings)) for cls in (gac_sj.LIFNode, Sticky, Same))
        for other in (sticky, same):
            other.load_state_dict(plain.state_dict())
        assert torch.equal(same(x), plain(x))
        fires = sticky(x)[0] > 0  # and goes on firing, since the potential stays
        assert fires.any() and (sticky(x) > 0).sum() > (plain(x) > 0).sum()
        assert same._fusable_neuron(same.features(x)) is same.neuron
        assert sticky._fusable_neuron(sticky.features(x)) is None

    def test_its_surrogate(self):
        encoder, x = self.encoder(), torch.rand(2, 3, 6, 7)
        seen = []
        handle = encoder.neuron.surrogate_function.register_forward_hook(lambda *_: seen.append(1))
        encoder(x)
        assert len(seen) == 4
        handle.remove()
        assert encoder(x).any()
        encoder.neuron.surrogate_function.forward = torch.zeros_like
        assert not encoder(x).any()

    def test_its_initial_potential(self):
        encoder, x = self.encoder(neuron=gac_sj.LIFNode()), torch.zeros(1, 3, 6, 7)
        assert not encoder.eval()(x).any()
        encoder.neuron._memories_rv["v"] = 9.0
        assert encoder(x)[0].all()

    @pytest.mark.parametrize("part", ["stem", "stem.1", "gau", "gau.temporal", "gau.spatial_channel.convolutions.0"])
    def test_a_replaced_forward(self, part):
        encoder, x = self.encoder(form="current").eval(), torch.rand(2, 3, 6, 7)
        module, calls = encoder.get_submodule(part), []
        forward, expected = module.forward, encoder(x)

        def replaced(*inputs):
            calls.append(1)
            return forward(*inputs)

        module.forward = replaced
        torch.testing.assert_close(encoder(x), expected)
        assert calls

    def test_a_replaced_forward_in_the_stem_may_be_random(self):
        encoder = gac_sj.DirectCoding(4, channels=8)
        encoder.stem[0].forward = lambda x: torch.randn(len(x), 8, 6, 7)
        first, second, *_ = encoder(torch.rand(2, 3, 6, 7))
        assert not torch.equal(first, second)

    @pytest.mark.parametrize("once", [True, False])
    def test_hooks_on_a_container_of_both_kinds_of_layers(self, once):
        """An nn.Sequential that mixes torch's layers with SpikingJelly's in step mode "m" runs layer by layer."""
        stem = nn.Sequential(nn.Conv2d(3, 8, 3), sj_layer.BatchNorm2d(8, step_mode="m"), nn.AvgPool2d(2))
        if not once:
            stem.append(gac_sj.LIFNode())
        encoder, x, seen = gac_sj.DirectCoding(4, channels=8, stem=stem).eval(), torch.rand(2, 3, 6, 7), []
        expected = encoder(x)
        stem.register_forward_pre_hook(lambda module, inputs: seen.append((module, inputs[0].shape[0])))
        stem.register_forward_hook(lambda module, inputs, output: 2 * output)
        assert torch.equal(encoder(x), 2 * expected)
        assert seen == [(stem, 1 if once else 4)]
        assert "forward" not in vars(stem)

    @pytest.mark.parametrize("change", ["hook", "forward"])
    def test_attach_keeps_a_container_that_must_be_called(self, change):
        container = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        network = nn.Sequential(container, gac_sj.LIFNode()).eval()
        encoder = gac_sj.attach(copy.deepcopy(network), T=2, at="0", until="1", encoder="direct_lif")[0]
        x, forward = torch.rand(1, 3, 6, 6), container.forward
        expected = encoder.features(x)
        if change == "hook":
            container.register_forward_hook(lambda module, inputs, output: 2 * output)
        else:
            container.forward = lambda x: 2 * forward(x)
        encoder = gac_sj.attach(network, T=2, at="0", until="1", encoder="direct_lif")[0]
        torch.testing.assert_close(encoder.over_time(encoder.features(x)), 2 * encoder.over_time(expected))

    def test_hooks_of_a_checkpointed_network(self):
        """Hooks on stages and blocks run, and those inside blocks once more in the backward pass."""
        model = timm.create_model("gac_ms_resnet8_cifar", T=2)
        seen = {"stages": 0, "stages.1": 0, "stages.1.0": 0, "stages.1.0.conv1": 0}

        def count(name):
            def hook(*_):
                seen[name] += 1

            return hook

        for name in seen:
            model.get_submodule(name).register_forward_hook(count(name))
        model.grad_checkpointing = True
        model(torch.rand(1, 3, 8, 8)).sum().backward()
        assert model.grad_checkpointing
        assert list(seen.values()) == [1, 1, 1, 2]

    @pytest.mark.parametrize(
        "change",
        [
            lambda node: node.register_forward_hook(lambda module, inputs, output: 0.5 * output),
            lambda node: setattr(node, "forward", lambda x: torch.sigmoid(x)),
            lambda node: node.surrogate_function.register_forward_hook(lambda module, inputs, output: 0.5 * output),
            lambda node: setattr(node, "surrogate_function", nn.Sigmoid()),
        ],
        ids=["hook", "forward", "surrogate", "no surrogate"],
    )
    @pytest.mark.parametrize("name", ["lif1", "lif2"])
    def test_spikes_that_are_none_are_not_kept_as_bytes(self, change, name):
        model = timm.create_model("gac_ms_resnet8_cifar", T=2)
        x, grads = torch.rand(2, 3, 8, 8), []
        for enable in (False, True):
            network = copy.deepcopy(model)
            for stage in network.stages:
                change(getattr(stage[0], name))
            network.set_spikes_as_bytes(enable)
            network(x).square().sum().backward()
            grads.append([p.grad for p in network.parameters()])
        assert all(map(torch.equal, *grads))

    @pytest.mark.skipif(not HAS_COUNTERS, reason="only SpikingJelly 2.0.0 has counters")
    @pytest.mark.parametrize("name", ["ACCounter", "FlopCounter", "MACCounter", "SynOpCounter", "NeuronStateCounter"])
    def test_spikingjellys_counters_see_the_encoder(self, name):
        """As with SpikingJelly's own neuron in it."""
        from spikingjelly.activation_based import op_counter

        torch.manual_seed(0)
        settings = dict(tau=2.0, decay_input=False, surrogate_function=gac_sj.Triangle(), step_mode="m")
        ours = self.encoder(neuron=gac_sj.LIFNode(**settings)).eval()
        theirs = self.encoder(neuron=neuron.LIFNode(**settings)).eval()
        theirs.load_state_dict(ours.state_dict())
        x, counts = torch.rand(2, 3, 6, 7), []
        for encoder in (ours, theirs):
            counter = getattr(op_counter, name)()
            with torch.no_grad(), op_counter.DispatchCounterMode([counter]):
                encoder(x)
            counts.append((counter.get_total(), dict(counter.get_counts())))
        assert counts[0] == counts[1]
        if name == "MACCounter":
            assert counts[0][1]["GatedAttentionCoding.gau.temporal.squeeze"]


@ENCODERS
@pytest.mark.parametrize("convert", [lambda module: module, convert_sync_batchnorm])
@pytest.mark.parametrize("sequence", [False, True])
def test_an_empty_batch_changes_no_running_statistic(name, convert, sequence):
    encoder = convert(create_encoder(name, T=4, channels=8)).train()
    before = copy.deepcopy(dict(encoder.named_buffers()))
    output = encoder(torch.empty(*([4] if sequence else []), 0, 3, 6, 7))
    assert output.shape == (4, 0, 8, 6, 7)
    for key, value in encoder.named_buffers():
        if not key.endswith("num_batches_tracked"):  # torch counts it
            assert torch.equal(value, before[key])


@pytest.mark.parametrize("options", [{}, dict(block_attention="TCSA"), dict(spike_driven=True)], ids=str)
def test_an_empty_batch_leaves_a_network_as_it_is(options):
    model = timm.create_model("gac_ms_resnet8_cifar", T=2, **options).train()
    before = copy.deepcopy(dict(model.named_buffers()))
    assert model(torch.empty(0, 3, 8, 8)).shape == (0, 10)
    for key, value in model.named_buffers():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, before[key])
