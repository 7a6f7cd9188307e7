"""The benchmark, run_cifar.py with its report: training, rows, resuming, bad input."""

import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import run_cifar
import torch
from helpers.encoders import AVAILABLE
from helpers.files import contents, held, reproducible, table
from helpers.programs import refused
from PIL import Image
from safetensors.torch import load_file

from gac_sj.analysis import energy_profile, measure_dynamics, measure_energy
from gac_sj.checkpoint.runs import build_model, load_network, read_weights
from gac_sj.data import DATASETS, DataSet, ResidentTrainingLoader
from gac_sj.encoders import DEFAULT_FORM, FORMS, encoder_info, encoder_label, list_encoders
from gac_sj.ops import int8
from gac_sj.quantize import why_not_onednn
from gac_sj.results import report
from gac_sj.results.schema import KEY_COLUMNS, MEASURED_COLUMNS, NOT_ANALYSED, RUNS
from gac_sj.training import analysis, build, engine, hardware
from gac_sj.training import run as run_module
from gac_sj.training.build import Data, load_data
from gac_sj.training.distributed import DistributedContext
from gac_sj.training.evaluation import evaluate
from gac_sj.training.finite import NonFiniteLossError
from gac_sj.training.folder import run_key
from gac_sj.training.hardware import resolve

pytestmark = pytest.mark.usefixtures("quick")

REPOSITORY = Path(__file__).resolve().parent.parent

DIGITS = ["--dataset", "digits", "--train-limit", "130", "--epochs", "2", "-T", "2", "--device", "cpu"]
ENCODERS_IN_COMPARISON = [name for name in list_encoders() if encoder_info(name).in_comparison]
COMMAND = [sys.executable, str(REPOSITORY / "benchmarks" / "run_cifar.py")]
# SpikingJelly 0.0.0.0.14 makes torch warn on import, whoever imports it
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore::FutureWarning"}
HERE = DistributedContext(0, 1, torch.device("cpu"))


def write_folder(root, seed=0, classes=("ant", "cat"), train=32, test=2):
    """An image folder of noise."""
    random = np.random.default_rng(seed)
    for split, count in (("train", train), ("test", test)):
        for label in classes:
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8))
                image.save(root / split / label / f"{number}.png")
    return root


def settings(encoder="direct", *arguments, seed=0):
    """The settings of a run, on digits unless the arguments name other data."""
    args = run_cifar.build_parser().parse_args([*DIGITS, "--output", "unused", *arguments])
    return resolve(run_cifar.settings(run_cifar.read_settings(args), encoder, seed), HERE.device)


