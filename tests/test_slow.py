"""What takes minutes: full-length runs, real kills, the code generator of torch.compile."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch

import gac_sj

REPOSITORY = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


def command(script, *arguments):
    return [sys.executable, str(REPOSITORY / "benchmarks" / script), *map(str, arguments)]


def rows(folder):
    with open(folder / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_direct_coding_passes_97_percent_on_digits_and_every_encoder_learns(tmp_path):
    subprocess.run(command("run_cifar.py", "--dataset", "digits", "--seeds", 0, 1, "--output", tmp_path), check=True)
    accuracy = {}
    for row in rows(tmp_path):
        accuracy.setdefault(row["encoder"], []).append(float(row["accuracy_last"]))
    assert set(accuracy) == set(gac_sj.encoding.ENCODERS)
    assert min(accuracy["direct"]) > 97
    assert min(min(values) for values in accuracy.values()) > 93


def test_a_killed_run_keeps_its_rows_and_the_same_command_continues(tmp_path):
    run = command("run_cifar.py", "--dataset", "digits", "--train-limit", 600, "--epochs", 6,
                  "--encoders", "direct", "gac", "--seeds", 0, 1, "--output", tmp_path)  # fmt: skip
    process = subprocess.Popen(run, start_new_session=True)
    deadline = time.monotonic() + 300
    while not (tmp_path / "results.csv").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = rows(tmp_path)
    assert 1 <= len(kept) < 4
    subprocess.run(run, check=True)
    finished = rows(tmp_path)
    assert finished[: len(kept)] == kept
    assert [(row["encoder"], row["seed"]) for row in finished] == [
        ("direct", "0"), ("gac", "0"), ("direct", "1"), ("gac", "1"),
    ]  # fmt: skip
    assert (tmp_path / "report.md").exists()


@pytest.mark.parametrize("encoder", gac_sj.encoding.ENCODERS)
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
        # fused arithmetic may flip a spike that stands at the threshold
        assert (compiled != expected).float().mean() < 1e-3


def test_the_speed_benchmark_compares_equal_results(tmp_path):
    output = tmp_path / "speed.csv"
    run = command("speed.py", "encoder", "--repeats", 3, "--output", output)
    printed = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    assert printed.count("x repeated") == 4
    assert len(output.read_text().splitlines()) == 5
