"""BatchNorm and the LIF neuron behind it in one pass, where nobody could see a difference but the time (ours)."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from gac_sj._compat import has_other_backend
from gac_sj.nn.neuron import LIFNode, is_plain_lif
from gac_sj.nn.plain_norm import accepts, is_plain_norm, is_seen_by_nobody, track
from gac_sj.ops.channels import pays
from gac_sj.ops.dispatch import KERNELS, choose
from gac_sj.ops.neuron import LIFDynamics
from gac_sj.ops.norm_lif import norm_lif, why_not
from gac_sj.ops.shortcuts import does_only

__all__ = ["can_fuse", "norm_then_fire"]

# what a call of SpikingJelly's LIFNode runs, on either release
_OF_LIF = (
    *("multi_step_forward", "single_step_forward", "neuronal_charge", "neuronal_fire", "neuronal_reset"),
    *("multi_step_functional_forward", "single_step_functional_forward", "materialize_states", "v_float_to_tensor"),
)


def norm_then_fire(norm: Any, node: Any, x_seq: Tensor) -> Tensor:
    """``node(norm(x_seq))``, by one operator (:mod:`gac_sj.ops.norm_lif`) where that does the same.

    The operator moves the running statistics and sets the neuron's potential, as the modules do. It is left out for
    what :func:`can_fuse` refuses, for sequences on which it does not pay (:func:`gac_sj.ops.channels.pays`), in
    compiled code, and where something looks at the operations (counters, function modes, ``torch.func``).

    Args:
        norm: a BatchNorm; torch's, which has no step mode, gets the frames ``[T * N, C, H, W]``.
        node: a neuron in step mode "m".
        x_seq: ``[T, N, C, H, W]``.
    """
    if not (is_seen_by_nobody() and can_fuse(norm, node) and _fits(norm, node, x_seq)):
        return node(_normalise(norm, x_seq))
    of_batch = norm.training or norm.running_mean is None
    spikes, v, (mean, var) = norm_lif(
        x_seq,
        norm.weight,
        norm.bias,
        None if of_batch else (norm.running_mean, norm.running_var),
        norm.eps,
        _dynamics(node),
        node.surrogate_function,
        _potential_before(node, x_seq[0]),
    )
    node.v = v if isinstance(node, LIFNode) else v.to(x_seq.dtype)
    if norm.training:
        track(norm, mean, var, x_seq.numel() // len(mean))
    return spikes


def can_fuse(norm: Any, node: Any) -> bool:
    """Whether the calls of two modules do what the operator does and nothing else, for some input.

    Args:
        norm: of which a plain ``BatchNorm2d`` of torch or SpikingJelly fits, with float32 parameters.
        node: of which a plain LIF neuron with one time constant fits, in step mode "m" and without ``store_v_seq``.
    """
    if not is_plain_norm(norm):
        return False
    tensors = norm.weight, norm.bias, norm.running_mean, norm.running_var
    return (
        (norm.running_mean is None) == (norm.running_var is None)
        and _is_plain_lif(node)
        and node.step_mode == "m"
        and not node.store_v_seq
        and why_not(_dynamics(node), *tensors) is None
    )


def _is_plain_lif(node: nn.Module) -> TypeGuard[LIFNode]:
    """Whether a neuron is a plain one of this package, or SpikingJelly's own, which has the same attributes."""
    if type(node) is neuron.LIFNode:
        return does_only(node, neuron.LIFNode, *_OF_LIF) and not has_other_backend(node)
    return is_plain_lif(node)


def _fits(norm: Any, node: LIFNode, x_seq: Tensor) -> bool:
    """Whether the modules accept a sequence, and the operator has a kernel for it that pays."""
    if not accepts(norm, x_seq) or not pays(x_seq):
        return False
    v = node.v
    if isinstance(v, Tensor) and (v.dtype not in (x_seq.dtype, torch.float32) or v.device != x_seq.device):
        return False
    if not isinstance(node, LIFNode) and isinstance(v, Tensor) and v.shape != x_seq.shape[1:]:
        return False
    return choose("norm_lif", x_seq, node.surrogate_function, steps=len(x_seq)) in KERNELS


def _normalise(norm: nn.Module, x_seq: Tensor) -> Tensor:
    if isinstance(norm, nn.BatchNorm2d) and not hasattr(norm, "step_mode"):
        return norm(x_seq.flatten(0, 1)).unflatten(0, x_seq.shape[:2])
    return norm(x_seq)


def _dynamics(node: Any) -> LIFDynamics:
    return LIFDynamics(node.tau, node.decay_input, node.v_threshold, node.v_reset, node.detach_reset)


def _potential_before(node: LIFNode, x: Tensor) -> Tensor | None:
    v = LIFNode.potential_before(node, x)
    return None if v is None else v.float().expand(x.shape)
