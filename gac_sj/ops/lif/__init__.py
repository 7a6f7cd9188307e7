"""The leaky integrate-and-fire neuron over a sequence: the definition, and faster paths to the same result."""

from __future__ import annotations

from collections.abc import Callable

import torch
from spikingjelly.activation_based import functional
from torch import Tensor

from gac_sj.ops import dispatch
from gac_sj.ops.launching import require_one_device
from gac_sj.ops.lif import reference
from gac_sj.ops.lif.kernel import lif_kernel
from gac_sj.ops.surrogates import cuda_derivative, spikingjelly_equivalent

__all__ = ["lif"]


def lif(
    x_seq: Tensor,
    v: Tensor | None = None,
    *,
    tau: float,
    decay_input: bool,
    v_threshold: float,
    v_reset: float | None,
    detach_reset: bool,
    surrogate: Callable[[Tensor], Tensor],
    store_v_seq: bool = False,
    path: str | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The LIF neuron of :func:`gac_sj.ops.lif.reference.lif`, on the fastest path (:mod:`gac_sj.ops.dispatch`).

    Our kernels equal the definition bit for bit, but for derivatives that use exp; SpikingJelly's may differ by a
    rounding. Kernels have no second derivative.

    Args:
        path: "cupy", "cpp", "spikingjelly" or "torch"; None: the best one.
        others: as in the definition.

    Raises:
        ValueError: no time step; tensors on two devices; ``path`` or ``GAC_SJ_OPS`` asks for what cannot be had.
    """
    settings = dict(
        tau=tau, decay_input=decay_input, v_threshold=v_threshold, v_reset=v_reset, detach_reset=detach_reset
    )
    require_one_device("lif", x_seq, v)
    if not len(x_seq):
        raise ValueError(f"lif got an input of shape {list(x_seq.shape)}; it needs at least one time step.")
    unfit = dispatch.require_numbers(tau, v_threshold, v_reset)
    if v is not None and torch.promote_types(v.dtype, torch.float32) != torch.float32:
        unfit = f"the potential is {str(v.dtype).removeprefix('torch.')}, and kernels keep float32"
    path = dispatch.choose("lif", x_seq, surrogate, path, len(x_seq), unfit)
    if path in dispatch.KERNELS:
        (derivative, numbers), _ = cuda_derivative(surrogate)
        strict = getattr(surrogate, "strict", False)
        v = None if v is None else v.float().expand(x_seq.shape[1:])
        spikes, v, v_seq = lif_kernel(
            x_seq, v, **settings, strict=strict, derivative=derivative, numbers=numbers, store_v_seq=store_v_seq
        )
        return spikes, v, v_seq if store_v_seq else None
    if path == "spikingjelly":
        equivalent, _ = spikingjelly_equivalent(surrogate)
        # as the steps are laid out in memory
        v = torch.full_like(x_seq[0], v_reset or 0.0, dtype=torch.float32) if v is None else v.float()
        return functional.lif_multi_step(x_seq, v, surrogate_function=equivalent, store_v_seq=store_v_seq, **settings)
    return reference.lif(x_seq, v, **settings, surrogate=surrogate, store_v_seq=store_v_seq)
