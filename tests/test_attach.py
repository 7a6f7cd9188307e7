"""An encoder in the place of the stem of SpikingJelly's models and of a user's own network."""

import copy
import importlib
import pickle

import pytest
import torch
from helpers.networks import wake
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

from gac_sj import GatedAttentionCoding
from gac_sj.attach import attach

pytestmark = pytest.mark.all_parameters  # SpikingJelly computes here

T = 3


def lif(kind=neuron.LIFNode):
    return dict(spiking_neuron=kind, surrogate_function=surrogate.ATan(), detach_reset=True)


def classes(module):
    return importlib.import_module(f"spikingjelly.activation_based.model.{module}")


def resnet(module, kind, **options):
    module = classes(module)
    return getattr(module, kind)(module.BasicBlock, [1, 1, 1, 1], num_classes=5, **lif(), **options)


def vgg(batch_norm):
    kind = classes("spiking_vgg").SpikingVGG
    with torch.device("meta"):  # the constructor's head has a hundred million weights
        network = kind([8], batch_norm=batch_norm, init_weights=False, **lif())
    network.features = kind.make_layers([8, "M", 12, "M"], batch_norm=batch_norm, neuron=neuron.LIFNode)
    network.avgpool = layer.AdaptiveAvgPool2d((1, 1))
    network.classifier = layer.Linear(12, 5)
    return network


def small(module, kind, **options):
    """One of 2.0.0's models."""
    return getattr(classes(module), kind)(T=T, num_classes=5, **options)


def staged(module, kind, **options):
    return small(module, kind, layers=(1, 1, 1), base_channels=8, **options)


def former(module, kind, **options):
    return small(module, kind, embed_dims=32, **options)


def spikformer(patch_size):
    size = dict(img_size_h=32, img_size_w=32, patch_size=patch_size)
    return former("spikformer", "Spikformer", num_heads=2, depths=1, **size)


def masnn():
    size = dict(input_size=(32, 32), channels=(8, 8), pools=(2, 2), fc_hidden=64)
    node = dict(surrogate_function=surrogate.ATan())  # its own is 0 away from the threshold
    return small("masnn", "MASNN", in_channels=3, reduction_t=2, reduction_c=4, **size, **node)


BOTH = {
    "SpikingResNet": lambda: resnet("spiking_resnet", "SpikingResNet"),
    "SEWResNet ADD": lambda: resnet("sew_resnet", "SEWResNet", cnf="ADD"),
    "SEWResNet AND": lambda: resnet("sew_resnet", "SEWResNet", cnf="AND"),
    "SEWResNet IAND": lambda: resnet("sew_resnet", "SEWResNet", cnf="IAND"),
    "SpikingVGG bn": lambda: vgg(batch_norm=True),
    "SpikingVGG": lambda: vgg(batch_norm=False),
    "CIFAR10Net": lambda: classes("parametric_lif_net").CIFAR10Net(channels=8, **lif(neuron.ParametricLIFNode)),
}
NEW = {
    "MSResNet": lambda: staged("ms_resnet", "MSResNet"),
    "MSResNet pool": lambda: staged("ms_resnet", "MSResNet", stem_pool=True),
    "MaxResNet": lambda: staged("ms_resnet", "MaxResNet"),
    "AttMSResNet": lambda: staged("masnn", "AttMSResNet"),
    "MASNN": masnn,
    "Spikformer 4": lambda: spikformer(4),
    "Spikformer 16": lambda: spikformer(16),
    "QKFormer": lambda: former("qkformer", "QKFormer", num_heads=(1, 2, 2), depths=(1, 1, 1)),
    "SpikeDrivenTransformer": lambda: former(
        "spike_driven_transformer", "SpikeDrivenTransformer", num_heads=2, depths=1
    ),
    "MaxFormer": lambda: former("maxformer", "MaxFormer", depths=(1, 1, 1)),
    "MaxFormer cifar": lambda: former("maxformer", "MaxFormer", depths=(1, 1, 1), cifar=True),
}
try:
    classes("ms_resnet")
except ModuleNotFoundError:
    NEW = {}
