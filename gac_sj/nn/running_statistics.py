"""BatchNorm's running statistics, for images that run once and stand for several equal frames (ours).

Repeating a batch changes neither its mean nor its biased variance, so one run gives the outputs of all repetitions.
Only the running variance changes: BatchNorm scales the variance of the batch by n / (n - 1), and n counts repetitions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function

__all__ = ["RepeatedImages", "repeated_images", "update_running_statistics"]


def update_running_statistics(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor, n: Tensor, momentum: float
) -> None:
    """Move running statistics towards those of a batch, in place, as torch's BatchNorm does; an empty one moves none.

    Args:
        running_mean: the running mean of each channel.
        running_var: the running variance of each channel.
        mean: mean of the batch.
        var: biased variance of the batch.
        n: number of elements of the batch in each channel.
        momentum: weight of the batch.
    """
    if has_torch_function((running_var,)):  # inside RepeatedImages
        arguments = running_mean, running_var, mean, var, n, momentum
        return handle_torch_function(update_running_statistics, (running_var,), *arguments)
    unbiased = var * n / (n - 1).clamp_min(1)
    for running, new in ((running_mean, mean), (running_var, unbiased)):
        moved = running.mul(1.0 - momentum).add_(new, alpha=momentum)
        running.copy_(torch.where(n > 0, moved, running))
    return None


def repeated_images(module: nn.Module, T: int) -> AbstractContextManager[Any]:
    """:class:`RepeatedImages` where a module updates running statistics, otherwise a block that changes nothing.

    Args:
        module: what runs inside the block.
        T: number of equal frames, at least 1.
    """
    norms = (norm for norm in module.modules() if isinstance(norm, _BatchNorm))
    updates = T > 1 and any(norm.training and norm.running_var is not None for norm in norms)
    return RepeatedImages(T) if updates else nullcontext()


class RepeatedImages(TorchFunctionMode):
    """Context manager: each image that runs inside the block stands for T equal frames in running variances.

    It acts on the functions that update running statistics (``torch.nn.functional.batch_norm``, which torch's and
    SpikingJelly's layers call, and :func:`update_running_statistics`), not on layers. So the layers run as usual, with
    their hooks, and ``torch.compile`` can trace the block.

    Args:
        T: number of equal frames, at least 1.
    """

    def __init__(self, T: int):
        super().__init__()
        self.T = T

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.batch_norm:
            return self._batch_norm(*args, **kwargs)
        if function is update_running_statistics:
            return self._update(*args, **kwargs)
        return function(*args, **kwargs)

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training or running_var is None or not input.numel():
            return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        once = running_var.clone()
        output = F.batch_norm(input, running_mean, once, weight, bias, training, momentum, eps)
        n = input.numel() // len(running_var)
        ratio = self.T * (n - 1) / (self.T * n - 1)
        with torch.no_grad():  # from n elements to T * n
            running_var.copy_(once * ratio + (1.0 - ratio) * (1.0 - momentum) * running_var)
        return output

    def _update(
        self, running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor, n: Tensor, momentum: float
    ) -> None:
        update_running_statistics(running_mean, running_var, mean, var, self.T * n, momentum)
