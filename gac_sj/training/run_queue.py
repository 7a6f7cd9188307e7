"""The runs of a command, one after another in this process or side by side in workers; what is in use comes last."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from gac_sj._utils.claims import FolderInUseError
from gac_sj._utils.errors import ExitError
from gac_sj.training.board import Board
from gac_sj.training.jobs import Job, command_file, distribute
from gac_sj.training.signals import Signals
from gac_sj.training.workers import Outcome, serve

__all__ = ["QueuedRun", "RunQueue"]


class QueuedRun(NamedTuple):
    """A run of a command.

    Args:
        name: which differs from that of every other run.
        title: what messages call it.
        folder: of the run.
        is_complete: whether nothing is left to do.
    """

    name: str
    title: str
    folder: Path
    is_complete: bool


class RunQueue:
    """The runs of a command.

    Args:
        runs: in order.
        complete: completes the run of a name, and returns a line about it. It raises FolderInUseError where another
            command is at it; errors of files and of numbers name the run.
        is_first: whether this process prints.
    """

    def __init__(self, runs: Sequence[QueuedRun], complete: Callable[[str], str], is_first: bool = True):
        self.runs = {run.name: run for run in runs}
        self._complete, self._is_first, self._told = complete, is_first, set[str]()

    def one_by_one(self) -> None:
        """Complete the runs in this process; the first error of one ends this.

        Raises:
            UsageError: and whatever else ``complete`` raises.
        """
        waiting = list(self.runs)
        with self._board(own=True) as board:
            while waiting:
                left = []
                for name in waiting:
                    try:
                        self._say(self._complete(name))
                        board.finish(self.runs[name].title, self.runs[name].is_complete)
                    except FolderInUseError as error:
                        left.append(name)
                        self._say_once(name, error.problem)
                if left == waiting:
                    time.sleep(1)  # until another command has completed it, or ends
                waiting = left

    def side_by_side(self, output: Path, command: Sequence[str], jobs: int, threads: int) -> list[str]:
        """Complete the runs in workers. One that fails or is killed ends alone.

        Args:
            output: a folder that all machines share.
            command: program and arguments that start a worker; it gets ``--worker`` and a log level as well, and calls
                :meth:`serve`.
            jobs: number of runs at the same time.
            threads: of each.

        Returns:
            The titles of unfinished runs.

        Raises:
            ExitError: a signal came, or the backend has failed.
        """
        worker = (*command, "--worker", "WARNING" if sys.stderr.isatty() else "INFO")
        unfinished = []
        with Signals() as signals, command_file(output, signals) as lives, self._board(own=False) as board:
            waiting = []
            for run in self.runs.values():
                if run.is_complete:
                    self._say(self._complete(run.name))
                    board.finish(run.title, before=True)
                else:
                    waiting.append(run.name)
            while waiting and not signals.number:
                todo = [Job(name, worker, threads, os.getcwd(), lives.absolute()) for name in waiting]
                waiting = []
                for name, status, text in distribute(todo, jobs):
                    title = self.runs[name].title
                    if status == "busy":
                        waiting.append(name)
                        self._say_once(name, text)
                    elif status != "stopped":
                        board.finish(title)
                        self._say(text if status in ("finished", "failed") else f"{title}: {text}.")
                        if status != "finished":
                            unfinished.append(title)
                if len(waiting) == len(todo):
                    time.sleep(1)  # as above
        if signals.number:
            raise ExitError(
                f"Received {signal.Signals(signals.number).name}. The running runs were stopped with a checkpoint; run "
                "the same command to resume.",
                128 + signals.number,
            )
        return unfinished

    def serve(self) -> None:
        """Be a worker: complete the runs that the parent process asks for.

        Raises:
            InterruptedRunError: a signal came.
        """
        serve(self._outcome)

    def _outcome(self, name: str) -> Outcome:
        try:
            return Outcome(name, "finished", self._complete(name))
        except FolderInUseError as error:
            return Outcome(name, "busy", error.problem)
        except ValueError as error:
            return Outcome(name, "failed", f"{self.runs[name].title}: {error}")
        except (FloatingPointError, OSError) as error:
            return Outcome(name, "failed", str(error))

    def _board(self, own: bool) -> Board:
        return Board({run.title: run.folder for run in self.runs.values()}, own, self._is_first)

    def _say_once(self, name: str, problem: str) -> None:
        if name not in self._told:
            self._say(f"{self.runs[name].title}: {problem}; it comes last.")
        self._told.add(name)

    def _say(self, text: str) -> None:
        if self._is_first:
            with tqdm.external_write_mode():
                print(text, flush=True)