MODELS = BOTH | NEW
#: the first module of a stem is the encoder's place; what it replaces, without the classes
REPLACED = {
    "SpikingResNet": "conv1 bn1 sn1",
    "SpikingVGG bn": "features.0 features.1 features.2",
    "SpikingVGG": "features.0 features.1",
    "CIFAR10Net": "conv_fc.0 conv_fc.1 conv_fc.2",
    "MSResNet pool": "stem",
    "AttMSResNet": "stem",
    "MASNN": " ".join(f"conv_blocks.0.{name}" for name in ("conv", "bn", "pool", "attn", "cell")),
    "Spikformer 16": "patch_embed.stages.0.conv_bn patch_embed.stages.0.neuron",
    "QKFormer": " ".join(f"patch_embed1.{name}" for name in ("conv1", "bn1", "pool1", "lif1")),
    "SpikeDrivenTransformer": "patch_embed.stages.0.0 patch_embed.stages.0.1 patch_embed.stages.0.2",
    "MaxFormer cifar": "patch_embed1.conv patch_embed1.bn",
}
#: stems without a neuron, where the gate weighs the current in these tests
BARE = {"MSResNet", "MSResNet pool", "MaxResNet", "AttMSResNet", "MaxFormer cifar"}


def awake(name):
    """A model in which neurons fire, in float64, so that no rounding is a spike."""
    torch.manual_seed(0)
    network = MODELS[name]().double()
    functional.set_step_mode(network, "m")
    for module in network.modules():
        # layers without a BatchNorm that would lift the currents to the threshold
        if isinstance(module, {"SpikingVGG": nn.Conv2d, "CIFAR10Net": nn.Linear}.get(name, ())):
            module.weight.data.mul_(6.0)
        # attention whose ReLUs should let gradients through
        if type(module).__name__ == "MultiDimensionalAttention":
            for weight in module.parameters():
                weight.data.abs_()
    return wake(network, sequence(images()))


def images(n=2):
    coarse = torch.rand(n, 3, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")


def sequence(x):
    return x.expand(T, *x.shape)


def attached(name):
    bare = {"neuron": "drop"} if name in BARE else {}
    network = attach(awake(name), T=T, **bare)
    for weight in encoder_of(network).gau.temporal.parameters():  # else the gate is about 1, or just that by chance
        weight.data.abs_().mul_(5.0)
    return network


def encoder_of(network):
    return network.get_submodule(network.attached.at)


def hold_gate_at_1(network):
    unit = encoder_of(network).gau
    assert unit.gain == 2.0
    nn.init.zeros_(unit.temporal.excite.weight)


def run(network, x):
    with torch.no_grad():
        y = network(x)
    functional.reset_net(network)
    return y


def frames_seen_by(convolution):
    seen = []
    convolution.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[:-3].numel()))
    return seen


@pytest.mark.medium
@pytest.mark.parametrize("name", MODELS)
def test_outputs_stay_where_the_gate_is_1_and_an_image_is_encoded_once(name):
    network = awake(name)
    expected = run(network, sequence(images()))
    assert expected.std() > 0
    assert not torch.allclose(expected[..., 0, :], expected[..., 1, :])
    network = attached(name)
    gated = run(network, images())
    assert gated.shape == expected.shape
    assert not torch.allclose(gated, expected)
    hold_gate_at_1(network)
    seen = frames_seen_by(encoder_of(network).stem[0])
    torch.testing.assert_close(run(network, images()), expected)
    # MASNN's stem attends over time, so that no step is like the other
    assert sum(seen) == 2 * (1 if network.attached.once else T)
    assert network.attached.once == (name != "MASNN")
    torch.testing.assert_close(run(network, sequence(images())), expected)


@pytest.mark.medium
@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_every_parameter_of_the_encoder(name):
    network = attached(name).train()
    y = network(images(4))
    (y * torch.randn_like(y)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder_of(network).parameters())
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("name", sorted(BARE & MODELS.keys()))
def test_where_the_stem_has_no_neuron_the_encoder_brings_one(name):
    network = attach(awake(name), T=T)
    spikes = []
    encoder_of(network).neuron.register_forward_hook(lambda module, inputs, output: spikes.append(output))
    assert network.attached.neuron == "LIFNode"
    assert run(network, images()).isfinite().all()
    assert set(spikes[0].unique().tolist()) == {0.0, 1.0}


