"""The row of an epoch in summary.csv, and the line about it in the log."""

from __future__ import annotations

from typing import Any

import torch

from gac_sj.training.distributed import DistributedContext
from gac_sj.training.evaluation import Evaluation
from gac_sj.training.state import RunState

__all__ = ["describe", "test_columns", "training_columns"]


def training_columns(state: RunState, lr: float, world: DistributedContext) -> dict[str, Any]:
    """The row of the running epoch; what comes after its training is empty.

    Args:
        state: of the run; the epoch's batches are finished.
        lr: learning rate of the last step.
        world: the processes, whose metrics are added; all of them call this.
    """
    metrics = state.metrics
    sums = torch.tensor([metrics.loss, metrics.correct, metrics.images], dtype=torch.float64, device=world.device)
    loss, correct, images = world.sum(sums).tolist()
    return {
        "epoch": state.epoch + 1,
        "lr": lr,
        "train_loss": loss / images,
        "train_accuracy": 100 * correct / images,
        "images": int(images),
        "test_loss": "",
        "top1": "",
        "top5": "",
        "train_seconds": round(metrics.seconds, 2),
        "images_per_second": round(images / metrics.seconds, 1),
        "corrupt": "",
    }


def test_columns(evaluation: Evaluation) -> dict[str, Any]:
    """The columns of a test.

    Args:
        evaluation: of the test.
    """
    return {"test_loss": evaluation.loss, "top1": 100 * evaluation.top1, "top5": 100 * evaluation.top5}


def describe(row: dict[str, Any], epochs: int) -> str:
    """An epoch in one line.

    Args:
        row: of the epoch.
        epochs: of the run.
    """
    tested = "" if row["top1"] == "" else f", test {row['top1']:.2f} %"
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['train_loss']:.4f}, training {row['train_accuracy']:.2f} %{tested}, "
        f"{row['images_per_second']:.0f} images/s"
    )
