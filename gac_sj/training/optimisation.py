"""timm's optimisers and cosine schedule, configured by the settings."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import nn

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj.encoders.base import attention_weights
from gac_sj.training.graphed import capturable
from gac_sj.training.settings import Settings

__all__ = ["create_optimizer", "create_schedule"]


def create_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """The optimiser of a run.

    Args:
        model: the network.
        settings: settings of the run.

    Raises:
        UsageError: it needs a package or a device that is missing, or cannot be captured and has to be.
    """
    try:
        return create_optimizer_v2(
            model,
            settings.opt,
            lr=settings.lr,
            momentum=settings.momentum,
            **(capturable(settings.opt) if settings.cuda_graph else {}),
            param_group_fn=partial(_groups, settings=settings),
        )
    except AssertionError as error:
        raise UsageError(
            f"must be an optimiser that can run here, got {settings.opt!r} ({first_sentence(error)})",
            "choose another one",
            argument="opt",
        ) from error


def _groups(model: nn.Module, settings: Settings) -> list[dict[str, Any]]:
    """The parameters without and with weight decay; the settings decide, not the network's ``no_weight_decay``."""
    return param_groups_weight_decay(
        model,
        settings.weight_decay,
        weight_decay_exclude_1d=not settings.decay_all,
        no_weight_decay_list=() if settings.decay_gate else attention_weights(model),
    )


def create_schedule(optimizer: torch.optim.Optimizer, settings: Settings, steps: int) -> CosineLRScheduler:
    """Linear warm-up, then a cosine, by optimiser steps counted from 1.

    Args:
        optimizer: its learning rate is changed.
        settings: settings of the run.
        steps: optimiser steps of an epoch.
    """
    warmup = round(settings.warmup_epochs * steps)
    return CosineLRScheduler(
        optimizer,
        # one more, so that the last step is not at the learning rate of the end
        t_initial=settings.epochs * steps - warmup + 1,
        lr_min=settings.min_lr,
        warmup_t=warmup,
        warmup_prefix=True,
        t_in_epochs=False,
    )
