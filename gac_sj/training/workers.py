"""Workers: child processes that do one run after another, so that a kill ends one run and nothing else.

A worker is a program that calls :func:`serve`. It reads the name of a run from its standard input, does the run, and
answers with a line of JSON; it starts, and loads its data, once. When its standard input ends, because its parent has
ended, it stops as after SIGTERM: with a checkpoint.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import IO, NamedTuple

from tqdm import tqdm

__all__ = ["Outcome", "Worker", "serve"]

#: Seconds between two looks at a running worker.
_POLL_SECONDS = 0.25


class Outcome(NamedTuple):
    """How a run has ended.

    Args:
        run: its name.
        status: "finished"; "busy" (another command is at it); "failed"; "ended" (its process has); "stopped" (the
            command was).
        text: what to say about it.
    """

    run: str
    status: str
    text: str


def serve(do: Callable[[str], Outcome]) -> None:
    """Do the runs whose names come on standard input, a line each, until it ends.

    Args:
        do: does the run of a name.

    Raises:
        InterruptedRunError: see ``do``; the worker ends.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a run prints is no answer
    names: queue.Queue[str | None] = queue.Queue()
    read, answered = 0, 0

    def listen() -> None:
        nonlocal read
        for line in sys.stdin:
            read += 1
            names.put(line.rstrip("\n"))
        names.put(None)
        if read > answered:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=listen, daemon=True).start()
    while (name := names.get()) is not None:
        outcome = do(name)
        answered += 1
        with suppress(BrokenPipeError):
            print(json.dumps(outcome), file=answers, flush=True)


class Worker:
    """A child process that serves runs, in a session of its own: signals of a terminal reach its parent only.

    Args:
        command: program and arguments.
        threads: threads of the child.
        folder: its working directory.
    """

    def __init__(self, command: tuple[str, ...], threads: int, folder: str):
        numbers = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=os.environ | numbers,
            start_new_session=True,
            encoding="utf-8",
            errors="backslashreplace",
        )
        self._answers: queue.Queue[Outcome] = queue.Queue()
        self._said: deque[str] = deque(maxlen=1)
        readers = ((self._read_answers, self._process.stdout), (self._pass_on, self._process.stderr))
        self._readers = [threading.Thread(target=read, args=(stream,), daemon=True) for read, stream in readers]
        for reader in self._readers:
            reader.start()

    @property
    def is_alive(self) -> bool:
        """Whether it can do another run."""
        return self._process.poll() is None

    def run(self, name: str, is_stopped: Callable[[], bool]) -> Outcome:
        """Do a run, and wait for its end.

        Args:
            name: of the run.
            is_stopped: whether to stop it, with a checkpoint; asked several times in a second.
        """
        stdin, stopping = self._process.stdin, False
        with suppress(OSError):  # it has ended; so much is seen below
            assert stdin is not None
            stdin.write(f"{name}\n")
            stdin.flush()
        while True:
            is_alive = self.is_alive
            with suppress(queue.Empty):
                return self._answers.get(timeout=_POLL_SECONDS)
            if not is_alive:
                return Outcome(name, "stopped" if stopping else "ended", self._how_it_ended())
            if not stopping and is_stopped():
                stopping = True
                self._process.terminate()

    def close(self) -> None:
        """End an idle worker."""
        with suppress(OSError):  # it has ended
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._process.wait()

    def _read_answers(self, stdout: IO[str]) -> None:
        for line in stdout:
            with suppress(ValueError, TypeError):
                self._answers.put(Outcome(*json.loads(line)))

    def _pass_on(self, stderr: IO[str]) -> None:
        for line in stderr:
            self._said.append(line.strip())
            tqdm.write(line, file=sys.stderr, end="")

    def _how_it_ended(self) -> str:
        self._readers[1].join(1)  # not for ever: workers of its data loader may hold the stream
        status = self._process.returncode
        if status < 0:
            with suppress(ValueError):
                return f"its process was killed ({signal.Signals(-status).name})"
        said = f": {self._said[0].rstrip('.')}" if self._said else ""
        return f"its process ended with status {status}{said}"
