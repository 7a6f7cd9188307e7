"""The main job, benchmarks/run_cifar.py: what it trains, writes, keeps and refuses."""

import contextlib
import csv
import io
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tqdm import tqdm

from gac_sj.data import DATASETS, ImageSet, load_image_sets
from gac_sj.encoding import ENCODERS, RECIPES

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import rows as rows_module  # noqa: E402
import run_cifar  # noqa: E402
from rows import Rows  # noqa: E402

DIGITS = ["--dataset", "digits", "--train-limit", "130", "--epochs", "2", "-T", "2", "--device", "cpu"]
# a part of results.csv that depends on time or place
PASSING = {"train_seconds", "images_per_second", "date"}


def table(folder):
    """results.csv as dicts."""
    with open(folder / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}


def write_folder(root, seed=0, classes=("ant", "cat"), train=4, test=2):
    """An image folder of noise."""
    random = np.random.default_rng(seed)
    for split, count in (("train", train), ("test", test)):
        for label in classes:
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8))
                image.save(root / split / label / f"{number}.png")
    return root


def process(folder, *arguments):
    """The command as users call it, in its own process in ``folder``."""
    command = [sys.executable, BENCHMARKS / "run_cifar.py", *arguments, "--device", "cpu"]
    # SpikingJelly 0.0.0.0.14 makes torch warn on import, whoever imports it
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore::FutureWarning"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def run(encoder="direct", **changes):
    """The settings of a run on digits."""
    args = run_cifar.parse([*DIGITS, "--output", "unused"])
    return run_cifar.settings(args, encoder) | {"seed": 0} | changes


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads of such small networks only wait for each other where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished comparison of all encoders with two seeds: its command and folder, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    command = [*DIGITS, "--seeds", "0", "1", "--output", str(folder)]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert run_cifar.main(command) == 0
    return command, folder, printed.getvalue()


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(run_cifar, "train", lambda *args: pytest.fail("it trains"))


@pytest.fixture
def trained(monkeypatch):
    """Training is played; the list of what is trained: (run, training set)."""
    calls = []

    def train(run, train_set, test_set, device):
        calls.append((run, train_set))
        accuracy = 50.0 + len(calls)
        return dict.fromkeys(run_cifar.MEASURED, "1") | {"accuracy_best": accuracy, "accuracy_last": accuracy}

    monkeypatch.setattr(run_cifar, "train", train)
    return calls


