"""Convolution and BatchNorm as one convolution, for inference."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import fuse_conv_bn_eval

from gac_sj.models import MSBlock

__all__ = ["fold_batch_norm"]

# what may stand between the two: a mean of pixels commutes with the scale and the shift
_BETWEEN = (nn.Identity, nn.AvgPool2d)


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy for inference whose BatchNorms are folded into the convolutions in front of them.

    It computes the same up to rounding, which a spike near the threshold can see. Folded are neighbours inside an
    ``nn.Sequential`` (as in stems and shortcuts) and the two pairs of an :class:`gac_sj.models.MSBlock`; a BatchNorm
    that follows no convolution stays.

    Args:
        model: a network of this package, or one built of ``nn.Sequential``.

    Returns:
        The copy, in evaluation mode.

    Raises:
        ValueError: there is nothing to fold.
    """
    folded = copy.deepcopy(model).eval()
    count = 0
    for module in list(folded.modules()):
        if isinstance(module, MSBlock):
            count += _fold(module, "conv1", "bn1") + _fold(module, "conv2", "bn2")
        elif isinstance(module, nn.Sequential):
            before = None
            for name, layer in list(module.named_children()):
                if before is not None and isinstance(layer, _BatchNorm):
                    count += _fold(module, before, name)
                if isinstance(layer, _ConvNd):
                    before = name
                elif not isinstance(layer, _BETWEEN) or getattr(layer, "padding", 0) not in (0, (0, 0)):
                    before = None
    if not count:
        raise ValueError(
            f"{type(model).__name__} has no BatchNorm that directly follows a convolution, so there is nothing to "
            "fold; give a network of gac_sj, or one whose layers stand in an nn.Sequential."
        )
    return folded


def _fold(parent: nn.Module, convolution: str, norm: str) -> bool:
    conv, bn = getattr(parent, convolution), getattr(parent, norm)
    if not (isinstance(bn, _BatchNorm) and bn.running_var is not None):
        return False  # folded before, or a BatchNorm of the batch at hand
    setattr(parent, convolution, fuse_conv_bn_eval(conv, bn))
    setattr(parent, norm, nn.Identity())
    return True
