"""The records of a run: its position and history, and the metrics of the running epoch."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

from torch import Tensor

from gac_sj.training.distributed import DistributedContext
from gac_sj.training.evaluation import Evaluation

__all__ = ["EpochMetrics", "RunState", "StepResult", "Test"]

_logger = logging.getLogger(__name__)


class StepResult(NamedTuple):
    """What one optimiser step reports.

    Args:
        lr: learning rate.
        loss: sum over the images, a scalar on the device.
        correct: number of correct predictions, a scalar on the device.
        images: number of images.
    """

    lr: float
    loss: Tensor
    correct: Tensor
    images: int


class Test(NamedTuple):
    """What a test has measured.

    Args:
        evaluation: losses and accuracies.
        rates: firing rate of each layer of neurons.
    """

    evaluation: Evaluation
    rates: dict[str, float]


@dataclass
class EpochMetrics:
    """Sums over the images that this process has seen in the running epoch.

    Args:
        loss: sum of the losses of the images.
        correct: number of correct predictions.
        images: number of images.
        seconds: training time.
    """

    loss: float = 0.0
    correct: float = 0.0
    images: int = 0
    seconds: float = 0.0

    def add(self, steps: Iterable[StepResult]) -> None:
        """Add steps; a GPU has to finish them first.

        Args:
            steps: their results, in order.
        """
        for step in steps:
            self.loss += step.loss.item()
            self.correct += step.correct.item()
            self.images += step.images

    @classmethod
    def merged(cls, shares: Iterable[Mapping[str, Any]]) -> EpochMetrics:
        """The sums of several processes.

        Args:
            shares: the metrics of each as a mapping.
        """
        shares = list(shares)
        return cls(**{name.name: sum(share[name.name] for share in shares) for name in fields(cls)})


@dataclass
class RunState:
    """Where a run is, and what it has recorded.

    Args:
        epoch: finished epochs.
        batch: finished batches of the running epoch.
        step: finished optimiser steps.
        seconds: training time of the finished epochs.
        history: a row of summary.csv for each finished epoch.
        metrics: of the running epoch.
        test: the last test; None before the first.
        paths: of the operators that have run (:func:`gac_sj.analysis.operator_paths.operator_paths`), sorted.
        corrupt: the unreadable items of the training and of the test set.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    metrics: EpochMetrics = field(default_factory=EpochMetrics)
    test: Test | None = None
    paths: list[str] = field(default_factory=list)
    corrupt: Sequence[Iterable[int]] = ((), ())

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Record an epoch, and go to the start of the next one.

        Args:
            row: of summary.csv.
        """
        self.history.append(row)
        self.seconds += self.metrics.seconds
        self.epoch, self.batch = self.epoch + 1, 0
        self.metrics = EpochMetrics()

    def resume_on(self, paths: list[str], world: DistributedContext) -> None:
        """Continue on the operator paths of this process, with a warning if others have computed so far.

        Args:
            paths: see the class.
            world: the first process warns.
        """
        if paths == self.paths:
            return
        if world.is_first:
            _logger.warning(
                "The run has computed with the operator path %s and continues with %s; their roundings differ, so that "
                "its weights will be those of neither alone.",
                ", ".join(self.paths),
                ", ".join(paths),
            )
        self.paths = sorted({*self.paths, *paths})

    def state_dict(self, world: DistributedContext) -> dict[str, Any]:
        """The state as plain values, with the metrics of every process.

        Args:
            world: the processes of the run; all of them call this.
        """
        return {
            "position": [self.epoch, self.batch, self.step],
            "totals": world.gather(asdict(self.metrics)),
            "seconds": self.seconds,
            "history": self.history,
            "test": None if self.test is None else [asdict(self.test.evaluation), self.test.rates],
            "paths": self.paths,
            "corrupt": self.corrupt,
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], world: DistributedContext) -> RunState:
        """The state of this process.

        Args:
            state: what :meth:`state_dict` returned, perhaps for another number of processes.
            world: the processes that resume the run.
        """
        epoch, batch, step = state["position"]
        metrics = EpochMetrics.merged(state["totals"][world.rank :: world.size])
        test = state["test"] and Test(Evaluation(**state["test"][0]), state["test"][1])
        return cls(
            epoch, batch, step, state["seconds"], state["history"], metrics, test, state["paths"], state["corrupt"]
        )
