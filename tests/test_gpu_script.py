"""benchmarks/gpu.sh and make test-gpu, with what a machine without a GPU can tell about them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.one_release

REPOSITORY = Path(__file__).parent.parent
SCRIPT = REPOSITORY / "benchmarks" / "gpu.sh"
# no GPU is visible, also where there is one
ENVIRONMENT = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable, "LC_ALL": "C"}


def run(*arguments, **environment):
    command = list(map(str, arguments))
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=ENVIRONMENT | environment)


@pytest.fixture
def stand_in(tmp_path):
    """Writes an interpreter that finds PyTorch and a GPU, and for the rest does what its text says."""

    def write(text):
        path = tmp_path / "python"
        path.write_text(f'#!/bin/sh\n[ "$1" != -c ] || exit 0\n{text}\n')
        path.chmod(0o755)
        return str(path)

    return write


def test_bash_reads_it():
    assert run("bash", "-n", SCRIPT).returncode == 0


@pytest.mark.parametrize("arguments", [(), ("",), ("a", "b")], ids=str)
def test_it_says_how_it_is_used(arguments):
    result = run(SCRIPT, *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("usage: ") and "FOLDER" in result.stderr


def test_help():
    result = run(SCRIPT, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "WHEELS" in result.stdout


@pytest.mark.medium
def test_without_a_gpu_it_refuses_in_a_sentence(tmp_path):
    result = run(SCRIPT, tmp_path / "out")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("gpu.sh: PyTorch finds no GPU") and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_pytorch_it_refuses_in_a_sentence(tmp_path):
    result = run(SCRIPT, tmp_path / "out", PYTHON="/bin/false")
    assert result.returncode == 2
    assert (
        result.stderr.startswith("gpu.sh: PYTHON must")
        and "/bin/false" in result.stderr
        and result.stderr.count("\n") == 1
    )


@pytest.mark.medium
def test_make_test_gpu_fails_without_a_gpu():
    result = run("make", "-C", REPOSITORY, "test-gpu", f"PYTHON={sys.executable}")
    assert result.returncode != 0
    assert "make test-gpu needs a GPU" in result.stdout
    assert "skipped" not in result.stdout


def test_every_part_runs_though_others_fail(tmp_path, stand_in):
    python = stand_in(
        r"""case "$*" in
        -m\ pytest*) echo 2 failed; exit 1 ;;
        *lif*bfloat16*) echo no; exit 2 ;;
        *) echo "ran: $*" ;;
        esac"""
    )
    out = tmp_path / "out"
    result = run(SCRIPT, out, PYTHON=python)
    assert result.returncode == 1
    lines = (out / "summary.txt").read_text().splitlines()
    codes = {line[:18].strip(): int(line[23:27]) for line in lines}
    assert codes == {
        "env": 0, "tests": 2, "speed encoder": 0, "speed encoder bf16": 0, "speed lif": 0, "speed lif bf16": 2,
        "speed network": 0, "speed network bf16": 0, "speed train": 0, "speed train small": 0, "speed memory": 0,
        "images": 0, "training": 0, "speed compiled": 0,
    }  # fmt: skip
    assert lines[1].endswith("2 failed")
    assert f"--output {out}/speed.csv" in lines[2]
    assert all(line in result.stdout for line in lines)
    assert (out / "speed_lif_bf16.log").read_text() == "no\n"


def test_an_earlier_run_is_not_overwritten(tmp_path, stand_in):
    (tmp_path / "summary.txt").write_text("before")
    result = run(SCRIPT, tmp_path, PYTHON=stand_in("exit 0"))
    assert result.returncode == 2 and "FOLDER must not contain an earlier run" in result.stderr
    assert (tmp_path / "summary.txt").read_text() == "before"


def test_an_interruption_ends_it_at_once(tmp_path, stand_in):
    out = tmp_path / "out"
    python = stand_in('echo $$ >"$0.pid"; exec sleep 50')
    process = subprocess.Popen(
        [str(SCRIPT), str(out)], env=ENVIRONMENT | {"PYTHON": python}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    sleeper = Path(f"{python}.pid")
    deadline = time.monotonic() + 30
    while not (sleeper.exists() and sleeper.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"interrupted" in errors
    with pytest.raises(ProcessLookupError):
        for _ in range(200):
            os.kill(int(sleeper.read_text()), 0)
            time.sleep(0.02)
