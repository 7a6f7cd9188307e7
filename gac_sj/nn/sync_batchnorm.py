"""BatchNorm over the batches of all processes, on any device and in both step modes.

torch's ``nn.SyncBatchNorm`` refuses CPU tensors, has no step mode, and cannot count an image as several frames
(:class:`gac_sj.nn.running_statistics.RepeatedImages`).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.distributed as dist
from spikingjelly.activation_based import base, layer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gac_sj._utils.errors import UsageError
from gac_sj.nn.running_statistics import update_running_statistics
from gac_sj.ops.shortcuts import overrides

__all__ = ["RefusesTorchSyncBatchNorm", "SyncBatchNorm", "convert_sync_batchnorm"]


class _AllReduce(torch.autograd.Function):
    """The sum over the processes; backward, the sum of all their gradients."""

    @staticmethod
    def forward(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.group = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _AllReduce.apply(grad, ctx.group), None


class SyncBatchNorm(nn.BatchNorm2d, base.StepModule):
    """``BatchNorm2d`` with the statistics of all elements on all processes of a group.

    This applies to training with more than one process; otherwise the layer is torch's ``BatchNorm2d``. The number of
    dimensions decides whether the input has time steps, not the step mode. The processes may hold different numbers of
    samples, or none. The gradients are those of the sum of all processes' losses; those of ``weight`` and ``bias`` are
    the part of this process, which ``DistributedDataParallel`` averages like all others.

    Args:
        num_features: number of channels C.
        eps: see ``nn.BatchNorm2d``.
        momentum: see ``nn.BatchNorm2d``.
        affine: see ``nn.BatchNorm2d``.
        track_running_stats: see ``nn.BatchNorm2d``.
        process_group: None: all processes. Copies keep the group, pickling does not.
        step_mode: "m" or "s"; SpikingJelly's containers read it.
        kwargs: ``device`` and ``dtype``.

    Shapes:
        ``[T, N, C, H, W]`` or ``[N, C, H, W]`` -> the same.

    Raises:
        UsageError: on the call, the input has another shape.
    """

    #: whether it replaces a layer without step modes, so that the modules around it expect frames [T * N, ...]
    per_frame: bool = False

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: dist.ProcessGroup | None = None,
        step_mode: str = "m",
        **kwargs: Any,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **kwargs)
        self.process_group = process_group
        self.step_mode = step_mode

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() not in (4, 5) or x.shape[-3] != self.num_features:
            raise UsageError(
                f"{self._get_name()} needs [N, {self.num_features}, H, W] or [T, N, {self.num_features}, H, W], got a "
                f"tensor of shape {list(x.shape)}",
                "change its dimensions or num_features",
            )
        run = self._over_processes if self._has_others() else super().forward
        return run(x) if x.dim() == 4 else run(x.flatten(0, 1)).reshape(x.shape)

    def _has_others(self) -> bool:
        ready = self.training and dist.is_available() and dist.is_initialized()
        return ready and dist.get_world_size(self.process_group) > 1

    def _over_processes(self, x: Tensor) -> Tensor:
        """Normalise images ``[N, C, H, W]``, with one all-reduce.

        Each process centres its values by its own mean, so that squares do not cancel. The all-reduce adds up plain
        sums, which are few and in float64; this leaves the variance a relative error of 1e-16 (mean / std)^2. (Centring
        by the running mean would work only where it is close, and equal on all processes.)
        """
        values = x.to(torch.promote_types(x.dtype, torch.float32))  # as torch does
        dims, channels = (0, 2, 3), (-1, 1, 1)
        n = x.numel() // self.num_features
        # detached, because the sums and all derivatives are the same for any centre; without samples the centre is 0
        centre = values.detach().sum(dims) / max(n, 1)
        centred = values - centre.view(channels)

        centre, total, squares = centre.double(), centred.sum(dims).double(), centred.square().sum(dims).double()
        squares = squares + centre * (2 * total + n * centre)
        sums = torch.cat([total + n * centre, squares, centre.new_tensor([n])])
        total, squares, count = _AllReduce.apply(sums, self.process_group).split([self.num_features] * 2 + [1])
        some = count.clamp_min(1)  # without samples the statistics are 0 and not tracked
        mean = total / some
        var = (squares / some - mean.square()).clamp_min(0)
        self._track(mean.detach(), var.detach(), count.detach())

        scale = (var + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        offset = (centre - mean) * scale
        if self.bias is not None:
            offset = offset + self.bias
        scale, offset = (tensor.to(values.dtype).view(channels) for tensor in (scale, offset))
        return torch.addcmul(offset, centred, scale).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        """Update the running statistics, if the layer has any."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None  # there with the running statistics
        self.num_batches_tracked.add_(1)
        momentum = 1.0 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        update_running_statistics(self.running_mean, self.running_var, mean, var, count, momentum)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"process_group": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> SyncBatchNorm:
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        copied.process_group = self.process_group
        return copied

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, step_mode={self.step_mode}"


