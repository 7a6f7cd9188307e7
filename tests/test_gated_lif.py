"""The encoder's operator, and the encoder that uses it, against their definitions."""

import copy

import pytest
import torch
from helpers.neuron_cases import CIFAR, EXACT, GRIDS, HARD, NEURONS, ROUNDED, SOFT, grid, nan_filled  # noqa: F401
from torch import nn

from gac_sj import GatedAttentionCoding, GatedAttentionUnit, LIFNode, Triangle
from gac_sj.analysis import firing_rates
from gac_sj.nn import functional
from gac_sj.ops.gated_lif import gated_lif
from gac_sj.ops.gated_lif.closed_form import first_currents
from gac_sj.ops.lif import lif
from gac_sj.ops.surrogates import cuda_derivative

pytestmark = pytest.mark.usefixtures("nan_filled")

#: Root mean square of the error, relative to that of the definition's tensor in float32: a few units in the last place
#: of exp and of sums over an image, and the rounding of a half type's results.
TOLERANCE = {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}


def inputs(T, shape, static, dtype=torch.float32):
    """Current, temporal and spatial-channel attention, and the gradient of the result; equal in every type."""
    full = (T, *shape)
    drawn = (
        torch.randn(shape if static else full) * 0.8 + 0.4,
        torch.randn(T, shape[0], 1, 1, 1) * 2,
        torch.randn(shape if static else full),
        torch.randn(full),
    )
    return [tensor.to(dtype) for tensor in drawn]


def results(path, tensors, neuron, surrogate, gain):
    *parts, grad = tensors
    parts = [part.detach().requires_grad_() for part in parts]
    output = gated_lif(*parts, gain, neuron, surrogate, gate=functional.gate, path=path)
    return [output, *torch.autograd.grad(output, parts, grad)]


def assert_close(tensors, neuron=CIFAR, surrogate=None, gain=2.0):
    surrogate = surrogate or Triangle()
    dtype = tensors[0].dtype
    # the definition in float32: in a half type it would round the gate
    expected = results("torch", [tensor.float() for tensor in tensors], neuron, surrogate, gain)
    ours = results("cpp", tensors, neuron, surrogate, gain)
    assert torch.equal(ours[0] != 0, expected[0] != 0)
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine.dtype == dtype
        assert mine.shape == theirs.shape
        assert (mine - theirs).norm() <= TOLERANCE[dtype] * theirs.norm()


@GRIDS
@pytest.mark.parametrize("static", [True, False], ids=["static", "sequence"])
@pytest.mark.parametrize("neuron", NEURONS, ids=str)
def test_every_reset(neuron, static):
    assert_close(inputs(4, (3, 4, 5, 7), static), neuron)


@GRIDS
@pytest.mark.parametrize("static", [True, False], ids=["static", "sequence"])
@pytest.mark.parametrize("T", [1, 2, 3, 6, 8, 16])
def test_every_length(T, static):
    assert_close(inputs(T, (3, 4, 4, 4), static))


@GRIDS
@pytest.mark.parametrize("static", [True, False], ids=["static", "sequence"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 1, 5), (5, 2, 4, 4), (1, 16, 33, 31), (3, 8, 48, 64)], ids=str)
def test_every_size(shape, static):
    assert_close(inputs(3, shape, static))


