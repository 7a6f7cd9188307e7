"""Progress of a run on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from gac_sj._utils.claims import note_of, set_note
from gac_sj.training.distributed import DistributedContext
from gac_sj.training.settings import Settings
from gac_sj.training.state import RunState

__all__ = ["Position", "TimeLeft", "position_of", "progress_bar", "show_metrics"]


class Position(NamedTuple):
    """Where a run is.

    Args:
        epoch: finished epochs.
        epochs: of how many.
        batch: finished batches of the running epoch.
        batches: of how many.
        what: what it does: "epoch", or "test after" one.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    what: str

    @property
    def fraction(self) -> float:
        """The finished part of the run, 0 to 1."""
        return (self.epoch + self.batch / max(self.batches, 1)) / self.epochs


def position_of(folder: Path) -> Position | None:
    """Where the run in a folder is, by the claim of its folder; None if nobody is at it, or it has not begun.

    Args:
        folder: of the run; it need not exist.
    """
    try:
        return Position(*note_of(folder))
    except TypeError:
        return None


class TimeLeft(tqdm):
    """A bar on a terminal with the time left, by the average speed so far.

    Args:
        total: amount of work.
        desc: what is done.
        enabled: whether to show it on a terminal.
    """

    def __init__(self, total: float, desc: str = "", enabled: bool = True):
        super().__init__(
            total=total,
            desc=desc,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
            smoothing=0,
            leave=False,
            disable=None if enabled else True,
        )

    def skip(self, amount: float) -> None:
        """Count work that was done before and took no time.

        Args:
            amount: of work.
        """
        if not self.disable:
            self.initial += amount
            self.n += amount


def progress_bar(
    what: str, batches: int, settings: Settings, state: RunState, world: DistributedContext, folder: Path | None
) -> tqdm:
    """A progress bar over batches, shown by the first process on a terminal; the claim of the folder shows it too.

    Args:
        what: "epoch", or "test after" one.
        batches: their number.
        settings: settings of the run.
        state: of the run.
        world: its processes.
        folder: of the run; None: nobody claims it.
    """
    is_test = what != "epoch"
    total = state.batch if is_test else batches  # a test comes after all batches of the epoch
    if folder is not None:
        set_note(folder, lambda: Position(state.epoch, settings.epochs, state.batch, total, what))
    return tqdm(
        total=batches,
        initial=0 if is_test else state.batch,
        desc=f"{settings.encoder}, seed {settings.seed}, {what} {state.epoch + 1}/{settings.epochs}",
        unit="batch",
        leave=False,
        mininterval=1,
        disable=None if world.is_first else True,
    )


def show_metrics(progress: tqdm, state: RunState, world: DistributedContext) -> None:
    """Update a bar with speed, loss and accuracy of the running epoch.

    Args:
        progress: the bar.
        state: of the run.
        world: its processes.
    """
    metrics = state.metrics
    progress.n = state.batch
    progress.set_postfix_str(
        f"{world.size * metrics.images / max(metrics.seconds, 1e-9):.0f} images/s, "
        f"loss {metrics.loss / metrics.images:.3f}, {100 * metrics.correct / metrics.images:.1f} %",
        refresh=False,
    )
    progress.update(0)