class TestResults:
    def test_a_row_for_each_encoder_and_seed(self, finished):
        rows = table(finished[1])
        assert sorted((row["encoder"], row["seed"]) for row in rows) == sorted(
            (name, seed) for name in ENCODERS for seed in "01"
        )
        assert tuple(rows[0]) == run_cifar.SETTINGS + run_cifar.MEASURED
        for row in rows:
            assert all(row.values()), row

    def test_settings(self, finished):
        for row in table(finished[1]):
            found = {
                name: row[name] for name in ("dataset", "train_limit", "train_images", "test_images", "T", "epochs")
            }
            assert list(found.values()) == ["digits", "130", "130", "360", "2", "2"]
            recipe = {name: float(row[name]) for name in ("batch_size", "learning_rate", "momentum", "weight_decay")}
            assert recipe == {"batch_size": 64, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
            assert row["augmentation"] == "none"

    def test_accuracies(self, finished):
        for row in table(finished[1]):
            by_epoch = json.loads(row["accuracy_by_epoch"])
            assert list(by_epoch) == ["1", "2"]
            assert float(row["accuracy_last"]) == by_epoch["2"]
            assert float(row["accuracy_best"]) == max(by_epoch.values()) == by_epoch[row["best_epoch"]]
            assert 0 <= float(row["accuracy_last"]) <= 100
            # thousandths of a percent of 360 images are whole images
            assert float(row["accuracy_last"]) * 3.6 == pytest.approx(
                round(float(row["accuracy_last"]) * 3.6), abs=0.01
            )

    def test_firing_rates_of_every_neuron_layer(self, finished):
        for row in table(finished[1]):
            rates = json.loads(row["firing_rates"])
            model = run_cifar.build(run(encoder=row["encoder"]), 10, 1)
            neurons = [name for name, module in model.named_modules() if type(module).__name__ == "LIFNode"]
            assert list(rates) == neurons
            assert all(0 <= rate <= 1 for rate in rates.values()) and rates["stages.0.0.lif1"] > 0
            assert float(row["firing_rate_mean"]) == pytest.approx(statistics.mean(rates.values()), abs=2e-5)

    def test_parameters(self, finished):
        for row in table(finished[1]):
            model = run_cifar.build(run(encoder=row["encoder"]), 10, 1)
            assert int(row["parameters"]) == sum(p.numel() for p in model.parameters())

    def test_report(self, finished):
        _, folder, printed = finished
        report = (folder / "report.md").read_text()
        cells = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in report.splitlines() if line[:1] == "|"
        ]
        assert [line[0] for line in cells[2:]] == list(ENCODERS)
        for line in cells[2:]:
            rows = [row for row in table(folder) if row["encoder"] == line[0]]
            assert line[1] == "2"
            for cell, column in ((line[2], "accuracy_last"), (line[3], "accuracy_best")):
                values = [float(row[column]) for row in rows]
                assert cell == f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
            assert float(line[4]) == pytest.approx(
                statistics.mean(float(r["firing_rate_mean"]) for r in rows), abs=6e-4
            )
            assert line[5].replace(",", "") == rows[0]["parameters"]
            assert "| " + " | ".join(line) + " |" in printed
        assert table(folder)[0]["commit"] in report and table(folder)[0]["versions"] in report

    def test_plot(self, finished):
        with Image.open(finished[1] / "accuracy.png") as image:
            image.load()
            assert min(image.size) > 200 and len(image.convert("L").getcolors()) > 3

    def test_no_temporary_file_is_left(self, finished):
        assert set(contents(finished[1])) == {"results.csv", "report.md", "accuracy.png"}

    def test_progress_and_rows_of_an_image_folder(self, tmp_path):
        """As users call it, from any folder."""
        write_folder(tmp_path / "images")
        command = ["--dataset", "folder", "--data-dir", "images", "--epochs", "1", "--encoders", "direct"]
        done = process(tmp_path, *command, "--seeds", "3", "-T", "1", "--output", "out")
        assert done.returncode == 0, done.stderr
        assert "direct, seed 3, epoch 1/1" in done.stderr and "| direct | 1 |" in done.stdout
        (row,) = table(tmp_path / "out")
        assert (row["train_images"], row["test_images"], row["train_limit"]) == ("8", "4", "all")
        assert row["augmentation"] == "crop4,flip"
        assert {"report.md", "accuracy.png"} <= set(contents(tmp_path / "out"))


class TestSeeds:
    def test_the_same_seed_gives_the_same_numbers(self, finished, tmp_path):
        """Whatever was trained before in the process."""
        encoders = ["poisson", "gac"]
        torch.rand(3)
        run_cifar.main([*DIGITS, "--encoders", *encoders, "--seeds", "1", "--output", str(tmp_path)])
        for row in table(tmp_path):
            (first,) = (r for r in table(finished[1]) if (r["encoder"], r["seed"]) == (row["encoder"], "1"))
            assert {k: v for k, v in row.items() if k not in PASSING} == {
                k: v for k, v in first.items() if k not in PASSING
            }

    def test_another_seed_gives_other_numbers(self, finished):
        for name in ENCODERS:
            first, second = (row for row in table(finished[1]) if row["encoder"] == name)
            assert first["train_loss_last"] != second["train_loss_last"]

    def test_every_seed_trains_on_the_same_balanced_images(self, trained, tmp_path):
        run_cifar.main([*DIGITS, "--encoders", "gac", "direct", "--output", str(tmp_path)])
        sets = [train_set for _, train_set in trained]
        assert len(sets) == 6 and torch.bincount(sets[0].labels).tolist() == [13] * 10
        assert all(torch.equal(other.images, sets[0].images) for other in sets)

    def test_every_encoder_sees_the_images_in_the_same_order(self, monkeypatch, tmp_path):
        seen = {}
        real = run_cifar.train_one_epoch

        def train_one_epoch(model, batches, optimizer, before_step):
            order = []

            def observed():
                for images, labels in batches:
                    order.extend(labels.tolist())
                    yield images, labels

            loss = real(model, observed(), optimizer, before_step)
            seen.setdefault(model.name, []).append(order)
            return loss

        def build(run, *args):
            model = real_build(run, *args)
            model.name = run["encoder"]
            return model

        real_build = run_cifar.build
        monkeypatch.setattr(run_cifar, "train_one_epoch", train_one_epoch)
        monkeypatch.setattr(run_cifar, "build", build)
        run_cifar.main([*DIGITS, "--encoders", "direct", "gac", "poisson", "--seeds", "0", "--output", str(tmp_path)])
        first, second = seen["direct"]
        assert first != second and sorted(first) == sorted(second)
        assert seen["gac"] == [first, second]
        assert seen["poisson"] == [first, second]


