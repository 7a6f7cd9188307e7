"""BatchNorm in training and the sum behind it at once: the definition, and kernels that compute the same."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from gac_sj.ops import dispatch
from gac_sj.ops.channels import dense
from gac_sj.ops.launching import require_one_device
from gac_sj.ops.norm_add import reference
from gac_sj.ops.norm_add.kernel import NormAdd, batch_statistics
from gac_sj.ops.source import BuildError

__all__ = ["norm_add"]


def norm_add(
    x_seq: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor,
    eps: float,
    *,
    path: str | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """:func:`gac_sj.ops.norm_add.reference.norm_add` on the fastest path (:mod:`gac_sj.ops.dispatch`).

    The kernels compute in float32 and round the sum alone; sums over the batch are taken in another order. They have no
    second derivative.

    Args:
        x_seq: input ``[T, N, C, H, W]``, not empty.
        weight: scale of each channel ``[C]``; None: 1.
        bias: shift of each channel ``[C]``; None: 0.
        residual: of the shape of ``x_seq``.
        eps: added to variances.
        path: "cupy", "cpp" or "torch"; None: that of ``GAC_SJ_OPS``, or the fastest one.

    Returns:
        The sum, and the mean and the biased variance of each channel.

    Raises:
        ValueError: the tensors are on two devices, or ``path`` or ``GAC_SJ_OPS`` requests a path that is not available.
    """
    require_one_device("norm_add", x_seq, weight, bias, residual)
    unsupported = None
    if any(tensor is not None and tensor.dtype != torch.float32 for tensor in (weight, bias)):
        unsupported = "parameters must be float32"
    if residual.dtype != x_seq.dtype:
        unsupported = "the residual must have the dtype of the input"
    choose = partial(dispatch.choose, "norm_add", x_seq, None, path, 1, unsupported)
    if (chosen := choose()) in dispatch.KERNELS:
        try:
            x_seq = dense(x_seq)  # at most one copy for all kernels
            mean, var = batch_statistics(x_seq)
            inverse_std = (var + eps).rsqrt().float()
            return NormAdd.apply(x_seq, weight, bias, residual, mean.float(), inverse_std), (mean, var)
        except BuildError as error:
            dispatch.remember_failure(chosen, None, error)
            choose()  # reports it, or raises for an explicit request
    return reference.norm_add(x_seq, weight, bias, residual, eps)
