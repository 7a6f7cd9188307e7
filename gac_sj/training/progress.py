"""Progress of a run on the terminal."""

from __future__ import annotations

from tqdm import tqdm

from gac_sj.training.distributed import DistributedContext
from gac_sj.training.settings import Settings
from gac_sj.training.state import RunState

__all__ = ["progress_bar", "show_metrics"]


def progress_bar(
    what: str, batches: int, done: int, settings: Settings, state: RunState, world: DistributedContext
) -> tqdm:
    """A progress bar over batches, shown by the first process on a terminal.

    Args:
        what: "epoch", or "test after" one.
        batches: their number.
        done: finished batches.
        settings: settings of the run.
        state: of the run.
        world: its processes.
    """
    return tqdm(
        total=batches,
        initial=done,
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