class TestContinue:
    def test_a_finished_command_trains_nothing_and_reports_the_same(self, finished, no_training):
        command, folder, _ = finished
        before = contents(folder)
        assert run_cifar.main(command) == 0
        after = contents(folder)
        assert (after["results.csv"], after["report.md"]) == (before["results.csv"], before["report.md"])

    def test_after_an_interruption(self, trained, tmp_path, monkeypatch, capsys):
        played = run_cifar.train

        def train(run, *args):
            if len(trained) == 1:
                raise KeyboardInterrupt
            return played(run, *args)

        command = [*DIGITS, "--encoders", "gac", "direct", "--seeds", "0", "1", "--output", str(tmp_path)]
        monkeypatch.setattr(run_cifar, "train", train)
        assert run_cifar.main(command) == 130
        assert capsys.readouterr().err.count("\n") == 1
        (first,) = table(tmp_path)
        assert (first["encoder"], first["seed"]) == ("gac", "0")

        monkeypatch.setattr(run_cifar, "train", played)
        trained.clear()
        assert run_cifar.main(command) == 0
        assert [(run["encoder"], run["seed"]) for run, _ in trained] == [("direct", 0), ("gac", 1), ("direct", 1)]
        assert table(tmp_path)[0] == first and len(table(tmp_path)) == 4
        assert "| direct | 2 |" in (tmp_path / "report.md").read_text()

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
    )
    def test_other_settings_reuse_nothing_and_keep_what_is_there(self, change, trained, tmp_path):
        command = [*DIGITS, "--encoders", "gac", "--seeds", "0", "--output", str(tmp_path)]
        run_cifar.main(command)
        before = table(tmp_path)
        assert run_cifar.main([*command, *change]) == 0
        assert len(trained) == 2 and table(tmp_path)[:-1] == before
        report = (tmp_path / "report.md").read_text()
        assert "| 1 | 52.00 |" in report and "51.00" not in report

    def test_other_images_reuse_nothing(self, trained, tmp_path):
        for seed, name in enumerate(("one", "two")):
            folder = write_folder(tmp_path / name, seed)
            command = ["--dataset", "folder", "--data-dir", str(folder), "--encoders", "gac", "--seeds", "0"]
            assert run_cifar.main([*command, "--output", str(tmp_path / "out")]) == 0
        assert len(trained) == 2

    def test_a_repeated_seed_or_encoder_counts_once(self, trained, tmp_path):
        run_cifar.main([*DIGITS, "--encoders", "gac", "gac", "--seeds", "0", "0", "--output", str(tmp_path)])
        assert len(trained) == len(table(tmp_path)) == 1
        assert "| gac | 1 |" in (tmp_path / "report.md").read_text()

    def test_a_loss_that_is_not_finite(self, trained, tmp_path, monkeypatch, capsys):
        played = run_cifar.train

        def train(run, *args):
            if run["seed"] == 1:
                raise FloatingPointError("The training loss became nan.")
            return played(run, *args)

        monkeypatch.setattr(run_cifar, "train", train)
        command = [*DIGITS, "--encoders", "gac", "--seeds", "0", "1", "--output", str(tmp_path)]
        assert run_cifar.main(command) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "gac, seed 1: The training loss became nan" in error
        assert [row["seed"] for row in table(tmp_path)] == ["0"]


