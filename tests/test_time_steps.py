"""resize_time_steps: a trained network for another T; inputs that are constant over time keep their output."""

import copy
import io
import itertools

import pytest
import timm
import torch
from helpers.encoders import AVAILABLE, HAS_ATTENTION
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import gac_sj
from gac_sj._utils.errors import UsageError
from gac_sj.nn.attention import FreeTemporalAttention, TemporalAttention
from gac_sj.nn.membrane_attention import MembraneAttention
from gac_sj.nn.time_steps import (
    _between_centres,
    fit_time_steps,
    free_attentions,
    resize_temporal_attention,
    temporal_pairs,
)

EXACT = dict(rtol=0, atol=0)
#: old and new T; with the reduction ratio 2 both change the number of hidden units, or not, in both directions
CHANGES = [(1, 2), (1, 4), (2, 4), (4, 6), (4, 8), (3, 5), (4, 12), (8, 4), (12, 5), (6, 7), (60, 16), (2, 3)]


def interpolated(output, T):
    """What an output over time [T, ...] becomes, in float64."""
    return torch.einsum("st,t...->s...", _between_centres(len(output), T), output.double())


def constant(T, *shape, generator=0):
    """A sequence whose steps are equal, of any sign."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(generator), dtype=torch.float64)
    return x.expand(T, *shape)


@pytest.mark.parametrize(("before", "after"), CHANGES)
@pytest.mark.parametrize("reduction", [1, 2, 5])
def test_an_input_that_is_constant_over_time_keeps_its_output(before, after, reduction):
    attention = TemporalAttention(before, reduction).double()
    resized = gac_sj.resize_time_steps(attention, after)
    assert after == resized.T and before == attention.T
    assert resized.squeeze.weight.shape == TemporalAttention(after, reduction).squeeze.weight.shape
    sums = attention.squeeze.weight.sum(1)
    for sign in (1, -1, 0):  # mean and maximum positive, negative, and of different signs
        x = constant(before, 3, 2, 2, 2)
        x = x if sign == 0 else sign * x.abs()
        if resized.squeeze.out_features == 1 and sums.min() < 0 < sums.max() and sign != 1:
            continue  # the documented exception
        expected = interpolated(attention(x).flatten(1), after)
        actual = resized(x[:1].expand(after, *x.shape[1:])).flatten(1)
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_an_output_that_is_the_same_at_every_step_stays_the_same():
    attention = TemporalAttention(4).double()
    with torch.no_grad():
        attention.excite.weight.copy_(attention.excite.weight[:1].expand(4, 2))
    x = constant(4, 2, 3, 2, 2)
    for T in (5, 7, 8, 16):
        y = gac_sj.resize_time_steps(attention, T)(x[:1].expand(T, *x.shape[1:]))
        torch.testing.assert_close(y, attention(x)[:1].expand_as(y), rtol=1e-9, atol=1e-9)


def test_multiples_of_T_with_the_same_hidden_units_are_plain_linear_interpolation():
    squeeze, excite = torch.randn(3, 4).double(), torch.randn(4, 3).double()
    new_squeeze, new_excite = resize_temporal_attention(squeeze, excite, 8, 3)
    plain = nn.functional.interpolate(squeeze[None], size=8, mode="linear")[0]
    torch.testing.assert_close(new_squeeze, plain / 2)
    torch.testing.assert_close(new_excite, nn.functional.interpolate(excite.t()[None], size=8, mode="linear")[0].t())


def test_copies_of_a_single_hidden_unit_differ():
    """Equal ones would have equal gradients for ever."""
    _, excite = resize_temporal_attention(torch.ones(1, 2), torch.ones(2, 1), 8, 4)
    assert len(excite[0].unique()) == 4
    torch.testing.assert_close(excite.sum(1), torch.ones(8))


def test_units_of_both_signs_and_of_no_sum_stay_finite():
    squeeze = torch.tensor([[1.0, -1.0], [2.0, 2.0], [-1.0, -1.0]])
    for T, hidden in itertools.product((1, 2, 3, 5), (1, 2, 3, 4)):
        new = resize_temporal_attention(squeeze, torch.randn(2, 3), T, hidden)
        assert all(weight.isfinite().all() and weight.abs().max() < 20 for weight in new)
    zero = resize_temporal_attention(torch.zeros(2, 4), torch.ones(4, 2), 8, 4)
    assert zero[0].eq(0).all() and zero[1].isfinite().all()


def forms():
    """Every encoder and form with temporal attention, then attention in blocks."""
    for form in gac_sj.encoders.FORMS:
        yield f"gac {form}", lambda T, form=form: gac_sj.GatedAttentionCoding(T, 3, 4, form=form)
    yield "gac temporal", lambda T: gac_sj.GatedAttentionCoding(T, 3, 4, attention="temporal")
    yield "gac ratio 3", lambda T: gac_sj.GatedAttentionCoding(T, 3, 4, temporal_reduction=3)
    if HAS_ATTENTION:
        for name in ("temporal_wise", "multi_dimensional"):
            yield name, lambda T, name=name: gac_sj.create_encoder(name, T=T, in_channels=3, channels=4)
    for name in ("TA", "TCSA"):
        yield f"blocks {name}", lambda T, name=name: MembraneAttention(name, T, 3, channel_reduction=1)


FORMS = dict(forms())


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 8), (4, 6), (3, 4)])
def test_every_temporal_attention_keeps_its_output_for_a_constant_input(name, before, after):
    module = FORMS[name](before).double().eval()
    resized = gac_sj.resize_time_steps(module, after)
    assert [value.shape for value in resized.state_dict().values()] == [
        value.shape for value in FORMS[name](after).state_dict().values()
    ]
    attentions = [
        (one, resized.get_submodule(at))
        for at, one in module.named_modules()
        if isinstance(
            one, FreeTemporalAttention | TemporalAttention | getattr(layer, "TemporalWiseAttention", TemporalAttention)
        )
        or at.endswith("attention.ta")
    ]
    assert len(attentions) == 1
    x = constant(1, 2, 4, 5, 5)[0]
    for old, new in attentions:
        if isinstance(old, FreeTemporalAttention | TemporalAttention):
            expected, actual = old(x[None].expand(before, *x.shape)), new(x[None].expand(after, *x.shape))
            actual, expected = actual.flatten(1), interpolated(expected.flatten(1), after)
        else:  # SpikingJelly's own: scores behind a sigmoid, or already times the input
            mlp_old, mlp_new = old.sharedMLP, new.sharedMLP
            ones = torch.ones(1, before, *(1,) * (mlp_old[0].weight.dim() - 2)).double()
            expected = torch.cat([interpolated(mlp_old(v * ones).flatten()[:, None], after) for v in (0.7, -0.4)])
            ones = torch.ones(1, after, *(1,) * (mlp_old[0].weight.dim() - 2)).double()
            actual = torch.cat([mlp_new(v * ones).flatten()[:, None] for v in (0.7, -0.4)])
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)
    if isinstance(module, gac_sj.Encoder):
        images = torch.rand(2, 3, 5, 5, dtype=torch.float64)
        assert resized(images).shape[0] == resized.T == after
        with pytest.raises(UsageError, match="T"):
            resized.T = before


NETWORKS = {
    "gac": ("gac_ms_resnet8_cifar", {}),
    "direct": ("ms_resnet8_cifar", {}),
    "poisson": ("ms_resnet8_cifar", {"encoder": "poisson"}),
    "lite": ("gac_ms_resnet8_cifar", {"form": "lite"}),
    "blocks": ("att_ms_resnet8_cifar", {"form": "current", "encoder": "gac"}),
    "events": ("ma_snn", {"img_size": 32, "channels": (4, 4, 4), "hidden": 8, "T": 4}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_the_one_that_its_keywords_build(name, tmp_path):
    model, options = NETWORKS[name]
    network = timm.create_model(model, **{"T": 4} | options).train()
    before = copy.deepcopy(network.state_dict())
    resized = gac_sj.resize_time_steps(network, 6)
    built = timm.create_model(model, **options | {"T": 6})
    shapes = [{key: value.shape for key, value in each.state_dict().items()} for each in (resized, built)]
    assert shapes[0] == shapes[1]
    assert str(resized) == str(built).replace("T=4", "T=6")
    assert (resized.T, resized.encoder.T, resized._model_args["T"], network.T) == (6, 6, 6, 4)
    assert resized.training and resized.encoder.training
    resized.reset_classifier(3)
    size = options.get("img_size", 8)
    images = torch.rand(2, resized.in_chans, size, size)
    assert resized(images).shape == (2, 3)
    resized.reset_classifier(network.num_classes)
    # the given network is as it was, and shares nothing
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    pointers = {parameter.data_ptr() for parameter in network.parameters()}
    assert pointers.isdisjoint(parameter.data_ptr() for parameter in resized.parameters())
    # all but temporal attention is untouched
    changed = {name for pair in temporal_pairs(before) for name in pair} | {*free_attentions(before)}
    assert bool(changed) == (name not in ("direct", "poisson"))
    own = gac_sj.resize_time_steps(network, 6).state_dict()
    for key in before.keys() - changed:
        assert torch.equal(own[key], before[key])
    gac_sj.checkpoint.save_pretrained(gac_sj.resize_time_steps(network, 6), tmp_path / "saved")
    loaded = gac_sj.checkpoint.load_pretrained(tmp_path / "saved")
    assert loaded.T == 6 and all(torch.equal(value, own[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_T_is_bit_equal(name):
    model, options = NETWORKS[name]
    network = timm.create_model(model, **{"T": 4} | options).eval()
    size = options.get("img_size", 8)
    images = torch.rand(2, network.in_chans, size, size)
    resized = gac_sj.resize_time_steps(network, 4)
    states = gac_sj.resize_time_steps(network.state_dict(), 4), resized.state_dict()
    for state in states:
        torch.testing.assert_close(state, dict(network.state_dict()), **EXACT)
    outputs = []
    for each in (network, resized):
        torch.manual_seed(0)  # Poisson draws
        outputs.append(each(images))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_state_dict_fits_the_network_of_its_new_T(name):
    model, options = NETWORKS[name]
    network = timm.create_model(model, **{"T": 4} | options)
    built = timm.create_model(model, **options | {"T": 8})
    # 4 steps and 1 hidden unit: the ratio may be 3, 4 or 5
    state = gac_sj.resize_time_steps(network.state_dict(), 8, temporal_reduction=5 if name == "events" else None)
    built.load_state_dict(state)
    again = fit_time_steps(network.state_dict(), built.state_dict())
    torch.testing.assert_close(dict(built.state_dict()), again, **EXACT)


def test_kind_type_mode_and_frozen_parts_are_kept():
    network = timm.create_model("gac_ms_resnet8_cifar", T=2).to(torch.float64).eval()
    network.set_grad_checkpointing()
    network.encoder.gau.temporal.squeeze.weight.requires_grad_(False)
    network(torch.rand(2, 3, 8, 8, dtype=torch.float64))  # neurons have memories now
    resized = gac_sj.resize_time_steps(network, 4)
    assert not resized.training and resized.grad_checkpointing
    temporal = resized.encoder.gau.temporal
    assert temporal.squeeze.weight.dtype == torch.float64 and not temporal.squeeze.weight.requires_grad
    assert temporal.excite.weight.requires_grad
    lite = gac_sj.GatedAttentionCoding(T=2, form="lite").requires_grad_(False)
    assert not gac_sj.resize_time_steps(lite, 4).gau.temporal.by_step.requires_grad
    assert resized.pretrained_cfg == network.pretrained_cfg
    torch.save(resized, buffer := io.BytesIO())
    buffer.seek(0)
    assert torch.load(buffer, weights_only=False).T == 4


def test_a_network_that_attach_changed():
    network = nn.Sequential(
        layer.Conv2d(3, 4, 3, padding=1), layer.BatchNorm2d(4), neuron.LIFNode(), layer.AdaptiveAvgPool2d(1)
    )
    functional.set_step_mode(network, "m")
    gac_sj.attach(network, T=4, at="0")
    resized = gac_sj.resize_time_steps(network, 8)
    assert (resized.attached.T, network.attached.T) == (8, 4)
    assert resized(torch.rand(2, 3, 6, 6)).shape == (8, 2, 4, 1, 1)


class Weighed(gac_sj.Encoder):
    """One weight per step."""

    def __init__(self, T=4, in_channels=3, channels=64, **options):
        super().__init__(T, in_channels, channels, **options)
        self.weights = nn.Parameter(torch.ones(T, 1, 1, 1, 1))

    def encode(self, x):
        return self.over_time(self.features(x)) * self.weights


def test_what_cannot_be_resized_is_refused(clean_registry):
    network = timm.create_model("gac_ms_resnet8_cifar", T=2)
    for T in (0, -1, 1.5, True, "4", None):
        for given in (network, network.state_dict()):
            with pytest.raises(UsageError, match=r"^T must be a positive integer"):
                gac_sj.resize_time_steps(given, T)
    with pytest.raises(UsageError, match="model_or_state must be a network with time steps"):
        gac_sj.resize_time_steps(nn.Linear(2, 2), 4)
    nn.utils.parametrizations.weight_norm(network.encoder.gau.temporal.squeeze)
    with pytest.raises(UsageError, match=r"encoder\.gau\.temporal\.squeeze.*parametrisation"):
        gac_sj.resize_time_steps(network, 4)
    lite = gac_sj.GatedAttentionCoding(T=2, form="lite")
    nn.utils.parametrizations.weight_norm(lite.gau.temporal, "by_step")
    with pytest.raises(UsageError, match=r"gau\.temporal\.by_step.*parametrisation"):
        gac_sj.resize_time_steps(lite, 4)
    gac_sj.register_encoder("weighed")(Weighed)
    with pytest.raises(UsageError, match=r"^T .*encoder\.weights depends on it"):
        gac_sj.resize_time_steps(timm.create_model("ms_resnet8_cifar", encoder="weighed", T=2), 4)


@pytest.mark.parametrize("encoder", AVAILABLE)
def test_every_encoder_runs_with_its_new_T(encoder):
    network = timm.create_model("ms_resnet8_cifar", encoder=encoder, T=2)
    resized = gac_sj.resize_time_steps(network, 3)
    assert resized.forward_sequence(torch.rand(2, 3, 8, 8)).shape == (3, 2, 10)
