"""The max-pool of spikes that are bytes."""

from __future__ import annotations

from typing import TypeGuard

import torch
from spikingjelly.activation_based import layer
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from gac_sj.ops.dispatch import has_dispatch_mode
from gac_sj.ops.shortcuts import does_only

__all__ = ["BytePool", "is_max_pool"]


class BytePool(nn.MaxPool2d):
    """A max-pool of bytes, which are bytes again; PyTorch's own takes bytes of small images only.

    Args:
        original: the max-pool.

    Shapes:
        ``[*, C, H, W]`` with any number of leading dimensions, in any type.
    """

    def __init__(self, original: nn.MaxPool2d):
        sizes = original.kernel_size, original.stride, original.padding, original.dilation
        super().__init__(*sizes, ceil_mode=original.ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.flatten(0, -4) if x.dim() > 3 else x.unsqueeze(0)
        if x.dtype == torch.uint8 and x.device.type == "cpu" and not has_dispatch_mode():
            sizes = map(_pair, (self.kernel_size, self.stride, self.padding, self.dilation))
            y = torch.ops.quantized.max_pool2d(frames, *sizes, self.ceil_mode)
        else:
            y = super().forward(frames.float() if x.dtype == torch.uint8 else frames).to(x.dtype)
        return y.reshape(*x.shape[:-3], *y.shape[-3:])


def is_max_pool(module: nn.Module) -> TypeGuard[nn.MaxPool2d]:
    """Whether :class:`BytePool` may replace a module.

    Args:
        module: any module.
    """
    cls = layer.MaxPool2d if isinstance(module, layer.MaxPool2d) else nn.MaxPool2d
    return isinstance(module, cls) and does_only(module, cls) and not module.return_indices
