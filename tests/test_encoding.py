"""The contract of every encoder; encoding a static image once is exact."""

import copy
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from helpers.encoders import AVAILABLE, HAS_ATTENTION
from spikingjelly.activation_based import encoding, functional, layer, neuron
from torch import nn

import gac_sj
from gac_sj import DirectCoding, GatedAttentionCoding, LatencyCoding, PoissonCoding, WeightedPhaseCoding
from gac_sj.encoders import FORMS, create_encoder, parse_encoder
from gac_sj.nn import functional as formulas
from gac_sj.ops.lif.reference import lif

ALL = pytest.mark.parametrize("name", AVAILABLE)
DETERMINISTIC = pytest.mark.parametrize("name", [name for name in AVAILABLE if name != "poisson"])


def images(n=2, size=6, dtype=torch.float64):
    return torch.rand(n, 3, size, size + 1, dtype=dtype)


def build(name, T=3, **options):
    return create_encoder(name, T=T, channels=8, **options).double()


@ALL
@pytest.mark.parametrize("T", [1, 2, 5])
def test_shapes_and_types(name, T):
    encoder = build(name, T)
    x = images()
    assert encoder(x).shape == encoder(x.expand(T, -1, -1, -1, -1)).shape == (T, 2, 8, 6, 7)
    assert encoder(x).dtype == torch.float64
    assert encoder.float()(x.float()).dtype == torch.float32


@DETERMINISTIC
def test_calls_are_independent(name):
    """Unlike those of SpikingJelly's stateful encoders, which replay the previous batch."""
    encoder = build(name).eval()
    first, second = images(4), images(2)
    expected = copy.deepcopy(encoder)(second)
    encoder(first)
    assert torch.equal(encoder(second), expected)
    assert torch.equal(encoder(second), expected)


@DETERMINISTIC
def test_single_step_mode_returns_the_steps_of_the_sequence(name):
    encoder = build(name).eval()
    x = images()
    expected = encoder(x)
    functional.set_step_mode(encoder, "s")
    for _ in range(2):
        assert torch.equal(torch.stack([encoder(x) for _ in range(3)]), expected)
    functional.set_step_mode(encoder, "m")
    assert torch.equal(encoder(x), expected)


@ALL
def test_another_image_in_single_step_mode_requires_a_reset(name):
    encoder = build(name, step_mode="s")
    x = images()
    encoder(x)
    for other in (images(), images(1)):
        with pytest.raises(ValueError, match=r"another image.* 1 of 3 steps.*reset_net"):
            encoder(other)
    changed = x.clone()
    with pytest.raises(ValueError, match="another image"):
        encoder(changed.mul_(0.5))
    functional.reset_net(encoder)
    assert encoder(images(1)).shape == (1, 8, 6, 7)


def test_an_image_changed_in_place_counts_as_another_image():
    encoder, x = build("gac", step_mode="s"), images()
    encoder(x)
    with pytest.raises(ValueError, match="another image"):
        encoder(x.mul_(0.5))


def test_multi_step_call_ends_a_single_step_sequence():
    encoder, x = build("gac", step_mode="s"), images()
    encoder(x)
    encoder.step_mode = "m"
    encoder(images(4))
    encoder.step_mode = "s"
    assert encoder(images(5)).shape[0] == 5


@ALL
@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("sequence", [True, False])
def test_detach_net_cuts_the_graph(name, T, sequence):
    encoder, x = build(name, T, step_mode="s"), images()
    x = x.expand(T, -1, -1, -1, -1) if sequence else x
    encoder(x).sum().backward()
    functional.detach_net(encoder)
    assert encoder(x).grad_fn is None


def test_copy_of_a_compiled_encoder_is_independent():
    encoder = build("direct")
    encoder.compile(backend="eager")
    duplicate = copy.deepcopy(encoder)
    duplicate(images())
    assert (encoder.stem[1].num_batches_tracked, duplicate.stem[1].num_batches_tracked) == (0, 1)
    pickle.dumps(encoder)


