"""The progress of many runs on a terminal: a bar for each running one, and one for all with the time left."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from gac_sj.training.progress import TimeLeft, position_of

__all__ = ["Board"]

_SECONDS = 1.0


class Board:
    """A context that shows the claims of some runs, whatever process and machine has them; nothing without a terminal.

    Args:
        folders: of the runs that are left, by title.
        own: whether this process trains, and shows the running run by itself.
        enabled: whether to show anything.
    """

    def __init__(self, folders: Mapping[str, Path], own: bool, enabled: bool = True):
        self._left, self._total, self._own = dict(folders), len(folders), own
        self._bars: dict[str, tqdm] = {}
        # what a run has done before does not count for the speed
        self._resumed = {title for title, folder in folders.items() if (folder / "checkpoints").exists()}
        self._all = TimeLeft(self._total, "all runs", enabled)
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._show_until_the_end, daemon=True)

    def __enter__(self) -> Board:
        if not self._all.disable:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if not self._all.disable:
            self._thread.join()
        for bar in (*self._bars.values(), self._all):
            bar.close()

    def finish(self, title: str, before: bool = False) -> None:
        """Count a run as finished.

        Args:
            title: of the run.
            before: whether this command found it finished.
        """
        with self._lock:
            del self._left[title]
            if before:
                self._all.skip(1)

    def _show_until_the_end(self) -> None:
        while not self._ended.wait(_SECONDS):
            self.show()

    def show(self) -> None:
        """Draw the bars once."""
        with self._lock:
            left = dict(self._left)
        positions = {title: found for title, folder in left.items() if (found := position_of(folder))}
        for title in set(self._bars).difference(positions):
            self._bars.pop(title).close()
        for title, position in positions.items():
            if title in self._resumed:
                self._resumed.remove(title)
                self._all.skip(position.fraction)
            if not self._own:
                if title not in self._bars:
                    self._bars[title] = tqdm(total=1, bar_format="{desc} {percentage:3.0f}%|{bar}|", leave=False)
                bar, epoch = self._bars[title], min(position.epoch + 1, position.epochs)
                bar.n = position.fraction
                bar.set_description_str(f"{title}, {position.what} {epoch}/{position.epochs}")
        self._all.n = self._total - len(left) + sum(position.fraction for position in positions.values())
        self._all.refresh()
