"""experiments/record.sh: epochs from measured steps, rows and weights of both networks, seed after seed."""

import io
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import record
import torch
import yaml
from helpers.files import table
from helpers.programs import refused, run
from PIL import Image
from safetensors.torch import load_file

from gac_sj._utils.time_schedule import check_time_schedule, steps_at
from gac_sj.checkpoint import load_pretrained
from gac_sj.checkpoint.runs import read_weights
from gac_sj.training.hardware import has_bfloat16
from gac_sj.training.step import TrainStep

pytestmark = [pytest.mark.one_release, pytest.mark.usefixtures("quick")]

SCRIPT = Path(__file__).parent.parent / "experiments" / "record.sh"
#: Settings with which a step takes milliseconds.
TINY = ["--model", "gac_ms_resnet8_cifar", "--img-size", 8, "--cutout", 2, "--batch-size", 4, "--device", "cpu"]


def write_archive(path, train, test):
    """CIFAR-10's form: ten classes of noise around a colour, 32 x 32 pixels."""
    random = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as file:
        for split, count in (("train", train), ("test", test)):
            for item in range(count):
                colour = np.random.default_rng(item % 10).integers(0, 200, 3)
                pixels = (colour + random.integers(0, 56, (32, 32, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(image := io.BytesIO(), "PNG")
                file.writestr(f"{split}/class{item % 10}/{item:04}.png", image.getvalue())


def what(row):
    return row["encoder"], row["seed"], row["epochs"]


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archives")
    write_archive(folder / "cifar10.zip", 20, 10)
    return folder


class TestEpochs:
    @pytest.mark.parametrize("T", [1, 2, 3, 4, 6])
    def test_the_schedule_ends_at_t(self, T):
        for epochs in range(1, 20):
            schedule = record.time_schedule(epochs, T)
            kept = check_time_schedule(schedule, T, epochs)
            assert kept == (schedule if len(schedule) > 1 else {})
            assert steps_at(schedule, epochs - 1) == T
        assert record.time_schedule(40, 4) == {0: 1, 20: 2, 30: 4}

    def test_as_many_as_there_is_time_for(self):
        seconds = {1: 2.0, 2: 4.0, 4: 8.0}
        assert record.training_seconds(8, 4, seconds) == 4 * 2 + 2 * 4 + 2 * 8
        assert [record.epochs_within(limit, 4, seconds) for limit in (8, 9.9, 10, 32, 240)] == [1, 1, 2, 8, 60]

    def test_what_measures_trains_every_t(self, archives, monkeypatch):
        """Each for its share of the 50 steps, the first of which are not timed."""
        seen = []
        step = TrainStep.__call__

        def counted(self, *arguments):
            seen.append(self.settings.T)
            return step(self, *arguments)

        monkeypatch.setattr(TrainStep, "__call__", counted)
        with record.distributed_context("cpu") as world:
            args = record.build_parser().parse_args([str(archives), "1", *map(str, TINY)])
            settings = record.networks(args, world)[1]
            seconds = record.measure(settings, record.load_data(settings), world)
        assert list(seconds) == [1, 2, 4] and min(seconds.values()) > 0
        assert seen == [1] * 16 + [2] * 16 + [4] * 16


@pytest.mark.medium
class TestRuns:
    @pytest.fixture(scope="class")
    @staticmethod
    def finished(archives, tmp_path_factory):
        """The folder of a command that measured nothing, but for two epochs of direct coding and three of GAC."""
        output = tmp_path_factory.mktemp("output")
        epochs = iter((2, 3))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(record, "measure", lambda *_: {1: 1.0, 2: 1.0, 4: 1.0})
            patch.setattr(record, "epochs_within", lambda *_: next(epochs))
            patch.setattr(record, "PART", "100KB")
            printed = run(record.main, archives, 1, *TINY, "--output", output)
        assert "seed 0: direct " in printed and "gac - direct = " in printed
        return output

    def test_rows_and_curves(self, finished):
        rows = table(finished / "results.csv")
        assert [what(row) for row in rows] == [("direct", "0", "2"), ("gac", "0", "3")]
        assert [yaml.safe_load(row["T_schedule"]) for row in rows] == [{"0": 1, "1": 4}, {"0": 1, "1": 2, "2": 4}]
        assert all(row["analysed_images"] and row["warmup_epochs"] != "0.0" for row in rows)
        for name, epochs in (("direct", 2), ("gac", 3)):
            curve = table(finished / name / "seed0" / "summary.csv")
            assert [row["top1"] != "" for row in curve] == [False] * (epochs - 1) + [True]
            assert not (finished / name / "seed0" / "checkpoints").exists()

    def test_weights_in_parts_are_those_of_the_run(self, finished):
        folder = finished / "gac" / "seed0"
        parts = sorted((folder / "bfloat16").glob("*.safetensors"))
        assert len(parts) > 1 and max(part.stat().st_size for part in parts) < 110_000
        settings, weights = read_weights(folder / "bfloat16" / "weights.safetensors.index.json")
        expected = load_file(folder / "last.safetensors")
        assert settings == read_weights(folder / "last.safetensors")[0] and weights.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(weights[name], value.bfloat16() if value.dim() > 1 else value)
        model = load_pretrained(folder / "bfloat16" / "weights.safetensors.index.json")
        assert model.T == 4 and model.pretrained_cfg["label_names"][0] == "class0"

    def test_an_index_that_names_other_folders_is_refused(self, finished, tmp_path):
        for content in ('{"weight_map": {"a": "../x.safetensors"}}', '{"weight_map": 3}', "{}", "[]"):
            (tmp_path / "index.json").write_text(content)
            with pytest.raises(ValueError, match="cannot be read as weights of a run"):
                read_weights(tmp_path / "index.json")

    def test_the_next_command_continues_and_adds_a_seed(self, finished, archives, monkeypatch, capsys):
        command = (archives, 1, *TINY, "--output", finished)
        before = table(finished / "results.csv")
        complete = record.complete

        def killed(run, *arguments, **options):
            if run.encoder == "gac":
                os.kill(os.getpid(), signal.SIGTERM)
            return complete(run, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(record, "complete", killed)
            assert record.main([str(argument) for argument in command]) == 143
        half = table(finished / "results.csv")
        assert half[:2] == before and [what(row) for row in half[2:]] == [("direct", "1", "2")]
        assert "seed 1" in run(record.main, *command)
        rows = table(finished / "results.csv")
        assert [what(row) for row in rows[2:]] == [("direct", "1", "2"), ("gac", "1", "3")]
        assert rows[2]["date"] == half[2]["date"] and rows[2]["train_seconds"] == half[2]["train_seconds"]

    def test_other_minutes_or_settings_are_refused(self, finished, archives, capsys):
        for minutes, more in ((2, []), (1, ["--lr", 0.3])):
            command = [archives, minutes, *TINY, *more, "--output", finished]
            refused(capsys, record.main, command, "--output", "plan.yaml of other minutes or settings")


class TestRefusals:
    @pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "x", ""])
    def test_minutes(self, minutes, archives, capsys, tmp_path):
        command = ["--output", tmp_path, "--", archives, minutes]
        refused(capsys, record.main, command, "MINUTES must be a positive number")

    def test_too_few_minutes(self, archives, capsys, tmp_path, monkeypatch):
        monkeypatch.setattr(record, "measure", lambda *_: {1: 1.0, 2: 2.0, 4: 4.05})
        command = [archives, 0.1, *TINY, "--output", tmp_path]
        refused(capsys, record.main, command, "MINUTES must", "4.05 s, got 0.1", "at least 0.14")
        assert not (tmp_path / "plan.yaml").exists()

    def test_a_folder_without_archives(self, capsys, tmp_path):
        refused(capsys, record.main, [tmp_path, 1, *TINY, "--output", tmp_path], "cifar10 is not complete", "archives")

    def test_an_interpreter_without_pytorch(self):
        done = subprocess.run([SCRIPT], env=os.environ | {"PYTHON": "/bin/false"}, capture_output=True, text=True)
        assert done.returncode == 2 and "PYTHON must" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_script_on_512_images(tmp_path):
    (tmp_path / "archives").mkdir()
    write_archive(tmp_path / "whole.zip", 512, 100)
    content = (tmp_path / "whole.zip").read_bytes()
    for name, part in (("aa", content[:100_000]), ("ab", content[100_000:])):
        (tmp_path / "archives" / f"cifar10.zip.{name}").write_bytes(part)
    options = ["--model", "gac_ms_resnet8_cifar", "--img-size", "16", "--cutout", "4", "--batch-size", "64"]
    options += ["--output", str(tmp_path / "output")]
    if not has_bfloat16(torch.device("cpu")):  # the recipe's bfloat16 takes minutes there
        options += ["--amp", "none"]
    environment = os.environ | {"PYTHON": sys.executable}
    subprocess.run([SCRIPT, tmp_path / "archives", "0.5", *options], env=environment, check=True)
    rows = table(tmp_path / "output" / "results.csv")
    assert [(row["encoder"], row["train_images"], row["test_images"]) for row in rows] == [
        ("direct", "512", "100"), ("gac", "512", "100"),
    ]  # fmt: skip
    assert "gac - direct = " in (tmp_path / "output" / "record.log").read_text()
