"""BatchNorm layers that an operator may replace, and what their call does besides normalising (ours)."""

from __future__ import annotations

from typing import Any, cast

import torch
from spikingjelly.activation_based import layer
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from gac_sj.nn.running_statistics import update_running_statistics
from gac_sj.ops.dispatch import has_dispatch_mode, is_transformed
from gac_sj.ops.shortcuts import does_only

__all__ = ["accepts", "is_plain_norm", "is_seen_by_nobody", "track"]


def is_plain_norm(norm: Any) -> bool:
    """Whether the call of a module does what BatchNorm does on a sequence, and nothing else.

    Args:
        norm: of which a plain ``BatchNorm2d`` of torch or SpikingJelly fits, the latter in step mode "m".
    """
    if type(norm) not in (nn.BatchNorm2d, layer.BatchNorm2d) or getattr(norm, "step_mode", "m") != "m":
        return False
    if not does_only(norm, type(norm), "_check_input_dim", "super_forward"):
        return False
    tensors = norm.weight, norm.bias, norm.running_mean, norm.running_var
    return all(type(tensor) in (Tensor, nn.Parameter, type(None)) for tensor in tensors)


def accepts(norm: Any, x_seq: Tensor) -> bool:
    """Whether a BatchNorm accepts a sequence.

    Args:
        norm: a plain BatchNorm.
        x_seq: what should be ``[T, N, C, H, W]``.
    """
    if type(x_seq) not in (Tensor, nn.Parameter) or x_seq.dim() != 5 or x_seq.shape[2] != norm.num_features:
        return False
    if x_seq.numel() == x_seq.shape[2]:  # BatchNorm refuses a single element
        return False
    parameters = norm.weight, norm.bias, norm.running_mean
    return all(tensor is None or tensor.device == x_seq.device for tensor in parameters)


def is_seen_by_nobody() -> bool:
    """Whether nothing looks at operations or traces them: no compiler, counter, function mode or transform."""
    if torch.compiler.is_compiling() or has_dispatch_mode() or is_transformed():
        return False
    return all(isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack())


def track(norm: Any, mean: Tensor, var: Tensor, n: int) -> None:
    """Count a batch and move the running statistics, as torch's BatchNorm does.

    Args:
        norm: in training mode; one without running statistics stays as it is.
        mean: of each channel.
        var: biased variance of each channel.
        n: number of elements of each channel.
    """
    if not norm.track_running_stats:
        return
    momentum = cast(float | None, norm.momentum)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if momentum is None:
            momentum = 1.0 / float(norm.num_batches_tracked)
    if norm.running_mean is not None:
        count = torch.full((), float(n), device=mean.device, dtype=mean.dtype)
        with torch.no_grad():
            update_running_statistics(norm.running_mean, norm.running_var, mean, var, count, momentum or 0.0)
