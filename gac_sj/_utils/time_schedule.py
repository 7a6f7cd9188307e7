"""A schedule of T: the number of time steps from an epoch on."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from gac_sj._utils.errors import UsageError

__all__ = ["check_time_schedule", "steps_at"]


def check_time_schedule(schedule: Mapping[int, int], T: int, epochs: int) -> dict[int, int]:
    """A schedule of T as it is kept: empty if T does not change.

    Args:
        schedule: number of time steps by the epoch, counted from 0, in which it begins; empty for none.
        T: number of time steps at the end.
        epochs: of the run.

    Raises:
        UsageError: it does not begin at epoch 0 or end at T before the last epoch is over, epochs or time steps do not
            increase, or a number of time steps is not a positive integer.
    """

    def refuse(problem: str, advice: str = "") -> UsageError:
        return UsageError(f"{problem}, got {dict(schedule)}", advice, argument="T_schedule")

    if not schedule:
        return {}
    starts, steps = list(schedule), list(schedule.values())
    if any(not isinstance(value, int) or isinstance(value, bool) or value < 1 for value in steps):
        raise refuse("must have positive integers as time steps")
    if starts[0] != 0:
        raise refuse("must begin at epoch 0", "epochs are counted from 0")
    if any(after <= before for before, after in (*pairwise(starts), *pairwise(steps))):
        raise refuse("must have increasing epochs and time steps")
    if steps[-1] != T:
        raise refuse(f"must end at T={T}")
    if starts[-1] >= epochs:
        raise refuse(f"must reach T={T} in one of {epochs} epochs, counted from 0")
    return dict(schedule) if len(schedule) > 1 else {}


def steps_at(schedule: Mapping[int, int], epoch: int) -> int:
    """The number of time steps in an epoch.

    Args:
        schedule: not empty (:func:`check_time_schedule`).
        epoch: counted from 0.
    """
    return schedule[max(start for start in schedule if start <= epoch)]
