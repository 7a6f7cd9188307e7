"""Att-MS-ResNet (MA-SNN, arXiv 2209.13929): MS-ResNet with attention on the membrane potentials of every block.

The networks are :class:`gac_sj.models.MSResNet` with ``block_attention``; direct coding is the default, and ``encoder``
selects another one. Those for ImageNet follow the published code: a 7x7 stem, channel and spatial attention ("CSA"),
averaged shortcuts, dropout, and T = 1; :func:`gac_sj.checkpoint.load_reference_state_dict` loads its weights. Those for
CIFAR are ours: the networks of :mod:`gac_sj.models.ms_resnet` with all three attentions ("TCSA").

Parameters: attention with reduction r adds to a block of C channels ``2 C (C // r)`` weights (channel) and ``2 * 9``
(spatial), and with reduction s at T steps ``2 T (T // s)`` (temporal). With C = 64, 128, 256, 512 and r = 8 that is
1,024, 4,096, 16,384 and 65,536, plus 18 each:

==================  ====================  ===================  ==============  ===========
network             blocks                without attention    attention       parameters
==================  ====================  ===================  ==============  ===========
att_ms_resnet18     2, 2, 2, 2            11,693,736           174,224         11,867,960
att_ms_resnet34     3, 4, 6, 3            21,801,896           314,656         22,116,552
att_ms_resnet104    3, 8, 32, 8           77,284,264           1,085,334       78,369,598
==================  ====================  ===================  ==============  ===========
"""

from __future__ import annotations

from typing import Any

from timm.models import register_model

from gac_sj.models.builder import create
from gac_sj.models.ms_resnet import CIFAR8, CIFAR18, CIFAR_CFG, IMAGENET, MSResNet, cfg
from gac_sj.models.shipped import generate_cfgs

__all__ = []

_ATT = dict(block_attention="TCSA")
_ATT_IMAGENET = dict(block_attention="CSA", init="att", downsample="avg_shortcut", drop_rate=0.2, T=1)

default_cfgs = generate_cfgs(
    {
        "att_ms_resnet8_cifar": cfg(**CIFAR_CFG),
        "att_ms_resnet18_cifar": cfg(**CIFAR_CFG),
        "att_ms_resnet18": cfg(),
        "att_ms_resnet34": cfg(),
        "att_ms_resnet104": cfg(),
    }
)


@register_model
def att_ms_resnet8_cifar(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """``ms_resnet8_cifar`` with temporal, channel and spatial attention in every block (ours)."""
    return create(MSResNet, "att_ms_resnet8_cifar", CIFAR8 | _ATT, pretrained, kwargs)


@register_model
def att_ms_resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """``ms_resnet18_cifar`` with temporal, channel and spatial attention in every block (ours)."""
    return create(MSResNet, "att_ms_resnet18_cifar", CIFAR18 | _ATT, pretrained, kwargs)


@register_model
def att_ms_resnet18(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """Att-MS-ResNet-18 for ImageNet (arXiv 2209.13929)."""
    defaults = IMAGENET | _ATT_IMAGENET | dict(blocks=(2, 2, 2, 2))
    return create(MSResNet, "att_ms_resnet18", defaults, pretrained, kwargs)


@register_model
def att_ms_resnet34(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """Att-MS-ResNet-34 for ImageNet (arXiv 2209.13929)."""
    defaults = IMAGENET | _ATT_IMAGENET | dict(blocks=(3, 4, 6, 3))
    return create(MSResNet, "att_ms_resnet34", defaults, pretrained, kwargs)


@register_model
def att_ms_resnet104(pretrained: bool = False, **kwargs: Any) -> MSResNet:
    """Att-MS-ResNet-104 for ImageNet (arXiv 2209.13929).

    Its stem is the published 7x7 convolution; MS-ResNet-104 has three 3x3 ones (``stem="three"``).
    """
    defaults = IMAGENET | _ATT_IMAGENET | dict(blocks=(3, 8, 32, 8))
    return create(MSResNet, "att_ms_resnet104", defaults, pretrained, kwargs)
