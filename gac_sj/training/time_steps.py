"""A schedule of T: training goes on with another number of time steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gac_sj._utils.errors import UsageError
from gac_sj._utils.randomness import seeded
from gac_sj.checkpoint.runs import build_model
from gac_sj.nn.time_steps import fit_time_steps, free_attentions, temporal_pairs
from gac_sj.training.build import Data
from gac_sj.training.network import build_network
from gac_sj.training.settings import Settings
from gac_sj.training.step import TrainStep

__all__ = ["check_time_steps", "resize_step"]


def check_time_steps(settings: Settings, data: Data) -> None:
    """Refuse a schedule of T for data that are cut for one T, and for networks that cannot be resized.

    Args:
        settings: settings of the run.
        data: its data.

    Raises:
        UsageError: the data set has event frames, or other tensors than temporal attention depend on T, such as those
            of your own encoder.
    """
    if not settings.T_schedule:
        return
    if data.train.is_events:
        raise UsageError(
            f"must not be given for event data such as {settings.dataset}, whose recordings are cut into "
            f"T={settings.T} frames, and into other ones for another T",
            "leave it out",
            argument="T_schedule",
        )
    with torch.device("meta"):
        first, last = (
            {name: value.shape for name, value in build_model(each, data.info).state_dict().items()}
            for each in (settings.at_epoch(0), settings)
        )
    attention = {name for pair in temporal_pairs(first) for name in pair} | {*free_attentions(first)}
    if others := [name for name in first if name not in attention and first[name] != last.get(name)]:
        raise UsageError(
            f"must not be given where more than temporal attention depends on T, got a network with {others[0]}",
            "leave it out",
            argument="T_schedule",
        )


def resize_step(step: TrainStep, settings: Settings, data: Data) -> TrainStep:
    """Go on with another T: a new network, compiled and distributed anew, with everything that was trained.

    Temporal attention is resized (:func:`gac_sj.resize_time_steps`), in the EMA too; what the optimiser knows of its
    matrices begins at zero. Random states are those from before.

    Args:
        step: so far.
        settings: those of the run with the new T.
        data: of the run.
    """
    with seeded(settings.seed, "weights"):  # they are replaced
        new = TrainStep(
            build_network(settings, data, step.world, initial=False), settings, data, step.world, step.steps
        )
    state, own = step.state_dict(), new.model.state_dict()
    for part in ("model", "ema"):
        state[part] = state[part] and fit_time_steps(state[part], own)
    before, after = (
        [parameter for group in each.optimizer.param_groups for parameter in group["params"]] for each in (step, new)
    )
    state["optimizer"]["state"] = {
        number: known if before[number].shape == after[number].shape else _at_zero(known, before[number], after[number])
        for number, known in state["optimizer"]["state"].items()
    }
    new.load_state_dict(state)
    return new


def _at_zero(known: dict[str, Any], before: Tensor, after: Tensor) -> dict[str, Any]:
    """What an optimiser knows of a parameter, at its beginning: PyTorch's fused SGD has momentum of all or of none.

    Empty where something is neither a number nor of the parameter's shape; then the optimiser begins by itself.

    Args:
        known: of the parameter so far.
        before: the parameter so far.
        after: the parameter in its new shape.
    """
    shapes = {before.shape: after.shape, torch.Size(): torch.Size()}
    if not all(isinstance(value, Tensor) and value.shape in shapes for value in known.values()):
        return {}
    return {name: value.new_zeros(shapes[value.shape]) for name, value in known.items()}
