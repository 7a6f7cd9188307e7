"""Tests that take minutes: full-length runs, real kills, the code generator of torch.compile."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from helpers.encoders import AVAILABLE
from helpers.files import reproducible, table

REPOSITORY = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


def command(script, *arguments):
    return [sys.executable, str(REPOSITORY / "benchmarks" / script), *map(str, arguments)]


def test_direct_coding_passes_97_percent_on_digits_and_every_encoder_learns(tmp_path):
    subprocess.run(command("run_cifar.py", "--dataset", "digits", "--seeds", 0, 1, "--output", tmp_path), check=True)
    accuracy = {}
    for row in table(tmp_path / "results.csv"):
        accuracy.setdefault(row["encoder"], []).append(float(row["accuracy_last"]))
    assert set(accuracy) == {"direct", "direct_lif", "direct_matched", "gac", "latency", "poisson", "weighted_phase"}
    assert min(accuracy["direct"]) > 97
    assert min(min(values) for values in accuracy.values()) > 93


def test_runs_killed_repeatedly_end_like_an_undisturbed_run(tmp_path):
    def run(name):
        return command("run_cifar.py", "--dataset", "digits", "--train-limit", 600, "--epochs", 6, "--device", "cpu",
                       "--encoders", "poisson", "gac", "--seeds", 0, 1, "--output", tmp_path / name)  # fmt: skip

    subprocess.run(run("whole"), check=True)
    whole, folder, seen = reproducible(tmp_path / "whole"), tmp_path / "killed", set()
    for _ in range(4):
        process = subprocess.Popen(run("killed"), start_new_session=True)
        deadline = time.monotonic() + 300
        try:
            while not (new := {path.name for path in folder.glob("runs/*/checkpoints/*.pt")} - seen):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.002)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        seen |= new
        if (folder / "results.csv").exists():
            assert reproducible(folder) == whole[: len(reproducible(folder))] and len(reproducible(folder)) < 4
    subprocess.run(run("killed"), check=True)
    assert reproducible(folder) == whole
    assert (folder / "report.md").exists() and not list(folder.rglob("checkpoints"))


def test_two_processes_share_a_run_and_print_one_report(tmp_path):
    _, *run = command("run_cifar.py", "--dataset", "digits", "--train-limit", 130, "--epochs", 2, "--device", "cpu",
                      "--encoders", "gac", "--seeds", 0, "--output", tmp_path)  # fmt: skip
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for _ in range(2):  # the second run only reports
        done = subprocess.run([*torchrun, *run], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("[1/1] gac, seed 0") == done.stdout.count("| gac | 1 |") == 1
        assert "\n\n" not in done.stdout
    (row,) = table(tmp_path / "results.csv")
    assert (row["processes"], row["train_images"], row["test_images"]) == ("2", "130", "360")


def test_a_bad_argument_as_users_see_it(tmp_path):
    (tmp_path / "file").write_text("")
    run = command("run_cifar.py", "--dataset", "digits", "--output", "file/out")
    # SpikingJelly 0.0.0.0.14 makes torch warn on import, whoever imports it
    environment = os.environ | {"PYTHONWARNINGS": "ignore::FutureWarning"}
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("run_cifar.py: --output ")


@pytest.mark.parametrize("encoder", AVAILABLE)
def test_compiled_evaluation(encoder):
    model = timm.create_model("gac_ms_resnet8_cifar", encoder=encoder).eval()
    x = torch.rand(2, 3, 16, 16)
    torch._dynamo.reset()
    with torch.no_grad():
        torch.manual_seed(0)
        expected = model.forward_features(x)
        torch.manual_seed(0)
        compiled = torch.compile(model.forward_features, fullgraph=True)(x)
    assert compiled.shape == expected.shape
    if encoder != "poisson":  # its random numbers may be drawn in another order
        # fused arithmetic may flip a spike at the threshold
        assert (compiled != expected).float().mean() < 1e-3


def test_the_speed_benchmark_compares_equal_results(tmp_path):
    output = tmp_path / "speed.csv"
    run = command("speed.py", "encoder", "--repeats", 3, "--output", output)
    printed = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    assert printed.count("x naive") == 6
    assert len(output.read_text().splitlines()) == 7