@pytest.fixture(scope="module")
def digits():
    return load_data(settings())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished comparison of all encoders with two seeds: its command, folder and output."""
    folder = tmp_path_factory.mktemp("finished")
    command = [*DIGITS, "--seeds", "0", "1", "--output", str(folder)]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert run_cifar.main(command) == 0
    return command, folder, printed.getvalue()


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(run_module, "train", lambda *args: pytest.fail("it trains"))


@pytest.fixture
def no_plots(monkeypatch):
    monkeypatch.setattr(report, "figures_of_runs", lambda runs: iter(()))


@pytest.fixture
def trained(monkeypatch, no_plots):
    """A stand-in for training; the list of its calls: (settings, data, folder)."""
    calls = []

    def train(run, data, world, folder):
        calls.append((run, data, folder))
        accuracy = 50.0 + len(calls)
        found = {"accuracy_best": accuracy, "accuracy_last": accuracy, "accuracy_by_epoch": f'{{"1": {accuracy}}}'}
        found |= {"accuracy_by_steps": "[1.0]", "firing_rates": "{}"}
        return run_key(run, data) | dict.fromkeys(MEASURED_COLUMNS, "1") | NOT_ANALYSED | found

    monkeypatch.setattr(run_module, "train", train)
    return calls


@pytest.fixture
def passes(monkeypatch):
    """The labels of every batch, in a list for each pass over the data; ``passes.hook`` runs before each step."""

    class Passes(list):
        hook = staticmethod(lambda: None)

    passes = Passes()

    class Observed(ResidentTrainingLoader):
        def __iter__(self):
            return observed(super().__iter__())

    def observed(batches):
        passes.append([])
        for images, labels in batches:
            passes[-1].append(labels.tolist())
            passes.hook()
            yield images, labels

    monkeypatch.setattr(build, "ResidentTrainingLoader", Observed)
    return passes


@pytest.mark.medium
class TestResults:
    def test_each_encoder_and_seed_has_a_row(self, finished):
        rows = table(finished[1] / "results.csv")
        assert [(row["encoder"], row["seed"]) for row in rows] == [
            (name, seed) for seed in "01" for name in ENCODERS_IN_COMPARISON
        ]
        assert tuple(rows[0]) == RUNS.names
        for row in rows:
            gate = [] if row["encoder"] == "gac" else ["gate_mean", "gate_spread", "gate_silent"]
            bytes_ = ["inference_int8_images_per_second"] if int8.why_not() else []
            assert {name for name, value in row.items() if not value} == {"callbacks", *bytes_, *gate}

    def test_settings_are_recorded(self, finished):
        for row in table(finished[1] / "results.csv"):
            names = ("dataset", "train_limit", "train_images", "test_images", "T", "epochs", "processes")
            assert [row[name] for name in names] == ["digits", "130", "130", "360", "2", "2", "1"]
            assert row["form"] == (DEFAULT_FORM if row["encoder"] == "gac" else "None")
            recipe = {name: float(row[name]) for name in ("batch_size", "lr", "momentum", "weight_decay")}
            assert recipe == {"batch_size": 64, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
            assert (row["crop"], row["hflip"], row["warmup_epochs"]) == ("none", "0.0", "1.0")

    def test_accuracies_are_consistent(self, finished):
        for row in table(finished[1] / "results.csv"):
            by_epoch, by_steps = json.loads(row["accuracy_by_epoch"]), json.loads(row["accuracy_by_steps"])
            last = float(row["accuracy_last"])
            assert list(by_epoch) == ["1", "2"] and by_epoch["2"] == last
            assert float(row["accuracy_best"]) == max(by_epoch.values()) == by_epoch[row["best_epoch"]]
            assert len(by_steps) == 2 and by_steps[-1] == last
            assert 0 <= last <= float(row["top5_last"]) <= 100
            # thousandths of a percent of 360 images are whole images
            assert last * 3.6 == pytest.approx(round(last * 3.6), abs=0.01)

    def test_every_neuron_layer_has_a_firing_rate(self, finished, digits):
        for row in table(finished[1] / "results.csv"):
            rates = json.loads(row["firing_rates"])
            model = build_model(settings(row["encoder"]), digits.info)
            neurons = [name for name, module in model.named_modules() if type(module).__name__ == "LIFNode"]
            assert list(rates) == neurons
            assert all(0 <= rate <= 1 for rate in rates.values()) and rates["stages.0.0.lif1"] > 0
            assert float(row["firing_rate_mean"]) == pytest.approx(statistics.mean(rates.values()), abs=2e-5)

    def test_parameter_count_is_that_of_the_network(self, finished, digits):
        for row in table(finished[1] / "results.csv"):
            model = build_model(settings(row["encoder"]), digits.info)
            assert int(row["parameters"]) == sum(p.numel() for p in model.parameters())

    def test_report_has_the_printed_table_and_provenance(self, finished):
        _, folder, printed = finished
        text = (folder / "report.md").read_text()
        lines = [line for line in printed.splitlines() if line.startswith("|")]
        assert "\n".join(lines) in text
        assert printed.splitlines()[-1].endswith(str(folder / "report.html"))
        assert [line.strip("| ").split(" | ")[0] for line in lines[2:]] == ENCODERS_IN_COMPARISON
        first = table(folder / "results.csv")[0]
        for name in ("commit", "versions", "device", "data"):
            assert first[name] in text and first[name] in (folder / "report.html").read_text()
        assert "weight_decay=0.0005" in text

    @pytest.mark.parametrize("name", ["learning_curves", "accuracy_against_energy", "firing_rates_by_step"])
    def test_plots_are_drawn(self, name, finished):
        assert f"]({name}.png)" in (finished[1] / "report.md").read_text()
        assert (finished[1] / f"{name}.svg").exists()
        with Image.open(finished[1] / f"{name}.png") as image:
            image.load()
            assert min(image.size) > 200 and len(image.convert("L").getcolors()) > 3

    def test_no_temporary_file_is_left(self, finished):
        files = {path.name for path in finished[1].iterdir()}
        plots = {f"{name}.{kind}" for name in ("learning_curves", "accuracy_against_energy", "firing_rates_by_step")
                 for kind in ("png", "svg")}  # fmt: skip
        assert files == {"results.csv", "report.md", "report.html", "runs", ".lock", *plots}
        assert not list(finished[1].rglob("*.tmp"))

    def test_a_finished_run_keeps_its_weights_and_no_checkpoints(self, finished, digits):
        folders = sorted((finished[1] / "runs").iterdir())
        assert len(folders) == 2 * len(ENCODERS_IN_COMPARISON) and not list(finished[1].rglob("checkpoints"))
        for folder in folders:
            assert {"args.yaml", "summary.csv", "last.safetensors", "best.safetensors"} <= set(os.listdir(folder))
        run = settings("gac")
        model = build_model(run, digits.info)
        (folder,) = finished[1].glob("runs/gac-seed0-*")
        model.load_state_dict(load_file(folder / "last.safetensors"))
        accuracy = 100 * evaluate(model, digits.testing(run, model, HERE)).top1
        assert f"{accuracy:.3f}" == f"{float(table(finished[1] / 'results.csv')[0]['accuracy_last']):.3f}"

    def test_image_folder_is_trained_on_from_any_working_directory(self, tmp_path, monkeypatch):
        write_folder(tmp_path / "images")
        monkeypatch.chdir(tmp_path)
        command = ["--dataset", "folder", "--data-dir", "images", "--epochs", "1", "-T", "1", "--device", "cpu"]
        assert run_cifar.main([*command, "--encoders", "direct", "--seeds", "3", "--output", "out"]) == 0
        (row,) = table(tmp_path / "out" / "results.csv")
        assert (row["train_images"], row["test_images"], row["train_limit"]) == ("64", "4", "None")
        assert (row["crop"], row["crop_padding"], row["hflip"]) == ("pad", "4", "0.5")
        assert "| direct | 1 |" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.medium
@pytest.mark.usefixtures("no_plots")
@pytest.mark.one_release
class TestSeeds:
    def test_same_seed_gives_the_same_numbers(self, finished, tmp_path):
        """Independently of what the process trained before."""
        torch.rand(3)
        run_cifar.main([*DIGITS, "--encoders", "poisson", "gac", "--seeds", "1", "--output", str(tmp_path)])
        first = {(row["encoder"], row["seed"]): row for row in reproducible(finished[1])}
        assert reproducible(tmp_path) == [first["poisson", "1"], first["gac", "1"]]

    def test_other_seed_gives_other_numbers(self, finished):
        for name in ENCODERS_IN_COMPARISON:
            first, second = (row for row in table(finished[1] / "results.csv") if row["encoder"] == name)
            assert first["train_loss_last"] != second["train_loss_last"]

    def test_all_runs_train_on_the_same_balanced_images(self, trained, tmp_path):
        run_cifar.main([*DIGITS, "--encoders", "gac", "direct", "--output", str(tmp_path)])
        assert [(run.encoder, run.seed) for run, _, _ in trained] == [
            (name, seed) for seed in (0, 1, 2) for name in ("gac", "direct")
        ]
        images, labels = trained[0][1].images[0]
        assert torch.bincount(labels).tolist() == [13] * 10
        assert all(torch.equal(data.images[0][0], images) for _, data, _ in trained)

    def test_every_encoder_sees_the_images_in_the_same_order(self, passes, tmp_path):
        """Although each encoder draws another amount of random numbers."""
        run_cifar.main([*DIGITS, "--encoders", "direct", "gac", "poisson", "--seeds", "0", "--output", str(tmp_path)])
        first, second, *others = passes
        assert len(first) == 2 and first != second
        assert others == [first, second, first, second]


@pytest.mark.medium
class TestAnalysis:
    """Energy, dynamics and speed of the trained networks."""

    @pytest.mark.parametrize("name", ["gac", "direct", "direct_lif"])
    def test_columns_are_those_of_the_saved_weights(self, name, finished, digits):
        row = next(row for row in table(finished[1] / "results.csv") if (row["encoder"], row["seed"]) == (name, "1"))
        (path,) = finished[1].glob(f"runs/{name}-seed1-*/last.safetensors")
        run, weights = read_weights(path)
        model = load_network(run, weights, digits.info).eval()
        batches = list(digits.sample(1000).testing(run, model, HERE))
        energy, dynamics = measure_energy(model, batches), measure_dynamics(model.encoder, batches)
        assert int(row["analysed_images"]) == energy.images == 350  # the rarest class has 35
        assert int(row["energy_paper_pj"]) == round(energy.paper_pj) > 0
        assert int(row["energy_complete_pj"]) == round(energy.complete_pj) > int(row["energy_encoder_pj"]) > 0
        assert int(row["effective_acs"]) == round(energy.total("effective_acs")) > 0
        assert row["energy_profile"] == "45nm" and int(row["energy_dense_pj"]) == round(energy.dense_pj)
        assert int(row["energy_event_pj"]) == round(energy.event_pj)
        assert len(json.loads(row["memory_by_layer"])) == len(energy.memory.layers)
        by_layer = json.loads(row["energy_by_layer"])
        assert sum(complete for _, complete in by_layer.values()) == pytest.approx(
            energy.complete_pj, abs=len(by_layer)
        )
        assert json.loads(row["non_spiking_layers"]) == ["stages.1.0.shortcut.1", "stages.2.0.shortcut.1", "head"]
        assert float(row["time_to_repeat"]) == pytest.approx(dynamics.time_to_repeat.mean().item(), abs=1e-5)
        assert float(row["entropy_bits"]) == pytest.approx(sum(json.loads(row["information_by_step"])), abs=1e-4)
        assert len(json.loads(row["readout_by_step"])) == 2 and len(json.loads(row["change_by_step"])) == 1
        rates = json.loads(row["firing_rates_by_step"])
        assert list(rates) == list(json.loads(row["firing_rates"])) and all(len(steps) == 2 for steps in rates.values())
        assert min(float(row["inference_images_per_second"]), float(row["encoder_images_per_second"])) > 0
        if why_not_onednn(model) is None:
            assert float(row["inference_int8_images_per_second"]) > 0

    def test_direct_coding_repeats_from_the_first_step(self, finished):
        row = next(row for row in table(finished[1] / "results.csv") if row["encoder"] == "direct")
        assert (row["time_to_repeat"], row["silent"], row["time_to_first_spike"]) == ("1.0", "0.0", "1.0")
        assert float(row["duration_not_shorter"]) < 1  # with a neuron, patterns repeat later

    def test_rows_without_an_analysis_are_analysed_without_training(self, finished, no_training, tmp_path):
        shutil.copytree(finished[1], tmp_path / "out")
        with open(tmp_path / "out" / "results.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, KEY_COLUMNS + MEASURED_COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(table(finished[1] / "results.csv"))
        assert run_cifar.main([*finished[0], "--output", str(tmp_path / "out")]) == 0
        assert reproducible(tmp_path / "out") == reproducible(finished[1])

    def test_rows_without_weights_stay_unanalysed(self, finished, no_training, tmp_path):
        rows = [row | NOT_ANALYSED for row in table(finished[1] / "results.csv")]
        with open(tmp_path / "results.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        assert run_cifar.main([*finished[0], "--output", str(tmp_path)]) == 0
        assert table(tmp_path / "results.csv") == rows

    def test_fewer_large_images_are_analysed(self, finished, digits, monkeypatch):
        run = settings("gac")
        monkeypatch.setattr(analysis, "MAX_VALUES", 100 * 2 * 16 * 64)
        found = analysis.analyse(build_model(run, digits.info), run, digits, HERE.device, energy_profile("45nm"))
        assert 50 <= found["analysed_images"] <= 100

    def test_spike_driven_network_has_spiking_layers_only(self, tmp_path):
        command = [*DIGITS, "--encoders", "gac", "--seeds", "0", "--model-options", "{spike_driven: true}"]
        assert run_cifar.main([*command, "--output", str(tmp_path)]) == 0
        (row,) = table(tmp_path / "results.csv")
        assert row["non_spiking_layers"] == "[]" and row["model_options"] == '{"spike_driven": true}'
        assert "| gac:spike_driven=True | 1 |" in (tmp_path / "report.md").read_text()


@pytest.mark.one_release
class TestEncoderNames:
    @pytest.mark.parametrize(
        "name, form, options",
        [
            ("gac:temporal", DEFAULT_FORM, {"attention": "temporal"}),
            ("gac:current,spatial", "current", {"attention": "spatial"}),
            ("gac:kernel_size=3,depth=1", DEFAULT_FORM, {"depth": 1, "kernel_size": 3}),
            ("direct_matched:kernel_size=5", None, {"kernel_size": 5}),
        ],
    )
    def test_options_reach_settings_and_network(self, name, form, options, digits):
        run = settings(name)
        assert (run.form, run.model_options) == (form, options)
        encoder = build_model(run, digits.info).encoder
        if "attention" in options:
            assert encoder.gau.attention == options["attention"]
        if "kernel_size" in options:
            branch = encoder.gau.spatial_channel if run.encoder == "gac" else encoder.spatial_channel
            assert [conv.kernel_size[0] for conv in branch.convolutions] == [options["kernel_size"]] * options.get(
                "depth", 2
            )

    def test_order_of_options_does_not_matter(self):
        assert settings("gac:kernel_size=3,depth=1").dump() == settings("gac:depth=1,kernel_size=3").dump()

    @pytest.mark.parametrize(
        "name", ["gac", "gac:current", "gac:current,attention=spatial", "gac:kernel_size=3", "direct_matched:depth=1"]
    )
    def test_label_of_a_run_is_its_name(self, name):
        run = settings(name)
        assert encoder_label(run.encoder, run.form, run.model_options) == name


@pytest.mark.one_release
class TestResume:
    @pytest.mark.medium
    def test_finished_command_trains_nothing_and_writes_the_same_report(self, finished, no_training):
        command, folder, _ = finished
        before = contents(folder)
        assert run_cifar.main(command) == 0
        after = contents(folder)
        for name in (Path("results.csv"), Path("report.md")):
            assert after[name] == before[name]

    @pytest.mark.medium
    def test_rows_of_another_commit_and_machine_are_reused(self, finished, no_training, tmp_path):
        """As in a results.csv that a colleague sent."""
        rows = table(finished[1] / "results.csv")
        for row in rows:
            row |= dict(commit="0123456789ab", device="abacus", versions="torch 9.9", date="2020-01-01", processes="8")
        with open(tmp_path / "results.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        assert run_cifar.main([*finished[0], "--output", str(tmp_path)]) == 0
        assert table(tmp_path / "results.csv") == rows and "abacus" in (tmp_path / "report.md").read_text()

    def test_command_continues_after_an_interruption_between_runs(self, trained, tmp_path, monkeypatch, capsys):
        original = run_module.train

        def train(*args):
            if len(trained) == 1:
                raise KeyboardInterrupt
            return original(*args)

        command = [*DIGITS, "--encoders", "gac", "direct", "--seeds", "0", "1", "--output", str(tmp_path)]
        monkeypatch.setattr(run_module, "train", train)
        assert run_cifar.main(command) == 130
        assert capsys.readouterr().err == "run_cifar.py: interrupted; the same command continues.\n"
        (first,) = table(tmp_path / "results.csv")
        assert (first["encoder"], first["seed"]) == ("gac", "0")

        monkeypatch.setattr(run_module, "train", original)
        trained.clear()
        assert run_cifar.main(command) == 0
        assert [(run.encoder, run.seed) for run, _, _ in trained] == [("direct", 0), ("gac", 1), ("direct", 1)]
        assert table(tmp_path / "results.csv")[0] == first and len(table(tmp_path / "results.csv")) == 4
        assert "| direct | 2 |" in (tmp_path / "report.md").read_text()

    @pytest.fixture
    def shared(self, tmp_path, monkeypatch):
        """A command of two runs, of which another command holds the first one; what that does once it is waited for."""
        command = [*DIGITS, "--encoders", "gac", "direct", "--seeds", "0", "--output", str(tmp_path)]
        others = []
        run = settings("gac")
        folder = tmp_path / "runs" / f"gac-seed0-{run.name()}-{run_key(run, load_data(run))['data']}"
        with contextlib.ExitStack() as stack:
            stack.enter_context(held(folder))

            def end_of_the_other(seconds):
                others.pop()()
                stack.close()

            monkeypatch.setattr(time, "sleep", end_of_the_other)
            yield command, others

    def test_a_run_of_another_command_comes_last(self, shared, trained, tmp_path, capsys):
        command, others = shared
        row = run_module.train(settings("gac"), load_data(settings("gac")), HERE, tmp_path) | {"accuracy_last": 12.5}
        trained.clear()
        others.append(lambda: run_cifar.Rows(tmp_path / "results.csv", RUNS).add(row))
        assert run_cifar.main(command) == 0
        assert [run.encoder for run, _, _ in trained] == ["direct"]
        assert [row["encoder"] for row in table(tmp_path / "results.csv")] == ["direct", "gac"]
        printed = capsys.readouterr().out.splitlines()
        assert "in use" in printed[0] and printed[0].startswith("[1/2] ")
        assert [line.split(",")[0] for line in printed[1:3]] == ["[2/2] direct", "[1/2] gac"] and "12.5" in printed[2]

    def test_a_run_of_another_command_that_ends_without_a_row(self, shared, trained, tmp_path):
        command, others = shared
        others.append(lambda: None)
        assert run_cifar.main(command) == 0
        assert [run.encoder for run, _, _ in trained] == ["direct", "gac"]
        assert len(table(tmp_path / "results.csv")) == 2

    @pytest.mark.medium
    def test_what_a_kill_left_of_a_finished_run_is_removed(self, finished, no_training, tmp_path):
        shutil.copytree(finished[1], tmp_path / "out")
        (folder,) = (tmp_path / "out").glob("runs/gac-seed0-*")
        (folder / "checkpoints").mkdir()
        assert run_cifar.main([*finished[0], "--output", str(tmp_path / "out")]) == 0
        assert not (folder / "checkpoints").exists()
        assert reproducible(tmp_path / "out") == reproducible(finished[1])

    def test_folders_have_names_for_every_system_inside_the_output(self, trained, tmp_path, monkeypatch):
        monkeypatch.setattr(run_cifar, "build_model", lambda *arguments: None)
        names = ["gac:kernel_size=3", "gac:note=../../<a>", 'gac:note="?*|:"']
        run_cifar.main([*DIGITS, "--encoders", *names, "--seeds", "0", "--output", str(tmp_path)])
        folders = [folder for _, _, folder in trained]
        assert len({*folders}) == 3 and {folder.parent for folder in folders} == {tmp_path / "runs"}
        assert not set("".join(folder.name for folder in folders)) & set('<>:"/\\|?*')

    @pytest.mark.parametrize(
        "change",
        [
            ["--epochs", "3"],
            ["-T", "3"],
            ["--train-limit", "140"],
            ["--model", "ms_resnet18_cifar"],
            ["--eval-every", "2"],
            ["--seeds", "7"],
            ["--encoders", "gac:reference"],
        ],
        ids=" ".join,
    )
    def test_other_settings_train_anew_and_keep_existing_rows(self, change, trained, tmp_path):
        command = [*DIGITS, "--encoders", "gac", "--seeds", "0", "--output", str(tmp_path)]
        run_cifar.main(command)
        before = table(tmp_path / "results.csv")
        assert run_cifar.main([*command, *change]) == 0
        assert len(trained) == 2 and trained[0][2] != trained[1][2]
        assert table(tmp_path / "results.csv")[:-1] == before
        text = (tmp_path / "report.md").read_text()
        assert "| 1 | 52.00 |" in text and "51.00" not in text

    def test_other_images_train_anew(self, trained, tmp_path):
        for seed, test in enumerate((2, 3)):
            folder = write_folder(tmp_path / f"images{test}", seed, test=test)
            command = ["--dataset", "folder", "--data-dir", str(folder), "--encoders", "gac", "--seeds", "0"]
            assert run_cifar.main([*command, "--output", str(tmp_path / "out")]) == 0
        assert len(trained) == 2 and trained[0][2] != trained[1][2]

    @pytest.mark.parametrize("names", [["gac", "gac"], ["gac", f"gac:{DEFAULT_FORM}"]], ids=" ".join)
    def test_repeated_run_is_trained_once(self, names, trained, tmp_path):
        run_cifar.main([*DIGITS, "--encoders", *names, "--seeds", "0", "0", "--output", str(tmp_path)])
        run_cifar.main([*DIGITS, "--encoders", names[1], "--seeds", "0", "--output", str(tmp_path)])
        assert len(trained) == len(table(tmp_path / "results.csv")) == 1
        assert "| gac | 1 |" in (tmp_path / "report.md").read_text()

    @pytest.mark.parametrize(
        "error, code",
        [(NonFiniteLossError("The loss is nan at step 7; lower it."), 1), (OSError(28, "No space left"), 2)],
    )
    def test_failing_run_is_named_and_earlier_rows_stay(self, error, code, trained, tmp_path, monkeypatch, capsys):
        original = run_module.train

        def train(run, *args):
            if run.seed == 1:
                raise error
            return original(run, *args)

        monkeypatch.setattr(run_module, "train", train)
        command = [*DIGITS, "--encoders", "gac:reference", "--seeds", "0", "1", "--output", str(tmp_path)]
        assert run_cifar.main(command) == code
        assert capsys.readouterr().err == f"run_cifar.py: [2/2] gac:reference, seed 1: {error}\n"
        assert [row["seed"] for row in table(tmp_path / "results.csv")] == ["0"]


@pytest.mark.one_release
@pytest.mark.medium
class TestKilled:
    """After a signal inside a run, the same command continues there and writes the row of an uninterrupted run."""

    ARGUMENTS = [*DIGITS, "--train-limit", "192", "--encoders", "gac", "poisson", "--seeds", "0"]

    @pytest.fixture(scope="class")
    @classmethod
    def whole(cls, tmp_path_factory):
        """The rows of the uninterrupted command."""
        folder = tmp_path_factory.mktemp("whole")
        assert run_cifar.main([*cls.ARGUMENTS, "--output", str(folder)]) == 0
        return reproducible(folder)

    def continues(self, command, folder, whole):
        assert run_cifar.main(command) == 0
        assert reproducible(folder) == whole
        assert not list(folder.rglob("checkpoints"))
        for name in ("report.md", "report.html", "learning_curves.png"):
            assert (folder / name).exists()

    def test_sigterm_between_steps(self, whole, passes, tmp_path, capsys):
        """As batch queues send it."""

        def kill():
            if len(passes) == 4 and len(passes[-1]) == 2:  # poisson's second
                os.kill(os.getpid(), signal.SIGTERM)

        command = [*self.ARGUMENTS, "--output", str(tmp_path)]
        passes.hook = kill
        assert run_cifar.main(command) == 128 + signal.SIGTERM
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and re.search(r"^run_cifar\.py: .*SIGTERM .*epoch 2 .*2 of 3", error)
        assert "same command" in error and str(tmp_path / "results.csv") in error
        assert reproducible(tmp_path) == whole[:1]
        assert list(tmp_path.glob("runs/poisson-*/checkpoints/epoch00001-step000000005-*.pt"))

        passes.clear()
        self.continues(command, tmp_path, whole)
        assert [len(batches) for batches in passes] == [1]

    def test_ctrl_c_in_the_last_evaluation(self, whole, passes, tmp_path, monkeypatch):
        """The evaluation is done again, without training."""
        tests = []

        def kill(*args):
            tests.append(args)
            if len(tests) == 4:
                os.kill(os.getpid(), signal.SIGINT)
            return evaluate(*args)

        command = [*self.ARGUMENTS, "--output", str(tmp_path)]
        monkeypatch.setattr(engine, "evaluate", kill)
        assert run_cifar.main(command) == 130
        assert reproducible(tmp_path) == whole[:1]
        passes.clear()
        self.continues(command, tmp_path, whole)
        assert not any(passes) and len(tests) == 5

    def test_sigkill_after_the_first_checkpoint(self, whole, passes, tmp_path):
        """In a process of its own, as users start it."""
        command = [*COMMAND, *self.ARGUMENTS, "--output", "out"]
        with open(tmp_path / "err", "w") as errors:
            child = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=errors)
        deadline = time.monotonic() + 120
        try:
            while not list(tmp_path.glob("out/runs/*/checkpoints/epoch00000-step000000003-*.pt")):
                assert child.poll() is None and time.monotonic() < deadline
                time.sleep(0.005)
        finally:
            child.kill()
        assert child.wait() == -signal.SIGKILL
        assert "Traceback" not in (text := (tmp_path / "err").read_text()) and "Warning" not in text
        self.continues([*self.ARGUMENTS, "--output", str(tmp_path / "out")], tmp_path / "out", whole)
        assert sum(map(len, passes)) < 12, "it starts again from the beginning"


@pytest.mark.one_release
@pytest.mark.slow
class TestJobs:
    """Runs side by side, in processes of their own, write the rows of a command without them."""

    ARGUMENTS = [*DIGITS, "--epochs", "12", "--encoders", "gac", "direct", "poisson", "--seeds", "0"]

    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch):
        for name in ("OMP_NUM_THREADS", "PYTHONWARNINGS"):
            monkeypatch.setenv(name, ENVIRONMENT[name])
        backend = run_cifar.job_backend

        @contextlib.contextmanager
        def of_two_cores(*arguments):
            """On a machine with one core as well."""
            with backend(*arguments):
                yield 2

        monkeypatch.setattr(run_cifar, "job_backend", of_two_cores)

    @pytest.fixture(scope="class")
    @classmethod
    def whole(cls, tmp_path_factory):
        """The rows of a command without jobs, by encoder, and its report."""
        folder = tmp_path_factory.mktemp("whole")
        assert run_cifar.main([*cls.ARGUMENTS, "--output", str(folder)]) == 0
        return by_encoder(folder)

    def when(self, folder, encoder, action):
        """Do something with the process of a run once it has a checkpoint; the thread to join."""

        def wait():
            deadline = time.monotonic() + 120
            while not list(folder.glob(f"runs/{encoder}-seed0-*/checkpoints/epoch*.pt")):
                assert time.monotonic() < deadline
                time.sleep(0.005)
            (claim,) = folder.glob(f"runs/{encoder}-seed0-*/claim-1.json")
            action(json.loads(claim.read_text())["process"])

        thread = threading.Thread(target=wait)
        thread.start()
        return thread

    def test_killed_worker_ends_one_run(self, whole, tmp_path, capsys):
        command = [*self.ARGUMENTS, "--output", str(tmp_path)]
        thread = self.when(tmp_path, "direct", lambda process: os.kill(process, signal.SIGKILL))
        assert run_cifar.main([*command, "--jobs", "2"]) == 1
        thread.join()
        out, error = capsys.readouterr()
        assert "[2/3] direct, seed 0: its process was killed (SIGKILL)." in out.splitlines()
        assert error.splitlines()[-1] == (
            "run_cifar.py: 1 of 3 runs are unfinished ([2/3] direct, seed 0); the same command continues them."
        )
        assert "Traceback" not in error
        assert by_encoder(tmp_path) == {name: whole[name] for name in ("gac", "poisson")}
        assert "| poisson | 1 |" in (tmp_path / "report.md").read_text()
        (checkpoints,) = tmp_path.rglob("checkpoints")
        done = max(int(path.name[5:10]) for path in checkpoints.iterdir())

        assert run_cifar.main([*command, "--jobs", "2"]) == 0
        out, error = capsys.readouterr()
        assert f"direct, seed 0: epoch {done + 2}/12" in error and f"direct, seed 0: epoch {done}/12" not in error
        assert [line.split(",")[0] for line in out.splitlines()[:3]] == ["[1/3] gac", "[3/3] poisson", "[2/3] direct"]
        assert by_encoder(tmp_path) == whole
        files = {path.name for path in tmp_path.iterdir() if path.suffix not in (".png", ".svg")}
        assert files == {"results.csv", "report.md", "report.html", "runs", ".lock"}
        assert not list(tmp_path.rglob("claim-*")) and not list(tmp_path.rglob("checkpoints"))

    def test_sigterm_stops_all_runs_with_checkpoints(self, whole, tmp_path, capsys):
        command = [*self.ARGUMENTS, "--output", str(tmp_path), "--jobs", "2"]
        thread = self.when(tmp_path, "direct", lambda process: os.kill(os.getpid(), signal.SIGTERM))
        assert run_cifar.main(command) == 143
        thread.join()
        error = capsys.readouterr().err
        assert "Traceback" not in error and "Checkpoint saved" in error
        assert re.fullmatch(r"run_cifar\.py: Received SIGTERM\. .*same command to resume\.", error.splitlines()[-1])
        assert not list(tmp_path.rglob("claim-*"))
        assert run_cifar.main(command) == 0
        assert by_encoder(tmp_path) == whole

    def test_run_that_fails_is_named_and_the_others_go_on(self, tmp_path, capsys):
        """Images that one encoder does not take."""
        command = [*self.ARGUMENTS, "--output", str(tmp_path), "--jobs", "2"]
        run = settings("direct", *self.ARGUMENTS)
        folder = tmp_path / "runs" / f"direct-seed0-{run.name()}-{run_key(run, load_data(run))['data']}"
        folder.mkdir(parents=True)
        (folder / "args.yaml").write_text("[1")
        assert run_cifar.main(command) == 1
        out = capsys.readouterr().out
        assert any(line.startswith("[2/3] direct, seed 0: ") and "damaged" in line for line in out.splitlines())
        assert set(by_encoder(tmp_path)) == {"gac", "poisson"}


def by_encoder(folder):
    """The rows of a folder that do not depend on time, by encoder."""
    return {row["encoder"]: row for row in reproducible(folder)}


@pytest.mark.medium
@pytest.mark.usefixtures("no_plots")
@pytest.mark.one_release
class TestRecipe:
    @pytest.mark.parametrize("form", FORMS)
    def test_named_form_builds_gac_in_that_form(self, form, digits):
        model = build_model(settings(f"gac:{form}"), digits.info)
        assert model.encoder.form == form and model.encoder.T == 2
        assert model.encoder.is_reference == (form == "reference")
        strict = [getattr(m.surrogate_function, "strict", None) for m in model.modules() if hasattr(m, "v_threshold")]
        assert strict[-1] == (form == "reference")

    def test_default_form_and_its_name_are_the_same_run(self, digits):
        assert settings("gac") == settings(f"gac:{DEFAULT_FORM}")
        assert build_model(settings("gac"), digits.info).encoder.form == DEFAULT_FORM

    def test_learning_rate_warms_up_then_follows_a_cosine(self, monkeypatch, tmp_path):
        """One epoch of warm-up; the cosine would reach zero one step after the last."""
        rates = self.rates(monkeypatch, tmp_path, 256, 4)
        assert rates[:4] == pytest.approx([0.025 * step for step in range(1, 5)])
        assert rates[4:] == pytest.approx([0.05 * (1 + math.cos(math.pi * step / 13)) for step in range(1, 13)])

    @pytest.mark.parametrize("images, epochs", [(70, 1), (70, 3), (320, 1)])
    def test_every_step_has_a_positive_learning_rate(self, images, epochs, monkeypatch, tmp_path):
        rates = self.rates(monkeypatch, tmp_path, images, epochs)
        assert len(rates) == images // 64 * epochs and min(rates) > 0

    def test_dropped_last_images_do_not_stretch_the_schedule(self, monkeypatch, tmp_path):
        rates = self.rates(monkeypatch, tmp_path, 127, 10)
        assert len(rates) == 10 and rates[-1] < 0.01

    def rates(self, monkeypatch, folder, images, epochs, every=100):
        """The learning rate of every step, without taking the steps."""
        rates = []
        monkeypatch.setattr(torch.optim.SGD, "step", lambda self, *args: rates.append(self.param_groups[0]["lr"]))
        command = [*DIGITS, "--train-limit", str(images), "--epochs", str(epochs), "--eval-every", str(every)]
        run_cifar.main([*command, "-T", "1", "--encoders", "direct", "--seeds", "0", "--output", str(folder)])
        return rates

    def test_eval_every_includes_the_last_epoch(self, monkeypatch, tmp_path):
        self.rates(monkeypatch, tmp_path, 70, 3, every=2)
        assert list(json.loads(table(tmp_path / "results.csv")[0]["accuracy_by_epoch"])) == ["2", "3"]

    def test_best_and_last_epoch_are_recorded(self, monkeypatch, tmp_path):
        tested = iter([(0.3, 2.0), (0.5, 1.5), (0.4, 1.75)])

        def scripted(*args):
            top1, loss = next(tested)
            return dataclasses.replace(evaluate(*args), top1=top1, loss=loss)

        monkeypatch.setattr(engine, "evaluate", scripted)
        self.rates(monkeypatch, tmp_path, 70, 3, every=1)
        (row,) = table(tmp_path / "results.csv")
        assert (row["accuracy_best"], row["best_epoch"]) == ("50.0", "2")
        assert (row["accuracy_last"], row["test_loss_last"]) == ("40.0", "1.75")
        assert json.loads(row["accuracy_by_epoch"]) == {"1": 30.0, "2": 50.0, "3": 40.0}

    def test_defaults_are_all_images_and_the_data_sets_epochs(self, trained, tmp_path):
        run_cifar.main(["--dataset", "digits", "--seeds", "0", "--output", str(tmp_path)])
        assert [run.encoder for run, _, _ in trained] == ENCODERS_IN_COMPARISON
        assert {(run.epochs, run.T, len(data.train)) for run, data, _ in trained} == {(20, 4, 1437)}

    @pytest.mark.parametrize(
        "dataset, crop, hflip", [("digits", "none", 0), ("cifar10", "pad", 0.5), ("folder", "pad", 0.5)]
    )
    def test_augmentation_depends_on_the_data_set(self, dataset, crop, hflip):
        run = settings("direct", "--dataset", dataset)
        assert (run.crop, run.crop_padding, run.hflip) == (crop, 4, hflip)


@pytest.mark.one_release
class TestSettings:
    """Where settings come from: a file or the recipe, then the command line; what is open is chosen once for all."""

    def read(self, *arguments):
        return run_cifar.read_settings(run_cifar.build_parser().parse_args([*arguments, "--output", "unused"]))

    def test_every_setting_is_taken(self):
        given = ["--opt", "adamw", "--lr", "0.002", "--batch-size", "32", "--amp", "bf16", "--ema", "0.9", "--compile"]
        run = settings("gac", *given)
        assert (run.opt, run.lr, run.batch_size, run.amp, run.ema, run.compile) == (
            "adamw", 0.002, 32, "bf16", 0.9, True,
        )  # fmt: skip

    def test_a_file_stands_for_the_recipe_and_the_command_line_is_over_it(self, tmp_path):
        config = tmp_path / "mine.yaml"
        config.write_text("dataset: digits\nopt: adamw\nepochs: 3\nencoder: poisson\nseed: 7\n")
        found = self.read("--config", str(config), "--epochs", "4")
        assert found == {"dataset": "digits", "opt": "adamw", "epochs": 4}
        run = run_cifar.settings(found, "direct", 1)
        assert (run.encoder, run.seed, run.loader) == ("direct", 1, "standard")

    def test_a_short_comparison_has_a_short_warm_up_unless_it_is_given(self):
        assert [self.read("--epochs", n)["warmup_epochs"] for n in ("1", "2", "9")] == [0, 1, 1]
        assert self.read("--epochs", "9", "--warmup-epochs", "3")["warmup_epochs"] == 3

    def test_a_comparison_keeps_what_was_open_when_it_was_begun(self, trained, tmp_path, monkeypatch):
        command = [*DIGITS, "--amp", "auto", "--seeds", "0", "--output", str(tmp_path)]
        for encoders, has in ((["gac"], True), (["gac", "direct"], False)):  # the second command on another machine
            monkeypatch.setattr(hardware, "has_bfloat16", lambda device, has=has: has)
            assert run_cifar.main([*command, "--encoders", *encoders]) == 0
        assert [run.amp for run, _, _ in trained] == ["bf16", "bf16"]
        assert {row["amp"] for row in table(tmp_path / "results.csv")} == {"bf16"}


@pytest.mark.one_release
class TestImages:
    """The inputs of the network."""

    def noise(self, count=64):
        """A CIFAR of ``count`` equal images of noise."""
        image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(count) % 10
        images = image.repeat(count, 1, 1, 1), labels
        part = DataSet(images[0], tuple(labels.tolist()), tuple("0123456789"), DATASETS["cifar10"])
        return Data(part, part, (32, 32), (images, images))

    def batches(self, data, run, train):
        loader = (data.training if train else data.testing)(run, build_model(run, data.info), HERE)
        if train:
            loader.set_epoch(0)
        return list(loader)

    @pytest.mark.parametrize("name", AVAILABLE)
    @pytest.mark.parametrize("dataset", ["digits", "cifar10"])
    def test_normalisation_follows_the_encoder(self, name, dataset, digits):
        data = digits if dataset == "digits" else self.noise()
        ((images, labels), *_) = self.batches(data, settings(name, "--dataset", dataset), train=False)
        test, truth = data.images[1]
        pixels = test[: len(images)].float() / 255
        if not encoder_info(name).needs_unit_range:
            info = DATASETS[dataset]
            mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (info.mean, info.std))
            pixels = (pixels - mean) / std
            assert images.min() < -0.5
        torch.testing.assert_close(images, pixels)
        assert torch.equal(labels, truth[: len(labels)])

    def test_cifar_images_are_cropped_and_flipped_independently(self):
        data = self.noise()
        padded = torch.nn.functional.pad(data.images[0][0][0], (4, 4, 4, 4))
        crops = {}
        for top in range(9):
            for left in range(9):
                crop = padded[:, top : top + 32, left : left + 32]
                crops[crop.numpy().tobytes()] = (top, left, False)
                crops[crop.flip(-1).numpy().tobytes()] = (top, left, True)
        ((images, _),) = self.batches(data, settings("poisson", "--dataset", "cifar10"), train=True)
        drawn = [crops[image.mul(255).round().to(torch.uint8).numpy().tobytes()] for image in images]
        assert len(set(drawn)) > 32
        assert {top for top, _, _ in drawn} == {left for _, left, _ in drawn} == set(range(9))
        assert 16 <= sum(flipped for _, _, flipped in drawn) <= 48

    def test_test_images_are_not_augmented(self):
        data = self.noise(131)
        batches = self.batches(data, settings("poisson", "--dataset", "cifar10"), train=False)
        assert torch.equal(torch.cat([images for images, _ in batches]).mul(255).round().byte(), data.images[1][0])
        assert torch.equal(torch.cat([labels for _, labels in batches]), data.images[1][1])

    def test_digits_are_shuffled_but_not_augmented(self):
        run = settings("poisson", "--train-limit", "640")
        data = load_data(run)
        batches = self.batches(data, run, train=True)
        images = torch.cat([images for images, _ in batches]).mul(255).round().byte()
        labels = torch.cat([labels for _, labels in batches])
        assert not torch.equal(labels, data.images[0][1])
        found, whole = (
            torch.cat([i.flatten(1), j.byte().unsqueeze(1)], 1).numpy() for i, j in ((images, labels), data.images[0])
        )
        assert np.array_equal(found[np.lexsort(found.T)], whole[np.lexsort(whole.T)])


@pytest.mark.one_release
class TestBadInput:
    """Bad input ends with status 2 and one line; nothing is trained or changed."""

    @pytest.fixture
    def output(self, trained, tmp_path, monkeypatch):
        """A folder with results."""
        folder = tmp_path / "out"
        run_cifar.main([*DIGITS, "--encoders", "gac", "--seeds", "0", "--output", str(folder)])
        monkeypatch.setattr(run_module, "train", lambda *args: pytest.fail("it trains"))
        return folder

    def refused(self, output, capsys, arguments, words):
        refused(capsys, run_cifar.main, ["--dataset", "digits", "--output", output, *arguments], *words, folder=output)

    @pytest.mark.parametrize(
        "arguments, words",
        [
            (["--encoders", "gac", "rate"], ["--encoders", "'rate'", "weighted_phase"]),
            (["--encoders", "latenzy"], ["--encoders", "'latenzy'", "did you mean 'latency'"]),
            (["--encoders", "gac:nope"], ["--encoders", "'gac:nope'", "gac:reference"]),
            (["--encoders", "gac:"], ["--encoders", "'gac:'"]),
            (["--encoders", "direct:reference"], ["--encoders", "'direct:reference'"]),
            (["--encoders", "direct:spatial"], ["--encoders", "'direct:spatial'"]),
            (["--encoders", "gac:kernel_size=0"], ["kernel_size ", "0"]),
            (["--encoders", "gac", "gac:kernels=3"], ["kernels"]),
            (["--encoders", "gac:form=current"], ["model", "options", "form"]),
            (["--encoders", "gac:temporal,spatial"], ["'gac:temporal,spatial'"]),
            (["--encoders", "gac:drop_rate=2"], ["drop"]),
            (["--encoders", "gac:pretrained=true"], ["pretrained"]),
            (["--encoders", "gac:gain={"], ["--encoders", "'gac:gain={'"]),
            (["--encoders", "gac:gain=much"], ["gain"]),
            (["--model-options", "{depth: 3}", "--encoders", "direct"], ["--model-options", "depth"]),
            (["--encoders", "direct:depth=3"], ["--encoders", "'direct:depth=3'", "depth is a keyword of neither"]),
            (["--encoders", "gac:cache_dir=x"], ["--encoders", "'gac:cache_dir=x'", "timm's builder, got cache_dir"]),
            (["--model", "resnet18"], ["model ", "'resnet18'", "ms_resnet8_cifar"]),
            (["--dataset", "mnist"], ["--dataset ", "'mnist'", "digits"]),
            (["-T", "0"], [" -T ", "0"]),
            (["--epochs", "0"], ["--epochs ", "0"]),
            (["--epochs", "-1"], ["--epochs ", "-1"]),
            (["--eval-every", "0"], ["--eval-every ", "0"]),
            (["--train-limit", "0"], ["--train-limit ", "0"]),
            (["--train-limit", "5000"], ["5000"]),
            (["--seeds", "0", "-1"], ["--seeds ", "-1"]),
            (["--seeds", "0", "99999999999999999999"], ["--seeds ", "99999999999999999999"]),
            (["--device", "nonsense"], ["device ", "'nonsense'"]),
            (["--device", "cpu:x"], ["device ", "'cpu:x'"]),
            (["--dataset", "folder"], ["train/<class>"]),
            (["--dataset", "folder", "--data-dir", "/does/not/exist"], ["/does/not/exist"]),
            (["--data-dir", "/anywhere"], ["/anywhere", "digits"]),
            (["--jobs", "0"], ["--jobs ", "between 1 and ", "0"]),
            (["--jobs", "9999"], ["--jobs ", "between 1 and ", "9999"]),
            (["--backend", "daks"], ["--backend ", "'daks'", "did you mean 'dask'"]),
            (["--address", "tcp://127.0.0.1:1"], ["--address ", "backend=threading"]),
            (["--backend", "dask"], ["--address ", "backend=dask"]),
        ],
        ids=" ".join,
    )
    def test_bad_arguments_are_refused(self, arguments, words, output, capsys):
        self.refused(output, capsys, arguments, words)

    def test_fewer_images_than_a_batch_are_refused(self, output, capsys, monkeypatch):
        monkeypatch.undo()  # the engine checks it
        self.refused(output, capsys, ["--train-limit", "63"], ["batch", "63", "64"])

    def test_cuda_without_a_gpu_is_refused(self, output, capsys, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        self.refused(output, capsys, ["--device", "cuda"], ["device ", "'cuda"])

    def test_jobs_are_refused_with_torchrun(self, output, capsys, monkeypatch):
        monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
        self.refused(output, capsys, ["--jobs", "2"], ["--jobs ", "torchrun"])

    def test_missing_gpu_is_refused(self, output, capsys, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        self.refused(output, capsys, ["--device", "cuda:7"], ["device ", "'cuda:7'"])

    @pytest.mark.parametrize("dataset", ["folder", "cifar10"])
    def test_incomplete_folder_is_refused(self, dataset, output, capsys, tmp_path):
        root = write_folder(tmp_path / "images")
        (root / "test").rename(tmp_path / "elsewhere")
        self.refused(output, capsys, ["--dataset", dataset, "--data-dir", str(root)], [str(root)])

    def test_empty_folder_is_refused(self, output, capsys, tmp_path):
        (tmp_path / "images").mkdir()
        arguments = ["--dataset", "folder", "--data-dir", str(tmp_path / "images")]
        self.refused(output, capsys, arguments, [str(tmp_path / "images"), "train/<class>"])

    def test_truncated_image_is_named(self, output, capsys, tmp_path):
        root = write_folder(tmp_path / "images")
        path = root / "test" / "cat" / "1.png"
        path.write_bytes(path.read_bytes()[:1000])
        self.refused(output, capsys, ["--dataset", "folder", "--data-dir", str(root)], [str(path)])

    def test_results_with_other_columns_are_refused(self, output, capsys):
        (output / "results.csv").write_text("encoder,accuracy\ngac,99\n")
        self.refused(output, capsys, [], [str(output / "results.csv"), "unknown columns: accuracy"])

    @pytest.mark.parametrize(
        "damage, advice",
        [
            (lambda b: b[:-30], "move it"),
            (lambda b: b + b"\xff\xfe\n", "UTF-8"),
            (lambda b: b.replace(b"\n", b",1,2\n"), "move it"),
        ],
        ids=["truncated", "not text", "more cells"],
    )
    def test_damaged_results_are_refused(self, damage, advice, finished, output, capsys):
        (output / "results.csv").write_bytes(damage((finished[1] / "results.csv").read_bytes()))
        self.refused(output, capsys, [], [str(output / "results.csv"), advice])

    @pytest.mark.parametrize("name", ["file", "file/out"])
    def test_unusable_output_folder_is_refused(self, name, output, capsys, tmp_path):
        (tmp_path / "file").write_text("mine")
        self.refused(output, capsys, ["--output", str(tmp_path / name)], [str(tmp_path / "file"), "--output"])
        assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.one_release
def test_help_lists_encoders_forms_and_data_sets(capsys):
    with pytest.raises(SystemExit, match="0"):
        run_cifar.main(["--help"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*list_encoders(), *FORMS, *DATASETS, "--import"))