def test_poisson_does_not_depend_on_the_memory_format():
    encoder, x = PoissonCoding(3, 3, 3, stem=nn.Identity()), torch.rand(2, 3, 5, 4)
    draws = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        draws.append(encoder(x.to(memory_format=layout)))
    assert torch.equal(*draws)


@ALL
def test_copies_start_from_a_reset_state(name):
    encoder = build(name, step_mode="s")
    x = images()
    encoder(x).sum().backward()
    for duplicate in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        duplicate(images(5))
        assert duplicate.T == 3


def general(encoder, x):
    """The output of the general path, for the image repeated T times."""
    return encoder(x.repeat(encoder.T, *[1] * x.dim()))


def stems():
    conv = lambda **options: nn.Conv2d(3, 8, 3, padding=1, **options)  # noqa: E731
    return {
        "default": lambda: None,
        "cumulative": lambda: nn.Sequential(conv(), nn.BatchNorm2d(8, momentum=None)),
        "untracked": lambda: nn.Sequential(conv(), nn.BatchNorm2d(8, track_running_stats=False)),
        "no_affine": lambda: nn.Sequential(conv(), nn.BatchNorm2d(8, affine=False, momentum=0.3)),
        "deep": lambda: nn.Sequential(
            nn.Sequential(conv(stride=2), nn.BatchNorm2d(8), nn.ReLU()),
            nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.MaxPool2d(2, 1)),
        ),
        "frozen": lambda: nn.Sequential(conv(), nn.BatchNorm2d(8).eval()),
        "group": lambda: nn.Sequential(conv(), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, track_running_stats=True)),
        "spikingjelly": lambda: nn.Sequential(
            layer.Conv2d(3, 8, 3, step_mode="m"), layer.BatchNorm2d(8, step_mode="m")
        ),
        "mixed": lambda: nn.Sequential(conv(), layer.BatchNorm2d(8, step_mode="m"), nn.AvgPool2d(2)),
        "dropout_off": lambda: nn.Sequential(conv(), nn.BatchNorm2d(8), nn.Dropout(0.5).eval()),
    }


