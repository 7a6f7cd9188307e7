"""The mathematics of Gated Attention Coding (arXiv 2308.06582) in plain PyTorch: stateless, one function for each idea.

Shapes: ``T`` time steps, ``N`` images, ``C`` channels. A static image has features ``[N, C, H, W]``, the same at every
step; a sequence has ``[T, N, C, H, W]``. Every function accepts both, and computes the part of a static image once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["free_temporal_attention", "gate", "same_padding", "spatial_channel_attention", "temporal_attention"]

#: A layer, which is called, so that its hooks, parametrisations and the like act.
Layer = Callable[[Tensor], Tensor]


def gate(temporal: Tensor | None, spatial_channel: Tensor | None, gain: float = 1.0) -> Tensor:
    """``gain * sigmoid(temporal * spatial_channel)`` (GAC, main figure; the gain is ours, 1 as published).

    Args:
        temporal: temporal attention ``[T, N, 1, 1, 1]`` or ``[T, 1, C, 1, 1]``, or None for the other part alone (ours,
            for ablations).
        spatial_channel: spatial-channel attention ``[N, C, H, W]`` or ``[T, N, C, H, W]``, or None for the other part
            alone.
        gain: the largest value that the gate can take.

    Returns:
        ``[T, N, C, H, W]``, strictly between 0 and ``gain`` (up to rounding); of one part alone the shape of that part.

    Raises:
        ValueError: both parts are None.
    """
    if temporal is not None and spatial_channel is not None:
        return gain * torch.sigmoid(temporal * spatial_channel)
    part = spatial_channel if temporal is None else temporal
    if part is None:
        raise ValueError("temporal and spatial_channel must not both be None; pass at least one of them.")
    return gain * torch.sigmoid(part)


def temporal_attention(x: Tensor, T: int, squeeze: Layer, excite: Layer) -> Tensor:
    """One number per time step: ``W_m ReLU(W_n avg(x)) + W_m ReLU(W_n max(x))`` (GAC, main figure).

    avg and max pool each step over channels and pixels.

    Args:
        x: features ``[N, C, H, W]`` or ``[T, N, C, H, W]``.
        T: number of time steps.
        squeeze: multiplies by ``W_n``: ``[..., T] -> [..., hidden]``.
        excite: multiplies by ``W_m``: ``[..., hidden] -> [..., T]``.

    Returns:
        ``[T, N, 1, 1, 1]``, any real number.
    """
    pooled = torch.stack([x.mean((-3, -2, -1)), x.amax((-3, -2, -1))])  # [2, N] or [2, T, N]
    if x.dim() == 4:
        pooled = pooled.unsqueeze(1).expand(-1, T, -1)
    hidden = torch.relu(squeeze(pooled.transpose(1, 2)))  # [2, N, hidden]
    return excite(hidden.sum(0)).t()[..., None, None, None]


def same_padding(kernel_size: int) -> tuple[int, int, int, int]:
    """Padding (left, right, top, bottom) that keeps H and W; an even kernel gets the odd pixel right and below.

    Args:
        kernel_size: side of the kernel.
    """
    before = (kernel_size - 1) // 2
    after = kernel_size - 1 - before
    return before, after, before, after


def free_temporal_attention(x: Tensor, by_step: Tensor) -> Tensor:
    """One number per time step and channel, whatever the features are (ours).

    On a static image the published attention cannot see more either: it gets the same two numbers at every step.

    Args:
        x: features, for their dtype, which mixed precision has chosen.
        by_step: the numbers, ``[T, C]``.

    Returns:
        ``[T, 1, C, 1, 1]``.
    """
    return by_step.to(x.dtype)[:, None, :, None, None]


def spatial_channel_attention(
    x: Tensor,
    convolutions: Iterable[Layer],
    padding: tuple[int, int, int, int],
    norm: Layer | None = None,
) -> Tensor:
    """Square convolutions with ReLU between them, no bias, size kept (GAC: the figure draws one, the code has two).

    Args:
        x: features ``[N, C, H, W]`` or ``[T, N, C, H, W]``.
        convolutions: each maps ``[B, C_in, H + K - 1, W + K - 1]`` to ``[B, C_out, H, W]``.
        padding: of their inputs, see :func:`same_padding`.
        norm: normalises their result, for example by BatchNorm (ours); None: nothing does, as published.

    Returns:
        A map of the shape of ``x``, any real number.
    """
    y = x if x.dim() == 4 else x.flatten(0, 1)
    for depth, convolution in enumerate(convolutions):
        if depth:
            y = torch.relu(y)
        y = convolution(F.pad(y, padding))
    return (y if norm is None else norm(y)).reshape(x.shape)
