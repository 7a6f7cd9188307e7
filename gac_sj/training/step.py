"""One optimiser step: augmentation, forward and backward pass of each micro-batch, update of weights and EMA.

With ``cuda_graph`` everything but the augmentation is a CUDA graph from the fourth step on. A step that it cannot hold
runs without it, with a line of the log that says why.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any, cast

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gac_sj._utils.randomness import seeded
from gac_sj.data import BatchAugmentation
from gac_sj.models.protocols import NetworkModule
from gac_sj.training import capture
from gac_sj.training.build import Data
from gac_sj.training.distributed import DistributedContext
from gac_sj.training.graphed import StepNumbers, check_device, why_not_now
from gac_sj.training.objective import Objective
from gac_sj.training.optimisation import create_optimizer, create_schedule
from gac_sj.training.settings import Settings
from gac_sj.training.state import RunState, StepResult

__all__ = ["TrainStep", "compiled"]

_logger = logging.getLogger(__name__)


def compiled(module: nn.Module, settings: Settings) -> nn.Module:
    """A module as ``torch.compile`` makes it, or itself.

    Args:
        module: any.
        settings: their ``compile``.
    """
    if not settings.compile:
        return module
    return cast(nn.Module, torch.compile(module, mode="default" if settings.compile is True else settings.compile))


class TrainStep:
    """Call it with a batch to make one optimiser step.

    Args:
        model: the network, on its device.
        settings: settings of the run.
        data: its data.
        world: its processes.
        steps: optimiser steps of an epoch.

    Raises:
        UsageError: an augmentation or optimiser that does not fit; a step that cannot be captured and has to be.
    """

    def __init__(self, model: NetworkModule, settings: Settings, data: Data, world: DistributedContext, steps: int):
        self.model, self.settings, self.world, self.steps = model, settings, world, steps
        self.ema = ModelEmaV3(model, settings.ema, use_warmup=True) if settings.ema is not None else None
        objective = compiled(Objective(model, settings), settings)
        self.distributed = DistributedDataParallel(objective) if world.size > 1 else None
        self.objective = self.distributed or objective
        self.optimizer = create_optimizer(model, settings)
        self.augment = BatchAugmentation(
            settings, len(data.train.classes), data.size, world.device, cutout=data.images is None
        )
        self.schedule = create_schedule(self.optimizer, settings, steps)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=settings.amp == "fp16")
        self.numbers: StepNumbers | None = None
        if settings.cuda_graph:
            check_device(world)
            self.numbers = StepNumbers(self.optimizer, self.ema, world.device)
            self.captured = capture.Captured(self._update, capture.cuda_graph)
            self._reasons: set[str] = set()  # that were logged

    @property
    def tested(self) -> NetworkModule:
        """The network that is tested and saved: the EMA if there is one."""
        return self.model if self.ema is None else cast(NetworkModule, self.ema.module)

    @property
    def lr(self) -> float:
        """The learning rate."""
        return self.optimizer.param_groups[0]["lr"]

    def __call__(self, images: Tensor, labels: Tensor, state: RunState) -> StepResult:
        """Make one step, and count it and its batch in the state.

        Args:
            images: ``[N, C, H, W]``, or frames ``[T, N, C, H, W]``.
            labels: ``[N]``.
            state: of the run; it is changed.
        """
        draw = seeded(self.settings.seed, "batch", state.epoch, state.batch, self.world.rank)
        with draw if self.augment.is_random else nullcontext():
            images, labels = self.augment(images, labels, state.epoch)
        if self.settings.channels_last and images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        state.batch += 1
        state.step += 1
        self.schedule.step_update(state.step)
        if self.numbers is None:
            loss, correct = self._update(images, labels, state.step)
        else:
            with self.numbers.of_step(state.step):
                loss, correct = self._captured_update(images, labels)
        return StepResult(self.lr, loss, correct, len(labels))

    def _captured_update(self, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """The update as a CUDA graph, or without one where it cannot be one."""
        reason = why_not_now(self.model) or self.captured.prepare(images, labels)
        if reason is None:
            return self.captured(images, labels)
        if reason not in self._reasons:
            self._reasons.add(reason)
            _logger.warning("Runs without a CUDA graph: %s.", reason)
        self.optimizer.zero_grad(set_to_none=True)  # what an attempt to capture left
        return self._update(images, labels)

    def _update(self, images: Tensor, labels: Tensor, step: int | None = None) -> tuple[Tensor, Tensor]:
        """Update the weights by a batch, without ``step`` by tensors only: its loss and its correct predictions."""
        loss, correct = self._backward(images, labels)
        if self.settings.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_grad)
        # a GPU would have to be waited for; there the check comes some steps later
        if self.numbers is not None or self.world.device.type != "cpu" or torch.isfinite(loss):
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.ema is not None and self.numbers is not None:
                self.ema.apply_update_(self.model, cast(float, self.numbers.decay))
            elif self.ema is not None:
                self.ema.update(self.model, step=step)
        self.optimizer.zero_grad(set_to_none=True)
        return loss, correct

    def _backward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Add up the gradients of all micro-batches; the sum of losses and the number of correct predictions."""
        count = self.settings.accumulate
        batch_dimension = images.dim() - 4  # time comes first in sequences
        micro_batches = list(zip(images.chunk(count, batch_dimension), labels.chunk(count)))
        total = torch.zeros((), device=images.device)
        correct = torch.zeros((), dtype=torch.long, device=images.device)
        for number, (x, y) in enumerate(micro_batches, 1):
            wait = self.distributed is not None and number < count
            with self.distributed.no_sync() if self.distributed is not None and wait else nullcontext():
                torch.compiler.cudagraph_mark_step_begin()  # compiled graphs of their own may write over outputs
                loss, logits = self.objective(x, y)
                self.scaler.scale(loss / count).backward()
            total = total + loss.detach() * len(y)
            correct = correct + (logits.argmax(1) == y.argmax(1)).sum()
        return total, correct

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on but the random states, as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state.

        Args:
            state: what :meth:`state_dict` returned, and more.
        """
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["schedule"] is not None:  # else the run continues one with another schedule
            self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        if self.numbers is not None:
            self.captured.forget()
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