class TestRecipe:
    @pytest.mark.parametrize("recipe", RECIPES)
    def test_gac_in_a_named_form(self, recipe):
        model = run_cifar.build(run(encoder=f"gac:{recipe}"), 10, 1)
        assert model.encoder.recipe == recipe and model.encoder.T == 2
        assert model.encoder.is_reference == (recipe == "reference")
        strict = [getattr(m.surrogate_function, "strict", None) for m in model.modules() if hasattr(m, "v_threshold")]
        assert strict[-1] == (recipe == "reference")

    def test_learning_rate(self, monkeypatch, tmp_path):
        """One epoch of warm-up, then a cosine to (nearly) zero."""
        rates = self.rates(monkeypatch, tmp_path, 640, 10)
        warm, cosine = rates[:10], rates[10:]
        assert warm == pytest.approx([0.01 * step for step in range(1, 11)])
        expected = [0.05 * (1 + math.cos(math.pi * step / len(cosine))) for step in range(1, len(cosine) + 1)]
        assert cosine == pytest.approx(expected, abs=0.003)

    @pytest.mark.parametrize("images, epochs", [(40, 1), (40, 3), (640, 1)])
    def test_every_step_trains(self, images, epochs, monkeypatch, tmp_path):
        assert min(self.rates(monkeypatch, tmp_path, images, epochs)) > 0

    def test_a_left_out_last_image_does_not_stretch_the_schedule(self, monkeypatch, tmp_path):
        rates = self.rates(monkeypatch, tmp_path, 65, 10)
        assert len(rates) == 10 and rates[-1] < 0.01

    def rates(self, monkeypatch, folder, images, epochs, every=100):
        """The learning rate of every step."""
        rates = []

        def train_one_epoch(model, batches, optimizer, before_step):
            for _ in batches:
                before_step()
                rates.append(optimizer.param_groups[0]["lr"])
            return 1.0

        monkeypatch.setattr(run_cifar, "train_one_epoch", train_one_epoch)
        command = [*DIGITS, "--train-limit", str(images), "--epochs", str(epochs), "--eval-every", str(every)]
        run_cifar.main([*command, "-T", "1", "--encoders", "direct", "--seeds", "0", "--output", str(folder)])
        return rates

    def test_eval_every(self, tmp_path):
        command = [*DIGITS, "--train-limit", "20", "--epochs", "3", "--eval-every", "2", "-T", "1"]
        run_cifar.main([*command, "--encoders", "direct", "--seeds", "0", "--output", str(tmp_path)])
        assert list(json.loads(table(tmp_path)[0]["accuracy_by_epoch"])) == ["2", "3"]

    def test_the_best_and_the_last_epoch(self, monkeypatch, tmp_path):
        tested = iter([(0.3, 2.0), (0.5, 1.5), (0.4, 1.75)])
        real = run_cifar.evaluate

        def evaluate(model, batches):
            real(model, batches)
            return next(tested)

        monkeypatch.setattr(run_cifar, "evaluate", evaluate)
        self.rates(monkeypatch, tmp_path, 20, 3, every=1)
        (row,) = table(tmp_path)
        assert (row["accuracy_best"], row["best_epoch"]) == ("50.0", "2")
        assert (row["accuracy_last"], row["test_loss_last"]) == ("40.0", "1.75")
        assert json.loads(row["accuracy_by_epoch"]) == {"1": 30.0, "2": 50.0, "3": 40.0}

    def test_all_of_the_data_and_its_own_epochs_by_default(self, trained, tmp_path):
        run_cifar.main(["--dataset", "digits", "--seeds", "0", "--output", str(tmp_path)])
        assert [run["encoder"] for run, _ in trained] == list(ENCODERS)
        assert {(run["epochs"], run["T"], len(images)) for run, images in trained} == {
            (run_cifar.DEFAULT_EPOCHS["digits"], 4, 1437)
        }


