"""Runs side by side: joblib distributes them, over this machine or a cluster; each job waits for a worker process.

Runs that are distributed belong to a command, which shows that it lives by a file in the output folder. When that file
is gone, or does not change for ten minutes, jobs stop their runs, on whatever machine they are.
"""

from __future__ import annotations

import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from gac_sj._utils.claims import BEAT_SECONDS, DEAD_AFTER
from gac_sj._utils.errors import ExitError, first_sentence
from gac_sj._utils.files import remove_unfinished
from gac_sj.training.signals import Signals
from gac_sj.training.workers import Outcome, Worker

__all__ = ["Job", "command_file", "distribute", "run_job", "threads_of_a_job"]

# Seconds after which an idle worker on another machine ends; here it ends with the command.
_IDLE_SECONDS = 60.0


class Job(NamedTuple):
    """A run to be done by a worker.

    Args:
        run: name of the run.
        command: arguments of Python that start a worker.
        threads: threads of the worker.
        folder: working directory of the worker.
        command_file: see :func:`command_file`.
    """

    run: str
    command: tuple[str, ...]
    threads: int
    folder: str
    command_file: Path


@contextmanager
def command_file(folder: Path, signals: Signals) -> Iterator[Path]:
    """Show that a command lives, until the end of the block or a signal.

    Args:
        folder: that all machines share.
        signals: of the command.

    Yields:
        The file.
    """
    remove_unfinished(folder, "jobs", older_than=DEAD_AFTER)
    path, ended = folder / f".jobs.{secrets.token_hex(4)}.tmp", threading.Event()
    path.touch()

    def watch() -> None:
        beat = time.monotonic()
        while not ended.wait(0.2):
            if signals.number:
                path.unlink(missing_ok=True)
                return
            if time.monotonic() - beat > BEAT_SECONDS:
                beat = time.monotonic()
                with suppress(OSError):  # never create it again
                    os.utime(path)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield path
    finally:
        ended.set()
        thread.join()
        path.unlink(missing_ok=True)


def _stopped(path: Path) -> Callable[[], bool]:
    """Whether a command has ended, by its file."""
    changed, since = 0.0, time.monotonic()

    def is_stopped() -> bool:
        nonlocal changed, since
        try:
            found = path.stat().st_mtime
        except FileNotFoundError:
            return True
        except OSError:  # a file server may come back
            found = changed
        if found != changed:
            changed, since = found, time.monotonic()
        return time.monotonic() - since > DEAD_AFTER

    return is_stopped


#: Idle workers of this process, by what started them.
_idle: dict[tuple[object, ...], list[Worker]] = {}
_lock = threading.Lock()


def run_job(job: Job) -> Outcome:
    """Do a run in an idle worker or a new one, on the machine where this is called.

    Args:
        job: what to do.
    """
    is_stopped = _stopped(job.command_file)
    if is_stopped():
        return Outcome(job.run, "stopped", "")
    key = job.command, job.threads, job.folder
    with _lock:
        idle = _idle.setdefault(key, [])
        worker = idle.pop() if idle else None
    if worker is None or not worker.is_alive:
        try:
            worker = Worker((sys.executable, *job.command), job.threads, job.folder)
        except OSError as error:
            return Outcome(job.run, "ended", f"its process cannot be started ({error})")
    outcome = worker.run(job.run, is_stopped)
    if worker.is_alive:
        with _lock:
            _idle.setdefault(key, []).append(worker)
        timer = threading.Timer(_IDLE_SECONDS, _close, (key, worker))
        timer.daemon = True
        timer.start()
    return outcome


def _close(key: tuple[object, ...], worker: Worker) -> None:
    with _lock:
        if worker not in _idle.get(key, ()):
            return
        _idle[key].remove(worker)
    worker.close()


def _close_idle() -> None:
    with _lock:
        workers = [worker for idle in _idle.values() for worker in idle]
        _idle.clear()
    for worker in workers:
        worker.close()


def threads_of_a_job(jobs: int, cores: int) -> int:
    """The threads of each job: its share of the cores, or what OMP_NUM_THREADS says.

    Args:
        jobs: number of runs at the same time.
        cores: of the backend.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) else max(1, cores // jobs)


def distribute(jobs: Sequence[Job], number: int) -> Iterator[Outcome]:
    """Do jobs, and yield how each run has ended, in the order of their ends.

    joblib's current backend distributes them (:func:`gac_sj.training.backends.job_backend`).

    Args:
        jobs: what to do.
        number: of jobs at the same time.

    Raises:
        ExitError: the backend has failed.
    """
    import joblib

    backend = joblib.parallel.get_active_backend()[0]
    parallel = joblib.Parallel(
        n_jobs=number,
        batch_size=1,
        pre_dispatch=number,  # a cluster would do as many as it has cores
        return_as="generator_unordered" if backend.supports_return_generator else "list",
    )
    try:
        yield from parallel(joblib.delayed(run_job)(job) for job in jobs)
    except Exception as error:
        raise ExitError(f"The backend has failed ({first_sentence(error)}).", 1) from error
    finally:
        _close_idle()
