"""The initialisations of the published codes."""

from __future__ import annotations

import torch
from torch import nn

from gac_sj._utils.errors import UsageError
from gac_sj.models.ms_block import MSBlock

__all__ = ["init_weights"]

INITS = ("cifar", "ms", "kaiming", "att")


@torch.no_grad()
def init_weights(network: nn.Module, init: str, threshold: float) -> None:
    """Initialise a network as one of the published codes does.

    Args:
        network: of :class:`gac_sj.models.MSBlock` blocks.
        init: "cifar" (GAC's CIFAR code) keeps PyTorch's defaults. "ms" (MS-ResNet) sets each BatchNorm's weight to the
            neurons' threshold, and to 0 at the end of each block. "kaiming" (GAC's ImageNet code) in addition draws all
            convolutions from Kaiming's normal distribution, fan-out. "att" (MA-SNN's ImageNet code) is "ms" with a
            fifth of the threshold at the end of each block: at 0 the ReLU of the attention would pass no gradient.
        threshold: of the network's neurons.

    Raises:
        UsageError: another ``init``.
    """
    if init not in INITS:
        raise UsageError(f"must be a known initialisation, got {init!r}", argument="init", options=INITS)
    if init == "cifar":
        return
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, threshold)
        elif isinstance(module, nn.Conv2d) and init == "kaiming":
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for module in network.modules():
        if isinstance(module, MSBlock):
            nn.init.constant_(module.bn2.weight, 0.2 * threshold if init == "att" else 0.0)