@GRIDS
@pytest.mark.parametrize("static", [True, False], ids=["static", "sequence"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(dtype, static):
    assert_close(inputs(4, (2, 4, 6, 6), static, dtype), gain=1.0)


@pytest.mark.parametrize("surrogate", [*EXACT.values(), *ROUNDED.values()], ids=[*EXACT, *ROUNDED])
def test_every_surrogate(surrogate):
    assert_close(inputs(3, (2, 4, 8, 8), True), SOFT, surrogate)


@pytest.mark.parametrize("static", [True, False], ids=["static", "sequence"])
def test_channels_last(static):
    tensors = inputs(3, (2, 4, 5, 7), static)
    z = tensors[0]
    tensors[0] = (z if static else z.flatten(0, 1)).contiguous(memory_format=torch.channels_last).view_as(z)
    assert_close(tensors)
    output = gated_lif(*tensors[:3], 2.0, CIFAR, Triangle(), gate=functional.gate, path="cpp")
    assert output.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


def test_gradients_are_the_same_every_time():
    tensors = inputs(6, (3, 8, 48, 64), True)
    first, second = (results("cpp", tensors, HARD, Triangle(), 2.0) for _ in range(2))
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize(
    "z,temporal,spatial",
    [
        ((2, 4, 5, 5), (3, 1, 1, 1, 1), (1, 4, 5, 5)),
        ((2, 4, 5, 5), (3, 2, 1, 1, 1), (3, 2, 4, 5, 5)),
        ((3, 2, 4, 5, 5), (3, 2, 1, 1, 1), (2, 4, 5, 5)),
    ],
)
def test_shapes_are_broadcast_as_in_the_definition(z, temporal, spatial):
    assert_close([torch.randn(z) + 0.4, torch.randn(temporal), torch.randn(spatial), torch.randn(3, 2, 4, 5, 5)])


def test_lengths_and_devices_that_do_not_fit_are_refused():
    z, temporal, spatial, _ = inputs(3, (2, 4, 5, 5), False)
    options = dict(gate=functional.gate, path="cpp")
    with pytest.raises(ValueError, match=r"^z must have .* \(2\), got 3"):
        gated_lif(z, temporal[:2], spatial, 1.0, CIFAR, Triangle(), **options)
    with pytest.raises(ValueError, match="got cpu and meta"):
        gated_lif(z, temporal.to("meta"), spatial, 1.0, CIFAR, Triangle(), **options)


def test_nothing_to_do():
    tensors = inputs(3, (0, 4, 5, 5), True)[:3]
    output = gated_lif(*tensors, 1.0, CIFAR, Triangle(), gate=functional.gate, path="cpp")
    assert output.shape == (3, 0, 4, 5, 5)


@pytest.mark.medium
@pytest.mark.parametrize("static", [True, False], ids=["static", "sequence"])
def test_opcheck(static):
    torch.use_deterministic_algorithms(False)  # it looks into unwritten memory
    z, temporal, spatial, _ = inputs(3, (2, 4, 4, 4), static)
    parts = [part.requires_grad_() for part in (z, temporal.flatten(1), spatial)]
    derivative, _ = cuda_derivative(Triangle())
    torch.library.opcheck(torch.ops.gac_sj.gated_lif.default, (*parts, 2.0, *CIFAR, *derivative))


class TestTheEncoder:
    @staticmethod
    def build(**options):
        torch.manual_seed(1)
        return GatedAttentionCoding(4, 3, 8, **options)

    @staticmethod
    def step(encoder, x, path, monkeypatch):
        monkeypatch.setenv("GAC_SJ_OPS", path)
        encoder = copy.deepcopy(encoder)
        output = encoder(x)
        output.square().sum().backward()
        return [output, *(p.grad for p in encoder.parameters()), *encoder.buffers()]

    @pytest.mark.parametrize("options", [{}, dict(form="reference"), dict(neuron="imagenet"), dict(neuron="sigmoid")])
    @pytest.mark.parametrize("static", [True, False], ids=["image", "sequence"])
    def test_the_kernel_does_what_the_modules_do(self, options, static, monkeypatch):
        x = torch.rand(*(() if static else (4,)), 5, 3, 9, 10)
        encoder = self.build(**options)
        assert encoder._fusable_neuron(encoder.features(x)) is encoder.neuron
        ours, expected = (self.step(encoder, x, path, monkeypatch) for path in ("cpp", "torch"))
        for mine, theirs in zip(ours, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * max(1.0, theirs.abs().max().item()))

    @pytest.mark.parametrize("part", ["neuron", "gau"])
    def test_a_hook_sees_its_module(self, part):
        encoder, seen = self.build(), []
        x = torch.rand(2, 3, 6, 6)
        alone = encoder.eval()(x)
        hook = getattr(encoder, part).register_forward_hook(lambda module, inputs, output: seen.append(output))
        torch.testing.assert_close(encoder(x), alone, rtol=1e-5, atol=1e-6)
        assert seen[0].shape == (4, 2, 8, 6, 6)
        hook.remove()
        assert torch.equal(encoder(x), alone)
        assert len(seen) == 1

    def test_another_gate_or_forward_is_called(self):
        class Open(GatedAttentionUnit):
            def forward(self, x, sequence=None):
                return 7.0 * sequence

        encoder, x = self.build(), torch.rand(2, 3, 6, 6)
        encoder.gau = Open(4, 8)
        assert set(encoder(x).unique().tolist()) == {0.0, 7.0}
        encoder = self.build()
        encoder.neuron.forward = lambda x: torch.zeros_like(x)
        assert not encoder(x).any()

    def test_hooks_on_all_modules_see_the_neuron(self):
        encoder, seen = self.build(), []
        with nn.modules.module.register_module_forward_hook(lambda module, *rest: seen.append(module)):
            encoder(torch.rand(2, 3, 6, 6))
        assert encoder.neuron in seen and encoder.gau in seen

    def test_mixed_types_are_those_of_the_definition(self):
        z, temporal, spatial, _ = inputs(4, (2, 4, 5, 5), True)
        output = gated_lif(z.bfloat16(), temporal, spatial, 1.0, CIFAR, Triangle(), gate=functional.gate)
        assert output.dtype == torch.float32

    def test_double_precision_as_default(self):
        torch.set_default_dtype(torch.float64)
        try:
            first_currents.cache_clear()
            encoder = self.build().float()
            assert encoder(torch.rand(2, 3, 6, 6, dtype=torch.float32)).dtype == torch.float32
        finally:
            torch.set_default_dtype(torch.float32)

    def test_firing_rates_are_measured(self):
        encoder = self.build()
        with firing_rates(encoder) as rates:
            encoder(torch.rand(2, 3, 6, 6))
        assert 0 < rates["neuron"] < 1

    def test_potentials_are_stored_on_request(self):
        encoder = self.build(neuron=LIFNode(**CIFAR._asdict(), surrogate_function=Triangle(), store_v_seq=True))
        encoder(torch.rand(2, 3, 6, 6))
        assert encoder.neuron.v_seq.shape == (4, 2, 8, 6, 6)

    def test_single_steps_and_autocast(self):
        encoder = self.build(step_mode="s").eval()
        x = torch.rand(2, 3, 6, 6)
        steps = torch.stack([encoder(x) for _ in range(4)])
        encoder.step_mode = "m"
        assert torch.equal(encoder(x), steps)
        with torch.autocast("cpu", torch.bfloat16):
            half = encoder(x)
        assert half.dtype == torch.bfloat16
        assert ((half > 0) == (steps > 0)).float().mean() > 0.9


class TestClosedForm:
    @pytest.mark.parametrize("strict", [False, True])
    @pytest.mark.parametrize("tau,threshold", [(2.0, 1.0), (2.0, 0.5), (4 / 3, 0.5), (3.7, 0.3), (1.01, 2.0)])
    def test_the_currents_are_exact(self, tau, threshold, strict):
        """The float below fires a step later, or never."""
        neuron = CIFAR._replace(tau=tau, v_threshold=threshold)
        first = torch.tensor(first_currents(8, neuron, strict))
        below = torch.nextafter(first, torch.zeros(8))
        for current, most in ((first, torch.arange(8)), (below, torch.arange(8) + 1)):
            spikes, _, _ = lif(current.expand(9, 8), neuron, Triangle(strict=strict), path="torch")
            at = torch.where(spikes.any(0), spikes.argmax(0), 9)
            assert (at <= most).all() if current is first else (at >= most).all()
        if (tau, threshold, strict) == (2.0, 1.0, False):
            torch.testing.assert_close(first[:4], torch.tensor([1.0, 2 / 3, 4 / 7, 8 / 15]))

    @pytest.mark.parametrize("strict", [False, True])
    @pytest.mark.parametrize("T", [1, 6, 16, 17])
    def test_spikes_are_those_of_the_recursion(self, T, strict):
        """Around every current that decides, and where numbers are none."""
        first = torch.tensor(first_currents(T, CIFAR, strict))
        near = torch.cat([torch.nextafter(first, torch.full((T,), far)) for far in (0.0, 9.0)])
        special = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e38, -1e38, 1e-40])
        z = torch.cat([first, near, special, torch.randn(1000)])[None, :, None, None]
        temporal, spatial = torch.zeros(T, 1, 1, 1, 1), torch.zeros_like(z)
        ours, expected = (
            gated_lif(z, temporal, spatial, 2.0, CIFAR, Triangle(strict=strict), gate=functional.gate, path=path)
            for path in ("cpp", "torch")
        )
        assert torch.equal(ours, expected)
