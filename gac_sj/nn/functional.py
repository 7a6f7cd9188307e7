"""The mathematics of Gated Attention Coding (arXiv 2308.06582) in plain PyTorch: stateless, one function an idea.

Shapes: ``T`` time steps, ``N`` images, ``C`` channels. A static image has features ``[N, C, H, W]``, the same at every
step; a sequence has ``[T, N, C, H, W]``. Everything here takes both, and computes a static image's part once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gac_sj.ops.gated_lif.reference import gate

__all__ = ["gate", "same_padding", "spatial_channel_attention", "temporal_attention", "weigh"]


def temporal_attention(x: Tensor, squeeze: Tensor, excite: Tensor) -> Tensor:
    """One number per time step: ``W_m ReLU(W_n avg(x)) + W_m ReLU(W_n max(x))`` (GAC, main figure).

    avg and max pool each step over channels and pixels.

    Args:
        x: features ``[N, C, H, W]`` or ``[T, N, C, H, W]``.
        squeeze: ``W_n``, ``[hidden, T]``.
        excite: ``W_m``, ``[T, hidden]``.

    Returns:
        ``[T, N, 1, 1, 1]``, any real number.
    """
    pooled = torch.stack([x.mean((-3, -2, -1)), x.amax((-3, -2, -1))])  # [2, N] or [2, T, N]
    if x.dim() == 4:
        pooled = pooled.unsqueeze(1).expand(-1, squeeze.shape[1], -1)
    hidden = torch.relu(F.linear(pooled.transpose(1, 2), squeeze))  # [2, N, hidden]
    return F.linear(hidden.sum(0), excite).t()[..., None, None, None]


def same_padding(kernel_size: int) -> tuple[int, int, int, int]:
    """Padding (left, right, top, bottom) that keeps H and W; an even kernel gets the odd pixel right and below."""
    before = (kernel_size - 1) // 2
    after = kernel_size - 1 - before
    return before, after, before, after


def spatial_channel_attention(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Square convolutions with ReLU between them, no bias, size kept (GAC: the figure draws one, the code has two).

    Args:
        x: features ``[N, C, H, W]`` or ``[T, N, C, H, W]``.
        weights: one ``[C_out, C_in, K, K]`` per convolution.

    Returns:
        A map of the shape of ``x``, any real number.
    """
    y = x if x.dim() == 4 else x.flatten(0, 1)
    for depth, weight in enumerate(weights):
        if depth:
            y = torch.relu(y)
        y = F.conv2d(F.pad(y, same_padding(weight.shape[-1])), weight)
    return y.reshape(x.shape)


def weigh(sequence: Tensor, temporal: Tensor | None, spatial_channel: Tensor | None, gain: float = 1.0) -> Tensor:
    """``sequence * gate(temporal, spatial_channel, gain)``, with one tensor of T steps in memory in place of four.

    The backward pass computes the gate again.

    Args:
        sequence: ``[T, N, C, H, W]``, or what expands to it.
        temporal, spatial_channel, gain: see :func:`gate`.

    Returns:
        ``[T, N, C, H, W]``.
    """
    if temporal is None or spatial_channel is None:  # a small gate: there is nothing to save
        return sequence * gate(temporal, spatial_channel, gain)
    shape = (len(temporal), *spatial_channel.shape[-4:])
    return _Weigh.apply(sequence.expand(shape), temporal, spatial_channel, gain)


class _Weigh(torch.autograd.Function):
    @staticmethod
    def forward(sequence, temporal, spatial_channel, gain):
        opened = (temporal * spatial_channel).sigmoid_().mul_(gain)
        # autocast may mix types; the wider one is the result's
        return opened.mul_(sequence) if opened.dtype == sequence.dtype else opened * sequence

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.gain = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, grad):
        sequence, temporal, spatial_channel = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the definition can be differentiated again
            needed = ctx.needs_input_grad[:3]
            product = gate(temporal, spatial_channel, ctx.gain) * sequence
            inputs = [tensor for tensor, wanted in zip(ctx.saved_tensors, needed) if wanted]
            grads = iter(torch.autograd.grad(product, inputs, grad, create_graph=True))
            return *(next(grads) if wanted else None for wanted in needed), None
        static = spatial_channel.dim() == 4
        grad_sequence = torch.empty(sequence.shape, dtype=sequence.dtype, device=sequence.device)
        grad_temporal = torch.empty(temporal.shape, dtype=temporal.dtype, device=temporal.device)
        grad_spatial = torch.zeros(spatial_channel.shape, dtype=spatial_channel.dtype, device=spatial_channel.device)
        # one step after the other: its tensors stay in the cache, where those of T steps do not
        for t in range(len(sequence)):
            spatial, grad_spatial_t = (
                (spatial_channel, grad_spatial) if static else (spatial_channel[t], grad_spatial[t])
            )
            opened = torch.sigmoid(temporal[t] * spatial)
            scaled = grad[t] * ctx.gain
            torch.mul(opened, scaled, out=grad_sequence[t])
            slope = (scaled * sequence[t]).mul_(opened).mul_(opened.neg_().add_(1.0))
            grad_spatial_t.addcmul_(slope, temporal[t])
            torch.sum(slope.mul_(spatial), (1, 2, 3), keepdim=True, out=grad_temporal[t])
        return grad_sequence, grad_temporal, grad_spatial, None
