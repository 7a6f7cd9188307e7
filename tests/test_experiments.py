"""experiments/: the configs, the result that each asks for, the ledger, the comparison of two sets of runs."""

import argparse
import csv
import json
import re
import shlex
import statistics
import sys
from dataclasses import astuple, fields, replace
from functools import lru_cache
from pathlib import Path

import compare
import evaluate
import ledger
import pytest
import torch
from helpers.programs import refused

from gac_sj._utils.configuration import read_yaml
from gac_sj.checkpoint.runs import build_model
from gac_sj.data import dataset_info, generate_images, load_datasets, read_images
from gac_sj.results.comparison import MIN_SEEDS, Interval, corrected, interval
from gac_sj.results.ledger import LEDGER_COLUMNS, read_configs
from gac_sj.results.schema import KEY_COLUMNS, MEASURED_COLUMNS, NOT_ANALYSED, RUNS
from gac_sj.results.store import Rows
from gac_sj.training.build import Data
from gac_sj.training.distributed import DistributedContext
from gac_sj.training.engine import Training
from gac_sj.training.evaluation import Evaluation
from gac_sj.training.folder import run_key
from gac_sj.training.settings import Settings
from gac_sj.training.settings_sources import add_arguments, from_args

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"

pytestmark = [pytest.mark.one_release, pytest.mark.usefixtures("one_thread")]

CONFIGS = sorted(path.stem for path in EXPERIMENTS.glob("configs/*.yaml"))
PAIRS = [(name, name.replace("_gac", "_direct")) for name in CONFIGS if "_gac" in name]
DOCS = EXPERIMENTS.parent / "docs/benchmarks"
PAGE = (DOCS / "experiments.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", (EXPERIMENTS / "README.md").read_text(encoding="utf-8") + PAGE, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if not line.startswith("#")]


def settings(name, **changes):
    names = [field.name for field in fields(Settings)]
    return Settings(**read_yaml(EXPERIMENTS / f"configs/{name}.yaml", names) | changes)


@lru_cache
def generated(dataset, classes, side, resident):
    """Images so small that a step takes a fraction of a second; the networks take any size."""
    sets = generate_images(replace(dataset_info(dataset), classes=classes, size=(side, side)))
    return Data(*sets, (side, side), tuple(read_images(part, (side, side)) for part in sets) if resident else None)


@lru_cache
def moving_shapes(T):
    """They stand in for recordings, too."""
    return Data(*load_datasets("moving_shapes", T=T), (32, 32))


def data_for(run):
    if dataset_info(run.dataset).is_events:
        return moving_shapes(run.T)
    classes, side = {"cifar10": (10, 8), "cifar100": (100, 8), "imagenet": (1000, 32)}[run.dataset]
    return generated(run.dataset, classes, side, run.loader == "resident")


def training(name):
    run = settings(name, batch_size=2, workers=0, device="cpu")
    return Training(run, data_for(run), DistributedContext(0, 1, torch.device("cpu")))