class TestBatches:
    def batches(self, image_set, settings, train):
        channels = image_set.images.shape[1]
        model = run_cifar.build(settings, len(image_set.classes), channels)
        return list(run_cifar.batches(image_set, settings, model, "cpu", train, tqdm(disable=True)))

    def cifar(self, count=64):
        """One and the same image of noise ``count`` times."""
        image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return ImageSet(image.repeat(count, 1, 1, 1), torch.arange(count) % 10, tuple("0123456789"))

    @pytest.mark.parametrize("name", ENCODERS)
    @pytest.mark.parametrize("dataset", ["digits", "cifar10"])
    def test_normalisation_is_what_the_encoder_needs(self, name, dataset):
        test = load_image_sets("digits")[1] if dataset == "digits" else self.cifar()
        ((images, labels), *_) = self.batches(test, run(dataset=dataset, encoder=name), train=False)
        pixels = test.images[: len(images)].float() / 255
        if not ENCODERS[name].needs_unit_range:
            mean, std = (torch.tensor(values).view(-1, 1, 1) for values in DATASETS[dataset])
            pixels = (pixels - mean) / std
            assert images.min() < -0.5
        torch.testing.assert_close(images, pixels)
        assert torch.equal(labels, test.labels[: len(labels)])

    def test_encoders_that_need_pixels(self):
        assert {name for name in ENCODERS if ENCODERS[name].needs_unit_range} == {
            "poisson",
            "latency",
            "weighted_phase",
        }

    def test_each_image_is_cropped_and_flipped_by_itself(self):
        image_set = self.cifar()
        padded = torch.nn.functional.pad(image_set.images[0], (4, 4, 4, 4))
        crops = {}
        for top in range(9):
            for left in range(9):
                crop = padded[:, top : top + 32, left : left + 32]
                crops[crop.numpy().tobytes()] = (top, left, False)
                crops[crop.flip(-1).numpy().tobytes()] = (top, left, True)
        torch.manual_seed(0)
        ((images, _),) = self.batches(
            image_set, run(dataset="cifar10", encoder="poisson", augmentation="crop4,flip"), True
        )
        drawn = [crops[image.mul(255).round().to(torch.uint8).numpy().tobytes()] for image in images]
        assert len(set(drawn)) > 32
        assert {top for top, _, _ in drawn} == {left for _, left, _ in drawn} == set(range(9))
        assert 16 <= sum(flipped for _, _, flipped in drawn) <= 48

    def test_the_test_set_is_left_as_it_is(self):
        image_set = self.cifar(251)
        batches = self.batches(image_set, run(dataset="cifar10", encoder="poisson", augmentation="crop4,flip"), False)
        assert torch.equal(torch.cat([images for images, _ in batches]).mul(255).round().byte(), image_set.images)
        assert torch.equal(torch.cat([labels for _, labels in batches]), image_set.labels)

    def test_digits_are_shuffled_and_nothing_else(self):
        digits = load_image_sets("digits")[0]
        batches = self.batches(digits, run(encoder="poisson"), True)
        images = torch.cat([images for images, _ in batches]).mul(255).round().byte()
        labels = torch.cat([labels for _, labels in batches])
        assert not torch.equal(labels, digits.labels)
        found, whole = (
            torch.cat([i.flatten(1), j.byte().unsqueeze(1)], 1).numpy()
            for i, j in ((images, labels), (digits.images, digits.labels))
        )
        assert np.array_equal(found[np.lexsort(found.T)], whole[np.lexsort(whole.T)])

    def test_no_training_batch_of_one_image(self):
        sizes = [
            [len(labels) for _, labels in self.batches(self.cifar(count), run(dataset="cifar10"), True)]
            for count in (65, 66)
        ]
        assert sizes == [[64], [64, 2]]

    @pytest.mark.parametrize(
        "dataset, expected", [("digits", "none"), ("cifar10", "crop4,flip"), ("folder", "crop4,flip")]
    )
    def test_augmentation_of_each_data_set(self, dataset, expected):
        args = run_cifar.parse(["--dataset", dataset, "--output", "unused"])
        assert run_cifar.settings(args, "direct")["augmentation"] == expected