@pytest.mark.medium
@pytest.mark.parametrize("name", MODELS)
def test_copies_and_files(name):
    network = attached(name)
    expected = run(network, images())
    copies = [copy.deepcopy(network)]
    if name != "AttMSResNet":  # SpikingJelly's holds a lambda, with or without an encoder
        copies.append(pickle.loads(pickle.dumps(network)))
    copies.append(attached(name))
    copies[-1].load_state_dict(network.state_dict())
    for twin in copies:
        assert torch.equal(run(twin, images()), expected)
        assert twin.attached == network.attached
        seen = frames_seen_by(encoder_of(twin).stem[0])
        run(twin, images())
        assert sum(seen) == 2 * (1 if network.attached.once else T)


@pytest.mark.parametrize("name", sorted(REPLACED.keys() & MODELS.keys()))
def test_the_summary_and_what_stays(name):
    before = awake(name)
    state = before.state_dict()
    stem = {id(p) for p in before.parameters()}
    network = attach(before, T=T)
    assert network is before
    summary = network.attached
    assert " ".join(part for part, _ in summary.replaced) == REPLACED[name]
    assert summary.at == REPLACED[name].split()[0]
    own = [p for p in encoder_of(network).parameters() if id(p) in stem]
    assert summary.kept == sum(p.numel() for p in own) > 0
    assert summary.added == sum(p.numel() for p in encoder_of(network).gau.parameters())
    assert f"{summary.at} is now the encoder 'gac' (T={T}, 3 -> {summary.channels} channels" in str(summary)
    # names of all later modules are as they were
    places = tuple(part + "." for part in REPLACED[name].split())
    later = {key for key in state if not key.startswith(places)}
    assert later == {key for key in network.state_dict() if not key.startswith(places)}


@pytest.mark.medium
def test_training_has_the_batch_norm_statistics_of_the_whole_sequence():
    networks = [awake("SpikingResNet").train(), attached("SpikingResNet").train()]
    hold_gate_at_1(networks[1])
    outputs = [run(networks[0], sequence(images())), run(networks[1], images())]
    torch.testing.assert_close(*outputs)
    norms = networks[0].bn1, encoder_of(networks[1]).stem[1]
    torch.testing.assert_close(norms[0].state_dict(), norms[1].state_dict())


@pytest.mark.medium
def test_single_steps_give_the_sequence_and_the_mode_is_the_networks():
    expected = run(attached("CIFAR10Net"), images())
    for late in (False, True):
        network = awake("CIFAR10Net")
        if late:
            network = attach(network, T=T)
        functional.set_step_mode(network, "s")
        if not late:
            network = attach(network, T=T)
        network.load_state_dict(attached("CIFAR10Net").state_dict())
        assert encoder_of(network).step_mode == "s"
        for _ in range(2):
            with torch.no_grad():
                steps = torch.stack([network(images()) for _ in range(T)])
            functional.reset_net(network)
            torch.testing.assert_close(steps, expected)


def test_what_came_in_after_the_first_reset_is_reset_too():
    network = awake("CIFAR10Net")
    functional.reset_net(network)
    attach(network, T=T)
    functional.set_step_mode(network, "s")
    network(images())
    functional.reset_net(network)
    assert encoder_of(network).sequence is None
    assert network(images(3)).shape[0] == 3


class Own(nn.Module):
    """A user's own network, single-step as SpikingJelly builds it."""

    def __init__(self):
        super().__init__()
        self.conv1 = layer.Conv2d(2, 6, 3, padding=1, bias=False)
        self.bn1 = layer.BatchNorm2d(6)
        self.sn1 = neuron.IFNode(surrogate_function=surrogate.ATan())
        self.body = nn.Sequential(
            nn.Sequential(layer.Conv2d(6, 4, 3), layer.BatchNorm2d(4), neuron.LIFNode(), layer.MaxPool2d(2))
        )
        self.fc = layer.Linear(4 * 3 * 3, 5)
        functional.set_step_mode(self, "m")

    def forward(self, x):
        return self.fc(self.body(self.sn1(self.bn1(self.conv1(x)))).flatten(-3))


def events(*leading):
    return torch.rand(*leading, 2, 8, 8)


@pytest.mark.parametrize("names", [dict(at="conv1", until="sn1"), dict(at="conv1")], ids=str)
def test_an_own_network_by_names(names):
    x = events(T, 4)
    network = wake(Own(), x)
    expected = run(network, x)
    node = network.sn1
    attach(network, T=T, **names)
    assert encoder_of(network).neuron is node
    assert isinstance(network.sn1, nn.Identity)
    assert not torch.allclose(run(network, x), expected)
    hold_gate_at_1(network)
    torch.testing.assert_close(run(network, x), expected)


