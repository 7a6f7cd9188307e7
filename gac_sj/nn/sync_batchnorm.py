"""BatchNorm whose batch is that of all processes, on any device and in both step modes.

torch's ``nn.SyncBatchNorm`` refuses CPU tensors, has no step mode, and does not know that an image may stand for
several frames.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.distributed as dist
from spikingjelly.activation_based import base, layer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["SyncBatchNorm", "convert_sync_batchnorm"]


class _AllReduce(torch.autograd.Function):
    """The sum over the processes; each of them gets the sum of all gradients."""

    @staticmethod
    def forward(x, group):
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.group = inputs

    @staticmethod
    def backward(ctx, grad):
        return _AllReduce.apply(grad, ctx.group), None


class SyncBatchNorm(nn.BatchNorm2d, base.StepModule):
    """``BatchNorm2d`` with the statistics of all elements on all processes of a group.

    In training with more than one process; otherwise it is torch's ``BatchNorm2d``. The number of dimensions says
    whether there is time, the step mode does not. Each process may hold another number of samples, or none. The
    gradients are those of the sum of all processes' losses; those of ``weight`` and ``bias`` are this process's part,
    which ``DistributedDataParallel`` averages as all others.

    Args:
        num_features, eps, momentum, affine, track_running_stats, kwargs: as in ``nn.BatchNorm2d``.
        process_group: None is all processes. Copies keep it, pickling does not.
        step_mode: "m" or "s"; SpikingJelly's containers ask for it.

    Shapes:
        ``[T, N, C, H, W]`` or ``[N, C, H, W]``, out as in.

    Raises:
        ValueError: on the call, an input of another shape.
    """

    #: how many equal repetitions each sample stands for, in the running variance's n / (n - 1)
    repetitions: int = 1
    #: whether it replaces a layer that knows no step modes, so that what surrounds it expects frames [T * N, ...]
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
            raise ValueError(
                f"{self._get_name()} got a tensor of shape {list(x.shape)}; it needs [N, {self.num_features}, H, W] or "
                f"[T, N, {self.num_features}, H, W]; change the dimensions or num_features."
            )
        run = self._over_processes if self._has_others() else self._alone
        return run(x) if x.dim() == 4 else run(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def _has_others(self) -> bool:
        ready = self.training and dist.is_available() and dist.is_initialized()
        return ready and dist.get_world_size(self.process_group) > 1

    def _alone(self, x: Tensor) -> Tensor:
        if self.repetitions == 1 or not self._tracks():
            return super().forward(x)
        before = self.running_var.clone()
        y = super().forward(x)
        n = x.numel() // self.num_features
        ratio = self.repetitions * (n - 1) / (self.repetitions * n - 1)
        # .data: batch_norm saves running_var for backward, where training mode never reads it
        self.running_var.data.mul_(ratio).add_(before, alpha=(1.0 - ratio) * (1.0 - self._factor()))
        return y

    def _over_processes(self, x: Tensor) -> Tensor:
        """Over images ``[N, C, H, W]``, with one all-reduce.

        Each process centres its values by its own mean, so that squares do not cancel. The all-reduce is of the plain
        sums, which are few and in float64: that leaves the variance a relative error of 1e-16 (mean / deviation)^2.
        (Centring by the running mean would need it to be near, and equal on all processes.)
        """
        values = x.to(torch.promote_types(x.dtype, torch.float32))  # as torch does
        dims, channels = (0, 2, 3), (-1, 1, 1)
        n = x.numel() // self.num_features
        # detached: the sums, and so all derivatives, are the same for any centre; without samples it is 0
        centre = values.detach().sum(dims) / max(n, 1)
        centred = values - centre.view(channels)

        centre, total, squares = centre.double(), centred.sum(dims).double(), centred.square().sum(dims).double()
        squares = squares + centre * (2 * total + n * centre)
        sums = torch.cat([total + n * centre, squares, centre.new_tensor([n])])
        total, squares, count = _AllReduce.apply(sums, self.process_group).split([self.num_features] * 2 + [1])
        mean = total / count
        var = (squares / count - mean.square()).clamp_min(0)
        if self._tracks():
            self._track(mean.detach(), var.detach(), count.detach())

        scale = (var + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        offset = (centre - mean) * scale
        if self.bias is not None:
            offset = offset + self.bias
        scale, offset = (tensor.to(values.dtype).view(channels) for tensor in (scale, offset))
        return torch.addcmul(offset, centred, scale).to(x.dtype)

    def _tracks(self) -> bool:
        return self.training and self.track_running_stats and self.running_var is not None

    def _factor(self) -> float:
        return 1.0 / self.num_batches_tracked.item() if self.momentum is None else self.momentum

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        n = self.repetitions * count
        factor = self._factor()
        for running, new in ((self.running_mean, mean), (self.running_var, var * n / (n - 1).clamp_min(1))):
            running.mul_(1.0 - factor).add_(new, alpha=factor)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"process_group": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> SyncBatchNorm:
        twin = memo[id(self)] = type(self).__new__(type(self))
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        twin.process_group = self.process_group
        return twin

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, step_mode={self.step_mode}"


def convert_sync_batchnorm(module: nn.Module, process_group: dist.ProcessGroup | None = None) -> nn.Module:
    """Replace every ``BatchNorm2d``, torch's or SpikingJelly's, inside ``module`` by :class:`SyncBatchNorm`.

    The new layers share parameters, buffers and hooks with the old ones and keep their settings, names in
    ``state_dict`` and sharing. Convert before ``DistributedDataParallel`` wraps the network.

    Args:
        module: changed in place, unless it is a ``BatchNorm2d`` itself.
        process_group: of the new layers; those that are synchronised already keep theirs.

    Returns:
        ``module``, or the layer that replaces it.

    Raises:
        ValueError: there is a BatchNorm of another kind; nothing is changed then.
    """
    found = {
        name: child
        for name, child in module.named_modules(remove_duplicate=False)
        if isinstance(child, _BatchNorm) and not isinstance(child, SyncBatchNorm)
    }
    for name, child in found.items():
        if not _is_batchnorm2d(child):
            raise ValueError(
                f"{name or 'The module'} is a {type(child).__name__}; only BatchNorm2d of torch or SpikingJelly, with "
                "their own forward, can be synchronised; replace it or convert the parts of the network without it."
            )
    converted = {child: _converted(child, process_group) for child in found.values()}
    for name, child in found.items():
        if name:
            module.set_submodule(name, converted[child])
    return converted.get(module, module)


def _is_batchnorm2d(norm: nn.Module) -> bool:
    """Whether it does what ``nn.BatchNorm2d`` does: subclasses, or an instance, may have another forward or layers."""
    forward = getattr(norm.forward, "__func__", None)
    plain = forward in (nn.BatchNorm2d.forward, layer.BatchNorm2d.forward) and not any(norm.children())
    return plain and isinstance(norm, nn.BatchNorm2d) and not isinstance(norm, nn.LazyBatchNorm2d)


def _converted(norm: nn.BatchNorm2d, process_group: dist.ProcessGroup | None) -> SyncBatchNorm:
    twin = SyncBatchNorm.__new__(SyncBatchNorm)
    vars(twin).update(vars(norm))  # the very dicts of parameters, buffers and hooks
    twin.process_group = process_group
    twin.per_frame = not isinstance(norm, base.StepModule)
    twin.step_mode = getattr(norm, "step_mode", "s")
    return twin
