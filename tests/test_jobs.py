"""Jobs: runs in worker processes, distributed by joblib; a worker that ends, commands that end, backends."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import joblib
import pytest
from joblib.parallel import ThreadingBackend

from gac_sj._utils.claims import claimed, set_note
from gac_sj._utils.errors import ExitError, UsageError
from gac_sj.training import backends, jobs
from gac_sj.training.backends import LOCAL, job_backend
from gac_sj.training.board import Board
from gac_sj.training.jobs import Job, command_file, distribute, run_job, threads_of_a_job
from gac_sj.training.progress import Position, TimeLeft
from gac_sj.training.run_queue import QueuedRun, RunQueue
from gac_sj.training.signals import Signals

pytestmark = pytest.mark.one_release

WORKER = (str(Path(__file__).with_name("helpers") / "worker.py"),)


@pytest.fixture
def todo(tmp_path):
    """Jobs of the stand-in worker, by the names of their runs."""
    with command_file(tmp_path, Signals()) as path:
        yield lambda *names: [Job(name, WORKER, 3, str(tmp_path), path) for name in names]
    jobs._close_idle()


def outcomes(found):
    return sorted((run, status) for run, status, _ in found)


class TestWorker:
    def test_worker_does_one_run_after_another_with_its_threads(self, todo):
        texts = [run_job(job).text for job in todo("pid", "pid", "threads")]
        assert texts[0] == texts[1] and texts[2] == "3"

    def test_worker_that_ends_is_replaced(self, todo):
        found = [run_job(job) for job in todo("pid", "die", "pid", "exit", "a")]
        assert [status for _, status, _ in found] == ["finished", "ended", "finished", "ended", "finished"]
        assert found[0].text != found[2].text
        assert "SIGKILL" in found[1].text and "status 3: worker: it cannot go on" in found[3].text

    def test_worker_that_cannot_start(self, todo):
        (job,) = todo("a")
        assert run_job(job._replace(folder="/does/not/exist")).status == "ended"
        assert run_job(job._replace(command=("/does/not/exist.py",))).status == "ended"

    def test_end_of_the_command_stops_a_run_and_prevents_others(self, todo):
        waiting, other = todo("wait", "a")
        threading.Timer(0.5, waiting.command_file.unlink).start()
        began = time.monotonic()
        assert run_job(waiting).status == "stopped" and time.monotonic() - began < 10
        assert run_job(other).status == "stopped"

    def test_command_that_does_not_beat_has_ended(self, todo, monkeypatch):
        monkeypatch.setattr(jobs, "DEAD_AFTER", 0.3)
        monkeypatch.setattr(jobs, "BEAT_SECONDS", 3600)
        (job,) = todo("wait")
        assert run_job(job).status == "stopped"

    @pytest.mark.medium
    def test_worker_stops_when_its_parent_is_gone(self, tmp_path):
        program = tmp_path / "program.py"
        program.write_text(
            "import time, signal\n"
            "from gac_sj.training.signals import Signals\n"
            "from gac_sj.training.workers import Outcome, serve\n"
            "def do(name):\n"
            "    with Signals() as signals:\n"
            "        print('this is no answer', flush=True)\n"
            "        while name == 'wait' and not signals.number:\n"
            "            time.sleep(0.01)\n"
            "        return Outcome(name, 'finished', str(signals.number))\n"
            "serve(do)\n"
        )
        with subprocess.Popen([sys.executable, program], stdin=-1, stdout=-1, stderr=-1, text=True) as worker:
            for name in ("a", "wait"):
                worker.stdin.write(f"{name}\n")
                worker.stdin.flush()
                assert "this is no answer\n" in iter(worker.stderr.readline, "")
            out, _ = worker.communicate(timeout=60)
        assert worker.returncode == 0
        assert out.splitlines() == ['["a", "finished", "0"]', f'["wait", "finished", "{signal.SIGTERM:d}"]']


class TestDistribute:
    @pytest.mark.parametrize("number", [1, 2])
    def test_killed_worker_ends_one_run(self, number, todo):
        with job_backend(LOCAL):
            found = list(distribute(todo("a", "die", "b", "busy", "c"), number))
        ended = [("a", "finished"), ("b", "finished"), ("busy", "busy"), ("c", "finished"), ("die", "ended")]
        assert outcomes(found) == ended

    def test_runs_are_side_by_side_and_no_more_than_asked_for(self, todo):
        with job_backend(LOCAL):
            pids = {outcome.text for outcome in distribute(todo(*["pid"] * 12), 2)}
        assert 1 <= len(pids) <= 2
        assert not jobs._idle

    def test_threads_are_the_share_of_the_cores_unless_given(self, monkeypatch):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        assert [threads_of_a_job(n, 8) for n in (1, 3, 8)] == [8, 2, 1]
        monkeypatch.setenv("OMP_NUM_THREADS", "5")
        assert threads_of_a_job(8, 8) == 5

    def test_signal_stops_the_command(self, tmp_path):
        queue = RunQueue([QueuedRun(name, name, tmp_path / name, False) for name in ("wait", "a")], str)
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with job_backend(LOCAL), pytest.raises(ExitError, match=r"SIGTERM.*same command") as error:
            queue.side_by_side(tmp_path, WORKER, 1, 1)
        assert error.value.exit_code == 143 and not list(tmp_path.iterdir())

    def test_run_that_is_in_use_comes_last_until_it_is_not(self, tmp_path, capsys, monkeypatch):
        names = ("busy", "a", "done", "die")
        queue = RunQueue([QueuedRun(name, name.upper(), tmp_path / name, name == "done") for name in names], str)
        rounds = []
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        original = jobs.run_job

        def free_later(job):
            rounds.append(job.run)
            return original(job._replace(run="free") if rounds.count("busy") > 2 else job)._replace(run=job.run)

        monkeypatch.setattr(jobs, "run_job", free_later)
        with job_backend(LOCAL):
            assert queue.side_by_side(tmp_path, WORKER, 1, 1) == ["DIE"]
        lines = capsys.readouterr().out.splitlines()
        assert lines[:3] == ["done", "BUSY: busy; it comes last.", "a"] and lines[-1] == "free"
        assert lines[3].startswith("DIE: its process was killed (SIGKILL)")


class TestBackend:
    def refused(self, *arguments):
        with pytest.raises(UsageError) as error, job_backend(*arguments):
            pytest.fail("it is accepted")
        return str(error.value)

    def test_unknown_backend(self):
        assert "backend must be a backend of joblib, got 'daks'" in (text := self.refused("daks"))
        assert "did you mean 'dask'?" in text

    def test_address_needs_a_backend_that_takes_one(self):
        assert "address cannot be used with backend=threading" in self.refused(LOCAL, "tcp://somewhere")
        assert "address is needed by backend=dask" in self.refused("dask")

    @pytest.mark.parametrize("name, package", [("dask", "distributed"), ("ray", "ray")])
    def test_backend_that_is_not_installed(self, name, package, monkeypatch):
        monkeypatch.setitem(sys.modules, package, None)
        assert f"pip install {package}" in self.refused(name, "tcp://127.0.0.1:1")

    def test_joblib_that_is_not_installed(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "joblib", None)
        assert "jobs needs the package joblib" in self.refused(LOCAL)

    def test_cluster_that_does_not_answer(self, monkeypatch):
        monkeypatch.setattr(backends, "TIME_LIMIT", 0.1)
        monkeypatch.setitem(backends._CONNECT, "dask", lambda address: threading.Event().wait(5))
        text = self.refused("dask", "tcp://127.0.0.1:1")
        assert "address 'tcp://127.0.0.1:1' cannot be reached by dask (no answer in 0.1 seconds)" in text

    @pytest.fixture
    def ray(self, monkeypatch):
        """A stand-in for the package: its backend returns all results at once, as Ray's does."""
        calls = []

        class RayBackend(ThreadingBackend):
            supports_return_generator = False

        ray = types.ModuleType("ray")
        ray.init, ray.shutdown = lambda **keywords: calls.append(keywords), lambda: calls.append("shutdown")
        util, module = types.ModuleType("ray.util"), types.ModuleType("ray.util.joblib")
        module.register_ray = lambda: joblib.register_parallel_backend("ray", RayBackend)
        for each in (ray, util, module):
            monkeypatch.setitem(sys.modules, each.__name__, each)
        yield calls
        joblib.parallel.BACKENDS.pop("ray", None)

    def test_ray_is_registered_and_connected(self, ray, todo):
        with job_backend("ray", "auto") as cores:
            assert cores == joblib.cpu_count()
            assert outcomes(distribute(todo("a", "die", "b"), 2)) == [
                ("a", "finished"),
                ("b", "finished"),
                ("die", "ended"),
            ]
        assert ray == [{"address": "auto"}, "shutdown"]


