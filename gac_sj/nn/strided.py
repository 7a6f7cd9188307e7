"""Convolutions of single pixels with a stride, without the pixels that the stride skips (ours)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from spikingjelly.activation_based import layer
from torch import Tensor

from gac_sj.nn.plain_norm import is_seen_by_nobody
from gac_sj.ops.shortcuts import does_only

__all__ = ["convolve"]


def convolve(module: Any, x_seq: Tensor) -> Tensor:
    """``module(x_seq)``; a 1x1 convolution with a stride gets only the pixels that it reads.

    On a CPU oneDNN's backward pass of such a convolution writes the gradients of the other pixels, zeros, one by one,
    and takes longer than one of the pixels alone. The module is called wherever that would ignore something: a hook,
    a replaced method, a subclass, a counter, compiled code.

    Args:
        module: a layer.
        x_seq: ``[T, N, C, H, W]``.
    """
    if not (type(module) is layer.Conv2d and x_seq.device.type == "cpu" and _skips_pixels(module) and x_seq.dim() == 5):
        return module(x_seq)
    if not (is_seen_by_nobody() and does_only(module, layer.Conv2d, "_conv_forward") and type(x_seq) is Tensor):
        return module(x_seq)
    frames, (down, right) = x_seq.flatten(0, 1), module.stride
    last = frames.is_contiguous(memory_format=torch.channels_last) and not frames.is_contiguous()
    memory = torch.channels_last if last else torch.contiguous_format
    pixels = frames[..., ::down, ::right].contiguous(memory_format=memory)
    y = F.conv2d(pixels, module.weight, module.bias, groups=module.groups)
    return y.unflatten(0, x_seq.shape[:2])


def _skips_pixels(module: Any) -> bool:
    return (
        module.step_mode == "m"
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.padding == (0, 0)  # also not "same"
    )
