"""Moving shapes, and frames of events from the loader to the trained network and its analysis."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from functools import cache
from pathlib import Path

import evaluate as evaluate_script
import figures as figures_script
import numpy as np
import pytest
import robustness
import torch
import train as train_script
from test_training import CPU, assert_same_run, at_step

from gac_sj._utils.configuration import read_yaml
from gac_sj._utils.errors import UsageError
from gac_sj.analysis import firing_rates, measure_dynamics, measure_energy
from gac_sj.data import load_datasets
from gac_sj.data.moving_shapes import DIRECTIONS, SHAPES, STEPS, MovingShapes, events_of
from gac_sj.training.build import Data, load_data
from gac_sj.training.engine import InterruptedRunError, Training
from gac_sj.training.settings import Settings

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = EXPERIMENTS / "configs" / "moving_shapes_gac_T4.yaml"
SMALL = ["-c", str(CONFIG), "-T", "2", "--train-limit", "32", "--epochs", "1", "--warmup-epochs", "0",
         "--batch-size", "16", "--device", "cpu"]  # fmt: skip


@cache
def parts(T=4):
    return load_datasets("moving_shapes", T=T)


@cache
def data(T=2):
    """So many sequences to train on, 16 to test on."""
    train, test = parts(T)
    return Data(train.balanced(64), test.balanced(16), (32, 32))


def settings(name="moving_shapes_gac_T4", **changes):
    names = [field.name for field in fields(Settings)]
    return Settings(
        **read_yaml(EXPERIMENTS / "configs" / f"{name}.yaml", names) | {"device": "cpu", "workers": 0} | changes
    )


def heights(frames):
    """Mean row of the events of every frame."""
    rows = frames.sum((1, 3))
    return (rows * np.arange(rows.shape[1])).sum(1) / rows.sum(1)


class TestOneShape:
    def test_a_square_by_hand(self):
        """Half side 4.5, from row 15 to row 17: it uncovers rows 11 and 12 and covers rows 20 and 21, one by one."""
        events = events_of("square", radius=5, centre=(16, 16), path=(0, 2), contrast=1)
        assert events.shape == (48, 2, 32, 32) and events.dtype == bool
        for polarity, rows in ((0, (20, 21)), (1, (11, 12))):
            for row in rows:
                (steps,) = events[:, polarity, row].any(1).nonzero()
                assert len(steps) == 1 and (events[steps[0], polarity, row].nonzero()[0] == range(12, 21)).all()
        assert events.sum() == 4 * 9
        first, last = (events[:, 0, row].any(1).argmax() for row in (20, 21))
        assert last - first == 24  # a pixel in half of the steps

    @pytest.mark.parametrize("shape", SHAPES)
    def test_a_darker_shape_has_the_other_polarity(self, shape):
        bright, dark = (events_of(shape, 6, (15.5, 16), (2, 12), contrast) for contrast in (1, -1))
        assert np.array_equal(dark, bright[:, ::-1]) and not np.array_equal(dark, bright)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_the_direction_is_in_the_order_alone(self, shape):
        """The other way with the other contrast leaves the same events, in reverse order."""
        up, down = (events_of(shape, 5.7, (14.3, 16.9), (s * 3.1, s * 11.3), s) for s in (-1, 1))
        assert np.array_equal(up, down[::-1])
        assert np.array_equal(up.sum(0), down.sum(0)) and not np.array_equal(up, down)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_mirrored_to_the_left_it_is_the_same_shape(self, shape):
        mirrored = events_of(shape, 6, (15.5 - 2, 16), (-3, 12), 1)
        assert np.array_equal(events_of(shape, 6, (15.5 + 2, 16), (3, 12), 1)[..., ::-1], mirrored)

    def test_shapes_differ(self):
        seen = {events_of(shape, 6, (16, 16), (0, 12), 1).tobytes() for shape in SHAPES}
        assert len(seen) == len(SHAPES)


class TestMovingShapes:
    @pytest.mark.medium
    def test_items(self):
        train, test = parts()
        assert (len(train), len(test)) == (2048, 512)
        for part in (train, test):
            assert part.is_events and part.channels == 2 and part.files is None
            assert part.classes == tuple(f"{shape}_{direction}" for shape in SHAPES for direction in DIRECTIONS)
            frames, label = part[5]
            assert frames.shape == (4, 2, 32, 32) and frames.dtype == np.uint8 and label == part.labels[5]
            assert (part.source.data.sum((1, 2, 3, 4)) > 100).all() and part.source.data.max() < 12

    def test_balanced(self):
        for part in parts():
            assert set(np.bincount(part.labels)) == {len(part) // 8}

    def test_no_sequence_is_in_both_parts(self):
        train, test = ({frames.tobytes() for frames in part.source.data} for part in parts())
        assert len(train) == 2048 and len(test) == 512 and not train & test

    def test_a_function_of_seed_and_number(self):
        whole = MovingShapes(12, 4)
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002 - the global state is what must not matter
        part = MovingShapes(4, 4, first=8)
        assert np.array_equal(part.data, whole.data[8:]) and part.targets == whole.targets[8:]
        assert not np.array_equal(MovingShapes(12, 4, seed=1).data, whole.data)

    @pytest.mark.parametrize("T", [1, 5, 6, 48])
    def test_T_cuts_the_same_events(self, T):
        cut = MovingShapes(4, T).data
        assert cut.shape[1] == T and np.array_equal(cut.sum(1), MovingShapes(4, 4).data.sum(1))

    @pytest.mark.parametrize(
        "count, T, words",
        [(4, STEPS + 1, "T .*1 to 48.*49"), (4, 0, "T .*0"), (4, 2.5, "T .*2.5"), (-1, 4, "count .*-1")],
    )
    def test_numbers_that_do_not_fit(self, count, T, words):
        with pytest.raises(ValueError, match=f"^{words}"):
            MovingShapes(count, T)

    def test_time_tells_the_direction_and_one_frame_does_not(self):
        _, test = parts()
        rising = rising_by_polarity = 0
        for frames, label in test:
            upwards = DIRECTIONS[label % 2] == "up"
            course = heights(frames.astype(float))
            rising += (course[-1] < course[0]) == upwards
            on, off = heights(frames.sum(0).astype(float)[:, None])
            rising_by_polarity += (on < off) == upwards
        assert rising > 0.98 * len(test)
        assert 0.42 * len(test) < rising_by_polarity < 0.58 * len(test)  # as in a fair game, within 3.6 deviations

    @pytest.mark.medium
    def test_the_fingerprint_knows_frames(self):
        found, cached, twos = (
            [part.fingerprint() for part in sets] for sets in (load_datasets("moving_shapes"), parts(), parts(2))
        )
        assert found == cached and len({*found, *twos}) == 4

    def test_no_folder(self):
        with pytest.raises(UsageError, match=r"^data_dir .*'moving_shapes'.*here; leave it out"):
            load_datasets("moving_shapes", "here")


class TestEngine:
    @pytest.mark.parametrize("encoder", ["gac", "direct", "direct_lif", "direct_matched"])
    def test_one_step(self, encoder):
        """The general path: the stem sees every frame, and every weight of the encoder gets a gradient."""
        run = settings(batch_size=8, encoder=encoder)
        training = Training(run, data(4), CPU)
        assert training.model.encoder.in_channels == 2
        images, labels = next(iter(training.loader))
        assert images.shape == (4, 8, 2, 32, 32) and images.dtype == torch.float32 and labels.shape == (8,)
        calls, gradients = [], []
        training.model.encoder.stem.register_forward_hook(lambda _, inputs, __: calls.append(inputs[0].shape))
        training.step.optimizer.register_step_pre_hook(
            lambda *_: gradients.extend(p.grad.abs().sum() for p in training.model.encoder.parameters())
        )
        result = training.step(images, labels, training.state)
        assert torch.isfinite(result.loss) and result.images == 8
        assert sum(shape[:-3].numel() for shape in calls) == 4 * 8
        assert gradients and all(gradients)

    def test_sequences_are_not_sets_of_frames(self):
        """Reversed in time, a sequence gives other logits."""
        model = Training(settings(), data(4), CPU).model.train()  # before it has learnt, it is silent in evaluation
        frames = torch.as_tensor(parts()[1].source.data[:8]).float().transpose(0, 1)
        with torch.no_grad():
            assert (model(frames) - model(frames.flip(0))).abs().max() > 1e-4

    def test_flips_and_shifts_keep_direction_and_counts(self):
        """All steps of a sequence alike."""
        run = settings(hflip=1.0, crop="none", batch_size=32)
        training = Training(run, data(), CPU)
        images, labels = next(iter(training.loader))
        originals = {frames.tobytes(): label for frames, label in data().train}
        for frames, label in zip(images.transpose(0, 1).flip(-1).to(torch.uint8).numpy(), labels.tolist()):
            assert originals[frames.tobytes()] == label

    @pytest.mark.parametrize("changes", [{"auto_augment": "rand-m9-n1"}, {"color_jitter": 0.4}, {"cutmix": 1.0}])
    def test_augmentations_of_images(self, changes):
        with pytest.raises(ValueError, match=f"^{next(iter(changes))} .*event frames"):
            Training(settings(**changes), data(), CPU)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"loader": "resident"}, "loader=standard"),
            ({"data_dir": "data"}, "^data_dir"),
            ({"T": 60}, "^T .*from 1 to 48"),
        ],
    )
    def test_unusable_data_settings_are_refused(self, changes, words):
        with pytest.raises(ValueError, match=words):
            load_data(settings(**changes))

    def test_a_stopped_run_resumes_to_the_same_end(self, tmp_path):
        run = settings(T=2, epochs=2, batch_size=16, checkpoint_minutes=0.0, keep_checkpoints=100)
        Training(run, data(), CPU, tmp_path / "whole").run()
        training = Training(run, data(), CPU, tmp_path / "stopped")
        at_step(training, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(InterruptedRunError, match=r"epoch 2 \(batch 2 of 4\)"):
            training.run()
        Training(run, data(), CPU, tmp_path / "stopped").run()
        assert_same_run(tmp_path / "stopped", tmp_path / "whole")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The weights of a run of the command."""
    folder = tmp_path_factory.mktemp("run")
    assert train_script.main([*SMALL, "--output", str(folder)]) == 0
    return folder / "last.safetensors"