class TestRows:
    COLUMNS = ("name", "rate", "result")

    def rows(self, folder):
        return Rows(folder / "results.csv", ("name", "rate"), self.COLUMNS)

    def test_find(self, tmp_path):
        rows = self.rows(tmp_path / "new" / "folder")
        assert rows.find({"name": "a", "rate": 5e-4}) is None
        rows.add({"name": "a", "rate": 5e-4, "result": '{"x": 1, "y": "ä\n"}'})
        again = self.rows(tmp_path / "new" / "folder")
        assert again.find({"name": "a", "rate": 5e-4})["result"] == '{"x": 1, "y": "ä\n"}'
        assert again.find({"name": "a", "rate": 5e-3}) is None and again.find({"name": "b", "rate": 5e-4}) is None

    @pytest.mark.parametrize("text", ["name,result\na,1\n", "rate,name,result\n1,a,1\n", "", "notes\n"])
    def test_a_file_of_other_columns_stays_untouched(self, text, tmp_path):
        path = tmp_path / "results.csv"
        path.write_text(text)
        with pytest.raises(ValueError, match=f"{path} has columns of another version"):
            self.rows(tmp_path)
        assert path.read_text() == text

    def test_two_open_tables_keep_the_rows_of_both(self, tmp_path):
        first, second = self.rows(tmp_path), self.rows(tmp_path)
        first.add({"name": "a", "rate": 1, "result": 1})
        second.add({"name": "b", "rate": 1, "result": 2})
        first.add({"name": "c", "rate": 1, "result": 3})
        assert [row["name"] for row in table(tmp_path)] == ["a", "b", "c"]
        assert first.find({"name": "b", "rate": 1})["result"] == "2"

    def test_two_processes_keep_the_rows_of_both(self, tmp_path):
        code = (
            f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); from pathlib import Path; from rows import Rows\n"
            f"rows = Rows(Path({str(tmp_path / 'results.csv')!r}), ('name', 'rate'), {self.COLUMNS})\n"
            "for rate in range(40): rows.add({'name': sys.argv[1], 'rate': rate, 'result': 0})"
        )
        processes = [subprocess.Popen([sys.executable, "-c", code, name]) for name in "ab"]
        assert [process.wait() for process in processes] == [0, 0]
        assert sorted((row["name"], int(row["rate"])) for row in table(tmp_path)) == [
            (name, rate) for name in "ab" for rate in range(40)
        ]

    def test_a_full_disk_keeps_what_is_there(self, tmp_path, monkeypatch):
        rows = self.rows(tmp_path)
        rows.add({"name": "a", "rate": 1, "result": 1})
        before = (tmp_path / "results.csv").read_bytes()

        def fsync(file):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(rows_module.os, "fsync", fsync)
        with pytest.raises(OSError, match="No space left"):
            rows.add({"name": "b", "rate": 1, "result": 2})
        assert (tmp_path / "results.csv").read_bytes() == before


def bad_folder(root):
    """An image folder without its test set."""
    write_folder(root)
    (root / "test").rename(root.parent / "elsewhere")
    return root