class TestConfigs:
    def test_one_for_every_result(self):
        cifar = {f"cifar{n}_{kind}_T{T}" for n in (10, 100) for kind in ("gac", "direct") for T in (2, 4, 6)}
        kinds = ("gac", "direct", "gac_max", "direct_max")
        modern = {f"cifar{n}_{kind}_T4_timm" for n in (10, 100) for kind in kinds}
        imagenet = {f"imagenet_{kind}{n}_T{T}" for kind in ("gac", "direct") for n in (18, 34) for T in (4, 6)}
        frames = {"moving_shapes": 4, "dvs128_gesture": 16, "cifar10_dvs": 10}
        events = {f"{name}_{kind}_T{T}" for name, T in frames.items() for kind in ("gac", "direct")}
        assert cifar | modern | imagenet | events <= set(CONFIGS)

    def test_no_two_are_the_same(self):
        assert len({settings(name).name() for name in CONFIGS}) == len(CONFIGS)

    @pytest.mark.parametrize("name", CONFIGS)
    def test_the_name_says_what_it_is(self, name):
        run = settings(name)
        assert name.startswith(run.dataset) and f"_T{run.T}" in name
        assert run.encoder == ("gac" if "_gac" in name else "direct")
        published = "timm" not in name and not dataset_info(run.dataset).is_events
        assert run.form == ("reference" if published else "low_threshold" if "_gac" in name else None)
        assert ("max" in name) == ("max" in run.model)

    @pytest.mark.medium
    @pytest.mark.parametrize("name", [name for name in CONFIGS if not re.fullmatch(r"cifar.*_T[26]", name)])
    def test_one_step(self, name):
        """The real network, loss, optimiser, autocast and augmentation; batch and images are small, T mostly 4."""
        run = training(name)
        run.loader.set_epoch(0)
        weights = [weight for weight in run.model.parameters() if weight.ndim > 1]
        before = [weight.detach().clone() for weight in weights]
        batches = iter(run.loader)
        # blocks that end with a BatchNorm of 0 hold their convolutions still for a step, but for the weight decay
        for _ in range(1 if run.settings.weight_decay else 2):
            _, loss, _, images = run.step(*next(batches), run.state)
        assert torch.isfinite(loss) and images == 2
        assert not any(torch.equal(*pair) for pair in zip(before, weights))

    @pytest.mark.parametrize(("name", "counterpart"), PAIRS)
    def test_counterparts_differ_in_the_encoder_alone(self, name, counterpart):
        run, other = settings(name), settings(counterpart)
        differing = {key for key, value in run.key().items() if other.key()[key] != value}
        assert differing <= {"model", "encoder", "form", "model_options"}
        assert other.form == ("reference" if run.form == "reference" else None)
        # ImageNet's networks are initialised differently without GAC, so their counterparts say how
        options = {} if run.model.endswith("_cifar") else {"init": "kaiming"}
        assert other.model_options == run.model_options | options

    @pytest.mark.parametrize(
        "name", ["cifar10_gac_T4", "cifar10_gac_max_T4_timm", "imagenet_gac18_T4", "imagenet_gac34_T4"]
    )
    @pytest.mark.medium
    def test_networks_of_counterparts_are_initialised_alike(self, name):
        run, other = settings(name), settings(dict(PAIRS)[name])
        network, bare = (build_model(each, data_for(each).info) for each in (run, other))
        assert str(network.stages) == str(bare.stages) and str(network.lif) == str(bare.lif)
        assert str(network.encoder.stem) == str(bare.encoder.stem)
        weights, others = network.state_dict(), bare.state_dict()
        assert [key for key in weights if not key.startswith("encoder.gau.")] == list(others)
        for key, value in others.items():
            assert weights[key].shape == value.shape
            if value.numel() > 10000:
                assert weights[key].std().item() == pytest.approx(value.std().item(), rel=0.05), key
            elif "running" not in key and value.unique().numel() == 1:
                assert torch.equal(weights[key], value), key

    def test_the_recipes_of_the_paper(self):
        for name, decay in (("cifar10_gac_T4", 5e-5), ("imagenet_gac18_T4", 1e-5)):
            (group,) = training(name).step.optimizer.param_groups
            assert (group["initial_lr"], group["momentum"], group["nesterov"]) == (0.1, 0.9, False)
            assert group["weight_decay"] == decay

    def test_the_modern_recipe(self):
        run = training("cifar100_direct_max_T4_timm")
        decays = {id(p): group["weight_decay"] for group in run.step.optimizer.param_groups for p in group["params"]}
        assert {decays[id(p)] for p in run.model.parameters() if p.ndim > 1} == {0.06}
        assert {decays[id(p)] for p in run.model.parameters() if p.ndim <= 1} == {0.0}
        assert run.step.tested is run.step.ema.module

    @pytest.mark.parametrize("name", CONFIGS)
    def test_the_page_of_experiments_has_it(self, name):
        assert PAGE.count(f"\n| `{name}` | ") == 1

    @pytest.mark.parametrize("command", COMMANDS)
    def test_commands_exist_with_these_arguments(self, command):
        words = shlex.split(command)
        script = next(word for word in words if word.endswith((".py", ".sh")))
        assert (EXPERIMENTS.parent / script).exists()
        if script.endswith("train.py"):
            parser = argparse.ArgumentParser()
            parser.add_argument("--dry-run", action="store_true")
            add_arguments(parser)
            arguments = [re.sub("^experiments", str(EXPERIMENTS), word) for word in words[words.index(script) + 1 :]]
            from_args(parser.parse_args(arguments))


