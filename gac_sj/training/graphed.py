"""What a training step needs to be a CUDA graph: numbers that change are tensors, and the reasons why it is none."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.optim import get_optimizer_class
from timm.utils import ModelEmaV3
from torch import nn

from gac_sj._utils.errors import UsageError
from gac_sj.ops.shortcuts import has_hooks
from gac_sj.training.distributed import DistributedContext

__all__ = ["StepNumbers", "capturable", "check_device", "why_not_now"]


def check_device(world: DistributedContext) -> None:
    """Refuse to capture where there is no CUDA graph, or where processes wait for each other.

    Args:
        world: processes of the run.

    Raises:
        UsageError: the device is no GPU, or there are several processes.
    """
    if world.device.type != "cuda":
        raise UsageError(f"needs a GPU, got the device {world.device}", "leave it out", argument="cuda_graph")
    if world.size > 1:
        raise UsageError(
            f"needs one process, got {world.size}, which exchange gradients", "leave it out", argument="cuda_graph"
        )


def capturable(opt: str) -> dict[str, Any]:
    """Keywords with which an optimiser runs without the CPU: it takes the learning rate as a tensor.

    Args:
        opt: timm's name.

    Raises:
        UsageError: it cannot; PyTorch's own ones can.
    """
    cls = get_optimizer_class(opt, bind_defaults=False)
    parameters = inspect.signature(cls).parameters
    keywords = {name: True for name in ("capturable", "fused") if name in parameters}
    if not keywords or not cls.__module__.startswith("torch."):
        raise UsageError(
            f"needs an optimiser that takes its learning rate as a tensor, got {opt!r}",
            "choose momentum, sgd, adam or adamw, or leave cuda_graph out",
            argument="cuda_graph",
        )
    return keywords


def why_not_now(model: nn.Module) -> str | None:
    """Why the next step cannot be a graph, which runs no Python.

    Args:
        model: the network.

    Returns:
        The reason; None if it can.
    """
    hooked = next((name for name, module in model.named_modules() if has_hooks(module)), None)
    return None if hooked is None else f"{hooked or 'the network'} has a hook, which a graph would not call"


class StepNumbers:
    """The numbers that are others in every step, learning rates and the decay of the EMA, as tensors of a device.

    Args:
        optimizer: of the run.
        ema: of the run, or None.
        device: of the run.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, ema: ModelEmaV3 | None, device: torch.device):
        self.optimizer, self.ema = optimizer, ema
        self._rates = [torch.zeros((), device=device) for _ in optimizer.param_groups]
        self.decay = torch.zeros((), device=device)
        if ema is not None:
            ema.foreach = False  # with it, timm's takes the decay as a number

    @contextmanager
    def of_step(self, step: int) -> Iterator[None]:
        """Give the tensors the values of a step; inside the block they are the optimiser's learning rates.

        Args:
            step: counted from 1.
        """
        groups: list[dict[str, Any]] = self.optimizer.param_groups
        values = [group["lr"] for group in groups]
        if self.ema is not None:
            self.decay.fill_(self.ema.get_decay(step))
        for group, rate, value in zip(groups, self._rates, values):
            group["lr"] = rate.fill_(value)
        try:
            yield
        finally:  # for the schedule, the log and checkpoints
            for group, value in zip(groups, values):
                group["lr"] = value
