"""Neuron and gate with a number for each step and channel, after and before the neuron, against the definition."""

import copy

import pytest
import torch
from helpers.neuron_cases import CIFAR, GRIDS, NEURONS, grid, nan_filled  # noqa: F401

from gac_sj import GatedAttentionCoding, Triangle
from gac_sj.nn import functional
from gac_sj.ops.gated_lif import gated_lif
from gac_sj.ops.surrogates import cuda_derivative

pytestmark = pytest.mark.usefixtures("nan_filled")

#: Root mean square of the error, relative to that of the definition's tensor in float32.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}
BEFORE = pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
STATIC = pytest.mark.parametrize("static", [True, False], ids=["static", "sequence"])


def inputs(T, shape, static, dtype=torch.float32, channels_last=False):
    """Current, temporal and spatial-channel attention, and the gradient of the result; equal in every type."""
    full = (T, *shape)
    drawn = [torch.randn(shape if static else full) + 0.4, torch.randn(T, 1, shape[1], 1, 1)]
    drawn += [torch.randn(shape if static else full), torch.randn(full)]
    if channels_last:
        last = dict(memory_format=torch.channels_last)
        drawn = [x.flatten(0, -4).contiguous(**last).view_as(x) if x.shape[-1] > 1 else x for x in drawn]
    return [tensor.to(dtype) for tensor in drawn]


def results(path, tensors, before, neuron=CIFAR, gain=2.0):
    *parts, grad = tensors
    parts = [part.detach().requires_grad_() for part in parts]
    output = gated_lif(*parts, gain, neuron, Triangle(), gate=functional.gate, before=before, path=path)
    return [output, *torch.autograd.grad(output, parts, grad)]


def assert_close(tensors, before, **options):
    dtype = tensors[0].dtype
    # the definition in float32: in a half type it would round the gate
    expected = results("torch", [tensor.float() for tensor in tensors], before, **options)
    ours = results("cpp", tensors, before, **options)
    assert torch.equal(ours[0] != 0, expected[0] != 0) and ours[0].any()
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine.dtype == dtype and mine.shape == theirs.shape
        assert (mine - theirs).norm() <= TOLERANCE[dtype] * theirs.norm()


@BEFORE
@STATIC
@pytest.mark.parametrize("neuron", [NEURONS[i] for i in (0, 3, 4, 8, 11)], ids=str)
def test_every_reset(neuron, static, before):
    assert_close(inputs(4, (3, 4, 5, 8), static), before, neuron=neuron)


@GRIDS
@BEFORE
@STATIC
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(1, 3, 1, 5), (2, 16, 33, 31), (3, 24, 8, 16)], ids=str)
def test_every_size_and_layout(shape, channels_last, static, before):
    tensors = inputs(3, shape, static, channels_last=channels_last)
    assert_close(tensors, before, gain=1.0)
    if channels_last:
        assert results("cpp", tensors, before)[0].flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@BEFORE
@pytest.mark.parametrize("T", [1, 2, 8, 16])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_length_and_type(T, dtype, before):
    assert_close(inputs(T, (2, 8, 6, 6), True, dtype, channels_last=True), before)


@BEFORE
def test_shapes_are_broadcast_as_in_the_definition(before):
    tensors = [torch.randn(2, 4, 5, 8) + 0.4, torch.randn(3, 1, 4, 1, 1), torch.randn(3, 2, 4, 5, 8)]
    assert_close([*tensors, torch.randn(3, 2, 4, 5, 8)], before)
    output = results("cpp", inputs(3, (0, 4, 5, 5), True), before)[0]
    assert output.shape == (3, 0, 4, 5, 5)


def test_the_gate_before_the_neuron_has_no_kernel_for_numbers_of_images():
    z, _, spatial, _ = inputs(3, (2, 4, 5, 5), True)
    with pytest.raises(ValueError, match="a number for each image"):
        gated_lif(
            z,
            torch.randn(3, 2, 1, 1, 1),
            spatial,
            1.0,
            CIFAR,
            Triangle(),
            gate=functional.gate,
            before=True,
            path="cpp",
        )


@pytest.mark.medium
@BEFORE
@STATIC
def test_opcheck(static, before):
    torch.use_deterministic_algorithms(False)  # it looks into unwritten memory
    z, temporal, spatial, _ = inputs(3, (2, 4, 4, 4), static)
    parts = [part.requires_grad_() for part in (z, temporal.flatten(1), spatial)]
    derivative, _ = cuda_derivative(Triangle())
    torch.library.opcheck(torch.ops.gac_sj.channel_gate.default, (*parts, 2.0, before, *CIFAR, *derivative))


@BEFORE
@STATIC
def test_the_kernel_does_what_the_modules_do(static, before, monkeypatch):
    """Outputs, every gradient and running statistics of an encoder; a hook brings the modules back."""
    encoder = GatedAttentionCoding(4, 3, 8, form="lite", gate="before" if before else "after")
    torch.nn.init.normal_(encoder.gau.temporal.by_step)
    x = torch.rand(*(() if static else (4,)), 5, 3, 8, 10)
    assert encoder._fusable_neuron(encoder.features(x)) is encoder.neuron
    found = []
    for path, hooked in (("cpp", False), ("torch", False), ("cpp", True)):
        monkeypatch.setenv("GAC_SJ_OPS", path)
        each, seen = copy.deepcopy(encoder), []
        if hooked:
            each.gau.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
        output = each(x)
        assert bool(seen) == hooked
        output.square().sum().backward()
        found.append([output, *(parameter.grad for parameter in each.parameters()), *each.buffers()])
    for ours, expected, called in zip(*found, strict=True):
        for other in (ours, called):
            torch.testing.assert_close(other, expected, rtol=1e-4, atol=1e-5 * max(1.0, expected.abs().max().item()))
