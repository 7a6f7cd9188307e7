"""The stem: the layers in front of the gate, which run once for a static image, or over the whole sequence."""

from __future__ import annotations

from functools import partial
from typing import TypeGuard

from spikingjelly.activation_based import base, functional
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from gac_sj.nn.running_statistics import repeated_images
from gac_sj.nn.sync_batchnorm import SyncBatchNorm
from gac_sj.ops.shortcuts import has_hooks, overrides

__all__ = [
    "conv_bn",
    "forward_once",
    "forward_sequence",
    "is_plain_sequential",
    "is_time_invariant",
    "use_multi_step",
]

# torch's modules whose output for a frame depends only on that frame (for BatchNorm, on the batch)
_KNOWN_MODULES = {
    f"torch.nn.modules.{name}"
    for name in (
        *("activation", "batchnorm", "channelshuffle", "container", "conv", "flatten", "instancenorm", "linear"),
        *("normalization", "padding", "pixelshuffle", "pooling", "upsampling"),
    )
}
_RANDOM = (nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d, nn.MultiheadAttention)


def conv_bn(in_channels: int, channels: int, kernel_size: int = 3, stride: int = 1) -> nn.Sequential:
    """The published stem: a convolution without bias and BatchNorm, both of torch.nn, so they ignore step modes.

    Args:
        in_channels: channels of the images.
        channels: channels of the output.
        kernel_size: side of the kernels, odd.
        stride: of the convolution.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size, stride, kernel_size // 2, bias=False),
        nn.BatchNorm2d(channels),
    )


def is_time_invariant(stem: nn.Module) -> bool:
    """Whether the stem is known to be deterministic and stateless, so running it once per image is exact.

    A list of known layers decides: torch's, SpikingJelly's layers of the same names, and SyncBatchNorm. Everything
    random, stateful or unknown is absent from it, such as a layer whose ``forward`` was replaced. Dropout counts as
    deterministic while ``eval()`` disables it.

    Args:
        stem: any module.
    """
    for module in stem.modules():
        cls = type(module)
        if overrides(module, cls, "forward"):
            return False
        if cls is SyncBatchNorm or (isinstance(module, _DropoutNd) and not module.training):
            continue
        if cls.__module__.startswith("spikingjelly.activation_based.layer"):
            cls = next((parent for parent in cls.__mro__[1:] if parent.__name__ == cls.__name__), cls)
        if cls.__module__ not in _KNOWN_MODULES or issubclass(cls, _RANDOM):
            return False
    return True


def forward_once(stem: nn.Module, images: Tensor, T: int) -> Tensor:
    """Features ``[N, C, H, W]`` of images that stand for T equal frames, with the running statistics of T frames.

    Args:
        stem: a time-invariant stem (:func:`is_time_invariant`).
        images: ``[N, C, H, W]``.
        T: number of time steps.
    """
    with repeated_images(stem, T):
        return forward_sequence(stem, images.unsqueeze(0)).squeeze(0)


def forward_sequence(stem: nn.Module, x_seq: Tensor) -> Tensor:
    """Features ``[T, N, C, H, W]`` of a sequence.

    SpikingJelly's layers (in step mode "m") and modules that contain them get the sequence; torch's layers get its
    frames as one batch ``[T * N, ...]``. A plain ``nn.Sequential`` may mix the two.

    Args:
        stem: any module.
        x_seq: ``[T, N, C, H, W]``.
    """
    if not any(_has_step_modes(module) for module in stem.modules()):
        y = stem(x_seq.flatten(0, 1))
        return y.reshape(*x_seq.shape[:2], *y.shape[1:])
    if not is_plain_sequential(stem):
        return stem(x_seq)
    if not has_hooks(stem):
        return _layer_by_layer(stem, x_seq)
    stem.forward = partial(_layer_by_layer, stem)  # type: ignore[method-assign]  # its hooks run around it
    try:
        return stem(x_seq)
    finally:
        del stem.forward


def _layer_by_layer(stem: nn.Sequential, x_seq: Tensor) -> Tensor:
    for layer in stem:
        x_seq = forward_sequence(layer, x_seq)
    return x_seq


def is_plain_sequential(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether a module is an ``nn.Sequential``, not one of SpikingJelly's containers with a forward of their own.

    Args:
        module: any module.
    """
    return isinstance(module, nn.Sequential) and not overrides(module, nn.Sequential, "forward")


def _has_step_modes(module: nn.Module) -> bool:
    return isinstance(module, base.StepModule) and not (isinstance(module, SyncBatchNorm) and module.per_frame)


def use_multi_step(module: nn.Module) -> None:
    """Put SpikingJelly's layers inside a module into step mode "m", although the network around them may be in "s".

    Args:
        module: changed in place.
    """
    if any(getattr(child, "step_mode", "m") != "m" for child in module.modules()):
        functional.set_step_mode(module, "m")
