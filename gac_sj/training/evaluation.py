"""Evaluation: top-1, top-5, per class, confusion matrix, and accuracy when only the first steps are read."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gac_sj._utils.errors import UsageError
from gac_sj._utils.randomness import seeded
from gac_sj.models.protocols import SequenceModel
from gac_sj.training.distributed import DistributedContext
from gac_sj.training.settings import Settings

__all__ = ["Evaluation", "draws_of_test", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """Accuracies from 0 to 1.

    Args:
        loss: mean cross-entropy of the logits averaged over time.
        top1: top-1 accuracy of the logits averaged over time.
        top5: top-5 accuracy of the logits averaged over time; 1 for five classes and fewer.
        by_steps: ``[T]``, top-1 accuracy when the first 1, 2, ... T steps are averaged.
        confusion: ``[classes, classes]``, numbers of images by true class (row) and predicted class (column).
    """

    loss: float
    top1: float
    top5: float
    by_steps: Tensor
    confusion: Tensor

    @property
    def per_class(self) -> Tensor:
        """Accuracy of each class, ``[classes]``; NaN for a class without images."""
        return self.confusion.diagonal() / self.confusion.sum(1)

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.confusion.sum())


def draws_of_test(settings: Settings, epoch: int, world: DistributedContext) -> AbstractContextManager[None]:
    """A context in which random encoders draw the same numbers at every start, and training then draws on as before.

    Args:
        settings: of the run; its seed is used.
        epoch: after which the network is tested, counted from 1.
        world: the processes of the run, each with draws of its own.
    """
    return seeded(settings.seed, "test", epoch, world.rank)


@torch.no_grad()
def evaluate(
    model: SequenceModel,
    batches: Iterable[tuple[Tensor, Tensor]],
    world: DistributedContext | None = None,
    autocast: torch.dtype | None = None,
) -> Evaluation:
    """Test a network in evaluation mode.

    Args:
        model: a network; it stays in evaluation mode.
        batches: images and labels on the model's device; every process has its own.
        world: the processes whose counts are added; None: this process alone.
        autocast: data type of autocast; None: no autocast.

    Raises:
        UsageError: there is no image.
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
        raise UsageError("The test set has no images", "give one that has")
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
