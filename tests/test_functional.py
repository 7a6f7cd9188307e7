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


LITE = dict(kernel_size=3, depth=1, gain=2.0, free_temporal=True, depthwise=True, batch_norm=True)


def numpy_lite_gate(x, by_step, weight, gamma, beta):
    """[T, N, C, H, W] -> [T, N, C, H, W]: a number for each step and channel, and one depthwise 3x3 convolution."""
    padded = np.pad(x, ((0, 0), (0, 0), (0, 0), (1, 1), (1, 1)))
    y = np.einsum("tnchwij,cij->tnchw", sliding_window_view(padded, (3, 3), (3, 4)), weight[:, 0])
    mean, var = y.mean((0, 1, 3, 4), keepdims=True), y.var((0, 1, 3, 4), keepdims=True)
    scale, shift = (value[:, None, None] for value in (gamma, beta))
    map_ = (y - mean) / np.sqrt(var + 1e-5) * scale + shift
    return 2 / (1 + np.exp(-by_step[:, None, :, None, None] * map_))


@pytest.mark.parametrize("T", [1, 3, 4])
@pytest.mark.parametrize("static", [True, False])
def test_lite_gate_equals_numpy(T, static):
    unit = gac_sj.GatedAttentionUnit(T, 5, **LITE).double()
    convolution, norm = unit.spatial_channel.convolutions[0], unit.spatial_channel.norm
    for parameter in unit.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(*([] if static else [T]), 3, 5, 7, 4, dtype=torch.float64)
    weights = [each.detach().numpy() for each in (unit.temporal.by_step, convolution.weight, norm.weight, norm.bias)]
    expected = numpy_lite_gate(x.expand(T, *x.shape[-4:]).numpy(), *weights)
    np.testing.assert_allclose(unit(x).detach().numpy(), expected, rtol=1e-10)


def test_a_lite_gate_starts_near_1_and_both_parts_learn():
    unit, x = gac_sj.GatedAttentionUnit(4, 64, **LITE), torch.randn(8, 64, 8, 8)
    gate = unit(x)
    assert 0 < (gate - 1).abs().max() < 0.2
    (gate * torch.randn_like(gate)).sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in unit.parameters())


@pytest.mark.parametrize("options", [{}, LITE], ids=["published", "lite"])
def test_an_image_gives_the_gate_of_its_repetition(options):
    unit = gac_sj.GatedAttentionUnit(5, 6, **options).double()
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


def test_integers_of_numpy_are_integers():
    assert gac_sj.GatedAttentionCoding(np.int64(3), channels=8)(torch.rand(1, 3, 5, 5)).shape[0] == 3
    with pytest.raises(ValueError, match=r"^T must .* got True"):
        gac_sj.DirectCoding(True)


@pytest.mark.parametrize("options", [{}, LITE], ids=["published", "lite"])
def test_another_number_of_steps_is_refused(options):
    with pytest.raises(ValueError, match=r"T=4.* 5 steps"):
        gac_sj.GatedAttentionUnit(4, 8, **options)(torch.rand(5, 2, 8, 3, 3))


def test_depthwise_convolutions_keep_the_number_of_channels():
    with pytest.raises(ValueError, match=r"^channel_reduction must be 1 for depthwise"):
        gac_sj.SpatialChannelAttention(8, reduction=2, depthwise=True)


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
    with pytest.raises(ValueError, match=rf"^{word} must .* got 0"):
        build()
