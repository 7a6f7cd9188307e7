"""Tests that take minutes: full-length runs, real kills, the code generator of torch.compile."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from helpers.encoders import AVAILABLE
from helpers.files import table

REPOSITORY = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


def command(script, *arguments):
    return [sys.executable, str(REPOSITORY / "benchmarks" / script), *map(str, arguments)]


@pytest.mark.one_release
def test_direct_coding_passes_97_percent_on_digits_and_every_encoder_learns(tmp_path):
    run = command("run_cifar.py", "--dataset", "digits", "--epochs", 10, "--seeds", 0, "--output", tmp_path)
    subprocess.run(run, check=True)
    accuracy = {row["encoder"]: float(row["accuracy_last"]) for row in table(tmp_path / "results.csv")}
    assert set(accuracy) == {"direct", "direct_lif", "direct_matched", "gac", "latency", "poisson", "weighted_phase"}
    assert accuracy["direct"] > 97 and min(accuracy.values()) > 93


@pytest.mark.one_release
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


@pytest.mark.parametrize(
    "encoder", [pytest.param(name, marks=[] if name == "gac" else pytest.mark.one_release) for name in AVAILABLE]
)
def test_compiled_evaluation(encoder):
    """Behind every encoder is the same network, which is generated once."""
    torch.manual_seed(0)
    model = timm.create_model("gac_ms_resnet8_cifar", encoder=encoder).eval()
    function = model.forward_features if encoder == "gac" else model.encoder
    x = torch.rand(2, 3, 16, 16)
    torch._dynamo.reset()
    with torch.no_grad():
        torch.manual_seed(0)
        expected = function(x)
        torch.manual_seed(0)
        compiled = torch.compile(function, fullgraph=True)(x)
    assert compiled.shape == expected.shape
    if encoder != "poisson":  # its random numbers may be drawn in another order
        # fused arithmetic rounds otherwise, and may flip a spike at the threshold
        assert (~torch.isclose(compiled, expected, rtol=1e-4, atol=1e-6)).float().mean() < 1e-3
