"""The memory format channels_last for whole networks."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["use_channels_last"]


def use_channels_last(model: nn.Module) -> None:
    """As ``nn.Module.to`` does, which fails for parameters of five dimensions, as an encoder may have over time.

    Args:
        model: changed in place.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
