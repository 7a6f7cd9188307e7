"""Losses, weights and statistics that are infinite or not a number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from gac_sj.training.state import RunState, StepResult

__all__ = ["NonFiniteLossError", "explain_non_finite", "non_finite_modules"]


class NonFiniteLossError(FloatingPointError):
    """A loss, weight or statistic became infinite or not a number; the last checkpoint was saved before that."""


def non_finite_modules(model: nn.Module) -> list[str]:
    """Names of modules with non-finite weights or statistics.

    The loss can still be finite, because a LIF neuron that receives NaN does not spike.

    Args:
        model: any network.
    """
    return [
        name
        for name, module in model.named_modules()
        if any(
            not torch.isfinite(value).all()
            for value in (*module.parameters(recurse=False), *module.buffers(recurse=False))
        )
    ]


def explain_non_finite(model: nn.Module, state: RunState, steps: Sequence[StepResult], has_checkpoint: bool) -> str:
    """Say at which step and learning rate numbers became non-finite, and in which layers.

    Args:
        model: the network.
        state: of the run, after the steps.
        steps: results of the steps since the last check.
        has_checkpoint: whether the run can be resumed.
    """
    modules = non_finite_modules(model)
    at = next((n for n, step in enumerate(steps) if not torch.isfinite(step.loss)), len(steps) - 1)
    step = steps[at]
    if not modules and torch.isfinite(step.loss):
        return "The loss of another process is not finite; see its message."
    shown = ", ".join(modules[:5]) + (f" and {len(modules) - 5} more" if len(modules) > 5 else "")
    layers = f"weights or statistics are not finite in {shown}" if modules else "all weights and statistics are finite"
    kept = "the last good checkpoint is kept" if has_checkpoint else "there is no checkpoint"
    return (
        f"The loss is {(step.loss / step.images).item():.5g} at step {state.step - len(steps) + at + 1} (epoch "
        f"{state.epoch + 1}, learning rate {step.lr:.3g}); {layers}; {kept}; lower lr or set clip_grad."
    )
