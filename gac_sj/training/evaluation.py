"""Evaluation: top-1, top-5, per class, confusion matrix, and accuracy when only the first steps are read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gac_sj.training.distributed import DistributedContext

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """Accuracies from 0 to 1.

    Args:
        loss: mean cross-entropy of the logits averaged over time.
        top1, top5: of the logits averaged over time (top5 is 1 for five classes and fewer).
        by_steps: ``[T]``, top-1 when the first 1, 2, ... T steps are averaged.
        confusion: ``[classes, classes]``, images of class (row) that were taken for class (column).
    """

    loss: float
    top1: float
    top5: float
    by_steps: Tensor
    confusion: Tensor

    @property
    def per_class(self) -> Tensor:
        """``[classes]``; NaN for a class without images."""
        return self.confusion.diagonal() / self.confusion.sum(1)

    @property
    def images(self) -> int:
        return int(self.confusion.sum())


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    world: DistributedContext | None = None,
    autocast: torch.dtype | None = None,
) -> Evaluation:
    """Test a network in evaluation mode.

    Args:
        model: has ``forward_sequence``: images -> logits ``[T, N, classes]``.
        batches: images and labels on the model's device; every process its own.
        world: the processes whose counts are added up; None: this one alone.
        autocast: type of autocast; None: none.
    """
    model.eval()
    totals = None
    for images, labels in batches:
        with torch.autocast(images.device.type, autocast, enabled=autocast is not None):
            steps = model.forward_sequence(images)
        T, _, classes = steps.shape
        if totals is None:
            totals = torch.zeros(2 + T + classes**2, dtype=torch.float64, device=steps.device)
        logits = steps.float().cumsum(0) / torch.arange(1, T + 1, device=steps.device).view(-1, 1, 1)
        mean = steps.float().mean(0)
        predicted = mean.argmax(1)
        totals[0] += F.cross_entropy(mean, labels, reduction="sum")
        totals[1] += (mean.topk(min(5, classes)).indices == labels[:, None]).sum()
        totals[2 : 2 + T] += (logits.argmax(2) == labels).sum(1)
        totals[2 + T :] += torch.bincount(labels * classes + predicted, minlength=classes**2)
    if totals is None:
        raise ValueError("There is no image to test on; give a test set.")
    totals = (world.sum(totals) if world else totals).cpu()
    confusion = totals[2 + T :].view(classes, classes)
    count = confusion.sum()
    return Evaluation(
        loss=(totals[0] / count).item(),
        top1=(confusion.diagonal().sum() / count).item(),
        top5=(totals[1] / count).item(),
        by_steps=totals[2 : 2 + T] / count,
        confusion=confusion.long(),
    )
