"""A user's encoder, registered by a file outside the repository: every program takes it with --import."""

import hashlib
import json
import os

import evaluate
import figures
import pytest
import report
import robustness
import run_cifar
import timm
import torch
import train
from helpers.files import contents, table
from helpers.programs import refused, run
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model.spiking_resnet import spiking_resnet18
from spikingjelly.activation_based.neuron import IFNode

import gac_sj
from gac_sj.cli.main import main as gac_sj_command
from gac_sj.encoders import import_plugins

pytestmark = [pytest.mark.one_release, pytest.mark.usefixtures("quick"), pytest.mark.medium]

MINE = '''\
"""An encoder of a user."""
import torch
from torch import nn

import gac_sj


@gac_sj.register_encoder("mine", help="the stem's current, scaled at every step")
class Mine(gac_sj.Encoder):
    def __init__(self, T=4, in_channels=3, channels=64, factor=1.0, **options):
        super().__init__(T, in_channels, channels, **options)
        self.scale = nn.Parameter(torch.full((T, 1, 1, 1, 1), factor))

    def encode(self, x):
        return self.scale * self.over_time(self.features(x))
'''
TINY = ["--dataset", "digits", "--train-limit", "130", "--epochs", "1", "-T", "2", "--seeds", "0", "--device", "cpu"]
QUICK = ["--images", "20", "--severities", "1", "--corruptions", "blur", "--device", "cpu"]


