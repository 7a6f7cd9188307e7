"""The engine: trains one network, tests it, and can be killed at any moment.

Everything that the weights depend on is in :meth:`Training.state_dict`: what is trained, the schedule, all RNG states
and the position in the epoch, and everything that was measured. The data's own draws are functions of seed, epoch and
position, and those of a test of seed and epoch.
"""

from __future__ import annotations

import enum
import logging
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gac_sj._utils.errors import ExitError
from gac_sj._utils.randomness import derive_seed, random_state, seed_all, set_random_state
from gac_sj.analysis import firing_rates
from gac_sj.analysis.operator_paths import operator_paths
from gac_sj.checkpoint.runs import build_model
from gac_sj.models.protocols import NetworkModule
from gac_sj.nn.sync_batchnorm import convert_sync_batchnorm
from gac_sj.training.build import Data
from gac_sj.training.checkpoints import Checkpoints
from gac_sj.training.distributed import DistributedContext
from gac_sj.training.evaluation import draws_of_test, evaluate
from gac_sj.training.finite import NonFiniteLossError, explain_non_finite, non_finite_modules
from gac_sj.training.folder import check_folder, check_state, run_key
from gac_sj.training.hardware import resolve
from gac_sj.training.memory import save_memory
from gac_sj.training.outputs import RunOutputs
from gac_sj.training.progress import progress_bar, show_metrics
from gac_sj.training.settings import Settings
from gac_sj.training.signals import Signals, iterate
from gac_sj.training.state import RunState, StepResult, Test
from gac_sj.training.step import TrainStep

__all__ = ["InterruptedRunError", "Training"]

_logger = logging.getLogger(__name__)
# Between these steps the processes of a run do not wait for each other, nor for the GPU.
_STEPS_BETWEEN_CHECKS = 10


class Action(enum.IntEnum):
    """What follows a step; all processes take the largest action that one of them needs."""

    CONTINUE = 0
    SAVE = 1
    STOP = 2
    FAIL = 3


class InterruptedRunError(ExitError):
    """The run was stopped by SIGTERM or SIGINT.

    Args:
        number: of the signal; the exit status is 128 more.
        where: the position of the run.
        folder: where its checkpoint is; None if nothing is saved.
    """

    def __init__(self, number: int, where: str, folder: Path | None):
        saved = f"Checkpoint saved in {folder}; run the same command to resume" if folder else "Nothing was saved"
        super().__init__(f"Received {signal.Signals(number).name} in {where}. {saved}.", 128 + number)


