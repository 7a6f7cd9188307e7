"""The leaky integrate-and-fire neuron over a sequence: the definition, and faster paths to the same result."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from spikingjelly.activation_based import functional
from torch import Tensor

from gac_sj.ops import dispatch
from gac_sj.ops.launching import require_one_device
from gac_sj.ops.lif import reference
from gac_sj.ops.lif.kernel import lif_kernel
from gac_sj.ops.lif.learnable import lif_with_learnable_tau
from gac_sj.ops.neuron import LIFDynamics
from gac_sj.ops.source import BuildError
from gac_sj.ops.surrogates import cuda_derivative, spikingjelly_equivalent

__all__ = ["lif", "why_not_dynamics"]


def lif(
    x_seq: Tensor,
    dynamics: LIFDynamics,
    surrogate: Callable[[Tensor], Tensor],
    v: Tensor | None = None,
    *,
    store_v_seq: bool = False,
    as_bytes: bool = False,
    path: str | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The LIF neuron of :func:`gac_sj.ops.lif.reference.lif`, on the fastest path (:mod:`gac_sj.ops.dispatch`).

    Our kernels equal the definition bit for bit, except for derivatives that use exp. SpikingJelly's kernels may differ
    by a rounding. Kernels have no second derivative.

    Args:
        x_seq: input current ``[T, N, *]``.
        dynamics: of the neuron.
        surrogate: its surrogate function.
        v: membrane potential before the first step, ``[N, *]``; None: the resting potential.
        store_v_seq: whether to return the potential of every step.
        as_bytes: whether spikes are uint8, which have no gradient, and not in the dtype of ``x_seq``.
        path: "cupy", "cpp", "spikingjelly" or "torch"; None: that of ``GAC_SJ_OPS``, or the fastest one.

    Returns:
        Spikes, the last potential and the potentials of all steps or None, as the definition returns them.

    Raises:
        ValueError: there is no time step, the tensors are on two devices, or ``path`` or ``GAC_SJ_OPS`` requests a path
            that is not available.
    """
    require_one_device("lif", x_seq, v)
    if not len(x_seq):
        raise ValueError(f"x_seq must have at least one time step, got the shape {list(x_seq.shape)}.")
    unsupported, only_kernels = why_not_dynamics(dynamics)
    if v is not None and torch.promote_types(v.dtype, torch.float32) != torch.float32:
        unsupported = f"the potential is {str(v.dtype).removeprefix('torch.')}, and kernels keep it in float32"
    choose = partial(dispatch.choose, "lif", x_seq, surrogate, path, len(x_seq), unsupported, only_kernels)
    path = choose()
    if path in dispatch.KERNELS:
        derivative, _ = cuda_derivative(surrogate)
        assert derivative is not None  # choose makes sure of it
        state = None if v is None else v.float().expand(x_seq.shape[1:])
        if as_bytes:
            dynamics = dynamics._replace(tau=float(dynamics.tau))  # without its gradient
        try:
            if isinstance(dynamics.tau, Tensor):
                spikes, last, v_seq = lif_with_learnable_tau(
                    x_seq, state, dynamics.tau, dynamics, derivative, store_v_seq
                )
            else:
                spikes, last, v_seq = lif_kernel(x_seq, state, *dynamics, *derivative, store_v_seq, as_bytes)
            return spikes, last, v_seq if store_v_seq else None
        except BuildError as error:
            dispatch.remember_failure(path, derivative, error)
            path = choose()  # another one, or raises for an explicit request
    if path == "spikingjelly":
        equivalent, _ = spikingjelly_equivalent(surrogate)
        # in the memory format of the steps
        v = torch.full_like(x_seq[0], dynamics.rest(), dtype=torch.float32) if v is None else v.float()
        spikes, last, potentials = functional.lif_multi_step(
            x_seq, v, surrogate_function=equivalent, store_v_seq=store_v_seq, **dynamics._asdict()
        )
    else:
        spikes, last, potentials = reference.lif(x_seq, dynamics, surrogate, v, store_v_seq=store_v_seq)
    return spikes.to(torch.uint8) if as_bytes else spikes, last, potentials


def why_not_dynamics(dynamics: LIFDynamics) -> tuple[str | None, str | None]:
    """Why no kernel supports the numbers of a neuron, and why only kernels of this folder do; None where they do.

    Args:
        dynamics: whose tau may be a tensor of one element, a learnable one; compiled code needs the definition then.
    """
    tau: float | Tensor = dynamics.tau
    if not isinstance(tau, Tensor) or tau.numel() > 1 or torch.compiler.is_compiling():
        return dispatch.why_not_numbers(*dynamics), None
    return dispatch.why_not_numbers(*dynamics._replace(tau=1.0)), "a learnable tau is a tensor, not a number"
