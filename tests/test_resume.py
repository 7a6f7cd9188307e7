"""Kill and resume, really: experiments/train.py in processes of its own, killed at random moments."""

import contextlib
import dataclasses
import logging
import multiprocessing
import os
import random
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_training import CPU, SMALL, assert_same_run, digits, last_state, table

from gac_sj._utils.files import locked
from gac_sj.training.engine import Training
from gac_sj.training.settings import Settings

pytestmark = pytest.mark.one_release

SCRIPT = str(Path(__file__).resolve().parent.parent / "experiments" / "train.py")
# A server that has imported everything forks the processes: they start in no time and are as real as others.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("gac_sj.training.run", "gac_sj.analysis", "gac_sj.results.report", "sklearn.datasets"),
        *("sklearn.model_selection", "torch.utils.tensorboard", "matplotlib.backends.backend_agg"),
    ]
)
#: eight steps in each of three epochs, with everything that draws random numbers
RUN = [
    "--model", "gac_ms_resnet8_cifar", "-T", "2", "--dataset", "digits", "--train-limit", "128", "--epochs", "3",
    "--batch-size", "16", "--lr", "0.02", "--ema", "0.9", "--loader", "standard", "--workers", "2",
    "--auto-augment", "rand-m9-n2", "--mixup", "0.2", "--cutmix", "0.5", "--random-erasing", "0.3",
    "--checkpoint-minutes", "0", "--device", "cpu",
]  # fmt: skip
BATCHES = 8
#: what draws from the global generators inside the network
VARIANTS = {
    "dropout": ["--model-options", "{drop_rate: 0.3}"],
    # pixels have to stay between 0 and 1
    "poisson": ["--model", "ms_resnet8_cifar", "--encoder", "poisson", "--erasing-mode", "const"],
    "no_workers": ["--model-options", "{drop_rate: 0.3}", "--workers", "0"],
}


