"""How a network runs for a while: in training or evaluation mode, with operations that can be counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["in_mode", "plain_operations"]


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put every module into training or evaluation mode inside the block, and restore each module's mode on exit.

    Args:
        model: any network.
        training: whether the mode is training.
    """
    modes = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, before in modes.items():
            module.training = before


@contextmanager
def plain_operations(model: nn.Module) -> Iterator[None]:
    """Inside the block PyTorch uses no operations that hide products, and no copies of weights in another type.

    Args:
        model: that runs inside the block.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False),
            sdpa_kernel(SDPBackend.MATH),
        ):  # fmt: skip
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
