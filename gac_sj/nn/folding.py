"""Convolution and BatchNorm folded into one convolution, for inference."""

from __future__ import annotations

from spikingjelly.activation_based import layer
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized

from gac_sj._utils.errors import UsageError
from gac_sj.nn.copying import copy_network
from gac_sj.nn.fused_sequential import FusedSequential
from gac_sj.nn.sync_batchnorm import SyncBatchNorm
from gac_sj.ops.shortcuts import does_only, overrides

__all__ = ["fold_batch_norm", "fold_in_place"]

_CONVOLUTIONS = (layer.Conv1d, layer.Conv2d, layer.Conv3d, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# those that only scale by running statistics; SpikingJelly has subclasses that do more
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, layer.BatchNorm1d, layer.BatchNorm2d, layer.BatchNorm3d)


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy for inference whose BatchNorms are folded into the convolutions in front of them.

    The outputs are the same up to rounding, which can flip spikes near the threshold. Folded are neighbours inside an
    ``nn.Sequential`` (as in stems and shortcuts), and the pairs that a block declares as names of its children in a
    class attribute ``foldable_pairs``, such as ``(("conv1", "bn1"), ("conv2", "bn2"))``. A BatchNorm that does not
    follow a convolution stays, and so does a pair with a hook or a replaced ``forward``.

    Args:
        model: a network of this package, or one built of ``nn.Sequential``.

    Returns:
        The copy, in evaluation mode and with its neurons reset; the network itself keeps its state.

    Raises:
        UsageError: there is nothing to fold.
    """
    folded = copy_network(model).eval()
    if not fold_in_place(folded):
        raise UsageError(
            f"must have a BatchNorm that directly follows a convolution, got {type(model).__name__} without one",
            "pass a network of gac_sj, or one whose layers are in an nn.Sequential",
            argument="model",
        )
    return folded


def fold_in_place(model: nn.Module) -> int:
    """Do what :func:`fold_batch_norm` does with a copy.

    Args:
        model: a network in evaluation mode, changed in place.

    Returns:
        The number of BatchNorms that were folded.
    """
    count = 0
    for module in list(model.modules()):
        declares = next((cls for cls in type(module).__mro__ if "foldable_pairs" in vars(cls)), nn.Module)
        if not overrides(module, declares, "forward"):
            for convolution, norm in getattr(module, "foldable_pairs", ()):
                count += _fold(module, convolution, norm)
        sequential = FusedSequential if isinstance(module, FusedSequential) else nn.Sequential
        if isinstance(module, nn.Sequential) and not overrides(module, sequential, "forward"):
            before = None
            for name, child in list(module.named_children()):
                if before is not None:
                    count += _fold(module, before, name)
                if isinstance(child, _CONVOLUTIONS):
                    before = name
                elif not _commutes(child):
                    before = None
    return count


def _commutes(module: nn.Module) -> bool:
    """Whether scale and shift give the same before the module as after it: it averages pixels, or does nothing."""
    if isinstance(module, nn.AvgPool2d):
        cls = layer.AvgPool2d if isinstance(module, layer.AvgPool2d) else nn.AvgPool2d
        return module.padding in (0, (0, 0)) and module.divisor_override is None and does_only(module, cls)
    return isinstance(module, nn.Identity) and does_only(module, nn.Identity)


def _fold(parent: nn.Module, convolution: str, norm: str) -> bool:
    conv, bn = getattr(parent, convolution), getattr(parent, norm)
    if type(bn) not in (*_NORMS, SyncBatchNorm) or bn.running_var is None:
        return False  # already folded, another norm, or one without running statistics
    known = next((cls for cls in _CONVOLUTIONS if isinstance(conv, cls)), None)
    if known is None or not (does_only(conv, known, "_conv_forward") and does_only(bn, type(bn))):
        return False
    if is_parametrized(conv):
        return False  # every call computes the weight anew
    setattr(parent, convolution, fuse_conv_bn_eval(conv, bn))
    setattr(parent, norm, nn.Identity().eval())
    return True
