"""The fused LIF neuron with a learnable time constant: kernels take its value, its gradient follows from the inputs'.

A step's input enters its charge only, so the kernel's gradient of the input is that of the charge ``h``, up to the
factor 1 / tau where the input decays. With ``h = r + (1 - 1 / tau) (v - r) + x`` the derivative of h in tau
is ``(v - r) / tau ** 2``; with ``h = v + (x - (v - r)) / tau`` it is ``-(x - (v - r)) / tau ** 2``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gac_sj.ops.lif.kernel import lif_backward, lif_kernel
from gac_sj.ops.neuron import Derivative, LIFDynamics

__all__ = ["lif_with_learnable_tau"]


def lif_with_learnable_tau(
    x_seq: Tensor, v: Tensor | None, tau: Tensor, dynamics: LIFDynamics, derivative: Derivative, store_v_seq: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What :func:`gac_sj.ops.lif.kernel.lif_kernel` returns, with a gradient of tau.

    Args:
        x_seq: input current ``[T, N, *]``.
        v: membrane potential before the first step ``[N, *]``, float32; None: the resting potential.
        tau: the time constant, of one element.
        dynamics: all other numbers of the neuron.
        derivative: of its surrogate function.
        store_v_seq: whether the potentials of all steps are needed.
    """
    dynamics = dynamics._replace(tau=tau.item())
    if torch.is_grad_enabled() and tau.requires_grad:
        return _LearnableTau.apply(x_seq, v, tau, dynamics, derivative)
    return lif_kernel(x_seq, v, *dynamics, *derivative, store_v_seq, False)


class _LearnableTau(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_seq: Tensor, v: Tensor | None, tau: Tensor, dynamics: LIFDynamics, derivative: Derivative
    ) -> tuple[Tensor, Tensor, Tensor]:
        spikes, last, v_seq = lif_kernel(x_seq, v, *dynamics, *derivative, True, False)
        ctx.save_for_backward(x_seq, v, tau, v_seq)
        ctx.dynamics, ctx.derivative = dynamics, derivative
        ctx.set_materialize_grads(False)
        return spikes, last, v_seq

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor | None, grad_v: Tensor | None, grad_v_seq: Tensor | None) -> Any:
        x_seq, v, tau, v_seq = ctx.saved_tensors
        dynamics: LIFDynamics = ctx.dynamics
        grad_x, first = lif_backward(grad_spikes, grad_v, grad_v_seq, x_seq, v, *dynamics, *ctx.derivative)
        total = torch.zeros((), dtype=torch.float64, device=x_seq.device)
        before = [v, *v_seq.unbind(0)]
        for x, gradient, potential in zip(x_seq.unbind(0), grad_x.unbind(0), before):
            moved = None if potential is None else potential - dynamics.rest()
            if dynamics.decay_input:
                total += (gradient.float() * (x if moved is None else x - moved)).sum(dtype=torch.float64)
            elif moved is not None:
                total += (gradient.float() * moved).sum(dtype=torch.float64)
        factor = -1.0 / dynamics.tau if dynamics.decay_input else 1.0 / dynamics.tau**2
        return grad_x, None if v is None else first, (factor * total).to(tau.dtype).reshape(tau.shape), None, None
