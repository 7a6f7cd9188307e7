"""The command benchmarks/robustness.py, which tests trained networks on corrupted images and under attack."""

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import robustness
import run_cifar
import torch
import torch.nn.functional as F
from helpers.files import contents
from helpers.programs import refused
from PIL import Image
from safetensors.torch import save, save_file

from gac_sj.analysis.attacks import OnPixels, fgsm, pgd, pixel_gradient
from gac_sj.analysis.corruptions import corrupt
from gac_sj.checkpoint.runs import build_model, load_network, read_weights
from gac_sj.results.robustness import ROBUSTNESS
from gac_sj.results.store import read_rows
from gac_sj.training.build import load_data
from gac_sj.training.distributed import DistributedContext
from gac_sj.training.evaluation import evaluate

pytestmark = pytest.mark.usefixtures("quick")

REPOSITORY = Path(__file__).resolve().parent.parent

HERE = DistributedContext(0, 1, torch.device("cpu"))
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore::FutureWarning"}

TRAIN = ["--dataset", "digits", "-T", "2", "--epochs", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of two runs on digits, which have learnt something: direct coding and Poisson coding."""
    folder = tmp_path_factory.mktemp("runs")
    with contextlib.redirect_stdout(io.StringIO()), pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_cifar, "write_report", lambda *args: "")
        assert run_cifar.main([*TRAIN, "--encoders", "direct", "poisson", "--seeds", "0", "--output", str(folder)]) == 0
    return folder


def weights(folder, encoder):
    (path,) = folder.glob(f"runs/{encoder}-*/last.safetensors")
    return path


@pytest.fixture(scope="module")
def load(trained):
    """Settings, 100 images as bytes, labels and the network of an encoder's run."""

    def load(encoder):
        settings, tensors = read_weights(weights(trained, encoder))
        data = load_data(settings).sample(100)
        network = load_network(settings, tensors, data.info).eval()
        return settings, *robustness.read_pixels(settings, data, network), network

    return load


def loss(model, pixels, labels):
    with torch.no_grad():
        return F.cross_entropy(model(pixels), labels).item()


@pytest.mark.medium
class TestOnTrainedNetworks:
    @pytest.mark.parametrize("loader", ["resident", "standard"])
    def test_pixels_are_those_of_the_data_set(self, loader, load):
        settings, _, _, network = load("direct")
        data = load_data(replace(settings, loader=loader, workers=0)).sample(100)
        images, labels = robustness.read_pixels(replace(settings, loader=loader, workers=0), data, network)
        assert images.shape == (100, 1, 8, 8) and torch.bincount(labels).tolist() == [10] * 10
        for place in (0, 99):
            image, label = data.test[place]
            assert label == labels[place] and np.array_equal(np.asarray(image), images[place, 0].numpy())

    @pytest.mark.parametrize("encoder", ["direct", "poisson"])
    def test_pixels_are_normalised_for_the_network(self, encoder, load):
        settings, images, _, network = load(encoder)
        data = load_data(settings).sample(100)
        ((expected, _),) = data.testing(replace(settings, batch_size=100), network, HERE)
        seen = []
        network.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs))
        with torch.no_grad():
            OnPixels(network)(images.float() / 255)
        torch.testing.assert_close(seen, [expected])

    def test_a_random_encoder_draws_the_same_at_every_call(self, load):
        _, images, _, network = load("poisson")
        model = OnPixels(network)
        with torch.no_grad():
            first, again = (model(images.float() / 255) for _ in range(2))
            model.seed = 1
            other = model(images.float() / 255)
        assert torch.equal(first, again) and not torch.equal(first, other)

    def test_attacks_raise_the_loss(self, load):
        _, images, labels, network = load("direct")
        model, pixels = OnPixels(network), images.float() / 255
        noise = (pixels + 0.1 * torch.randn_like(pixels).sign()).clamp(0, 1)
        clean, noisy, once, often = (
            loss(model, changed, labels)
            for changed in (pixels, noise, fgsm(model, pixels, labels, 0.1), pgd(model, pixels, labels, 0.1))
        )
        assert clean < once < often and noisy < once

    def test_a_straight_through_attack_beats_noise(self, load):
        _, images, labels, network = load("poisson")
        model, pixels = OnPixels(network), images.float() / 255
        with pixel_gradient(model):
            changed = pgd(model, pixels, labels, 0.1)
        noise = (pixels + 0.1 * torch.randn_like(pixels).sign()).clamp(0, 1)
        assert loss(model, changed, labels) > max(loss(model, pixels, labels), loss(model, noise, labels))

    def test_accuracies(self, load):
        settings, images, labels, network = load("direct")
        model = OnPixels(network)
        data = load_data(settings).sample(100)
        accuracy = 100 * evaluate(network, data.testing(settings, network, HERE)).top1
        assert accuracy > 60
        # rounding in another order may flip a spike, and so one of the 100 images
        clean, gradient = robustness.measure(model, images, labels, "clean", 0, 0, 30)
        assert clean == pytest.approx(accuracy, abs=1) and gradient == ""
        mean, std = (network.pretrained_cfg[name][0] for name in ("mean", "std"))
        grey = (corrupt(images.float() / 255, "contrast", 4) - mean) / std
        with torch.no_grad():
            right = (network(grey).argmax(1) == labels).sum().item()
        assert robustness.measure(model, images, labels, "contrast", 4, 0, 30)[0] == pytest.approx(right, abs=1)
        assert right < accuracy - 5

    def test_corruptions_do_not_depend_on_the_batch_size(self, load):
        _, images, labels, network = load("direct")
        model, seen = OnPixels(network), []
        model.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs))
        for batch_size in (100, 30):
            robustness.measure(model, images, labels, "gaussian_noise", 3, 5, batch_size)
        assert [len(pixels) for pixels in seen] == [100, 30, 30, 30, 10]
        assert torch.equal(seen[0], torch.cat(seen[1:]))
        assert torch.equal(seen[0], corrupt(images.float() / 255, "gaussian_noise", 3, seed=5))

    @pytest.mark.parametrize("name", ["dropped_steps", "pgd"])
    def test_strongest_against_clean(self, name, load, monkeypatch):
        """Here the attack may change pixels by 0.3."""
        monkeypatch.setitem(robustness.STRENGTHS, name, (0.0, 0, 0, 0, 0.8 if name == "dropped_steps" else 0.3))
        _, images, labels, network = load("direct")
        model = OnPixels(network)
        clean, gradient = robustness.measure(model, images, labels, name, 1, 0, 50)
        assert clean == robustness.measure(model, images, labels, "clean", 0, 0, 50)[0]
        assert robustness.measure(model, images, labels, name, 5, 0, 50)[0] < clean - 30
        assert gradient == ("surrogate" if name == "pgd" else "")
        assert not network.encoder._forward_hooks