@pytest.fixture(scope="module")
def it(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugin") / "it.py"
    path.write_text(MINE)
    assert len(MINE.splitlines()) <= 15
    return path


@pytest.fixture(scope="module")
def finished(it, tmp_path_factory):
    """The folder of a comparison with it, and what was printed."""
    folder = tmp_path_factory.mktemp("finished")
    encoders = ["--encoders", "mine", "mine:factor=0.5", "gac"]
    return folder, run(run_cifar.main, "--import", it, *TINY, *encoders, "--output", folder)


@pytest.fixture(scope="module")
def weights(finished):
    """Of its first run."""
    (path,) = finished[0].glob("runs/mine-seed0-*/last.safetensors")
    return path


class TestPrograms:
    def test_run_cifar(self, finished, it):
        folder, printed = finished
        assert all(f"| {name} | 1 |" in printed for name in ("mine", "mine:factor=0.5", "gac"))
        rows = table(folder / "results.csv")
        digest = hashlib.sha256(it.read_bytes()).hexdigest()[:12]
        assert [(row["encoder"], row["encoder_source"]) for row in rows] == [
            *[("mine", f"it.py:{digest}")] * 2,
            ("gac", rows[2]["encoder_source"]),
        ]
        assert "it.py" not in rows[2]["encoder_source"]
        assert [json.loads(row["model_options"]) for row in rows] == [{}, {"factor": 0.5}, {}]

    def test_finished_runs_are_recognised(self, finished, it):
        before = contents(finished[0] / "runs", times=True)
        run(run_cifar.main, "--import", it, *TINY, "--encoders", "mine", "gac", "--output", finished[0])
        assert contents(finished[0] / "runs", times=True) == before

    def test_robustness(self, finished, it, tmp_path):
        run(robustness.main, "--import", it, finished[0], *QUICK, "--output", tmp_path)
        rows = table(tmp_path / "robustness.csv")
        assert {row["encoder"] for row in rows} == {"mine", "gac"} and len(rows) == 6

    def test_evaluate(self, weights, it, finished):
        printed = run(evaluate.main, weights, "--import", it, "--device", "cpu")
        row = next(row for row in table(finished[0] / "results.csv") if row["model_options"] == "{}")
        assert f"{float(row['accuracy_last']):.2f}" in printed

    def test_figures(self, weights, it, tmp_path):
        run(figures.main, "network", weights, "--import", it, "--device", "cpu", "--output", tmp_path)
        assert (tmp_path / "encoder_outputs.png").exists()

    def test_training_alone(self, it):
        arguments = ["--model", "ms_resnet8_cifar", "--encoder", "mine", "--dataset", "digits", "--train-limit", "64"]
        printed = run(
            train.main, "--import", it, *arguments, "-T", "2", "--epochs", "1", "--device", "cpu", "--dry-run"
        )
        assert f"{9 * 16 + 2 * 16 + 2} of them in the encoder" in printed  # convolution, BatchNorm, scale

    def test_rows_are_read_without_it(self, finished, tmp_path):
        run(report.main, finished[0], "--output", tmp_path / "report.html")
        assert "mine:factor=0.5" in (tmp_path / "report.html").read_text()
        run(figures.main, "rows", finished[0], "--output", tmp_path / "figures")
        assert list((tmp_path / "figures").glob("*.png"))


@pytest.mark.usefixtures("clean_registry")
class TestByName:
    def test_networks_and_attach(self, it):
        import_plugins([str(it)])
        assert gac_sj.list_encoders()[-1] == "mine"
        model = timm.create_model("ms_resnet8_cifar", encoder="mine", T=3, factor=2.0)
        assert model.encoder.scale.mean() == 2 and model(torch.rand(2, 3, 16, 16)).shape == (2, 10)
        network = spiking_resnet18(spiking_neuron=IFNode, num_classes=7)
        functional.set_step_mode(network, "m")
        gac_sj.attach(network, T=3, encoder="mine")
        assert network.attached.encoder == "mine" and network(torch.rand(2, 3, 32, 32)).shape == (3, 2, 7)


@pytest.mark.usefixtures("clean_registry")
class TestRefusals:
    """Status 2, one sentence, nothing written."""

    def test_weights_name_the_file_to_import(self, finished, weights, capsys, tmp_path):
        for main, arguments in (
            (robustness.main, [finished[0], *QUICK, "--output", tmp_path / "out"]),
            (evaluate.main, [weights, "--device", "cpu"]),
            (figures.main, ["network", weights, "--output", tmp_path / "out"]),
        ):
            refused(capsys, main, arguments, "'mine'", "--import it.py", folder=tmp_path)
            assert not (tmp_path / "out").exists()

    def test_an_encoder_that_was_not_imported(self, capsys, tmp_path):
        arguments = [*TINY, "--encoders", "mine", "--output", tmp_path / "out"]
        refused(capsys, run_cifar.main, arguments, "--encoders", "'mine'", "direct_lif", folder=tmp_path)

    def test_another_file_of_that_name(self, weights, capsys, tmp_path):
        (tmp_path / "it.py").write_text(MINE.replace("self.scale *", "2 * self.scale *"))
        arguments = ["--import", tmp_path / "it.py", weights, "--device", "cpu"]
        refused(capsys, evaluate.main, arguments, "'mine'", "SHA-256", "it.py", folder=tmp_path)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (MINE.replace('"mine"', '"gac"'), ["'gac'", "already registered", "another name"]),
            (MINE + MINE.partition("import gac_sj\n")[2], ["'mine'", "already registered"]),
            (MINE.replace("(gac_sj.Encoder)", "(nn.Module)"), ["Mine", "gac_sj.Encoder"]),
            (MINE.replace('"mine"', '"my encoder"'), ["name", "'my encoder'"]),
            ("raise RuntimeError('It broke.\\nBadly.')\n", ["RuntimeError", "It broke"]),
            ("import nothing_of_that_name\n", ["ModuleNotFoundError", "nothing_of_that_name"]),
            ("def f(:\n", ["SyntaxError"]),
            ("import gac_sj\n", ["registers no encoder", "register_encoder"]),
        ],
        ids=["gac", "twice", "no encoder", "no word", "raises", "imports", "syntax", "nothing"],
    )
    def test_files(self, text, words, capsys, tmp_path):
        path = tmp_path / "bad.py"
        path.write_text(text)
        before = gac_sj.list_encoders()
        arguments = ["--import", path, *TINY, "--output", tmp_path / "out"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.dont_write_bytecode", True)
            refused(capsys, run_cifar.main, arguments, "--import", "bad.py", *words, folder=tmp_path)
        assert set(gac_sj.list_encoders()) - set(before) <= {"mine"}

    def test_a_pipe(self, capsys, tmp_path):
        os.mkfifo(tmp_path / "pipe.py")
        arguments = ["--import", tmp_path / "pipe.py", *TINY, "--output", tmp_path / "out"]
        refused(capsys, run_cifar.main, arguments, "--import", "pipe.py", "Not a regular file", folder=tmp_path)

    @pytest.mark.parametrize("place", ["absent.py", "no/such/file.py", "absent_module", "absent.module"])
    def test_what_does_not_exist(self, place, capsys, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        arguments = ["--import", place, *TINY, "--output", "out"]
        refused(capsys, run_cifar.main, arguments, "--import", repr(place), "does not exist", folder=tmp_path)

    @pytest.mark.parametrize(
        "main",
        [robustness.main, train.main, evaluate.main, figures.main, report.main, gac_sj_command],
        ids=["robustness", "train", "evaluate", "figures", "report", "gac-sj"],
    )
    def test_every_program_imports_first(self, main, capsys, tmp_path):
        refused(
            capsys, main, ["--import", tmp_path / "absent.py", "whatever"], "--import", "absent.py", folder=tmp_path
        )