@pytest.mark.parametrize("stem", stems())
@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.parametrize(
    "name,options",
    [
        ("gac", {}),
        ("gac", {"output": "current"}),
        ("gac", {"form": "lite"}),
        ("gac", {"form": "lite", "gate": "before"}),
        ("direct", {}),
        ("direct_lif", {}),
    ],
)
def test_encoded_once_equals_the_general_path(stem, T, name, options):
    """In outputs, gradients and running statistics, over three training steps and in evaluation."""
    once = build(name, T, stem=stems()[stem](), **options)
    frozen = [module for module in once.modules() if not module.training]
    repeated = copy.deepcopy(once)
    for _ in range(3):
        x, weights = images(3, 9), None
        gradients = []
        for encoder, run in ((once, once), (repeated, lambda x: general(repeated, x))):
            encoder.zero_grad()
            leaf = x.clone().requires_grad_()
            output = run(leaf)
            weights = torch.randn_like(output) if weights is None else weights
            (output * weights).sum().backward()
            gradients.append((output, leaf.grad, *(p.grad for p in encoder.parameters())))
        for ours, expected in zip(*gradients):
            torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10)
        for ours, expected in zip(once.buffers(), repeated.buffers()):
            torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    assert all(not module.training for module in frozen)
    x = images(2, 9)
    torch.testing.assert_close(once.eval()(x), general(repeated.eval(), x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("stem", stems())
def test_time_invariant_stems_run_once_per_image(stem):
    encoder = build("gac", 4, stem=stems()[stem]())
    batches = []
    next(m for m in encoder.stem.modules() if isinstance(m, nn.Conv2d)).register_forward_pre_hook(
        lambda module, inputs: batches.append(inputs[0].shape[:-3].numel())
    )
    encoder(images(2, 9))
    assert batches == [2]


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


@pytest.mark.parametrize(
    "last",
    [
        lambda: nn.Dropout(0.5),
        lambda: nn.RReLU(),
        lambda: layer.Dropout(0.5, step_mode="m"),
        lambda: neuron.LIFNode(step_mode="m"),
        lambda: gac_sj.LIFNode(),
        Noise,
    ],
    ids=["dropout", "rrelu", "sj_dropout", "sj_lif", "lif", "unknown"],
)
def test_random_or_stateful_stems_run_at_every_step(last):
    encoder = DirectCoding(4, 3, 8, stem=nn.Sequential(nn.Conv2d(3, 8, 3), last()))
    frames = []
    encoder.stem[0].register_forward_pre_hook(lambda module, inputs: frames.append(inputs[0].shape[0]))
    x = 3 * torch.randn(2, 3, 6, 6)
    steps = encoder(x)
    assert frames == [8]
    if not isinstance(encoder.stem[1], layer.Dropout):  # SpikingJelly's keeps its mask over time
        assert any(not torch.equal(steps[0], step) for step in steps[1:])


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


@pytest.mark.parametrize(
    "container",
    [
        lambda: Residual(layer.Conv2d(8, 8, 3, padding=1, step_mode="m"), layer.BatchNorm2d(8, step_mode="m")),
        lambda: layer.MultiStepContainer(nn.Conv2d(8, 8, 3), neuron.LIFNode(v_threshold=0.1)),
        lambda: layer.SeqToANNContainer(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)),
    ],
    ids=["residual", "multi_step", "seq_to_ann"],
)
def test_containers_in_a_stem_keep_their_own_forward(container):
    encoder = DirectCoding(3, 3, 8, stem=nn.Sequential(nn.Conv2d(3, 8, 3), container())).eval()
    x = images(dtype=torch.float32)
    ours = encoder(x)
    functional.reset_net(encoder)
    frames = encoder.stem[0](x).expand(3, -1, -1, -1, -1).contiguous()
    torch.testing.assert_close(ours, encoder.stem[1](frames))


def test_stem_with_other_channels_is_refused():
    with pytest.raises(ValueError, match=r"^stem .*8 channels.*\[2, 5, 4, 5\].*channels="):
        build("gac", stem=nn.Conv2d(3, 5, 3))(images())


def test_stem_with_a_neuron_starts_from_a_reset_state_at_every_call():
    encoder = DirectCoding(3, 3, 8, stem=nn.Sequential(nn.Conv2d(3, 8, 3), gac_sj.LIFNode())).eval()
    x = 3 * torch.randn(2, 3, 6, 6)
    assert torch.equal(encoder(x), encoder(x))


def test_output_is_gate_times_spikes():
    encoder = build("gac", 4)
    x = images()
    output = encoder(x)
    z = encoder.features(x)
    encoder.neuron.reset()
    spikes = encoder.neuron(z.expand(4, -1, -1, -1, -1))
    torch.testing.assert_close(output, encoder.gau(z) * spikes, rtol=1e-12, atol=0)
    assert 0 < spikes.mean() < 1


def test_forms_set_gain_threshold_and_neuron():
    reference = GatedAttentionCoding(form="reference")
    assert reference.gau.gain == 1.0
    assert reference.neuron.v_threshold == 1.0
    assert reference.neuron.surrogate_function.strict
    assert GatedAttentionCoding(form="unit_gate").gau.gain == 2.0
    assert GatedAttentionCoding(form="low_threshold", neuron="imagenet").neuron.v_threshold == 0.25
    assert GatedAttentionCoding(form="current").neuron is None
    own = gac_sj.LIFNode(v_threshold=0.7)
    for form in set(FORMS) - {"current"}:
        assert GatedAttentionCoding(form=form, neuron=own).neuron is own


def test_default_form_outputs_gated_spikes():
    default = GatedAttentionCoding()
    assert default.neuron is not None
    assert not default.is_reference


def test_gain_of_two_makes_the_gate_one_where_its_argument_is_zero():
    encoder = build("gac", gain=2.0, output="current")
    for convolution in encoder.gau.spatial_channel.convolutions:
        nn.init.zeros_(convolution.weight)
    x = images()
    assert torch.equal(encoder(x), encoder.features(x).expand(3, -1, -1, -1, -1))


def test_poisson_fires_at_the_rate_of_the_pixel_and_follows_the_seed():
    encoder = PoissonCoding(400, stem=nn.Identity())
    x = torch.tensor([0.0, 0.2, 0.7, 1.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    torch.manual_seed(1)
    spikes = encoder(x)
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    np.testing.assert_allclose(spikes.mean(0), x, atol=0.08)
    assert not torch.equal(encoder(x), spikes)
    torch.manual_seed(1)
    assert torch.equal(encoder(x), spikes)


def test_latency_fires_once_and_earlier_for_brighter_pixels():
    spikes = LatencyCoding(5, stem=nn.Identity())(torch.linspace(0, 1, 5).view(1, 1, 1, 5).expand(1, 3, 1, 5))
    assert torch.equal(spikes[:, 0, 0, 0], torch.eye(5).flip(0))


def test_weighted_phase_outputs_the_bits_of_the_scaled_pixel():
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    x[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    spikes = WeightedPhaseCoding(6, stem=nn.Identity())(x)
    weights = 2.0 ** -torch.arange(1, 7, dtype=torch.float64)
    decoded = (spikes * weights.view(-1, 1, 1, 1, 1)).sum(0)
    scaled = x * (1 - 2**-6)
    assert ((decoded <= scaled) & (scaled < decoded + 2**-6)).all()
    single = encoding.WeightedPhaseEncoder(6)
    expected = torch.stack([single(scaled) for _ in range(6)])
    assert torch.equal(spikes, expected.double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("T", [4, 16])
def test_weighted_phase_accepts_white_pixels_in_half_precision(dtype, T):
    spikes = WeightedPhaseCoding(T, stem=nn.Identity())(torch.ones(1, 3, 2, 2, dtype=dtype))
    assert spikes.dtype == dtype
    assert spikes.min() == 1


@pytest.mark.parametrize("name", ["poisson", "latency", "weighted_phase"])
@pytest.mark.parametrize("bad", [-0.01, 1.01, float("nan"), float("inf")])
def test_pixels_outside_the_unit_range_are_refused(name, bad):
    x = images()
    x[1, 2, 3, 4] = bad
    encoder = build(name)
    before = copy.deepcopy(encoder.state_dict())
    with pytest.raises(ValueError, match=rf"{name} .*finite pixels in \[0, 1\].*leave out the normalisation"):
        encoder(x)
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", ["latency", "weighted_phase"])
def test_latency_and_phase_refuse_a_changing_sequence(name):
    with pytest.raises(ValueError, match=rf"{name} .*changes over time.*poisson"):
        build(name)(torch.rand(3, 2, 3, 6, 7, dtype=torch.float64))


def test_sequences_are_encoded_frame_by_frame():
    encoder = build("direct", 3)
    x = torch.rand(3, 2, 3, 6, 7, dtype=torch.float64)
    encoder.eval()
    torch.testing.assert_close(encoder(x), torch.stack([encoder.stem(frame) for frame in x]))
    gac = build("gac", 3).eval()
    assert not torch.allclose(gac(x)[0], gac(x[0])[0])


@ALL
@pytest.mark.parametrize(
    "shape,words",
    [
        ((3, 8, 8), r"\[N, 3, H, W\].*\[3, N, 3, H, W\].*\[3, 8, 8\].*add or remove dimensions"),
        ((1, 1, 1, 3, 8, 8), r"\[1, 1, 1, 3, 8, 8\].*add or remove dimensions"),
        ((2, 1, 8, 8), r"\[2, 1, 8, 8\].*in_channels=1"),
        ((4, 2, 3, 8, 8), r"\[4, 2, 3, 8, 8\].*T=4"),
    ],
)
def test_inputs_of_another_shape_are_refused(name, shape, words):
    encoder = build(name)
    with pytest.raises(ValueError, match=words):
        encoder(torch.rand(shape, dtype=torch.float64))


@pytest.mark.parametrize(
    "call,words",
    [
        (lambda: create_encoder("rate"), "^encoder .*'rate'.*choose one of gac, direct"),
        (lambda: GatedAttentionCoding(neuron="nope", output="current"), "'nope'.*choose one of cifar"),
        (lambda: GatedAttentionCoding(form="best"), "^form .*'best'.*choose one of reference"),
        (lambda: GatedAttentionCoding(output="membrane"), "^output .*'membrane'.*choose one of spikes, current"),
        (lambda: GatedAttentionCoding(output="current", neuron=gac_sj.LIFNode()), "^neuron .*output='spikes'"),
        (lambda: GatedAttentionCoding(gate="beside"), "^gate .*'beside'.*choose one of after, before"),
        (lambda: GatedAttentionCoding(gate="before", form="current"), "^gate .*there is no neuron.*output='spikes'"),
        (lambda: GatedAttentionCoding(0), "^T .*0"),
        (lambda: GatedAttentionCoding(gain=float("inf")), "^gain .*inf"),
        (lambda: DirectCoding(2.5), "^T .*2.5"),
        (lambda: GatedAttentionCoding(neuron="mnist"), "'mnist'"),
        (lambda: GatedAttentionCoding(step_mode="x"), "step_mode"),
    ],
)
def test_bad_arguments_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("name", ["gac", "gac:lite", "gac:lite,gate=before", "direct_lif"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_sets_the_output_type_and_keeps_gradients_finite(name, dtype):
    name, form, options = parse_encoder(name)
    encoder = create_encoder(name, T=3, channels=8, **options | ({"form": form} if form else {}))
    x = torch.rand(2, 3, 6, 6)
    with torch.autocast("cpu", dtype):
        output = encoder(x)
        output.float().square().sum().backward()
    assert output.dtype == dtype
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


class TestPartsOfTheGate:
    """For ablations: the temporal or the spatial part alone."""

    @pytest.mark.parametrize("attention", ["temporal", "spatial"])
    def test_the_gate_is_the_sigmoid_of_that_part(self, attention):
        encoder = GatedAttentionCoding(3, 3, 8, form="unit_gate", attention=attention).double().eval()
        x = 3 * images()
        z = encoder.stem(x)
        part = encoder.gau.temporal(z) if attention == "temporal" else encoder.gau.spatial_channel(z)
        spikes = DirectCoding(3, 3, 8, stem=encoder.stem, neuron=copy.deepcopy(encoder.neuron))(x)
        torch.testing.assert_close(encoder(x), 2 * torch.sigmoid(part) * spikes)
        assert spikes.any()

    def test_only_the_chosen_part_has_weights(self):
        count = {
            attention: sum(p.numel() for p in GatedAttentionCoding(4, attention=attention).gau.parameters())
            for attention in ("temporal", "spatial", "both")
        }
        assert count == {"temporal": 2 * 4 * 2, "spatial": 2 * 64 * 64 * 16, "both": 16 + 131072}

    def test_one_part_alone_is_not_the_published_encoder(self):
        assert not GatedAttentionCoding(form="reference", attention="spatial").is_reference

    def test_unknown_part_is_refused(self):
        with pytest.raises(ValueError, match=r"^attention .*'channel'.*both, temporal"):
            GatedAttentionCoding(attention="channel")


class TestGateBeforeTheNeuron:
    """The gate weighs the current, so that spikes come out."""

    @pytest.mark.parametrize("form", [form for form in FORMS if FORMS[form].output == "spikes"])
    @pytest.mark.parametrize("sequence", [False, True], ids=["image", "sequence"])
    @pytest.mark.parametrize("dtype,bound", [(torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 0.3)])
    def test_equals_the_definition(self, form, sequence, dtype, bound):
        """Outputs, and the gradients of every parameter; in bfloat16 a few spikes differ."""
        encoder = GatedAttentionCoding(3, 3, 5, form=form, gate="before").to(dtype)
        definition = copy.deepcopy(encoder).double()
        x = 3 * torch.rand(*([3] if sequence else []), 2, 3, 6, 7).to(dtype)
        gradients = []
        for each, run in ((encoder, encoder), (definition, lambda x: self.define(definition, x))):
            output = run(x.to(next(each.parameters()).dtype))
            assert set(output.unique().tolist()) == {0.0, 1.0}
            weights = torch.linspace(-1, 1, output.numel()).view_as(output).to(output)
            (output * weights).sum().backward()
            gradients.append([output, *(parameter.grad for parameter in each.parameters())])
        for ours, expected in zip(*gradients, strict=True):
            assert (ours.double() - expected).norm() <= bound * expected.norm() + 1e-12

    @staticmethod
    def define(encoder, x):
        z = encoder.stem(x.flatten(0, -4)).unflatten(0, x.shape[:-3])
        gau = encoder.gau
        gate = formulas.gate(gau.temporal(z), gau.spatial_channel(z), gau.gain)
        spikes, _, _ = lif(gate * z, encoder.neuron.dynamics, encoder.neuron.surrogate_function)
        return spikes

    def test_one_part_alone(self):
        encoder = GatedAttentionCoding(3, 3, 8, gate="before", attention="temporal").double().eval()
        x = 3 * images()
        z = encoder.stem(x)
        current = 2 * torch.sigmoid(encoder.gau.temporal(z)) * z
        expected = DirectCoding(3, 8, 8, stem=nn.Identity(), neuron=copy.deepcopy(encoder.neuron))(current)
        assert torch.equal(encoder(x), expected) and expected.any()


class TestMatchedDirectCoding:
    def test_output_is_the_spikes_of_current_plus_convolutions(self):
        encoder = create_encoder("direct_matched", T=3, channels=8).double().eval()
        x = 3 * images()
        z = encoder.stem(x)
        current = z + encoder.spatial_channel(z)
        expected = create_encoder("direct_lif", T=3, channels=8, stem=nn.Identity(), in_channels=8)(current)
        assert torch.equal(encoder(x), expected) and set(expected.unique().tolist()) == {0.0, 1.0}

    @pytest.mark.parametrize("T, channels", [(4, 16), (4, 64), (6, 64)])
    def test_parameter_count_is_that_of_gac(self, T, channels):
        matched, gac = (
            sum(p.numel() for p in create_encoder(name, T=T, channels=channels).parameters())
            for name in ("direct_matched", "gac")
        )
        assert matched == pytest.approx(gac, rel=0.01)


class TestAttendedDirectCoding:
    @pytest.mark.skipif(not HAS_ATTENTION, reason="SpikingJelly 0.0.0.0.14's attention layers cannot be called")
    @pytest.mark.parametrize("name", ["temporal_wise", "multi_dimensional"])
    def test_spikingjelly_layer_weighs_the_current(self, name):
        encoder = create_encoder(name, T=4, channels=32).eval()
        x = images(dtype=torch.float32)
        expected = encoder.attention(encoder.stem(x).expand(4, -1, -1, -1, -1))
        torch.testing.assert_close(encoder(x), expected)
        assert type(encoder.attention).__module__.startswith("spikingjelly.")

    @pytest.mark.skipif(HAS_ATTENTION, reason="SpikingJelly 2.0.0's attention layers work")
    @pytest.mark.parametrize("name", ["temporal_wise", "multi_dimensional"])
    def test_release_without_usable_layers_is_refused(self, name):
        with pytest.raises(ValueError, match=r"Attention cannot be called; pip install -U spikingjelly"):
            create_encoder(name, T=4)

    def test_bad_arguments_are_refused(self):
        with pytest.raises(ValueError, match=r"^attention .*'gac'.*choose one of temporal_wise, multi_dimensional"):
            create_encoder("temporal_wise", T=4, attention="gac")
        with pytest.raises(ValueError, match=r"^temporal_reduction .*0"):
            create_encoder("temporal_wise", T=4, temporal_reduction=0)


@ALL
@pytest.mark.parametrize("argument", ["T", "in_channels", "channels"])
def test_arguments_are_fixed_at_construction(name, argument):
    encoder = build(name)
    before = getattr(encoder, argument)
    with pytest.raises(ValueError, match=rf"^{argument} is fixed at {before} .*got 9.*build a new"):
        setattr(encoder, argument, 9)
    setattr(encoder, argument, before)  # nothing changes
    assert encoder(images()).shape == (3, 2, 8, 6, 7)


@pytest.mark.parametrize(
    "build,arguments",
    [
        (
            GatedAttentionCoding,
            ("form", "output", "gate", "attention", "kernel_size", "depth", "temporal_reduction", "channel_reduction"),
        ),
        (gac_sj.MatchedDirectCoding, ("kernel_size", "depth", "channel_reduction")),
        (lambda: gac_sj.GatedAttentionUnit(4, 8), ("attention",)),
        (lambda: gac_sj.TemporalAttention(4), ("T",)),
        (lambda: gac_sj.SpatialChannelAttention(8), ("kernel_size",)),
    ],
    ids=["gac", "direct_matched", "unit", "temporal", "spatial"],
)
def test_arguments_of_parts_are_fixed(build, arguments):
    module = build()
    for argument in arguments:
        with pytest.raises(ValueError, match=f"^{argument} is fixed"):
            setattr(module, argument, "other")
    for duplicate in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert all(getattr(duplicate, argument) == getattr(module, argument) for argument in arguments)


def test_the_gain_is_that_of_the_gate():
    encoder = build("gac")
    with pytest.raises(AttributeError):
        encoder.gain = 1.0
    encoder.gau.gain *= 2
    assert encoder.gain == 4.0


@pytest.mark.medium
@pytest.mark.parametrize("form", ["low_threshold", "current"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_func(form, dtype):
    """Against loops of torch.autograd: derivatives of pixels, and of the parameters for each image."""
    encoder = build("gac", form=form).eval().to(dtype)
    x = torch.rand(2, 3, 3, 4, dtype=dtype)
    close = partial(torch.testing.assert_close, **(dict(rtol=1e-4, atol=1e-5) if dtype == torch.float32 else {}))
    jacobian = torch.autograd.functional.jacobian(encoder, x)
    assert jacobian.any()
    for transformed in (
        torch.func.jacrev(encoder)(x),
        torch.func.jacfwd(encoder)(x),
        torch.autograd.functional.jacobian(encoder, x, vectorize=True),
    ):
        close(transformed, jacobian)
    close(torch.func.vmap(encoder)(x.unsqueeze(1)).squeeze(2).transpose(0, 1), encoder(x))

    def loss(parameters, image):
        return torch.func.functional_call(encoder, parameters, (image.unsqueeze(0),)).square().sum()

    parameters = dict(encoder.named_parameters())
    by_image = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for at, image in enumerate(x):
        encoder.zero_grad()
        encoder(image.unsqueeze(0)).square().sum().backward()
        close({name: grad[at] for name, grad in by_image.items()}, {n: p.grad for n, p in parameters.items()})
