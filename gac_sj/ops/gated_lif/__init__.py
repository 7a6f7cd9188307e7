"""The encoder behind its stem, spikes and gate at once: the definition, and the kernels that equal it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gac_sj.ops import dispatch
from gac_sj.ops.gated_lif import reference
from gac_sj.ops.gated_lif.kernel import gated_lif_kernel
from gac_sj.ops.launching import require_one_device
from gac_sj.ops.surrogates import cuda_derivative

__all__ = ["gated_lif"]


def gated_lif(
    z: Tensor,
    temporal: Tensor,
    spatial_channel: Tensor,
    *,
    surrogate: Callable[[Tensor], Tensor],
    path: str | None = None,
    **settings: Any,
) -> Tensor:
    """:func:`gac_sj.ops.gated_lif.reference.gated_lif` on the fastest path (:mod:`gac_sj.ops.dispatch`).

    The kernels compute in float32 and differ from the definition by the rounding of sigmoid and of sums. They have no
    second derivative.

    Args:
        path: "cupy", "cpp" or "torch"; None: the best one.
        others: as in the definition.

    Raises:
        ValueError: tensors on two devices, or of two lengths; ``path`` or ``GAC_SJ_OPS`` asks for what cannot be had.
    """
    require_one_device("gated_lif", z, temporal, spatial_channel)
    T, N = len(temporal), z.shape[-4]
    unfit = dispatch.require_numbers(*(settings[name] for name in ("gain", "tau", "v_threshold", "v_reset")))
    attention = torch.promote_types(temporal.dtype, spatial_channel.dtype)
    if torch.promote_types(attention, z.dtype) != z.dtype:
        unfit = "the attention has a wider type than the current"
    if dispatch.choose("gated_lif", z, surrogate, path, T, unfit) not in dispatch.KERNELS:
        return reference.gated_lif(z, temporal, spatial_channel, surrogate=surrogate, **settings)
    if z.dim() != spatial_channel.dim():  # one of them changes over time
        z, spatial_channel = (x if x.dim() == 5 else x.expand(T, *x.shape) for x in (z, spatial_channel))
    if z.dim() == 5 and len(z) != T:
        raise ValueError(f"gated_lif got a current of {len(z)} steps and temporal attention of {T}; give equal ones.")
    (derivative, numbers), _ = cuda_derivative(surrogate)
    return gated_lif_kernel(
        z,
        temporal.flatten(1).expand(T, N).float(),
        spatial_channel.expand(z.shape).to(z.dtype),
        strict=getattr(surrogate, "strict", False),
        derivative=derivative,
        numbers=numbers,
        **settings,
    )