class TestDask:
    @pytest.fixture(scope="class")
    @classmethod
    def cluster(cls):
        distributed = pytest.importorskip("distributed")
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster:
            yield cluster

    def test_dask_distributes_runs(self, cluster, todo):
        with job_backend("dask", cluster.scheduler_address) as cores:
            assert cores == 2
            found = list(distribute(todo("a", "die", "b", "c"), 2))
        assert outcomes(found) == [("a", "finished"), ("b", "finished"), ("c", "finished"), ("die", "ended")]

    def test_address_without_a_cluster(self, monkeypatch):
        pytest.importorskip("distributed")
        monkeypatch.setattr(backends, "TIME_LIMIT", 2)
        for address in ("tcp://127.0.0.1:1", "nonsense://x"):
            with pytest.raises(UsageError) as error, job_backend("dask", address):
                pass
            assert f"address '{address}' cannot be reached by dask" in str(error.value)

    def test_cluster_without_workers(self, monkeypatch):
        distributed = pytest.importorskip("distributed")
        monkeypatch.setattr(backends, "TIME_LIMIT", 2)
        with (
            distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
            pytest.raises(UsageError, match=r"backend 'dask' has no workers"),
            job_backend("dask", cluster.scheduler_address),
        ):
            pass


class Screen(io.StringIO):
    """A terminal that remembers what was drawn."""

    def isatty(self):
        return True