class RefusesTorchSyncBatchNorm:
    """A base class, in front of ``nn.Module``, of modules on sequences: torch's ``nn.SyncBatchNorm`` cannot be in them.

    In ``[T, N, C, H, W]`` it takes N for the channels. ``nn.SyncBatchNorm.convert_sync_batchnorm`` and timm's converter
    put it in by ``add_module``, so they raise the error; what they have converted until then, ours replaces.

    Raises:
        UsageError: a child that is or contains ``nn.SyncBatchNorm`` is added.
    """

    def add_module(self, name: str, module: nn.Module | None) -> None:
        if module is not None and any(isinstance(part, nn.SyncBatchNorm) for part in module.modules()):
            raise UsageError(
                f"{type(self).__name__} ({name}) cannot have torch's SyncBatchNorm, which takes N of [T, N, C, H, W] "
                "for the channels",
                "convert the network with gac_sj.convert_sync_batchnorm",
            )
        super().add_module(name, module)  # type: ignore[misc]


def convert_sync_batchnorm(module: nn.Module, process_group: dist.ProcessGroup | None = None) -> nn.Module:
    """Replace every ``BatchNorm2d`` of torch or SpikingJelly inside a module by :class:`SyncBatchNorm`.

    Layers that torch's or timm's converter has already made ``nn.SyncBatchNorm`` are replaced too. The new layers take
    over parameters, buffers and hooks of the old ones, their settings, their names in ``state_dict``, and a layer that
    appears twice stays one layer. Convert before ``DistributedDataParallel`` wraps the network.

    Args:
        module: changed in place, unless it is a ``BatchNorm2d`` itself.
        process_group: of the new layers; layers that are synchronised already keep theirs.

    Returns:
        ``module``, or the layer that replaces it.

    Raises:
        UsageError: the module has another kind of BatchNorm; then nothing is changed.
    """
    found: dict[str, _BatchNorm] = {}
    for name, child in module.named_modules(remove_duplicate=False):
        if not isinstance(child, _BatchNorm) or isinstance(child, SyncBatchNorm):
            continue
        if not (type(child) is nn.SyncBatchNorm or (isinstance(child, nn.BatchNorm2d) and _is_plain(child))):
            raise UsageError(
                f"{name or 'The module'} is a {type(child).__name__}, which cannot be synchronised",
                "only BatchNorm2d of torch or SpikingJelly with their own forward can; replace it, or convert the "
                "parts of the network without it",
            )
        found[name] = child
    converted = {child: _converted(child, process_group) for child in found.values()}
    for name, child in found.items():
        if name:
            module.set_submodule(name, converted[child])
    return converted[found[""]] if "" in found else module


def _is_plain(norm: nn.BatchNorm2d) -> bool:
    """Whether it does what ``nn.BatchNorm2d`` does: a subclass or an instance may have another forward or layers."""
    cls = layer.BatchNorm2d if isinstance(norm, layer.BatchNorm2d) else nn.BatchNorm2d
    changed = overrides(norm, cls, "forward") or isinstance(norm, nn.LazyBatchNorm2d)
    return not changed and not any(norm.children())


def _converted(norm: _BatchNorm, process_group: dist.ProcessGroup | None) -> SyncBatchNorm:
    converted = SyncBatchNorm.__new__(SyncBatchNorm)
    converted.__dict__.update(norm.__dict__)  # the same dicts of parameters, buffers and hooks
    converted.process_group = process_group
    converted.per_frame = not isinstance(norm, base.StepModule)
    converted.step_mode = getattr(norm, "step_mode", "s")
    return converted
