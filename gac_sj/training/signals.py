"""SIGTERM and SIGINT: a run finishes its step first; DataLoader workers ignore both signals.

Systems differ. Linux has everything that is used here. macOS does not tell who sent a signal, so workers there end 30
seconds after the first SIGTERM, which is enough for the step, or at the second. On Windows no process can send SIGTERM
(that ends the other one at once, and the run resumes from its last checkpoint); Ctrl-C acts as on the other systems.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from gac_sj._utils.errors import ExitError

__all__ = ["InterruptedRunError", "Signals", "ignore_signals_in_worker", "iterate"]

_BOTH = (signal.SIGTERM, signal.SIGINT)


class InterruptedRunError(ExitError):
    """The run was stopped by SIGTERM or SIGINT.

    Args:
        number: of the signal; the exit status is 128 more.
        where: the position of the run.
        folder: where its checkpoint is; None if nothing is saved.
    """

    def __init__(self, number: int, where: str, folder: Path | None):
        saved = f"Checkpoint saved in {folder}; run the same command to resume" if folder else "Nothing was saved"
        super().__init__(f"Received {signal.Signals(number).name} in {where}. {saved}.", 128 + number)


class Signals:
    """A context that remembers SIGTERM and SIGINT until a step is finished; a second signal acts at once.

    The end of torchrun, which may be killed without informing its processes, counts as SIGTERM.
    """

    def __init__(self) -> None:
        self._received, self._parent = 0, os.getppid()
        self._before: dict[signal.Signals, Any] = {}

    @property
    def number(self) -> int:
        """The number of the signal that was received, or 0."""
        orphaned = dist.is_torchelastic_launched() and os.getppid() != self._parent
        return self._received or (signal.SIGTERM if orphaned else 0)

    def __enter__(self) -> Signals:
        self._before = {}
        try:
            for number in _BOTH:
                self._before[number] = signal.signal(number, self._remember)
        except ValueError:  # not in the main thread: signals go elsewhere
            pass
        return self

    def _remember(self, number: int, frame: Any) -> None:
        self._received = number
        signal.signal(number, self._before[signal.Signals(number)])

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def iterate(loader: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of a loader whose workers start with SIGTERM blocked; this process receives it after the first batch.

    SIGINT stays as it is, so that Ctrl-C ends a wait for a batch that does not come.

    Args:
        loader: batches of images and labels.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield from loader
        return
    batches = iter(loader)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        first = next(batches, None)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if first is not None:
        yield first
        yield from batches


def ignore_signals_in_worker(worker: int) -> None:
    """Block SIGTERM and SIGINT in a DataLoader worker, except SIGTERM from the main process.

    torchrun, terminals and batch systems signal whole process groups, and the main process still needs its workers.

    Args:
        worker: number of the worker.
    """
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, _BOTH)
        threading.Thread(target=_await_main_process, daemon=True).start()
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])  # see iterate()


def _end_later(number: int, frame: Any) -> None:
    signal.signal(number, signal.SIG_DFL)
    timer = threading.Timer(30, os._exit, [0])
    timer.daemon = True
    timer.start()


def _await_main_process() -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