def test_a_sequential_is_entered_as_far_as_its_neuron():
    first = nn.Sequential(layer.Conv2d(2, 6, 3), layer.BatchNorm2d(6), layer.MaxPool2d(2), neuron.IFNode())
    network = nn.Sequential(nn.Sequential(first, layer.MaxPool2d(3)), nn.Flatten(2))
    functional.set_step_mode(network, "m")
    network.eval()
    expected = run(network, events(1, 4).expand(4, -1, -1, -1, -1) * 2)
    attach(network, at="0")
    assert [name for name, _ in network.attached.replaced] == ["0.0.0", "0.0.1", "0.0.2", "0.0.3"]
    assert encoder_of(network).T == 4
    assert run(network, events(4)).shape == expected.shape


@pytest.mark.parametrize(
    "options",
    [dict(form="current"), dict(output="current"), dict(until="bn1", form="current")],
    ids=str,
)
def test_keep_leaves_the_own_neuron_behind_an_encoder_that_takes_none(options):
    x = events(T, 4)
    network = wake(Own(), x)
    expected = run(network, x)
    attach(network, T=T, at="conv1", **options)
    assert isinstance(network.sn1, neuron.IFNode)
    assert encoder_of(network).neuron is None
    hold_gate_at_1(network)
    torch.testing.assert_close(run(network, x), expected)


@pytest.mark.parametrize("encoder", ["direct", "direct_lif", "poisson", "latency", "weighted_phase", "direct_matched"])
def test_other_encoders(encoder):
    x = events(4)
    network = wake(Own(), sequence(x))
    expected = run(network, sequence(x))
    attach(network, T=T, encoder=encoder, at="conv1")
    y = run(network, x)
    assert y.shape == expected.shape
    # direct coding is what the network did; the pixel codings leave the neuron where it was
    assert torch.allclose(y, expected, atol=1e-6) == (encoder in ("direct", "direct_lif"))
    assert isinstance(network.sn1, neuron.IFNode) == (encoder in ("poisson", "latency", "weighted_phase"))


def test_a_gate_before_the_networks_own_neuron():
    network = attach(wake(Own(), events(T, 4)), T=T, at="conv1", form="lite", gate="before")
    encoder = encoder_of(network)
    assert isinstance(encoder.neuron, neuron.IFNode)
    assert set(encoder(3 * events(4)).unique().tolist()) == {0.0, 1.0}
    network.train()(events(4)).square().sum().backward()
    assert all(parameter.grad.any() for parameter in encoder.parameters())


@pytest.mark.parametrize("encoder", ["gac", "direct", "poisson"])
def test_drop_leaves_no_neuron_of_the_stem(encoder):
    network = attach(wake(Own(), events(T, 4)), T=T, at="conv1", encoder=encoder, neuron="drop")
    assert encoder_of(network).neuron is None and isinstance(network.sn1, nn.Identity)
    assert not torch.equal(encoder_of(network)(events(4)) % 1, torch.zeros(T, 4, 6, 8, 8))  # a current, not spikes
    assert network.attached.neuron is None


@pytest.mark.parametrize("given", ["imagenet", neuron.LIFNode(tau=3.0, step_mode="m")], ids=["preset", "module"])
@pytest.mark.parametrize("options", [dict(encoder="latency"), dict(form="current")], ids=str)
def test_a_preset_or_a_module_follows_an_encoder_that_takes_none(options, given):
    network = attach(Own(), at="conv1", neuron=given, **options)
    assert encoder_of(network).neuron is None
    assert network.sn1 is given if isinstance(given, nn.Module) else network.sn1.v_threshold == 0.5


def test_a_preset_or_a_module_takes_the_place_of_the_neuron():
    network = attach(Own(), at="conv1", neuron="imagenet", form="unit_gate")
    assert encoder_of(network).neuron.v_threshold == 0.5
    assert isinstance(network.sn1, nn.Identity)
    node = neuron.LIFNode(tau=3.0, step_mode="m")
    assert encoder_of(attach(Own(), at="conv1", neuron=node)).neuron is node


def test_the_encoder_has_the_type_and_the_training_mode_of_the_network():
    network = attach(Own().bfloat16().eval(), at="conv1")
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    assert not any(module.training for module in network.modules())
    network = Own().train()
    network.bn1.eval()  # frozen by its owner
    attach(network, at="conv1")
    assert encoder_of(network).gau.training
    assert not encoder_of(network).stem[1].training


