"""Attacks on runs: kills, double starts and damaged files; nothing is lost, duplicated or wrong afterwards."""

import contextlib
import csv
import functools
import io
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import train as train_script
import yaml
from helpers.files import contents, reproducible
from helpers.files import table as rows_of
from test_resume import SCRIPT, finish, script, started
from test_training import CPU, assert_same_run, at_step, table

from gac_sj._utils.errors import UsageError
from gac_sj.results.schema import RUNS
from gac_sj.results.store import Rows, read_rows
from gac_sj.training.engine import InterruptedRunError, Training

pytestmark = [pytest.mark.slow, pytest.mark.one_release, pytest.mark.usefixtures("quick")]

#: two steps in each of three epochs of a network that draws random numbers, with a checkpoint after each
TRAIN = [
    "--model", "ms_resnet8_cifar", "--encoder", "poisson", "-T", "1", "--dataset", "digits", "--train-limit", "40",
    "--epochs", "3", "--batch-size", "20", "--loader", "resident", "--device", "cpu", "--checkpoint-minutes", "0",
]  # fmt: skip
#: two runs of two steps
CIFAR = [
    "--dataset", "digits", "--train-limit", "64", "--epochs", "2", "-T", "1", "--device", "cpu", "--seeds", "0",
    "--encoders", "poisson", "gac",
]  # fmt: skip
RUN_CIFAR = str(Path(SCRIPT).parent.parent / "benchmarks" / "run_cifar.py")
run_cifar = functools.partial(script, program=RUN_CIFAR)


def of_train(folder, whole):
    assert_same_run(folder, whole)
    assert len(table(folder / "result.csv")) == 1
    assert not list(folder.rglob("*.tmp"))


def of_run_cifar(folder, whole):
    """The order of the rows is that of their ends."""
    ours, theirs = (sorted(reproducible(each), key=lambda row: row["encoder"]) for each in (folder, whole))
    assert ours == theirs
    assert not list(folder.rglob("checkpoints"))
    names = sorted(path.relative_to(whole) for path in whole.glob("runs/*/*.safetensors"))
    assert len(names) == 4 and all((folder / name).read_bytes() == (whole / name).read_bytes() for name in names)
    assert (folder / "report.md").read_text().count("| 1 |") == (whole / "report.md").read_text().count("| 1 |")


PROGRAMS = {"train": (script, SCRIPT, TRAIN, of_train), "run_cifar": (run_cifar, RUN_CIFAR, CIFAR, of_run_cifar)}


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    """For each program, and for another seed of train.py, a run that nobody disturbed, and the seconds that it took."""
    found = {}
    commands = {"other seed": (script, [*TRAIN, "--seed", "1"])}  # first, because the server of the processes starts
    commands |= {name: (target, arguments) for name, (target, _, arguments, _) in PROGRAMS.items()}
    for name, (target, arguments) in commands.items():
        folder = tmp_path_factory.mktemp("whole") / "run"
        began = time.monotonic()
        with started(folder, *arguments, target=target) as process:
            assert finish(process)[0] == [0], Path(f"{process.log}.err").read_text()
        found[name] = folder, time.monotonic() - began
    return found


@pytest.mark.parametrize("name", PROGRAMS)
def test_kills_at_random_times(name, attacks, wholes, tmp_path):
    """Half of all kills for each program, of the main process alone or with its group, until each run has ended."""
    target, _, arguments, assert_same = PROGRAMS[name]
    whole, seconds = wholes[name]
    draw, kills, runs = random.Random(20), 0, 0
    while kills < attacks // 2:
        folder, runs, ended = tmp_path / f"run{runs}", runs + 1, False
        while not ended:
            with started(folder, *arguments, target=target) as process:
                process.join(draw.uniform(0, seconds))
                if draw.random() < 0.5:
                    process.kill()  # and the group at the end of the block
            ended = process.exitcode == 0
            assert process.exitcode in (0, -signal.SIGKILL), Path(f"{process.log}.err").read_text()
            kills += not ended
            if kills >= attacks // 2 and not ended:
                with started(folder, *arguments, target=target) as process:
                    assert finish(process)[0] == [0]
                ended = True
        assert_same(folder, whole)
        assert "Traceback" not in Path(f"{process.log}.err").read_text()
        shutil.rmtree(folder)