class TestCommands:
    def test_train_and_evaluate(self, trained, capsys):
        assert (trained.parent / "result.csv").exists()
        assert evaluate_script.main([str(trained), "--device", "cpu"]) == 0
        printed = capsys.readouterr().out
        assert printed.startswith("512 images: top-1 ") and "triangle_down" in printed

    def test_dry_run(self, capsys):
        assert train_script.main([*SMALL, "--dry-run"]) == 0
        assert "first batch: images [2, 16, 2, 32, 32]" in capsys.readouterr().out

    def test_figures(self, trained, tmp_path, capsys):
        arguments = ["network", str(trained), "--images", "8", "--device", "cpu", "--output", str(tmp_path)]
        assert figures_script.main(arguments) == 0
        names = {"encoder", "encoder_outputs", "gates", "grad_cam-lif", "firing_rates_by_step"}
        assert {path.stem for path in tmp_path.glob("*.png")} == names

    def test_robustness_is_about_images(self, trained, tmp_path, capsys):
        assert robustness.main([str(trained), "--output", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert "moving_shapes" in error and error.count("\n") == 1


class TestAnalysis:
    def test_of_sequences(self):
        run = settings(batch_size=8)
        sample = data(4).sample(16)
        model = Training(run, data(4), CPU).model.eval()
        batches = list(sample.testing(run, model, CPU))
        assert [images.shape[1] for images, _ in batches] == [8, 8]
        assert torch.cat([labels for _, labels in batches]).bincount().tolist() == [2] * 8
        with firing_rates(model, by_step=True) as rates:
            energy = measure_energy(model, batches)
        assert energy.images == 16 and energy.paper_pj > 0
        assert all(len(by_step) == 4 for by_step in rates.values())
        dynamics = measure_dynamics(model.encoder, batches)
        assert dynamics.images == 16 and dynamics.time_to_repeat.shape == (16, 32, 32)
        assert dynamics.readout_by_step.shape == (4,)
        assert dynamics.change_by_step.min() > 0  # shapes move

    def test_the_stem_runs_on_every_frame(self):
        """Four times the multiplications of a static image, which is encoded once."""
        model = Training(settings(), data(4), CPU).model.eval()

        def stem(images):
            return next(layer.dense_macs for layer in measure_energy(model, [images]).layers if "stem.0" in layer.name)

        assert stem(torch.rand(4, 1, 2, 32, 32)) == 4 * stem(torch.rand(1, 2, 32, 32))


def write_recordings(root, name):
    """Three classes of recordings in SpikingJelly's layout, not yet cut into frames; 6,400 to 6,402 events each."""
    splits = {"dvs128_gesture": {"train": 2, "test": 1}, "cifar10_dvs": {".": 10}}[name]
    for split, count in splits.items():
        for label in "abc":
            folder = root / "events_np" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                rng, events = np.random.default_rng([ord(label), number]), 6400 + number % 3
                x, y, p = (rng.integers(0, most, events) for most in (128, 128, 2))
                np.savez(folder / f"{label}_{number}.npz", t=np.arange(events), x=x, y=y, p=p)
    return root


@pytest.mark.parametrize(
    ("name", "encoder"), [("dvs128_gesture", "gac"), ("dvs128_gesture", "direct"), ("cifar10_dvs", "gac")]
)
def test_recordings_through_the_engine(name, encoder, tmp_path):
    T = {"dvs128_gesture": 16, "cifar10_dvs": 10}[name]
    run = settings(
        f"{name}_gac_T{T}", T=2, model="gac_ms_resnet8_cifar", encoder=encoder, batch_size=4, epochs=1,
        data_dir=str(write_recordings(tmp_path / "data", name)),
    )  # fmt: skip
    training = Training(run, load_data(run), CPU, tmp_path / "run")
    images, _ = next(iter(training.test_loader))
    assert images.shape == (2, 3, 2, 128, 128) and images.sum((2, 3, 4)).tolist() == [[3200] * 3] * 2
    evaluation, rates = training.run()
    assert evaluation.images == 3 and rates["encoder.neuron" if encoder == "gac" else "stages.0.0.lif1"] > 0
    assert (tmp_path / "run" / "last.safetensors").exists()


@pytest.mark.parametrize("name", ["dvs128_gesture", "cifar10_dvs"])
def test_workers_need_no_module_of_spikingjelly_to_read_frames(name, tmp_path):
    """Those that start anew import what a pickle names, and some of its modules need help (_compat)."""
    train, _ = load_datasets(name, write_recordings(tmp_path, name), T=2)
    pickled = pickle.dumps(train)
    assert b"spikingjelly" not in pickled
    frames, label = pickle.loads(pickled)[0]
    assert frames.shape == (2, 2, 128, 128) and frames.dtype == np.float32
    assert frames.sum() in (6400, 6401, 6402) and label == train.targets[0]


class TestFoldersOfRecordings:
    """What is not there, or not whole, is said in one sentence, and nothing is written."""

    @staticmethod
    def refused(name, root, **options):
        before = sorted(root.rglob("*")) if root.exists() else None
        with pytest.raises(OSError, match=rf"^SpikingJelly cannot prepare {name} in {root} \(.*\)\.$") as caught:
            load_datasets(name, root, T=2, **options)
        assert "\n" not in str(caught.value)
        assert (sorted(root.rglob("*")) if root.exists() else None) == before
        return str(caught.value)

    @pytest.mark.parametrize("exists", [True, False])
    @pytest.mark.parametrize(("name", "file"), [("dvs128_gesture", "DvsGesture.tar.gz"), ("cifar10_dvs", "cat.zip")])
    def test_the_message_says_where_files_belong(self, name, file, exists, tmp_path):
        root = tmp_path / "data"
        if exists:
            root.mkdir()
        error = self.refused(name, root)
        assert f"(put into {root / 'download'}: " in error and file in error and "from https://" in error
        if exists:
            (root / "download").mkdir()
            (root / "download" / file).write_bytes(b"")
            assert file not in self.refused(name, root)

    def test_a_dry_run_cuts_nothing(self, tmp_path):
        root = write_recordings(tmp_path, "cifar10_dvs")
        assert "no frames_number_2_split_by_number yet" in self.refused("cifar10_dvs", root, download=False)
        load_datasets("cifar10_dvs", root, T=2)
        assert len(load_datasets("cifar10_dvs", root, T=2, download=False)[1]) == 3

    @pytest.mark.parametrize("name", ["dvs128_gesture", "cifar10_dvs"])
    def test_incomplete_frames_are_refused(self, name, tmp_path):
        """As an interrupted cutting leaves them."""
        root = write_recordings(tmp_path, name)
        train, _ = load_datasets(name, root, T=2)
        total = {"dvs128_gesture": 9, "cifar10_dvs": 30}[name]
        for file, lacking in ((train.files[0], 1), (train.files[1], 2)):  # of dvs128_gesture, all of a class
            Path(file).unlink()
            error = self.refused(name, root)
            assert f"lacks {lacking} of {total} recordings, such as " in error
        frames = root / "frames_number_2_split_by_number"
        assert f"; remove {frames}*" in error
        shutil.rmtree(frames)
        assert [len(part) for part in load_datasets(name, root, T=2)] == {9: [6, 3], 30: [27, 3]}[total]

    def test_frames_that_another_split_has_moved(self, tmp_path):
        """SpikingJelly's CIFAR10DVSTEBNSplit leaves train/ and test/, which would pass for two classes."""
        root = write_recordings(tmp_path, "cifar10_dvs")
        train, _ = load_datasets("cifar10_dvs", root, T=2)
        for file in map(Path, train.files):
            moved = file.parents[1] / ("test" if file.stem.endswith("_0") else "train") / file.parent.name / file.name
            moved.parent.mkdir(parents=True, exist_ok=True)
            file.rename(moved)
        for label in "abc":
            (Path(train.files[0]).parents[1] / label).rmdir()
        assert "lacks 30 of 30 recordings" in self.refused("cifar10_dvs", root)


@pytest.mark.slow
@pytest.mark.one_release
@pytest.mark.parametrize(("T", "least", "most"), [(4, 90, 100), (1, 0, 60)])
def test_moving_shapes_are_learnt(T, least, most, tmp_path):
    """Direction needs more than one frame."""
    script = str(EXPERIMENTS / "train.py")
    command = [sys.executable, script, *SMALL[:2], "-T", str(T), "--output", tmp_path / "run"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert least <= float(printed.split("test accuracy ")[1].split(" %")[0]) <= most
