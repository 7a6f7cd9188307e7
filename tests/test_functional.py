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


def test_integers_of_numpy_are_integers():
    assert gac_sj.GatedAttentionCoding(np.int64(3), channels=8)(torch.rand(1, 3, 5, 5)).shape[0] == 3
    with pytest.raises(ValueError, match=r"^T must .* got True"):
        gac_sj.DirectCoding(True)


def test_another_number_of_steps_is_refused():
    with pytest.raises(ValueError, match=r"T=4.* 5 steps"):
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
    with pytest.raises(ValueError, match=rf"^{word} must .* got 0"):
        build()
