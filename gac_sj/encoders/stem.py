"""The layers in front of the gate, run over time: once for a static image, or over the whole sequence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from spikingjelly.activation_based import base, functional
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.hooks import RemovableHandle

from gac_sj.nn.sync_batchnorm import SyncBatchNorm

__all__ = ["conv_bn", "forward_once", "forward_sequence", "is_time_invariant"]

# torch's modules whose output for a frame depends on that frame (and, for BatchNorm, on the batch) alone
_KNOWN_MODULES = {
    f"torch.nn.modules.{name}"
    for name in (
        *("activation", "batchnorm", "channelshuffle", "container", "conv", "flatten", "instancenorm", "linear"),
        *("normalization", "padding", "pixelshuffle", "pooling", "upsampling"),
    )
}
_RANDOM = (nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d, nn.MultiheadAttention)


def conv_bn(in_channels: int, channels: int, kernel_size: int = 3, stride: int = 1) -> nn.Sequential:
    """The published stem: convolution without bias, BatchNorm. Plain torch.nn, so that no step mode touches it."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size, stride, kernel_size // 2, bias=False),
        nn.BatchNorm2d(channels),
    )


def is_time_invariant(stem: nn.Module) -> bool:
    """Whether ``stem`` surely does the same to each repetition of an image, so that running it once is exact.

    That is decided from a list of known layers (torch's, SpikingJelly's layers of the same name, SyncBatchNorm);
    anything random, stateful or unknown is not on it. Dropout counts while it is switched off by ``eval()``.
    """
    for module in stem.modules():
        kind = type(module)
        if kind is SyncBatchNorm or (isinstance(module, _DropoutNd) and not module.training):
            continue
        if kind.__module__.startswith("spikingjelly.activation_based.layer"):
            kind = next((parent for parent in kind.__mro__[1:] if parent.__name__ == kind.__name__), kind)
        if kind.__module__ not in _KNOWN_MODULES or issubclass(kind, _RANDOM):
            return False
    return True


def forward_once(stem: nn.Module, images: Tensor, T: int) -> Tensor:
    """Features ``[N, C, H, W]`` of images that stand for T equal frames, with the running statistics of T frames."""
    with _statistics_of_repetitions(stem, T):
        return forward_sequence(stem, images.unsqueeze(0)).squeeze(0)


def forward_sequence(stem: nn.Module, x_seq: Tensor) -> Tensor:
    """Features ``[T, N, C, H, W]`` of a sequence.

    SpikingJelly's layers (in step mode "m") and what contains them take the sequence, torch's layers see its frames as
    one batch ``[T * N, ...]``; a plain ``nn.Sequential`` may mix the two.
    """
    if not any(_knows_steps(module) for module in stem.modules()):
        return stem(x_seq.flatten(0, 1)).unflatten(0, x_seq.shape[:2])
    if type(stem).forward is nn.Sequential.forward:  # SpikingJelly's containers are subclasses with their own
        for layer in stem:
            x_seq = forward_sequence(layer, x_seq)
        return x_seq
    return stem(x_seq)


def _knows_steps(module: nn.Module) -> bool:
    return isinstance(module, base.StepModule) and not (isinstance(module, SyncBatchNorm) and module.per_frame)


def use_multi_step(module: nn.Module) -> None:
    """Put SpikingJelly's layers inside ``module`` (back) into step mode "m": what is around them may be in "s"."""
    if any(getattr(child, "step_mode", "m") != "m" for child in module.modules()):
        functional.set_step_mode(module, "m")


@contextmanager
def _statistics_of_repetitions(stem: nn.Module, T: int) -> Iterator[None]:
    """Give BatchNorms inside ``stem`` the running variance of T repetitions while each frame runs only once.

    Mean and biased variance do not change with repetition; the running variance does, because torch scales the
    batch's variance by n / (n - 1), and n counts the repetitions as well. A SyncBatchNorm is told of them: its n is
    that of all processes, which a hook does not know.
    """
    handles, synchronised = [], []
    for module in stem.modules():
        if isinstance(module, SyncBatchNorm):
            synchronised.append(module)
        elif T > 1 and isinstance(module, _BatchNorm) and module.training and module.running_var is not None:
            handles += _correct_running_var(module, T)
    for norm in synchronised:
        norm.repetitions *= T
    try:
        yield
    finally:
        for norm in synchronised:
            norm.repetitions //= T
        for handle in handles:
            handle.remove()


def _correct_running_var(norm: _BatchNorm, T: int) -> list[RemovableHandle]:
    before = norm.running_var.clone()

    def remember(norm, inputs):
        before.copy_(norm.running_var)

    def correct(norm, inputs, output):
        momentum = 1.0 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
        n = output.numel() // norm.num_features
        ratio = T * (n - 1) / (T * n - 1)
        # .data: batch_norm saves running_var for backward, where training mode never reads it
        norm.running_var.data.mul_(ratio).add_((1.0 - ratio) * (1.0 - momentum) * before)

    return [norm.register_forward_pre_hook(remember), norm.register_forward_hook(correct)]
