"""The gated sequence with less memory: the backward pass computes the gate again instead of keeping it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gac_sj.ops.apply_gate import reference
from gac_sj.ops.dispatch import is_transformed

__all__ = ["ApplyGate"]


class ApplyGate(torch.autograd.Function):
    """:func:`gac_sj.ops.apply_gate.reference.apply_gate` of both attentions and a sequence of the full shape."""

    @staticmethod
    def forward(
        sequence: Tensor, temporal: Tensor, spatial_channel: Tensor, gain: float, gate: Callable[..., Tensor]
    ) -> Tensor:
        opened = (temporal * spatial_channel).sigmoid_().mul_(gain)
        # autocast may mix dtypes; the wider one is the result's
        return opened.mul_(sequence) if opened.dtype == sequence.dtype else opened * sequence

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.gain, ctx.gate = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        sequence, temporal, spatial_channel = ctx.saved_tensors
        twice = torch.is_grad_enabled()  # create_graph=True
        if twice or is_transformed(grad):  # the definition has all derivatives
            needed = ctx.needs_input_grad[:3]
            inputs = [tensor for tensor, wanted in zip(ctx.saved_tensors, needed) if wanted]
            with torch.enable_grad():
                product = reference.apply_gate(sequence, temporal, spatial_channel, ctx.gain, ctx.gate)
            grads = iter(torch.autograd.grad(product, inputs, grad, create_graph=twice))
            return *(next(grads) if wanted else None for wanted in needed), None, None
        static = spatial_channel.dim() == 4
        grad_sequence = torch.empty(sequence.shape, dtype=sequence.dtype, device=sequence.device)
        grad_temporal = torch.empty(temporal.shape, dtype=temporal.dtype, device=temporal.device)
        grad_spatial = torch.zeros(spatial_channel.shape, dtype=spatial_channel.dtype, device=spatial_channel.device)
        shared = [axis for axis in range(4) if temporal.shape[axis + 1] == 1]  # over which one number of a step acts
        # step by step: the tensors of one step stay in the cache, those of T steps do not
        for t in range(len(sequence)):
            spatial, grad_spatial_t = (
                (spatial_channel, grad_spatial) if static else (spatial_channel[t], grad_spatial[t])
            )
            opened = torch.sigmoid(temporal[t] * spatial)
            scaled = grad[t] * ctx.gain
            torch.mul(opened, scaled, out=grad_sequence[t])
            slope = (scaled * sequence[t]).mul_(opened).mul_(opened.neg_().add_(1.0))
            grad_spatial_t.addcmul_(slope, temporal[t])
            torch.sum(slope.mul_(spatial), shared, keepdim=True, out=grad_temporal[t])
        return grad_sequence, grad_temporal, grad_spatial, None, None