def script(arguments, log, environment, program=SCRIPT):
    """A program as the main one of this process."""
    os.setsid()  # a group of its own, with its workers
    for number, name in enumerate(("out", "err"), 1):
        os.dup2(os.open(f"{log}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ |= environment
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of the workers, as in a process of one's own
    signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest may run in the background
    # SpikingJelly 0.0.0.0.14 sets logging up while it is imported, and then the script cannot
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    sys.argv = [program, *arguments]
    runpy.run_path(program, run_name="__main__")


@contextlib.contextmanager
def started(folder, *arguments, target=script, number=0, **environment):
    """A running command; nothing of it is left afterwards. Several in one folder have numbers."""
    log = folder.with_name(f"{folder.name}-{environment.get('RANK', number)}")
    process = FORKS.Process(target=target, args=([*arguments, "--output", str(folder)], log, environment))
    process.start()
    process.log = log
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()


def finish(*processes):
    """Exit codes, and what was said on standard error."""
    for process in processes:
        process.join(120)
    errors = [Path(f"{process.log}.err") for process in processes]  # one that was killed early has none
    return [process.exitcode for process in processes], [path.read_text() if path.exists() else "" for path in errors]


def whole_run(folder, *arguments):
    with started(folder, *arguments) as process:
        assert finish(process)[0] == [0]
    return folder


def steps(folder):
    """Steps in the newest checkpoint."""
    return max([int(path.name[15:24]) for path in folder.glob("checkpoints/epoch*.pt")], default=0)


def wait_for(step, folder, *processes):
    """Until there is a checkpoint of at least this step."""
    deadline = time.monotonic() + 120
    while steps(folder) < step:
        assert all(process.is_alive() for process in processes), [process.exitcode for process in processes]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def children(process):
    """Process ids of the loader's workers, which block SIGTERM or ignore SIGINT; a program that starts does not.

    It blocks all signals or none.
    """
    found = []
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        with contextlib.suppress(OSError):  # it has ended
            status = Path(f"/proc/{child}/status").read_text()
            blocked, ignored = (int(re.search(rf"{name}:\s*(\w+)", status)[1], 16) for name in ("SigBlk", "SigIgn"))
            blocks_one = blocked >> signal.SIGTERM - 1 & ~(blocked >> signal.SIGHUP - 1) & 1
            if blocks_one or ignored >> signal.SIGINT - 1 & 1:
                found.append(child)
    return found


def moments(seed, count, total):
    """Steps, and seconds after them that reach into the next ones."""
    draw = random.Random(seed)
    return [(step, draw.uniform(0, 0.1)) for step in sorted(draw.sample(range(1, total * 2 // 3), count))]


def kill_and_resume(folder, arguments, seed):
    """Kill the command three times, and run it again each time; it must not notice."""
    for step, delay in moments(seed, 3, 3 * BATCHES):
        with started(folder, *arguments) as process:
            wait_for(max(step, steps(folder) + 1), folder, process)
            time.sleep(delay)
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL  # it was not done
    with started(folder, *arguments) as process:
        (code,), (said,) = finish(process)
    assert code == 0
    assert said.count("resumes in epoch") == 3
    assert not [path for path in folder.rglob("*") if path.suffix == ".tmp"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbed."""
    return whole_run(tmp_path_factory.mktemp("whole") / "run", *RUN)


@pytest.mark.medium
def test_a_run_killed_at_three_random_moments_ends_as_one_that_was_not(tmp_path, whole):
    kill_and_resume(tmp_path / "run", RUN, seed=1)
    assert_same_run(tmp_path / "run", whole)
    assert (tmp_path / "run-0.out").read_text().replace(str(tmp_path), "") == (
        whole.with_name("run-0.out").read_text().replace(str(whole.parent), "")
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_to_the_whole_group_keeps_the_step_and_the_same_command_ends_the_same(number, tmp_path, whole):
    """As torchrun, a terminal and batch systems send it: to the loader's workers too."""
    folder, arguments = tmp_path / "run", [*RUN, "--checkpoint-minutes", "10"]
    with started(folder, *RUN) as process:
        wait_for(10, folder, process)
        process.kill()
    with started(folder, *arguments) as process:  # writes no checkpoint on its own inside an epoch
        before = steps(folder)
        while not children(process):  # the first worker is only just there
            pass
        os.killpg(process.pid, number)
        (code,), (said,) = finish(process)
    assert code == 128 + number
    lines = said.splitlines()
    assert lines[-1].startswith("train.py: ") and f"{number.name} in epoch " in lines[-1] and str(folder) in lines[-1]
    assert "Traceback" not in said and sum(line.startswith("train.py") for line in lines) == 1
    assert steps(folder) > before
    with started(folder, *arguments) as process:
        assert finish(process)[0] == [0]
    assert_same_run(folder, whole)


class Stuck:
    """Images that never come."""

    def __init__(self, sign):
        self.sign = sign

    def __getitem__(self, item):
        self.sign.touch()
        time.sleep(600)


def train_stuck(folder, without=()):
    for name in without:
        delattr(signal, name)
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    data = digits("standard")
    train = dataclasses.replace(data.train, source=Stuck(folder / "stuck"))
    settings = Settings(**SMALL | {"loader": "standard", "workers": 1})
    Training(settings, dataclasses.replace(data, train=train), CPU, folder).run()


@pytest.mark.slow
@pytest.mark.parametrize("without", [(), ("sigwaitinfo",)], ids=["Linux", "macOS"])
def test_a_run_that_waits_for_images_ends_at_the_second_signal_with_its_worker(without, tmp_path):
    process = FORKS.Process(target=train_stuck, args=(tmp_path, without))
    process.start()
    while not (tmp_path / "stuck").exists():
        assert process.is_alive()
        time.sleep(0.01)
    (worker,) = children(process)
    try:
        os.kill(process.pid, signal.SIGINT)
        process.join(1)
        assert process.is_alive()  # for a step that might end
        os.kill(process.pid, signal.SIGINT)
        process.join(60)
        assert process.exitcode == 1  # KeyboardInterrupt
        assert not Path(f"/proc/{worker}").exists()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_signals_while_workers_start(tmp_path):
    folder, draw = tmp_path / "run", random.Random(8)
    for _ in range(12):
        with started(folder, *RUN, "--epochs", "20") as process:
            while not children(process):
                pass
            time.sleep(draw.uniform(0, 0.05))
            os.killpg(process.pid, signal.SIGTERM)
            (code,), (said,) = finish(process)
        assert code == 143
        assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "seed"), zip(VARIANTS, (2, 3, 4)))
def test_random_numbers_inside_the_network_are_the_same_after_kills(variant, seed, tmp_path):
    arguments = [*RUN, *VARIANTS[variant]]
    whole = whole_run(tmp_path / "whole", *arguments)
    kill_and_resume(tmp_path / "run", arguments, seed)
    assert_same_run(tmp_path / "run", whole)
    plain = whole_run(tmp_path / "other", *arguments, "--seed", "1")
    assert (plain / "last.safetensors").read_bytes() != (whole / "last.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_killed_at_random_times(tmp_path, whole):
    """By the clock: also during the start, the test, and the writing of files."""
    folder, draw = tmp_path / "run", random.Random(5)
    for _ in range(12):
        with started(folder, *RUN) as process:
            process.join(draw.uniform(0.5, 3.0))
            process.kill()
    with started(folder, *RUN) as process:
        assert finish(process)[0] == [0]
    assert_same_run(folder, whole)


@pytest.mark.slow
def test_the_command_as_a_user_types_it(tmp_path):
    """Not through the server: a new interpreter, killed with all its workers."""
    arguments = [*RUN, *VARIANTS["dropout"]]
    command = [sys.executable, SCRIPT, *arguments, "--output"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    whole, folder = tmp_path / "whole", tmp_path / "run"
    subprocess.run([*command, whole], env=environment, check=True, capture_output=True)
    for step, delay in moments(6, 3, 3 * BATCHES):
        process = subprocess.Popen([*command, folder], env=environment, start_new_session=True)
        target = max(step, steps(folder) + 1)
        while steps(folder) < target:
            assert process.poll() is None
            time.sleep(0.002)
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    ended = subprocess.run([*command, folder], env=environment, check=True, capture_output=True, text=True)
    assert_same_run(folder, whole)
    again = subprocess.run([*command, folder], env=environment, check=True, capture_output=True, text=True)
    assert again.stdout == ended.stdout
    assert again.stderr == ""


@pytest.mark.slow
def test_no_worker_outlives_a_killed_run(tmp_path):
    with started(tmp_path / "run", *RUN) as process:
        wait_for(2, tmp_path / "run", process)
        workers = children(process)
        assert len(workers) >= 2
        process.kill()
        deadline = time.monotonic() + 60
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.medium
def test_workers_that_outlive_a_killed_run_do_not_hold_its_folder(tmp_path):
    folder = tmp_path / "run"
    with started(folder, *RUN) as process:
        wait_for(2, folder, process)
        workers = [int(child) for child in children(process)]
        with pytest.raises(BlockingIOError), locked(folder / ".run.lock", wait=False):
            pass
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        process.kill()
        process.join()
        assert workers and all(Path(f"/proc/{worker}").exists() for worker in workers)
        with locked(folder / ".run.lock", wait=False):
            pass


def test_the_checkpoint_of_a_killed_run_has_the_metrics_of_the_epoch(tmp_path, whole):
    """The numbers of a half epoch, so that the line of its end is that of the whole epoch."""
    folder = tmp_path / "run"
    with started(folder, *RUN) as process:
        wait_for(BATCHES + 3, folder, process)
        process.kill()
    state = last_state(folder)
    epoch, batch, step = state["position"]
    assert step == epoch * BATCHES + batch
    (totals,) = state["totals"]
    assert totals["images"] == 16 * batch
    assert [row["epoch"] for row in state["history"]] == list(range(1, epoch + 1))
    assert table(folder / "summary.csv") == table(whole / "summary.csv")[: len(table(folder / "summary.csv"))]