class TestProgress:
    def test_time_left_does_not_count_what_was_done_before(self, monkeypatch):
        monkeypatch.setattr(sys, "stderr", Screen())
        with TimeLeft(10, "work") as bar:
            bar.skip(6)
            bar.start_t -= 60
            bar.update(2)
            assert " 80%" in str(bar) and "01:00<01:00" in str(bar)

    def test_without_a_terminal_nothing_is_drawn(self, tmp_path, capsys):
        with Board({"a": tmp_path}, own=False) as board, TimeLeft(2) as bar:
            bar.skip(1)
            board.finish("a", before=True)
        assert capsys.readouterr().err == ""

    def test_a_bar_for_each_running_run_and_one_for_all(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sys, "stderr", screen := Screen())
        folders = {name: tmp_path / name for name in ("a", "b", "c", "d")}
        with contextlib.ExitStack() as stack, Board(folders, own=False) as board:
            for name, batch in (("a", 3), ("b", 1)):
                folders[name].mkdir()
                claim = stack.enter_context(claimed(folders[name]))
                set_note(folders[name], lambda batch=batch: Position(1, 2, batch, 4, "epoch"))
                claim.beat()
            board.finish("c")
            board.show()
            drawn = screen.getvalue()
            assert "a, epoch 2/2  88%" in drawn and "b, epoch 2/2  62%" in drawn and "all runs:  62%" in drawn
            stack.close()
            board.show()
            assert "all runs:  25%" in screen.getvalue()[len(drawn) :]