class TestBadInput:
    """Status 2, one line that names what is wrong, and nothing trained or changed."""

    @pytest.fixture
    def output(self, trained, tmp_path, monkeypatch):
        """A folder with results."""
        folder = tmp_path / "out"
        run_cifar.main([*DIGITS, "--encoders", "gac", "--seeds", "0", "--output", str(folder)])
        monkeypatch.setattr(run_cifar, "train", lambda *args: pytest.fail("it trains"))
        return folder

    def refused(self, output, capsys, arguments, words):
        before = contents(output)
        capsys.readouterr()
        assert run_cifar.main([*DIGITS, "--output", str(output), *arguments]) == 2
        out, error = capsys.readouterr()
        assert out == "" and error.count("\n") == 1 and error.endswith(".\n"), error
        for word in words:
            assert word in error
        assert contents(output) == before

    @pytest.mark.parametrize(
        "arguments, words",
        [
            (["--encoders", "gac", "rate"], ["--encoders", "'rate'", "weighted_phase"]),
            (["--encoders", "gac:nope"], ["--encoders", "'gac:nope'", "gac:reference"]),
            (["--encoders", "gac:"], ["--encoders", "'gac:'"]),
            (["--encoders", "direct:reference"], ["--encoders", "'direct:reference'"]),
            (["--model", "resnet18"], ["--model", "'resnet18'", "ms_resnet8_cifar"]),
            (["--dataset", "mnist"], ["--dataset", "'mnist'", "digits"]),
            (["-T", "0"], ["T is 0"]),
            (["--epochs", "0"], ["--epochs is 0"]),
            (["--epochs", "-1"], ["--epochs is -1"]),
            (["--eval-every", "0"], ["--eval-every is 0"]),
            (["--train-limit", "0"], ["--train-limit is 0"]),
            (["--train-limit", "5000"], ["5000"]),
            (["--train-limit", "1"], ["one image"]),
            (["--seeds", "0", "99999999999999999999"], ["--seeds", "99999999999999999999"]),
            (["--device", "nonsense"], ["--device", "'nonsense'"]),
            (["--device", "cpu:x"], ["--device", "'cpu:x'"]),
            (["--dataset", "folder"], ["--data-dir", "train/<class>"]),
            (["--dataset", "folder", "--data-dir", "/does/not/exist"], ["/does/not/exist"]),
        ],
        ids=" ".join,
    )
    def test_arguments(self, arguments, words, output, capsys):
        self.refused(output, capsys, arguments, words)

    def test_cuda_without_a_gpu(self, output, capsys, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        self.refused(output, capsys, ["--device", "cuda"], ["--device", "'cuda'"])

    def test_a_gpu_too_far(self, output, capsys, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        self.refused(output, capsys, ["--device", "cuda:7"], ["--device", "'cuda:7'"])

    @pytest.mark.parametrize("dataset", ["folder", "cifar10"])
    def test_a_half_written_folder(self, dataset, output, capsys, tmp_path):
        root = bad_folder(tmp_path / "images")
        self.refused(output, capsys, ["--dataset", dataset, "--data-dir", str(root)], [str(root)])

    def test_an_empty_folder(self, output, capsys, tmp_path):
        (tmp_path / "images").mkdir()
        self.refused(output, capsys, ["--dataset", "folder", "--data-dir", str(tmp_path / "images")], ["images is not"])

    def test_a_truncated_image(self, output, capsys, tmp_path):
        root = write_folder(tmp_path / "images")
        path = root / "test" / "cat" / "1.png"
        path.write_bytes(path.read_bytes()[:1000])
        self.refused(output, capsys, ["--dataset", "folder", "--data-dir", str(root)], [str(path)])

    def test_results_of_another_version(self, output, capsys):
        (output / "results.csv").write_text("encoder,accuracy\ngac,99\n")
        self.refused(output, capsys, [], [str(output / "results.csv"), "--output"])

    @pytest.mark.parametrize("name", ["file", "file/out"])
    def test_an_output_folder_that_cannot_be(self, name, output, capsys, tmp_path):
        (tmp_path / "file").write_text("mine")
        self.refused(output, capsys, ["--output", str(tmp_path / name)], [str(tmp_path / "file"), "--output"])
        assert (tmp_path / "file").read_text() == "mine"

    @pytest.mark.parametrize("arguments", [["--encoders", "gac:nope"], ["--output", "file/out"]], ids=" ".join)
    def test_as_users_see_it(self, arguments, tmp_path):
        (tmp_path / "file").write_text("")
        done = process(tmp_path, *DIGITS, "--output", "out", *arguments)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr and arguments[1] in done.stderr


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-30], lambda b: b + b"\xff\xfe\n", lambda b: b.replace(b"\n", b",1,2\n")]
)
def test_damaged_rows_are_named_and_kept(finished, tmp_path, capsys, damage):
    content = damage((finished[1] / "results.csv").read_bytes())
    (tmp_path / "results.csv").write_bytes(content)
    assert run_cifar.main([*DIGITS, "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert str(tmp_path / "results.csv") in error
    assert (tmp_path / "results.csv").read_bytes() == content


def test_digits_have_no_data_dir(tmp_path, capsys):
    assert run_cifar.main([*DIGITS, "--data-dir", str(tmp_path), "--output", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