QUICK = ["--images", "20", "--severities", "1", "5", "--device", "cpu"]


def run(*arguments, status=0):
    """What the command prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert robustness.main(list(map(str, arguments))) == status
    return printed.getvalue()


@pytest.fixture(scope="module")
def finished(trained, tmp_path_factory):
    """A command, its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("robust")
    command = [trained, *QUICK, "--output", folder]
    return command, folder, run(*command)


@pytest.fixture
def played(monkeypatch):
    """Nothing is measured; the list of (name, severity, seed, batch size, images) that would be."""
    calls = []

    def measure(model, images, labels, name, severity, seed, batch_size):
        calls.append((name, severity, seed, batch_size, len(images)))
        return 50.0 + len(calls), ""

    monkeypatch.setattr(robustness, "measure", measure)
    return calls


def read_robustness(path):
    return read_rows(path, ROBUSTNESS)


@pytest.mark.one_release
class TestCommand:
    @pytest.mark.medium
    def test_rows(self, finished, trained):
        rows = read_robustness(finished[1] / "robustness.csv")
        tests = [("clean", "0"), *((name, severity) for name in robustness.STRENGTHS for severity in "15")]
        expected = [(encoder, *test) for encoder in ("direct", "poisson") for test in tests]
        assert [(row["encoder"], row["corruption"], row["severity"]) for row in rows] == expected
        assert list(rows[0]) == list(ROBUSTNESS.names)
        for row in rows:
            assert (row["images"], row["batch_size"], row["corruption_seed"]) == ("20", "100", "0")
            attacked = row["corruption"] in ("fgsm", "pgd")
            kind = {"direct": "surrogate", "poisson": "straight-through"}[row["encoder"]]
            assert row["gradient"] == (kind if attacked else "")
            assert row["pgd_steps"] == ("10" if row["corruption"] == "pgd" else "")
            # 20 images
            assert 0 <= float(row["accuracy"]) <= 100 and float(row["accuracy"]) % 5 == 0
            assert row["commit"] and row["versions"] and row["device"] and row["date"] and float(row["seconds"]) >= 0
        strengths = {(row["corruption"], row["severity"]): float(row["strength"]) for row in rows}
        assert strengths["clean", "0"] == 0 and strengths["blur", "5"] == 1 and strengths["dropped_steps", "1"] == 0.1
        assert strengths["pgd", "5"] == pytest.approx(8 / 255, abs=1e-6)

    def test_rows_say_which_run_it_was(self, finished, trained):
        with open(trained / "results.csv", newline="") as file:
            runs = {row["encoder"]: row for row in csv.DictReader(file)}
        for row in read_robustness(finished[1] / "robustness.csv"):
            for name in ("dataset", "data", "model", "form", "model_options", "T", "epochs", "seed"):
                assert row[name] == runs[row["encoder"]][name], name

    def test_settings_are_the_same_for_encoders_and_seeds_alone(self, trained):
        settings, _ = read_weights(weights(trained, "direct"))
        data = load_data(settings)

        def name(**changes):
            return robustness.run_part(weights(trained, "direct"), replace(settings, **changes), data)["settings"]

        assert name() == name(seed=3) == name(encoder="gac") == name(encoder="gac", form="reference")
        assert len({name(), name(lr=0.05), name(train_limit=500), name(epochs=9), name(weight_decay=0.0)}) == 5

    def test_printed(self, finished, trained):
        lines = finished[2].splitlines()
        assert len(lines) == 2 * 9
        assert lines[0].startswith(f"[1/2] {weights(trained, 'direct').parent}, clean: ")
        rows = read_robustness(finished[1] / "robustness.csv")
        blur = [f"{float(row['accuracy']):.2f}" for row in rows if row["corruption"] == "blur"]
        (line,) = (line for line in lines if line.startswith("[2/2]") and ", blur: " in line)
        assert line.endswith(f", blur: {' '.join(blur[2:])} %")

    def test_what_has_a_row_is_not_measured_again(self, finished, trained, monkeypatch, tmp_path):
        """Also from a copy of the weights elsewhere, or with its parts in another order."""
        command, folder, printed = finished
        monkeypatch.setattr(robustness, "measure", lambda *args: pytest.fail("it measures"))
        before = contents(folder)
        assert run(*command) == printed
        copy = tmp_path / "last.safetensors"
        copy.write_bytes(weights(trained, "poisson").read_bytes())
        run(copy, weights(trained, "direct"), *QUICK, "--corruptions", "pgd", "blur", "--output", folder)
        assert contents(folder) == before

    @pytest.mark.medium
    def test_the_same_command_measures_the_same(self, finished, trained, tmp_path):
        """Alone, in another order, whatever was drawn before; random encoders too."""
        torch.rand(5)
        names = ["pgd", "dropped_steps", "gaussian_noise"]
        run(weights(trained, "poisson"), *QUICK, "--corruptions", *names, "--output", tmp_path)
        varying = (*ROBUSTNESS.volatile, "commit")

        def lasting(folder):
            rows = read_robustness(folder / "robustness.csv")
            return {json.dumps({k: v for k, v in row.items() if k not in varying}) for row in rows}

        found = lasting(tmp_path)
        assert len(found) == 7 and found < lasting(finished[1])

    def test_more_tests_are_added(self, trained, tmp_path, played):
        command = [weights(trained, "direct"), *QUICK, "--output", tmp_path]
        run(*command, "--corruptions", "blur")
        run(*command, "--corruptions", "fgsm", "blur", "--severities", "5", "3", "5")
        tests = [(name, severity) for name, severity, *_ in played]
        assert tests == [("clean", 0), ("blur", 1), ("blur", 5), ("fgsm", 3), ("fgsm", 5), ("blur", 3)]

    @pytest.mark.medium
    @pytest.mark.parametrize(
        "change", [["--seed", "1"], ["--images", "30"], ["--batch-size", "7"], ["pgd_steps"]], ids=" ".join
    )
    def test_other_settings_reuse_nothing_and_keep_what_is_there(self, change, trained, tmp_path, played, monkeypatch):
        command = [weights(trained, "direct"), *QUICK, "--corruptions", "pgd", "--output", tmp_path]
        run(*command)
        path = tmp_path / "robustness.csv"
        before = read_robustness(path)
        if change == ["pgd_steps"]:
            monkeypatch.setattr(robustness, "PGD_STEPS", 20)
            run(*command)
            assert [name for name, *_ in played[3:]] == ["pgd", "pgd"]
        else:
            run(*command, *change)
            assert len(played) == 6 and played[3] != played[0]
        after = read_robustness(path)
        assert after[:3] == before and len(after) == len(played)

    def test_an_interruption_keeps_the_rows(self, trained, tmp_path, played, monkeypatch, capsys):
        measure = robustness.measure

        def interrupted(*args):
            if len(played) == 2:
                raise KeyboardInterrupt
            return measure(*args)

        command = [weights(trained, "direct"), *QUICK, "--corruptions", "blur", "--output", tmp_path]
        monkeypatch.setattr(robustness, "measure", interrupted)
        run(*command, status=130)
        assert capsys.readouterr().err == "robustness.py: interrupted; the same command continues.\n"
        first = read_robustness(tmp_path / "robustness.csv")
        assert len(first) == 2
        monkeypatch.setattr(robustness, "measure", measure)
        run(*command)
        assert len(played) == 3 and read_robustness(tmp_path / "robustness.csv")[:2] == first

    @pytest.mark.one_release
    @pytest.mark.medium
    def test_sigterm_keeps_the_rows(self, trained, tmp_path):
        """A process like the users'."""
        script = REPOSITORY / "benchmarks" / "robustness.py"
        command = [sys.executable, script, trained, "--batch-size", "1", "--device", "cpu", "--output", "out"]
        with open(tmp_path / "err", "w") as errors:
            child = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=errors)
        path, deadline = tmp_path / "out" / "robustness.csv", time.monotonic() + 120
        try:
            while not path.exists():
                assert child.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            child.terminate()
        assert child.wait() == 128 + signal.SIGTERM
        assert "Traceback" not in (tmp_path / "err").read_text()
        assert read_robustness(path)[0]["corruption"] == "clean"

    def test_runs_that_are_not_finished_are_left_out(self, trained, tmp_path, played, capsys):
        folder = tmp_path / "runs" / "going"
        folder.mkdir(parents=True)
        (folder / "last.safetensors").write_bytes(weights(trained, "direct").read_bytes())
        (folder / "summary.csv").write_text("epoch,top1\n1,40.0\n")
        run(tmp_path / "runs", trained, *QUICK, "--corruptions", "blur", "--output", tmp_path)
        error = capsys.readouterr().err
        assert error.startswith("robustness.py: ") and error.count("\n") == 1
        assert str(folder / "last.safetensors") in error and "1 of 2 epochs" in error
        assert len(played) == 6
        run(tmp_path / "runs", *QUICK, "--output", tmp_path, status=2)
        assert "no weights of a finished run" in capsys.readouterr().err

    def test_an_image_folder_next_to_digits(self, trained, tmp_path, played):
        """The data folder is for the data sets that have one."""
        random = np.random.default_rng(0)
        for split, count in (("train", 32), ("test", 3)):
            for label in ("ant", "cat"):
                (tmp_path / split / label).mkdir(parents=True)
                for number in range(count):
                    pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
                    Image.fromarray(pixels).save(tmp_path / split / label / f"{number}.png")
        settings = replace(read_weights(weights(trained, "direct"))[0], dataset="folder", T=1)
        network = build_model(settings, load_data(replace(settings, data_dir=str(tmp_path))).info)
        path = tmp_path / "last.safetensors"
        path.write_bytes(save(network.state_dict(), {"settings": json.dumps(settings.key())}))
        run(path, trained, "--data-dir", tmp_path, *QUICK, "--corruptions", "blur", "--output", tmp_path)
        rows = read_robustness(tmp_path / "robustness.csv")
        assert [(row["dataset"], row["images"]) for row in rows[::3]] == [
            ("folder", "6"), ("digits", "20"), ("digits", "20"),
        ]  # fmt: skip


