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
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from gac_sj._utils.memory import release_memory
from gac_sj._utils.randomness import derive_seed, random_state, seed_all, set_random_state
from gac_sj.analysis import firing_rates
from gac_sj.analysis.operator_paths import operator_paths
from gac_sj.models.protocols import NetworkModule
from gac_sj.training.build import Data
from gac_sj.training.callbacks import Callback, Callbacks, load_callbacks
from gac_sj.training.checkpoints import Checkpoints
from gac_sj.training.continuation import finished_state
from gac_sj.training.distributed import DistributedContext
from gac_sj.training.epoch_row import describe, test_columns, training_columns
from gac_sj.training.evaluation import draws_of_test, evaluate
from gac_sj.training.finite import NonFiniteLossError, explain_non_finite, non_finite_modules
from gac_sj.training.folder import check_folder, check_state, run_key
from gac_sj.training.hardware import resolve
from gac_sj.training.network import build_network, training_mode
from gac_sj.training.outputs import RunOutputs
from gac_sj.training.progress import progress_bar, show_metrics
from gac_sj.training.settings import Settings
from gac_sj.training.signals import InterruptedRunError, Signals, iterate
from gac_sj.training.state import RunState, StepResult, Test
from gac_sj.training.step import TrainStep
from gac_sj.training.time_steps import check_time_steps, resize_step

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


class Training:
    """One run: build it, then :meth:`run` it. A run that was killed resumes from its last checkpoint.

    Args:
        settings: settings of the run; those that are open get values (:func:`gac_sj.training.hardware.resolve`).
        data: its training and test set.
        world: its processes.
        folder: for checkpoints, weights and tables; None: nothing is written.
        callbacks: called besides those of the settings (:mod:`gac_sj.training.callbacks`).

    Raises:
        UsageError: settings that do not fit each other, or the earlier run in the folder; a callback that cannot be
            used.
    """

    def __init__(
        self,
        settings: Settings,
        data: Data,
        world: DistributedContext,
        folder: Path | None = None,
        callbacks: Iterable[Callback] = (),
    ):
        self.settings = settings = resolve(data.resolved(settings), world.device)
        self.data, self.world, self.folder = data, world, folder
        self.callbacks = Callbacks([*load_callbacks(settings), *callbacks])
        if folder is not None:
            check_folder(folder, settings)
        check_time_steps(settings, data)
        begin = settings.at_epoch(0)
        seed_all(derive_seed(settings.seed, "weights"))
        model = build_network(begin, data, world)
        # after the weights, so that every encoder sees the same draws whatever its weights needed
        seed_all(derive_seed(settings.seed, "model", world.rank))
        self.loader = data.training(settings, model, world)
        self.test_loader = data.testing(settings, model, world)
        self.step = TrainStep(model, begin, data, world, len(self.loader))
        current = torch.empty(0, device=world.device, dtype=settings.autocast)
        self.state = RunState(paths=sorted(operator_paths(model.modules(), current, settings.T)))
        self._checkpoints = Checkpoints(folder / "checkpoints", settings.keep_checkpoints) if folder else None
        self._outputs: RunOutputs | None = None
        self._signals = Signals()
        self._saved = time.monotonic()  # or when it began

    @property
    def model(self) -> NetworkModule:
        """The network that is trained, a new one when T changes."""
        return self.step.model

    def run(self) -> Test:
        """Train to the end.

        Returns:
            The last test.

        Raises:
            InterruptedRunError: SIGTERM or SIGINT was received.
            NonFiniteLossError: a loss, weight or statistic is not finite.
            CorruptImageError: an image cannot be read.
            UsageError: a callback raised.
        """
        if (state := self.world.on_first(self._saved_state)) is not None:
            self.load_state_dict(state)
            self._log(f"resumes in {self._position()}")
        self.world.on_first(self._open_outputs)
        try:
            with self._signals:
                while self.state.epoch < self.settings.epochs:
                    self._set_time_steps(self.state.epoch)
                    self._train_epoch()
                    self._end_epoch()
        finally:
            if self._outputs:
                self._outputs.close()
        assert self.state.test is not None  # the last epoch is tested
        return self.state.test

    def _saved_state(self) -> dict[str, Any] | None:
        if (state := self._checkpoints.load() if self._checkpoints else None) or self.settings.continue_from is None:
            return state
        return finished_state(self.settings, self.folder, run_key(self.settings, self.data))

    def _set_time_steps(self, epoch: int) -> None:
        settings = self.settings.at_epoch(epoch)
        if settings.T != self.step.settings.T:
            self.step = resize_step(self.step, settings, self.data)
            self._log(f"T = {settings.T} in epoch {epoch + 1}")

    def _open_outputs(self) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._outputs = RunOutputs(self.folder, self.settings, self.data, self.state.epoch + 1)

    def _train_epoch(self) -> None:
        state, metrics = self.state, self.state.metrics
        training_mode(self.model)
        self.loader.set_epoch(state.epoch, state.batch)
        started = time.monotonic()
        pending: list[StepResult] = []
        batches = iterate(self.loader)
        with progress_bar("epoch", len(self.loader), self.settings, state, self.world, self.folder) as progress:
            while state.batch < len(self.loader):
                pending.append(self.step(*next(batches), state))
                self.callbacks.call("on_step_end", self, pending[-1])
                is_last = state.batch == len(self.loader)
                if not (is_last or self.world.device.type == "cpu" or state.batch % _STEPS_BETWEEN_CHECKS == 0):
                    continue
                metrics.add(pending)
                now = time.monotonic()
                metrics.seconds, started = metrics.seconds + now - started, now
                is_due = self.folder is not None and now - self._saved >= 60 * self.settings.checkpoint_minutes
                action = self._choose_action(save=is_due or (is_last and self._is_tested))
                if action is Action.FAIL:
                    raise NonFiniteLossError(
                        explain_non_finite(
                            self.model, state, pending, bool(self._checkpoints and self._checkpoints.any())
                        )
                    )
                pending.clear()
                if action is not Action.CONTINUE:
                    self._save()
                    self._saved = started = time.monotonic()
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
        release_memory()  # a test needs blocks of other sizes
        settings, state, epoch = self.settings, self.state, self.state.epoch + 1
        row = training_columns(state, self.step.lr, self.world)
        if is_tested := self._is_tested:
            self.callbacks.call("on_test_start", self)
            state.test = self._test(epoch)
            row |= test_columns(state.test.evaluation)
            self.callbacks.log(row, "on_test_end", self, state.test)
        row["corrupt"] = sum(map(len, self._corrupt()))
        self.callbacks.log(row, "on_epoch_end", self, MappingProxyType(row))
        state.end_epoch(row)
        self._log(describe(row, settings.epochs))
        if self._outputs:
            self._outputs.write_summary(state.history)
            if is_tested:
                self._outputs.write_weights(self.step.tested, state.history)
        if epoch == settings.epochs:
            self._save()

    @property
    def _is_tested(self) -> bool:
        """Whether a test follows the running epoch."""
        epoch = self.state.epoch + 1
        return epoch % self.settings.eval_every == 0 or epoch == self.settings.epochs

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
        bar = progress_bar("test after", len(self.test_loader), self.settings, self.state, self.world, self.folder)
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
            "callbacks": self.callbacks.state_dict(),
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
        self._set_time_steps(state["position"][0])
        self.step.load_state_dict(state)
        for name in self.callbacks.load_state_dict(state.get("callbacks", {})):  # runs of earlier versions have none
            self._log(f"continues without the callback {name}, and drops its state")
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