class Training:
    """One run: build it, then :meth:`run` it. A run that was killed resumes from its last checkpoint.

    Args:
        settings: settings of the run; those that are open get values (:func:`gac_sj.training.hardware.resolve`).
        data: its training and test set.
        world: its processes.
        folder: for checkpoints, weights and tables; None: nothing is written.

    Raises:
        UsageError: settings that do not fit each other, or the earlier run in the folder.
    """

    def __init__(self, settings: Settings, data: Data, world: DistributedContext, folder: Path | None = None):
        self.settings = settings = resolve(data.resolved(settings), world.device)
        self.data, self.world, self.folder = data, world, folder
        if folder is not None:
            check_folder(folder, settings)
        seed_all(derive_seed(settings.seed, "weights"))
        self.model = _build(settings, data, world)
        # after the weights, so that every encoder sees the same draws whatever its weights needed
        seed_all(derive_seed(settings.seed, "model", world.rank))
        self.loader = data.training(settings, self.model, world)
        self.test_loader = data.testing(settings, self.model, world)
        self.step = TrainStep(self.model, settings, data, world, len(self.loader))
        current = torch.empty(0, device=world.device, dtype=settings.autocast)
        self.state = RunState(paths=sorted(operator_paths(self.model.modules(), current, settings.T)))
        self._checkpoints = Checkpoints(folder / "checkpoints", settings.keep_checkpoints) if folder else None
        self._outputs: RunOutputs | None = None
        self._signals = Signals()

    def run(self) -> Test:
        """Train to the end.

        Returns:
            The last test.

        Raises:
            InterruptedRunError: SIGTERM or SIGINT was received.
            NonFiniteLossError: a loss, weight or statistic is not finite.
            CorruptImageError: an image cannot be read.
        """
        state = self._checkpoints.load() if self._checkpoints and self.world.is_first else None
        state = self.world.from_first(state)
        if state is not None:
            self.load_state_dict(state)
            self._log(f"resumes in {self._position()}")
        self.world.on_first(self._open_outputs)
        try:
            with self._signals:
                while self.state.epoch < self.settings.epochs:
                    self._train_epoch()
                    self._end_epoch()
        finally:
            if self._outputs:
                self._outputs.close()
        assert self.state.test is not None  # the last epoch is tested
        return self.state.test

    def _open_outputs(self) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._outputs = RunOutputs(self.folder, self.settings, self.data, self.state.epoch + 1)

    def _train_epoch(self) -> None:
        state, metrics = self.state, self.state.metrics
        self.model.train()
        self.loader.set_epoch(state.epoch, state.batch)
        written = started = time.monotonic()
        pending: list[StepResult] = []
        batches = iterate(self.loader)
        with progress_bar("epoch", len(self.loader), state.batch, self.settings, state, self.world) as progress:
            while state.batch < len(self.loader):
                pending.append(self.step(*next(batches), state))
                is_last = state.batch == len(self.loader)
                if not (is_last or self.world.device.type == "cpu" or state.batch % _STEPS_BETWEEN_CHECKS == 0):
                    continue
                metrics.add(pending)
                now = time.monotonic()
                metrics.seconds += now - started
                started = now
                is_due = self.folder is not None and now - written >= 60 * self.settings.checkpoint_minutes
                action = self._choose_action(save=is_due or is_last)
                if action is Action.FAIL:
                    raise NonFiniteLossError(
                        explain_non_finite(
                            self.model, state, pending, bool(self._checkpoints and self._checkpoints.any())
                        )
                    )
                pending.clear()
                if action is not Action.CONTINUE:
                    self._save()
                    written = started = time.monotonic()
                if action is Action.STOP:
                    self._stop()
                show_metrics(progress, state, self.world)

    def _choose_action(self, save: bool) -> Action:
        """The action of all processes; none of them saves non-finite numbers."""
        if not math.isfinite(self.state.metrics.loss):
            wish = Action.FAIL
        elif self._signals.number:
            wish = Action.STOP
        else:
            wish = Action.SAVE if save else Action.CONTINUE
        action = Action(self.world.max(wish))
        if action in (Action.SAVE, Action.STOP) and self.world.max(len(non_finite_modules(self.model))):
            return Action.FAIL
        return action

    def _end_epoch(self) -> None:
        settings, state, epoch = self.settings, self.state, self.state.epoch + 1
        sums = [state.metrics.loss, state.metrics.correct, state.metrics.images]
        loss, correct, images = self.world.sum(
            torch.tensor(sums, dtype=torch.float64, device=self.world.device)
        ).tolist()
        row = {
            "epoch": epoch,
            "lr": self.step.lr,
            "train_loss": loss / images,
            "train_accuracy": 100 * correct / images,
            "images": int(images),
            "test_loss": "",
            "top1": "",
            "top5": "",
            "train_seconds": round(state.metrics.seconds, 2),
            "images_per_second": round(images / state.metrics.seconds, 1),
        }
        is_tested = epoch % settings.eval_every == 0 or epoch == settings.epochs
        if is_tested:
            state.test = self._test(epoch)
            tested = state.test.evaluation
            row |= {"test_loss": tested.loss, "top1": 100 * tested.top1, "top5": 100 * tested.top5}
        row["corrupt"] = sum(map(len, self._corrupt()))
        state.end_epoch(row)
        self._log(
            f"epoch {epoch}/{settings.epochs}: loss {row['train_loss']:.4f}, training {row['train_accuracy']:.2f} %"
            f"{', test {:.2f} %'.format(row['top1']) if is_tested else ''}, {row['images_per_second']:.0f} images/s"
        )
        if self._outputs:
            self._outputs.write_summary(state.history)
            if is_tested:
                self._outputs.write_weights(self.step.tested, state.history)
        if epoch == settings.epochs:
            self._save()

    def _corrupt(self) -> list[list[int]]:
        """The items of both sets that any process could not read, also before the run was resumed."""
        loaders = (self.loader, self.test_loader)
        return [
            sorted(set(before).union(*self.world.gather(loader.corrupt)))
            for before, loader in zip(self.state.corrupt, loaders)
        ]

    def _test(self, epoch: int) -> Test:
        def guarded() -> Iterator[tuple[Tensor, Tensor]]:
            for batch in iterate(self.test_loader):
                # the state is in a checkpoint since the epoch's last step
                if self._signals.number and self.world.size == 1:
                    self._stop()
                yield batch
                progress.update()

        tested = self.step.tested
        self.world.broadcast_(tested.buffers())  # without sync_bn every process has its own statistics
        bar = progress_bar("test after", len(self.test_loader), 0, self.settings, self.state, self.world)
        draws = draws_of_test(self.settings, epoch, self.world)
        with draws, bar as progress, firing_rates(tested) as rates:
            evaluation = evaluate(tested, guarded(), self.world, self.settings.autocast)
        if self.world.max(int(self._signals.number > 0)):
            self._stop()
        return Test(evaluation, rates)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs, as tensors and plain values; all processes call it."""
        self.state.corrupt = self._corrupt()
        return self.step.state_dict() | {
            "run": run_key(self.settings, self.data),
            "random": self.world.gather(random_state()),
            **self.state.state_dict(self.world),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state.

        Args:
            state: what :meth:`state_dict` returned.

        Raises:
            UsageError: it belongs to a run with other settings or on other images.
        """
        check_state(self.folder, state.get("run"), run_key(self.settings, self.data))
        self.step.load_state_dict(state)
        paths, self.state = self.state.paths, RunState.from_state_dict(state, self.world)
        if self.state.epoch < self.settings.epochs:
            self.state.resume_on(paths, self.world)
        if self.world.rank < len(state["random"]):  # else there are more processes than before
            set_random_state(state["random"][self.world.rank])

    def _save(self) -> None:
        if self._checkpoints is None:
            return
        state = self.state_dict()
        if self.world.is_first:
            self._checkpoints.save(self.state.epoch, self.state.step, state)

    def _stop(self) -> None:
        raise InterruptedRunError(self._signals.number or signal.SIGTERM, self._position(), self.folder)

    def _position(self) -> str:
        return f"epoch {self.state.epoch + 1} (batch {self.state.batch} of {len(self.loader)})"

    def _log(self, text: str) -> None:
        if self.world.is_first:
            _logger.info("%s, seed %d: %s", self.settings.encoder, self.settings.seed, text)


def _build(settings: Settings, data: Data, world: DistributedContext) -> NetworkModule:
    """The network of a run on its device, as the settings of the optimisation want it."""
    model = build_model(settings, data.info).to(world.device)
    if settings.sync_bn:
        convert_sync_batchnorm(model)  # in place
    save_memory(model, settings)
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model
