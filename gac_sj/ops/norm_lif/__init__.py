"""BatchNorm and the LIF neuron behind it at once: the definition, and kernels that compute the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from gac_sj.ops import dispatch
from gac_sj.ops.channels import dense
from gac_sj.ops.launching import require_one_device
from gac_sj.ops.neuron import Derivative, LIFDynamics
from gac_sj.ops.norm_add.kernel import batch_statistics
from gac_sj.ops.norm_lif import reference
from gac_sj.ops.norm_lif.kernel import norm_lif_kernel
from gac_sj.ops.source import BuildError
from gac_sj.ops.surrogates import cuda_derivative

__all__ = ["norm_lif", "why_not"]


def norm_lif(
    x_seq: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: tuple[Tensor, Tensor] | None,
    eps: float,
    dynamics: LIFDynamics,
    surrogate: Callable[[Tensor], Tensor],
    v: Tensor | None = None,
    *,
    path: str | None = None,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """:func:`gac_sj.ops.norm_lif.reference.norm_lif` on the fastest path (:mod:`gac_sj.ops.dispatch`).

    The kernels read the input twice forward (once where statistics are given) and write the spikes; they differ from
    the definition by the rounding of sums. They keep the input for the backward pass, and nothing else of its size.
    They have no second derivative.

    Args:
        x_seq: input ``[T, N, C, H, W]``, not empty.
        weight: scale of each channel ``[C]``; None: 1.
        bias: shift of each channel ``[C]``; None: 0.
        statistics: mean and variance of each channel ``[C]``, constants; None: those of ``x_seq``, with gradients.
        eps: added to variances.
        dynamics: of the neuron.
        surrogate: its surrogate function.
        v: membrane potential before the first step, ``[N, C, H, W]``; None: the resting potential.
        path: "cupy", "cpp" or "torch"; None: that of ``GAC_SJ_OPS``, or the fastest one.

    Returns:
        Spikes, the last potential, and the mean and the biased variance of each channel.

    Raises:
        ValueError: the tensors are on two devices, or ``path`` or ``GAC_SJ_OPS`` requests a path that is not available.
    """
    require_one_device("norm_lif", x_seq, weight, bias, v, *(statistics or ()))
    unsupported = why_not(dynamics, weight, bias, v, *(statistics or ()))
    choose = partial(dispatch.choose, "norm_lif", x_seq, surrogate, path, len(x_seq), unsupported)
    if (chosen := choose()) in dispatch.KERNELS:
        derivative, _ = cuda_derivative(surrogate)
        assert derivative is not None  # choose makes sure of it
        try:
            return _fused(x_seq, weight, bias, statistics, eps, dynamics, derivative, v)
        except BuildError as error:
            dispatch.remember_failure(chosen, derivative, error)
            choose()  # reports it, or raises for an explicit request
    return reference.norm_lif(x_seq, weight, bias, statistics, eps, dynamics, surrogate, v)


def why_not(dynamics: LIFDynamics, *tensors: Tensor | None) -> str | None:
    """Why no kernel supports the numbers of a neuron, or parameters, statistics and a potential; None if one does.

    Args:
        dynamics: of the neuron.
        tensors: the others; None is ignored.
    """
    if any(tensor is not None and tensor.dtype != torch.float32 for tensor in tensors):
        return "parameters, statistics and potentials must be float32"
    return dispatch.why_not_numbers(*dynamics)


def _fused(
    x_seq: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: tuple[Tensor, Tensor] | None,
    eps: float,
    dynamics: LIFDynamics,
    derivative: Derivative,
    v: Tensor | None,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    x_seq = dense(x_seq)  # at most one copy for all kernels
    with torch.no_grad():
        mean, var = statistics or batch_statistics(x_seq)
        inverse_std = (var.double() + eps).rsqrt().float()
    of_batch = statistics is None
    spikes, v = norm_lif_kernel(x_seq, weight, bias, v, mean.float(), inverse_std, of_batch, *dynamics, *derivative)
    return spikes, v, (mean, var)