@pytest.mark.parametrize(
    "names,words",
    [
        (dict(), r"children are conv1 \(Conv2d\), bn1.*at='conv1', until='sn1'"),
        (dict(at="conv9"), "no module 'conv9'; Own has conv1, bn1, sn1"),
        (dict(at="nowhere.conv1"), "no module 'nowhere.conv1'; Own has conv1"),
        (dict(at="body.0.9"), "no module 'body.0.9'; Sequential has 0, 1, 2, 3"),
        (dict(at="bn1", until="conv1"), "until must .*at='bn1'.*got 'conv1'; choose one of bn1, sn1"),
        (dict(at="conv1", until="body.0"), "until must .*at='conv1'.*got 'body.0'"),
        (dict(at="sn1"), "sn1 .IFNode. is or holds a neuron"),
        (dict(at="conv1", until="body"), "sn1 .IFNode. is or holds a neuron"),
        (dict(at="fc"), "until must name .*'fc'.*choose one of fc"),
        (dict(at="fc", until="fc"), "at must .*Conv2d, got Linear"),
        (dict(at="bn1"), "at must .*Conv2d, got BatchNorm2d"),
        (dict(at="conv1", encoder="gack"), "encoder must .*'gack'.*did you mean 'gac'"),
        (dict(at="conv1", encoder=["gac"]), r"encoder must .*\['gac'\]; choose one of gac, direct"),
        (dict(at="conv1", encoder="direct_matched", neuron="drop"), "neuron .*'direct_matched' needs a neuron"),
        (dict(at="conv1", until="bn1", encoder="poisson", neuron="cifar"), "neuron has no place.*'poisson'.*'cifar'"),
        (dict(at="conv1", neuron=None), "neuron must be 'keep', 'drop', .* got None"),
        (dict(at="conv1", neuron="lif"), "preset.*'lif'"),
        (dict(at="conv1", encoder="direct", output="current"), "'direct' does not accept .*'output'"),
        (dict(at="conv1", encoder="poisson", form="current"), "'poisson' does not accept .*'form'"),
        (dict(at="conv1", foo=1), "'gac' does not accept .*'foo'"),
        (dict(at="conv1", stem=None, channels=12), "^channels, stem is decided by the network.*leave it out"),
        (dict(at="conv1", in_channels=3, step_mode="s"), "^in_channels, step_mode is decided"),
        (dict(at=nn.Conv2d(2, 6, 3)), "at must be the name of a module, got Conv2d"),
        (dict(at="conv1", until=nn.Identity()), "until must be the name of a module, got Identity"),
        (dict(at="conv1", T=0), "T must be a positive integer, got 0"),
    ],
    ids=str,
)
def test_errors_say_what_to_do_and_change_nothing(names, words):
    network = Own()
    before = str(network)
    with pytest.raises(ValueError, match=words):
        attach(network, **names)
    assert str(network) == before


def test_a_neuron_in_two_places_is_an_error_where_the_encoder_would_take_it():
    network = Own()
    network.body.append(network.sn1)
    with pytest.raises(ValueError, match=r"sn1 and body\.1 are one neuron"):
        attach(network, at="conv1")
    assert isinstance(network.conv1, nn.Conv2d)
    assert attach(network, at="conv1", neuron="cifar").body[1] is not encoder_of(network).neuron


def test_with_a_neuron_that_fires_at_the_threshold_it_is_not_the_published_encoder():
    assert not encoder_of(attach(Own(), at="conv1", form="reference")).is_reference
    assert encoder_of(attach(Own(), at="conv1", form="reference", neuron="cifar")).is_reference


def test_an_encoder_that_is_there_already_is_an_error():
    network = attach(Own(), at="conv1")
    with pytest.raises(ValueError, match=r"Own has an encoder already \(conv1, GatedAttentionCoding\)"):
        attach(network, at="body.0.0")
    with pytest.raises(ValueError, match="has an encoder already"):
        attach(GatedAttentionCoding(), at="stem")


@pytest.mark.skipif(not NEW, reason="SpikingJelly 0.0.0.0.14 has no model with a T of its own")
def test_the_networks_own_number_of_steps():
    assert encoder_of(attach(MODELS["MASNN"]())).T == T
    with pytest.raises(ValueError, match=f"T must be {T}.*MSResNet.*got 6; leave it out"):
        attach(MODELS["MSResNet"](), T=6)
