"""The mathematics of the gate against numpy, and the fast path against the definition."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view

import gac_sj
from gac_sj.nn import functional


def numpy_gate(x, squeeze, excite, weights):
    """[T, N, C, H, W] -> [T, N, C, H, W], in the words of the paper's main figure."""
    T, N = x.shape[:2]
    temporal = np.zeros((T, N))
    for pooled in (x.mean((2, 3, 4)), x.max((2, 3, 4))):
        temporal += excite @ np.maximum(squeeze @ pooled, 0)
    y = x.reshape(-1, *x.shape[2:])
    for depth, weight in enumerate(weights):
        y = np.maximum(y, 0) if depth else y
        before = (weight.shape[-1] - 1) // 2
        after = weight.shape[-1] - 1 - before
        windows = sliding_window_view(
            np.pad(y, ((0, 0), (0, 0), (before, after), (before, after))), weight.shape[-2:], (2, 3)
        )
        y = np.einsum("nchwij,ocij->nohw", windows, weight)
    return 1 / (1 + np.exp(-temporal[:, :, None, None, None] * y.reshape(x.shape)))


@pytest.mark.parametrize("T", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("kernel_size,depth,reduction", [(4, 2, 1), (3, 1, 1), (2, 3, 4), (5, 2, 2), (1, 2, 1)])
def test_gate_equals_numpy(T, kernel_size, depth, reduction):
    unit = gac_sj.GatedAttentionUnit(T, 8, kernel_size, channel_reduction=reduction, depth=depth).double()
    x = torch.randn(T, 3, 8, 7, 5, dtype=torch.float64)
    weights = [convolution.weight.detach().numpy() for convolution in unit.spatial_channel.convolutions]
    squeeze, excite = (layer.weight.detach().numpy() for layer in (unit.temporal.squeeze, unit.temporal.excite))
    assert len(weights) == depth
    np.testing.assert_allclose(unit(x).detach().numpy(), numpy_gate(x.numpy(), squeeze, excite, weights), rtol=1e-12)


@pytest.mark.parametrize("T,hidden", [(1, 1), (2, 1), (3, 1), (6, 3)])
def test_temporal_attention_has_a_hidden_unit_for_every_T(T, hidden):
    attention = gac_sj.TemporalAttention(T)
    assert attention.squeeze.weight.shape == (hidden, T)
    assert gac_sj.TemporalAttention(T, reduction=100).squeeze.weight.shape == (1, T)


def test_published_size_of_the_encoder():
    """2 C C K K + 2 T (T // 2) at C = 64, K = 4."""
    for T, extra in [(2, 4), (4, 16), (6, 36)]:
        assert sum(p.numel() for p in gac_sj.GatedAttentionUnit(T, 64).parameters()) == 131_072 + extra


def test_an_image_gives_the_gate_of_its_repetition():
    unit = gac_sj.GatedAttentionUnit(5, 6).double()
    image = torch.randn(2, 6, 5, 9, dtype=torch.float64)
    torch.testing.assert_close(unit(image), unit(image.expand(5, -1, -1, -1, -1)), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kernel_size", range(1, 8))
def test_padding_is_torch_same_padding_without_its_warning(kernel_size, recwarn):
    x, weight = torch.randn(2, 3, 9, 6), torch.randn(4, 3, kernel_size, kernel_size)
    ours = F.conv2d(F.pad(x, functional.same_padding(kernel_size)), weight)
    gac_sj.SpatialChannelAttention(3, kernel_size)(x)
    assert not recwarn.list
    expected = F.conv2d(x, weight, padding="same")
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("gain", [1.0, 2.0, 0.3])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (4, 3, 5, 7, 3), (3, 2, 4, 1, 6)])
def test_weigh_equals_the_gate_times_the_sequence(static, gain, shape):
    T, N, *rest = shape
    sequence = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    temporal = torch.randn(T, N, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    spatial = torch.randn((N, *rest) if static else shape, dtype=torch.float64, requires_grad=True)
    inputs, weights = (sequence, temporal, spatial), torch.randn(shape, dtype=torch.float64)
    definition = functional.gate(temporal, spatial, gain) * sequence
    fast = functional.weigh(*inputs, gain)
    torch.testing.assert_close(fast, definition, rtol=1e-13, atol=0)
    expected = torch.autograd.grad((definition * weights).sum(), inputs)
    for ours, grad in zip(torch.autograd.grad((fast * weights).sum(), inputs), expected):
        torch.testing.assert_close(ours, grad, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype,bound", [(torch.float32, 1e-6), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_weigh_in_other_types(dtype, bound):
    exact = [torch.randn(4, 3, 5, 7, 3).double(), torch.randn(4, 3, 1, 1, 1).double(), torch.randn(3, 5, 7, 3).double()]
    exact = [tensor.to(dtype).double().requires_grad_() for tensor in exact]
    rounded = [tensor.detach().to(dtype).requires_grad_() for tensor in exact]
    expected, ours = functional.weigh(*exact, 2.0), functional.weigh(*rounded, 2.0)
    assert ours.dtype == dtype
    pairs = [(ours, expected)]
    pairs += zip(torch.autograd.grad(ours.sum(), rounded), torch.autograd.grad(expected.sum(), exact))
    for low, high in pairs:
        assert (low.double() - high).norm() <= bound * high.norm()


@pytest.mark.parametrize("shape", [(2, 4, 5, 5), (1, 2, 4, 5, 5), (3, 1, 4, 1, 1)])
def test_weigh_expands_the_sequence(shape):
    sequence = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    temporal, spatial = torch.randn(3, 2, 1, 1, 1).double(), torch.randn(2, 4, 5, 5).double()
    weights = torch.randn(3, 2, 4, 5, 5).double()
    results = (functional.weigh(sequence, temporal, spatial), functional.gate(temporal, spatial) * sequence)
    ours, expected = (torch.autograd.grad((result * weights).sum(), sequence)[0] for result in results)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("static", [True, False])
def test_second_derivatives(static):
    """A gradient penalty, and finite differences."""
    sequence = torch.randn(2, 2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    temporal = torch.randn(2, 2, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    spatial = torch.randn(*([] if static else [2]), 2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    inputs = (sequence, temporal, spatial)
    assert torch.autograd.gradgradcheck(lambda *inputs: functional.weigh(*inputs, 2.0), inputs)
    penalties = []
    for result in (functional.weigh(*inputs, 2.0), functional.gate(temporal, spatial, 2.0) * sequence):
        (slope,) = torch.autograd.grad(result.sum(), sequence, create_graph=True)
        penalties.append(torch.autograd.grad(slope.square().sum(), (temporal, spatial)))
    for ours, expected in zip(*penalties):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_weigh_promotes_mixed_types_as_the_definition_does():
    sequence = torch.randn(2, 3, 4, 5, 5, requires_grad=True)
    temporal = torch.randn(2, 3, 1, 1, 1).bfloat16().requires_grad_()
    spatial = torch.randn(3, 4, 5, 5).bfloat16().requires_grad_()
    inputs = (sequence, temporal, spatial)
    fast, definition = functional.weigh(*inputs, 2.0), functional.gate(temporal, spatial, 2.0) * sequence
    assert fast.dtype == definition.dtype == torch.float32
    torch.testing.assert_close(fast, definition)
    for ours, expected in zip(torch.autograd.grad(fast.sum(), inputs), torch.autograd.grad(definition.sum(), inputs)):
        assert ours.dtype == expected.dtype
        assert (ours - expected).norm() <= 2e-2 * expected.norm()


def test_whole_numbers_of_numpy_are_whole_numbers():
    assert gac_sj.GatedAttentionCoding(np.int64(3), channels=8)(torch.rand(1, 3, 5, 5)).shape[0] == 3
    with pytest.raises(ValueError, match="T is True"):
        gac_sj.DirectCoding(True)


def test_another_T_is_named():
    with pytest.raises(ValueError, match=r"T=4\) got 5 steps"):
        gac_sj.GatedAttentionUnit(4, 8)(torch.rand(5, 2, 8, 3, 3))


@pytest.mark.parametrize(
    "build,word",
    [
        (lambda: gac_sj.TemporalAttention(0), "T"),
        (lambda: gac_sj.TemporalAttention(4, reduction=0), "reduction"),
        (lambda: gac_sj.SpatialChannelAttention(8, kernel_size=0), "kernel_size"),
        (lambda: gac_sj.SpatialChannelAttention(8, depth=0), "depth"),
        (lambda: gac_sj.SpatialChannelAttention(0), "channels"),
        (lambda: gac_sj.GatedAttentionUnit(4, 8, gain=0.0), "gain"),
        (lambda: gac_sj.GatedAttentionCoding(4, 0), "in_channels"),
        (lambda: gac_sj.DirectCoding(4, 3, 0), "channels"),
    ],
)
def test_arguments_out_of_range_are_named(build, word):
    with pytest.raises(ValueError, match=rf"^{word} is 0"):
        build()
