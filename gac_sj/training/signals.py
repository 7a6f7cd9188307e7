"""SIGTERM and SIGINT: a run finishes its step first, and the workers that load its images leave them to it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import torch.distributed as dist

__all__ = ["Signals", "leave_signals_to_parent", "start"]

_BOTH = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """Remembers SIGTERM and SIGINT until a step is over; a second one is not held back.

    The end of torchrun, which may be killed without a word to its processes, counts as SIGTERM.
    """

    def __init__(self) -> None:
        self.came, self.parent = 0, os.getppid()

    @property
    def number(self) -> int:
        """Of the signal that came, or 0."""
        orphaned = dist.is_torchelastic_launched() and os.getppid() != self.parent
        return self.came or (signal.SIGTERM if orphaned else 0)

    def __enter__(self) -> Signals:
        self.before = {}
        try:
            for number in _BOTH:
                self.before[number] = signal.signal(number, self._remember)
        except ValueError:  # not in the main thread: signals go elsewhere
            pass
        return self

    def _remember(self, number: int, frame: Any) -> None:
        self.came = number
        signal.signal(number, self.before[number])

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def start(loader: Iterable[Any]) -> Iterator[Any]:
    """Batches of a loader. Its workers start with SIGTERM blocked; this process gets it after the first batch.

    They inherit how this process takes SIGINT, so that it need not wait for a batch that does not come.
    """
    batches = iter(loader)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        first = next(batches, None)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if first is not None:
        yield first
        yield from batches


def leave_signals_to_parent(worker: int) -> None:
    """For a worker's start: torchrun, terminals and batch systems signal whole groups, and the parent still needs it.

    The parent itself ends it with SIGTERM.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _BOTH)
    threading.Thread(target=_await_parent, daemon=True).start()


def _await_parent() -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