@pytest.mark.one_release
class TestBadInput:
    """Status 2, one line that says what to do, and what is there stays as it is."""

    @pytest.fixture(name="refused")
    def refuse(self, finished, trained, capsys, monkeypatch):
        def run(places, arguments, words, folder=finished[1]):
            command = [*places, *QUICK, "--output", folder, *arguments]
            refused(capsys, robustness.main, command, *words, folder=folder)

        monkeypatch.setattr(robustness, "measure", lambda *args: pytest.fail("it measures"))
        return run

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--corruptions", "blur", "fog"], ["--corruptions ", "'fog'", "salt_and_pepper", "dropped_steps", "pgd"]),
            (["--corruptions", "clean"], ["--corruptions ", "'clean'"]),
            (["--severities", "1", "6"], ["--severities ", "6", "1, 2, 3, 4, 5"]),
            (["--severities", "0"], ["--severities ", " 0"]),
            (["--images", "0"], ["--images ", " 0"]),
            (["--batch-size", "0"], ["--batch-size ", " 0"]),
            (["--device", "nonsense"], ["device ", "'nonsense'"]),
        ],
        ids=str,
    )
    def test_arguments(self, arguments, words, refused, trained):
        refused([trained], arguments, words)

    def test_a_folder_without_weights(self, refused, trained, tmp_path):
        refused([trained, tmp_path], [], [str(tmp_path), "last.safetensors"])

    @pytest.mark.parametrize("content", ["", "epoch\n", "top1\n4\n", "epoch\none\n", None])
    def test_a_damaged_log(self, content, refused, trained, tmp_path):
        (tmp_path / "last.safetensors").write_bytes(weights(trained, "direct").read_bytes())
        os.mkfifo(tmp_path / "summary.csv") if content is None else (tmp_path / "summary.csv").write_text(content)
        refused([tmp_path], [], ["summary.csv", "Not a regular file" if content is None else "is damaged"])

    def test_a_file_that_is_not_there(self, refused, tmp_path):
        refused([tmp_path / "last.safetensors"], [], [str(tmp_path / "last.safetensors"), "cannot be read"])

    def test_weights_of_another_project(self, refused, trained, tmp_path):
        """The others are not measured either."""
        save_file({"head.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
        refused([trained, tmp_path / "model.safetensors"], [], ["model.safetensors", "weights of a run"])

    def test_a_checkpoint_of_another_model(self, refused, trained, tmp_path):
        settings, _ = read_weights(weights(trained, "direct"))
        path = tmp_path / "last.safetensors"
        path.write_bytes(save({"head.weight": torch.zeros(10, 64)}, {"settings": json.dumps(settings.key())}))
        refused([path], [], [str(path), "ms_resnet8_cifar", "last.safetensors of a run"])

    def test_frames_of_events(self, refused, trained, tmp_path):
        settings, tensors = read_weights(weights(trained, "direct"))
        path = tmp_path / "last.safetensors"
        path.write_bytes(save(tensors, {"settings": json.dumps(settings.key() | {"dataset": "dvs128_gesture"})}))
        refused([path], [], [str(path), "dvs128_gesture", "leave it out"])

    def test_data_that_are_not_there(self, refused, trained, tmp_path):
        settings, tensors = read_weights(weights(trained, "direct"))
        path = tmp_path / "last.safetensors"
        path.write_bytes(save(tensors, {"settings": json.dumps(settings.key() | {"dataset": "folder"})}))
        refused([path], [], ["data"])
        refused([path], ["--data-dir", tmp_path / "nowhere"], ["nowhere", "train/<class>"])

    @pytest.mark.parametrize("damage", ["older", "cut"])
    def test_rows_of_another_version(self, damage, refused, finished, trained, tmp_path):
        text = (finished[1] / "robustness.csv").read_text()
        text = text.replace(",batch_size,", ",batch,") if damage == "older" else text[:-40]
        (tmp_path / "robustness.csv").write_text(text)
        refused([trained], [], ["robustness.csv", "move it away"], folder=tmp_path)

    def test_an_output_that_cannot_be_written(self, refused, trained, tmp_path):
        (tmp_path / "file").write_text("")
        refused([trained], ["--output", tmp_path / "file"], ["--output ", str(tmp_path / "file"), "cannot be written"])