def write_rows(path, name, last, best=None, curve=(), first_seed=0, **changes):
    """Rows of a config as finished runs leave them, one for each last accuracy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for seed, accuracy in enumerate(last, first_seed):
        run = settings(name, seed=seed, **changes)
        measured = dict.fromkeys(MEASURED_COLUMNS, "1") | {"accuracy_last": accuracy, "accuracy_best": accuracy}
        measured |= {"accuracy_by_steps": "[1.0]", "firing_rates": "{}"}
        measured |= {"commit": "abc", "device": "a device", "images_per_second": 100.0 + seed}
        measured["accuracy_by_epoch"] = json.dumps({"1": accuracy - 1.0, "2": accuracy})
        if best:
            measured["accuracy_best"] = best[seed - first_seed]
        if curve:
            measured["accuracy_by_epoch"] = json.dumps(dict(enumerate(curve[seed - first_seed], 1)))
        Rows(path, RUNS).add(run_key(run, data_for(run)) | measured | NOT_ANALYSED)
    return path


class TestLedger:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        """An experiments folder of its own, without rows."""
        monkeypatch.setattr(ledger, "FOLDER", tmp_path)
        monkeypatch.chdir(tmp_path)
        for name in ("recipes/cifar", "configs/cifar10_gac_T4", "configs/cifar10_direct_T4"):
            (tmp_path / f"{name}.yaml").parent.mkdir(exist_ok=True)
            (tmp_path / f"{name}.yaml").write_bytes((EXPERIMENTS / f"{name}.yaml").read_bytes())
        return tmp_path

    @staticmethod
    def printed(capsys, *places):
        """What the command prints, and the lines of its first table as dicts."""
        assert ledger.main(["--runs", *map(str, places)]) == 0
        text = capsys.readouterr().out
        cells = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in text.split("## Configs")[0].splitlines()
            if line[:1] == "|"
        ]
        return text, [dict(zip(LEDGER_COLUMNS, line, strict=True)) for line in cells[2:]]

    def test_the_checked_in_one_is_printed_by_default(self, monkeypatch, capsys):
        monkeypatch.chdir(EXPERIMENTS.parent)
        assert ledger.main([]) == 0
        assert capsys.readouterr().out.strip() in (DOCS / "ledger.md").read_text(encoding="utf-8")

    def test_sets(self, folder, capsys):
        path = write_rows(folder / "results/some/results.csv", "cifar10_gac_T4", [90.0, 92.0, 94.0], [91.0, 93.0, 96.5])
        write_rows(path, "cifar10_gac_T4", [50.0], epochs=3, train_limit=200)
        write_rows(path, "cifar10_gac_T4", [80.0], form="unit_gate")
        text, (full, short, other) = self.printed(capsys, path)
        assert full["config"] == "`configs/cifar10_gac_T4.yaml`"
        assert [full[name] for name in ("encoder", "data set", "T", "epochs")] == [
            "gac:reference", "cifar10", "4", "250",
        ]  # fmt: skip
        assert (full["n"], full["seeds"], full["commit"]) == ("3", "0; 1; 2", "abc")
        assert (full["last epoch (%)"], full["best epoch (%)"]) == ("92.00 ± 2.00", "93.50 ± 2.78")
        assert full["images/s"] == "101 on a device"
        assert full["rows"] == "`results/some/results.csv`"
        assert short["config"] == other["config"] == "-"
        assert (short["data set"], short["epochs"], short["last epoch (%)"]) == (
            "cifar10, 200 training images", "3", "50.00",
        )  # fmt: skip
        assert other["encoder"] == "gac:unit_gate"
        idle = "| `configs/cifar10_direct_T4.yaml` | not run |"
        assert idle in text and text.count("not run |") == 1

    def test_runs_of_several_folders_make_one_set_and_copies_count_once(self, folder, capsys):
        for seed in (1, 0):
            path = folder / f"runs/cifar10_gac_T4/seed{seed}/result.csv"
            write_rows(path, "cifar10_gac_T4", [90.0 + seed], first_seed=seed)
        (folder / "results").mkdir()
        (folder / "results/result.csv").write_bytes(path.read_bytes())
        (folder / "results/summary.csv").write_text("epoch,top1\n1,90\n")  # a log, no rows
        _, (line,) = self.printed(capsys, folder / "runs", folder / "results")
        assert (line["n"], line["seeds"]) == ("2", "0; 1")
        assert line["rows"].count(".csv`") == 2 and "runs/cifar10_gac_T4/seed0/result.csv" in line["rows"]

    @pytest.mark.parametrize(
        ("curves", "expected"),
        [
            ([[1, 50, 52.0], [1, 60, 61.0], [1, 70, 73.0]], f"yes (+2.00 ± {1 / 3**0.5:.2f})"),
            ([[50, 52.0], [60, 59.0], [70, 70.5]], f"no (+0.50 ± {1.5 / 3**0.5:.2f})"),
            ([[50, 52.0]], "-"),
            ([[50], [60]], "-"),
        ],
    )
    def test_still_rising(self, folder, capsys, curves, expected):
        path = write_rows(folder / "r.csv", "cifar10_gac_T4", [curve[-1] for curve in curves], curve=curves)
        _, (line,) = self.printed(capsys, path)
        assert line["still rising"] == expected

    def test_refusals(self, folder, capsys):
        places = ["--runs", folder / "one.csv", folder / "two.csv"]
        refused(capsys, ledger.main, ["--runs", folder / "nowhere"], "nowhere")
        write_rows(folder / "one.csv", "cifar10_gac_T4", [90.0])
        write_rows(folder / "two.csv", "cifar10_gac_T4", [91.0])
        refused(capsys, ledger.main, places, "one.csv", "two.csv", "seed 0", folder=folder)
        (folder / "two.csv").write_text("encoder,accuracy_last\ngac,9\n")
        refused(capsys, ledger.main, places, "two.csv", "lacks columns", folder=folder)
        (folder / "two.csv").write_bytes((folder / "one.csv").read_bytes()[:-30])
        refused(capsys, ledger.main, places, "two.csv", "damaged", folder=folder)


class TestCompare:
    @pytest.fixture
    def rows(self, tmp_path):
        """A and B in one file: last epochs differ by 1, 2, 3 points, best ones by -1, -1.5, -2."""
        path = tmp_path / "results.csv"
        write_rows(path, "cifar10_gac_T4", [91.0, 93.0, 95.0, 50.0], [91.0, 92.5, 94.0, 50.0])
        write_rows(path, "cifar10_direct_T4", [90.0, 91.0, 92.0], [92.0, 94.0, 96.0])
        return path

    def test_interval_by_hand(self):
        # mean 2, std 1, n = 3; Student's t with 2 degrees of freedom is 4.302653 at 0.975
        half = 4.302653 / 3**0.5
        # t = 2 * sqrt(3), and with 2 degrees of freedom p = 1 - t / sqrt(t^2 + 2)
        p = 1 - 2 * 3**0.5 / 14**0.5
        assert astuple(interval([1.0, 2.0, 3.0])) == pytest.approx((2, 2 - half, 2 + half, 3, p), abs=1e-5)
        # n = 5: 2.776445
        values = [0.1, 0.4, 0.2, 0.3, 0.5]
        half = 2.776445 * statistics.stdev(values) / 5**0.5
        assert astuple(interval(values))[:4] == pytest.approx((0.3, 0.3 - half, 0.3 + half, 5), abs=1e-6)

    @pytest.mark.parametrize(("difference", "p"), [(0.0, 1.0), (2.0, 0.0)])
    def test_equal_differences(self, difference, p):
        assert astuple(interval([difference] * 3)) == (difference, difference, difference, 3, p)

    def test_correction_by_hand(self):
        """Holm: the smallest of m p-values times m, the next times m - 1, ..., never falling, at most 1."""
        found = [Interval(0.0, 0.0, 0.0, 3, p) for p in (0.04, 0.01, 0.9, 0.03)]
        assert corrected(found) == pytest.approx([0.09, 0.04, 0.9, 0.09])
        assert corrected(found[:1]) == [0.04]

    def test_without_scipy(self, monkeypatch):
        """It comes with the extra "benchmark"."""
        monkeypatch.setitem(sys.modules, "scipy", None)
        with pytest.raises(ValueError, match=r"SciPy.*pip install 'gac_sj\[benchmark\]'"):
            interval([1.0, 2.0, 3.0])

    def test_report(self, rows, capsys):
        assert compare.main([f"{rows}:gac:reference", f"{rows}:direct"]) == 0
        printed = capsys.readouterr().out
        assert "A: gac_ms_resnet18_cifar, gac:reference, 4 seeds" in printed
        assert "| 0 | 91.00 | 90.00 | +1.00 | 91.00 | 92.00 | -1.00 |" in printed
        assert "| 2 | 95.00 | 92.00 | +3.00 | 94.00 | 96.00 | -2.00 |" in printed and "| 3 |" not in printed
        assert "last epoch: A - B = +2.00 points, 95 % confidence interval [-0.48, +4.48]" in printed
        assert "best epoch: A - B = -1.50 points, 95 % confidence interval [-2.74, -0.26]" in printed
        assert "no significant difference at the 95 % level (3 seeds)" in printed

    @pytest.mark.parametrize(("shift", "word"), [(5.0, "above"), (-5.0, "below")])
    def test_an_interval_without_0(self, tmp_path, capsys, shift, word):
        """Folders of single runs, as train.py leaves them."""
        for seed, accuracy in enumerate((90.0, 91.0, 92.0)):
            noise = (0.1, 0.0, -0.1)[seed]
            a, b = (tmp_path / f"{name}/seed{seed}/result.csv" for name in "ab")
            write_rows(a, "cifar10_gac_T4", [accuracy + shift + noise], first_seed=seed)
            write_rows(b, "cifar10_direct_T4", [accuracy], first_seed=seed)
        assert compare.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
        assert f"excludes 0: A is {word} B" in capsys.readouterr().out

    def test_a_file_with_several_settings(self, rows, capsys):
        refused(capsys, compare.main, [rows, f"{rows}:direct"], "mixes", "encoder: gac, direct", ":ENCODER")

    def test_several_epochs_under_one_name(self, rows, capsys):
        write_rows(rows, "cifar10_direct_T4", [80.0], first_seed=7, epochs=3)
        refused(capsys, compare.main, [f"{rows}:gac:reference", f"{rows}:direct"], "mixes", "epochs: 250, 3")

    def test_other_settings(self, rows, tmp_path, capsys):
        other = write_rows(tmp_path / "other.csv", "cifar10_direct_T4", [1.0, 2.0, 3.0], lr=0.2, T=2)
        refused(capsys, compare.main, [f"{rows}:gac:reference", other], "T: 4, 2", "lr: 0.1, 0.2")

    def test_too_few_common_seeds(self, rows, tmp_path, capsys):
        other = write_rows(tmp_path / "other.csv", "cifar10_direct_T4", [1.0, 2.0, 3.0], first_seed=2)
        refused(capsys, compare.main, [f"{rows}:gac:reference", other], "2 seeds (2, 3)", f"needs {MIN_SEEDS}")

    def test_the_same_settings(self, rows, capsys):
        refused(capsys, compare.main, [f"{rows}:direct", f"{rows}:direct"], "same settings")

    def test_an_encoder_that_is_not_registered(self, rows, tmp_path, capsys):
        """Its rows are compared without importing it."""
        path = tmp_path / "theirs.csv"
        text = rows.read_text().replace(",gac,reference,None,", ",affine,None,affine.py:0123456789ab,")
        path.write_text(text.replace("gac_ms_resnet18_cifar", "ms_resnet18_cifar"))
        assert compare.main([f"{path}:affine", f"{path}:direct"]) == 0
        printed = capsys.readouterr().out
        assert "A: ms_resnet18_cifar, affine, 4 seeds" in printed and "A - B = +2.00 points" in printed

    def test_an_encoder_that_is_not_there(self, rows, capsys):
        refused(capsys, compare.main, [f"{rows}:gac", f"{rows}:direct"], "'gac'", "gac:reference, direct")

    @pytest.mark.parametrize("content", [None, "", "epoch,top1\n1,90\n", "encoder,accuracy_last\ngac,9\n"])
    def test_no_rows(self, rows, tmp_path, capsys, content):
        path = tmp_path / "a/results.csv"
        path.parent.mkdir()
        if content is not None:
            path.write_text(content)
        refused(capsys, compare.main, [path.parent, f"{rows}:direct"], str(path.parent))


def test_the_confusion_of_classes_with_any_names(tmp_path, capsys):
    names = ("cat, black", 'the "dog"', "two\nlines", "folder_\udcff")
    confusion = torch.arange(16).view(4, 4)
    evaluate.write(tmp_path, Evaluation(0.5, 0.25, 1.0, torch.tensor([0.25]), confusion), names)
    shown = [name.replace("\udcff", r"\udcff") for name in names]
    with open(tmp_path / "confusion.csv", newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == ["", *shown]
    assert rows == [[name, *map(str, row)] for name, row in zip(shown, confusion.tolist())]
    assert list(json.loads((tmp_path / "evaluation.json").read_text())["top1_by_class"]) == list(names)


def test_rows_have_the_settings_of_their_config():
    """The ledger compares texts of settings with those of rows."""
    for path, text in read_configs(EXPERIMENTS / "configs").items():
        if path.name.startswith("cifar10_"):
            run = settings(path.stem)
            row = run_key(run, data_for(run))
            assert text == {key: row[key] for key in KEY_COLUMNS if key not in ("seed", "data", *run.open)}
