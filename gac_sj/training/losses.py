"""Losses of logits over time ``[T, N, classes]`` and soft labels ``[N, classes]``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cross_entropy", "tet"]


def cross_entropy(steps: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the logits' mean over time. Source: the published code of GAC.

    Args:
        steps: logits ``[T, N, classes]``.
        labels: soft labels ``[N, classes]``.
    """
    return F.cross_entropy(steps.mean(0), labels)


def tet(steps: Tensor, labels: Tensor, weight: float = 0.05, level: float = 1.0) -> Tensor:
    """Temporal efficient training: cross-entropy at every step, and the squared distance of the logits to a level.

    ``(1 - weight) mean_t CE(steps[t], labels) + weight MSE(steps, level)``. Source: TET (arXiv 2202.11946), equations
    for L_TET and L_MSE; the level is the neurons' threshold there.

    Args:
        steps: logits ``[T, N, classes]``.
        labels: soft labels ``[N, classes]``.
        weight: weight of the squared distance, from 0 to 1.
        level: target of the logits in it.
    """
    each = F.cross_entropy(steps.flatten(0, 1), labels.repeat(len(steps), 1))
    return (1 - weight) * each + weight * F.mse_loss(steps, torch.full_like(steps, level))