def times(folder):
    """When each file that a program is writing was changed."""
    with contextlib.suppress(OSError):  # it removes some
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("name", PROGRAMS)
def test_kills_of_new_interpreters(name, attacks, wholes, tmp_path):
    """As users start it; a tenth of the kills, after a random number of changes in the folder."""
    _, program, arguments, assert_same = PROGRAMS[name]
    draw, folder = random.Random(21), tmp_path / "run"
    command = [sys.executable, program, *arguments, "--output", folder]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    for _ in range(max(1, attacks // 20)):
        process = subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        changes, before = draw.randint(1, 12), times(folder)
        while changes and process.poll() is None:
            now = times(folder)
            changes, before = changes - (now != before), now
        time.sleep(draw.uniform(0, 0.05))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.wait() == 0:
            shutil.rmtree(folder)
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert_same(folder, wholes[name][0])


def test_double_starts_of_train(attacks, wholes, tmp_path):
    """One of them trains; the others are refused in one sentence, or print its result."""
    draw = random.Random(22)
    for number in range(max(10, attacks * 2 // 5) // 2):
        folder, processes = tmp_path / f"run{number}", []
        with contextlib.ExitStack() as stack:
            for place in range(draw.randint(2, 3)):
                seed = draw.choice([[], ["--seed", "1"]])
                process = stack.enter_context(started(folder, *TRAIN, *seed, number=place))
                processes.append(process)
                time.sleep(draw.choice([0, 0, draw.uniform(0, wholes["train"][1])]))
            codes, said = finish(*processes)
        assert set(codes) <= {0, 2} and 0 in codes, said
        for code, text in zip(codes, said):
            if code == 2:
                last = text.splitlines()[-1]
                assert re.fullmatch(rf"train\.py: --output {folder} (is in use by|holds a run with other) .*\.", last)
            assert "Traceback" not in text
        seed = yaml.safe_load((folder / "args.yaml").read_text())["seed"]
        of_train(folder, wholes["other seed" if seed else "train"][0])


def test_double_starts_of_run_cifar(attacks, wholes, tmp_path):
    """They share the runs, and each ends with all rows."""
    draw = random.Random(23)
    for number in range(max(10, attacks * 2 // 5) // 2):
        folder, processes = tmp_path / f"run{number}", []
        with contextlib.ExitStack() as stack:
            for place in range(draw.randint(2, 3)):
                processes.append(stack.enter_context(started(folder, *CIFAR, target=run_cifar, number=place)))
                time.sleep(draw.choice([0, 0, draw.uniform(0, wholes["run_cifar"][1])]))
            killed = draw.random() < 0.3
            if killed:  # the others do what it leaves
                processes[0].join(draw.uniform(0, wholes["run_cifar"][1]))
                processes[0].kill()
            codes, said = finish(*processes)
        assert set(codes[killed:]) == {0}, said
        assert not any("Traceback" in text for text in said)
        of_run_cifar(folder, wholes["run_cifar"][0])


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Content with one of the damages that disks, editors and interrupted copies do."""
    at, to = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    kind = draw.randrange(7)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + bytes(to - at) + content[to:]
    if kind == 2:
        return content[:at] + draw.randbytes(to - at) + content[to:]
    if kind == 3:
        return content[:at] + content[to:]
    if kind == 4:
        return content[:to] + content[at:]
    if kind == 5:
        return content + draw.randbytes(draw.randint(1, 100))
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(changed)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run that was stopped in its second epoch, with two checkpoints."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    parser = train_script.build_parser()
    settings = train_script.from_args(parser.parse_args([*TRAIN, "--output", str(folder)]))
    training = Training(settings, train_script.load_data(settings), CPU, folder)
    at_step(training, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(InterruptedRunError):
        training.run()
    assert len(list((folder / "checkpoints").iterdir())) == 2
    return folder


@pytest.mark.parametrize("name", ["checkpoints", "args.yaml", "summary.csv"])
def test_damaged_files_of_an_interrupted_run(name, attacks, interrupted, wholes, tmp_path, capsys):
    """The same command ends as if nothing had been, or says in one sentence which file is damaged."""
    draw, refusals = random.Random(24), 0
    for number in range(2 * attacks):
        folder = shutil.copytree(interrupted, tmp_path / f"run{number}")
        paths = sorted((folder / name).iterdir()) if name == "checkpoints" else [folder / name]
        for path in draw.sample(paths, draw.randint(1, len(paths))):
            path.write_bytes(damaged(path.read_bytes(), draw))
        before = contents(folder, times=True)
        capsys.readouterr()
        code = train_script.main([*TRAIN, "--output", str(folder)])
        error = capsys.readouterr().err
        if code == 0:
            of_train(folder, wholes["train"][0])
        else:
            assert code == 2 and name == "args.yaml"
            assert re.fullmatch(r"train\.py: --output .*\.\n", error) and str(folder) in error
            assert contents(folder, times=True) == before
            refusals += 1
        shutil.rmtree(folder)
    assert (refusals > 0) == (name == "args.yaml")


def test_damaged_rows(attacks, wholes, tmp_path, capsys):
    """A damaged file of rows is refused and left alone; what can be read loses no other row."""
    draw, refusals = random.Random(25), 0
    (row,) = rows_of(wholes["train"][0] / "result.csv")
    rows = [row | {"seed": str(seed)} for seed in range(5)]
    path = tmp_path / "run" / "result.csv"
    for other in rows:
        Rows(path, RUNS).add(other)
    whole = path.read_bytes()
    _, *lines = whole.splitlines(keepends=True)
    for _ in range(2 * attacks):
        path.write_bytes(damaged(whole, draw))
        before = path.read_bytes()
        try:
            Rows(path, RUNS).add(row | {"seed": "5"})
        except UsageError as error:
            assert str(path) in str(error) and path.read_bytes() == before
            refusals += 1
            continue
        *found, last = read_rows(path, RUNS)
        assert last == row | {"seed": "5"} not in found
        assert len(found) == len(list(csv.reader(io.StringIO(before.decode(), newline="")))) - 1
        lost = [other for line, other in zip(lines, rows) if line in before and other not in found]
        assert not lost
    assert refusals > 0
