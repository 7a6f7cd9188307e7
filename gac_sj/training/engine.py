"""One epoch of training, and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["evaluate", "train_one_epoch"]


def train_one_epoch(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    before_step: Callable[[], None],
) -> float:
    """Train on every batch once with cross-entropy on the logits averaged over time.

    Args:
        model: maps images ``[N, C, H, W]`` to logits ``[N, classes]`` and resets its own state.
        batches: images and labels on the model's device.
        optimizer: its learning rate is set by ``before_step``, which is called before each of its steps.

    Returns:
        The mean loss over images.

    Raises:
        FloatingPointError: a loss that is not finite.
    """
    model.train()
    total, count = 0.0, 0
    for images, labels in batches:
        before_step()
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels)
        count += len(labels)
        if not total < float("inf"):
            raise FloatingPointError(
                f"The training loss became {loss.item()} at learning rate {optimizer.param_groups[0]['lr']:.3g}; "
                "lower the learning rate."
            )
    return total / count


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Top-1 accuracy (0 to 1) and mean cross-entropy over images, in evaluation mode."""
    model.eval()
    correct, total, count = 0, 0.0, 0
    for images, labels in batches:
        logits = model(images)
        correct += (logits.argmax(1) == labels).sum().item()
        total += F.cross_entropy(logits, labels, reduction="sum").item()
        count += len(labels)
    return correct / count, total / count
