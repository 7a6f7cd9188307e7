"""The engine inside one process: what a step does, what a run writes, how it stops and continues."""

import contextlib
import csv
import dataclasses
import functools
import io
import json
import logging
import math
import os
import re
import shutil
import signal
import sys
import threading
import types
from pathlib import Path

import evaluate as evaluate_script
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import train as train_script
import yaml
from helpers.files import contents, held
from helpers.programs import refused
from safetensors.torch import load_file, save_file
from timm.utils import ModelEmaV3
from torch import nn

from gac_sj.checkpoint.runs import build_model
from gac_sj.data import load_datasets, read_images
from gac_sj.training import engine, network
from gac_sj.training import run as run_module
from gac_sj.training.build import Data
from gac_sj.training.checkpoints import Checkpoints
from gac_sj.training.distributed import DistributedContext
from gac_sj.training.engine import InterruptedRunError, Training
from gac_sj.training.evaluation import evaluate
from gac_sj.training.finite import NonFiniteLossError
from gac_sj.training.hardware import resolve
from gac_sj.training.losses import cross_entropy, tet
from gac_sj.training.network import build_network
from gac_sj.training.outputs import RunOutputs
from gac_sj.training.settings import Settings

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = DistributedContext(0, 1, torch.device("cpu"))
SMALL = dict(
    model="gac_ms_resnet8_cifar", T=2, dataset="digits", loader="resident", epochs=2, batch_size=16, lr=0.05,
    device="cpu", checkpoint_minutes=0.0, keep_checkpoints=100,
)  # fmt: skip
EXACT = dict(rtol=0, atol=0)
#: columns of summary.csv and result.csv that depend on time
VOLATILE_COLUMNS = ("train_seconds", "images_per_second", "date", "commit")


@functools.cache
def digits(loader="resident", count=64):
    """So many digits to train on, 40 to test on."""
    train, test = (part.balanced(size) for part, size in zip(load_datasets("digits"), (count, 40)))
    images = tuple(read_images(part, (8, 8)) for part in (train, test)) if loader == "resident" else None
    return Data(train, test, (8, 8), images)


def prepare(folder=None, **changes):
    settings = Settings(**SMALL | changes)
    return Training(settings, digits(settings.loader), CPU, folder)


def run(folder=None, **changes):
    training = prepare(folder, **changes)
    training.run()
    return training


def at_step(training, step, action):
    """Do something in the forward pass of a training step."""
    seen = []

    def count(module, inputs):
        if module.training:
            seen.append(1)
            if len(seen) == step:
                action()

    training.model.encoder.register_forward_pre_hook(count)


def states(folder):
    """The states of all checkpoints, oldest first."""
    paths = sorted((folder / "checkpoints").glob("epoch*.pt"))
    return [torch.load(path, weights_only=True) for path in paths]


def last_state(folder):
    return Checkpoints(folder / "checkpoints", 1).load()


def assert_same_run(folder, expected):
    """Weights, files and numbers to the last bit, times excepted."""
    for name in ("last.safetensors", "best.safetensors"):
        assert (folder / name).read_bytes() == (expected / name).read_bytes()
    ours, theirs = last_state(folder), last_state(expected)
    assert ours["position"] == theirs["position"]
    for part in ("model", "ema", "optimizer", "random"):
        pair = (ours[part]["state"], theirs[part]["state"]) if part == "optimizer" else (ours[part], theirs[part])
        assert flat(pair[0]).keys() == flat(pair[1]).keys()
        torch.testing.assert_close(*map(flat, pair), **EXACT)
    for name in ("summary.csv", "result.csv"):
        if (expected / name).exists():
            assert table(folder / name) == table(expected / name)


def flat(value, name=""):
    """The tensors and numbers in nested dicts and lists."""
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for at, child in pairs for key, leaf in flat(child, f"{name}.{at}").items()}
    if isinstance(value, torch.Tensor | int | float) and not isinstance(value, bool):
        return {name: torch.as_tensor(value)}
    return {}


def table(path):
    """A CSV file as dicts, without what depends on time."""
    with open(path, newline="") as file:
        return [
            {name: value for name, value in row.items() if name not in VOLATILE_COLUMNS} for row in csv.DictReader(file)
        ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbed, with all its checkpoints."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder, ema=0.9, random_erasing=0.5, mixup=0.2, model_options={"drop_rate": 0.2})
    return folder


WHOLE = dict(ema=0.9, random_erasing=0.5, mixup=0.2, model_options={"drop_rate": 0.2})


class Linear(nn.Module):
    """Logits of a linear map in float64, so that every number of a run can be computed by hand."""

    pretrained_cfg = {"mean": (0.3,), "std": (0.4,), "crop_pct": 1.0}

    def __init__(self, T=1):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(0.1 * torch.randn(10, 64, generator=generator, dtype=torch.float64))
        self.bias = nn.Parameter(torch.zeros(10, dtype=torch.float64))
        self.register_buffer("passes", torch.zeros((), dtype=torch.float64))
        self.encoder, self.T = nn.Identity(), T

    def forward_sequence(self, x):
        self.passes += self.training
        logits = F.linear(self.encoder(x).double().flatten(1), self.weight, self.bias)
        return torch.stack([logits * (t + 1) for t in range(self.T)])


@pytest.fixture
def linear(monkeypatch):
    """Runs train the linear map, plainly: no augmentation, no momentum, no decay."""
    monkeypatch.setattr(network, "build_model", lambda settings, info: Linear(settings.T))
    return dict(T=1, crop="none", hflip=0.0, momentum=0.0, weight_decay=0.0)


def batches_of(training, epoch=0):
    training.loader.set_epoch(epoch)
    return [(images.double().flatten(1), F.one_hot(labels, 10).double()) for images, labels in training.loader]


def gradient(weight, bias, images, soft):
    """Of the mean cross-entropy of a linear map, by hand."""
    error = ((images @ weight.T + bias).softmax(1) - soft) / len(images)
    return error.T @ images, error.sum(0)


class TestLosses:
    steps = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    soft = torch.rand(5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(1)

    def test_tet_is_the_mean_over_time_of_cross_entropies_and_distances(self):
        expected = 0.0
        for logits in self.steps:
            log_probabilities = logits - logits.exp().sum(1, keepdim=True).log()
            entropy = -(self.soft * log_probabilities).sum(1).mean()
            distance = ((logits - 0.7) ** 2).mean()
            expected += ((1 - 0.3) * entropy + 0.3 * distance) / len(self.steps)
        torch.testing.assert_close(tet(self.steps, self.soft, weight=0.3, level=0.7), expected, rtol=1e-13, atol=0)

    def test_cross_entropy_is_of_the_mean_over_time(self):
        loss = cross_entropy(self.steps, self.soft)
        assert torch.equal(loss, F.cross_entropy(self.steps.mean(0), self.soft))
        assert not torch.isclose(loss, tet(self.steps, self.soft, 0.0))

    @pytest.mark.parametrize("loss", [cross_entropy, tet])
    def test_gradients(self, loss):
        assert torch.autograd.gradcheck(loss, (self.steps.clone().requires_grad_(), self.soft))

    def test_tet_alone_has_the_same_optimum_at_each_step(self):
        """The gradient of a step does not depend on the others, unlike that of the mean's cross-entropy."""
        one = self.steps[:1].clone().requires_grad_()
        (alone,) = torch.autograd.grad(tet(one, self.soft, 0.0), one)
        all_steps = self.steps.clone().requires_grad_()
        (together,) = torch.autograd.grad(tet(all_steps, self.soft, 0.0), all_steps)
        torch.testing.assert_close(3 * together[0], alone[0])


class Known(nn.Module):
    """A network whose logits are its images."""

    def forward_sequence(self, x):
        assert not self.training
        return x.squeeze(-1).permute(2, 0, 1)  # [N, classes, T, 1] -> [T, N, classes]


def known(classes, T=3, count=23, missing=None):
    """Logits, labels, and batches for :class:`Known` that have them."""
    random = np.random.default_rng(classes)
    labels = random.integers(0, classes, count)
    if missing is not None:
        labels[labels == missing] = (missing + 1) % classes
    logits = random.normal(size=(T, count, classes)) + 0.7 * np.eye(classes)[labels]
    images = torch.tensor(logits, dtype=torch.float32).permute(1, 2, 0).unsqueeze(-1)
    return logits, labels, [*zip(images.split(7), torch.tensor(labels).split(7))]


class TestEvaluation:
    @pytest.mark.parametrize("classes", [10, 5, 3])
    def test_against_numpy(self, classes):
        logits, labels, batches = known(classes)
        result = evaluate(Known().train(), batches)
        means = np.cumsum(logits, 0) / np.arange(1, 4)[:, None, None]
        ranks = (-means[-1]).argsort(1)
        by_steps = [(mean.argmax(1) == labels).mean() for mean in means]
        assert result.by_steps.tolist() == pytest.approx(by_steps, abs=1e-12)
        assert len(set(by_steps)) > 1
        assert result.top1 == pytest.approx(by_steps[-1], abs=1e-12) == result.by_steps[-1].item()
        assert result.top5 == pytest.approx(np.mean([label in row[:5] for label, row in zip(labels, ranks)]))
        confusion = np.zeros((classes, classes), int)
        for label, row in zip(labels, ranks):
            confusion[label, row[0]] += 1
        assert result.confusion.tolist() == confusion.tolist()
        for label in set(labels):
            accuracy = (ranks[labels == label, 0] == label).mean()
            assert result.per_class[label].item() == pytest.approx(accuracy)
        log_sum = np.log(np.exp(means[-1]).sum(1))
        assert result.loss == pytest.approx((log_sum - means[-1][np.arange(23), labels]).mean(), rel=1e-6)
        assert result.images == 23

    def test_five_classes_and_fewer_are_always_among_the_first_five(self):
        assert evaluate(Known(), known(3)[2]).top5 == 1
        assert 0.5 < evaluate(Known(), known(10)[2]).top5 < 1

    def test_a_class_without_images_has_no_accuracy(self):
        result = evaluate(Known(), known(3, missing=1)[2])
        assert result.per_class.isnan().tolist() == [False, True, False]

    def test_without_images(self):
        with pytest.raises(ValueError, match="test set"):
            evaluate(Known(), [])


@pytest.mark.medium
class TestSteps:
    """Against the same steps by hand, in float64."""

    def test_sgd_with_warm_up_and_cosine(self, linear, tmp_path):
        training = run(tmp_path, **linear, epochs=3, warmup_epochs=1.25, lr=0.5, min_lr=0.01)
        steps, warmup = 3 * 4, 5
        rates = [0.5 * step / warmup for step in range(1, warmup)]
        rates += [
            0.01 + (0.5 - 0.01) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup + 1))) / 2
            for step in range(warmup, steps + 1)
        ]
        assert rates[0] > 0 and max(rates) == 0.5 and rates[-1] > 0.01
        found = [state["optimizer"]["param_groups"][0]["lr"] for state in states(tmp_path)]
        assert found == pytest.approx([*rates, rates[-1]], rel=1e-12)  # the last step is kept before and after the test
        model = Linear()
        weight, bias = model.weight.detach(), model.bias.detach()
        batches = [batch for epoch in range(3) for batch in batches_of(training, epoch)]
        for rate, batch in zip(rates, batches, strict=True):
            slopes = gradient(weight, bias, *batch)
            weight, bias = weight - rate * slopes[0], bias - rate * slopes[1]
        torch.testing.assert_close(training.model.weight, nn.Parameter(weight), rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(training.model.bias, nn.Parameter(bias), rtol=1e-11, atol=1e-12)

    def test_without_warm_up_the_first_step_is_below_the_largest_rate(self, linear):
        training = run(**linear, epochs=1)
        last = 0.05 * (1 + math.cos(math.pi * 4 / 5)) / 2
        assert training.state.history[-1]["lr"] == pytest.approx(last)

    def test_momentum_is_not_nesterov_and_decay_is_added_to_the_gradient(self, linear, tmp_path):
        training = run(tmp_path, **linear | dict(momentum=0.9, weight_decay=0.1), epochs=1, min_lr=0.05)
        model = Linear()
        weight, bias, speed = model.weight.detach(), model.bias.detach(), [0.0, 0.0]
        for batch in batches_of(training):
            slopes = gradient(weight, bias, *batch)
            speed = [0.9 * v + g + 0.1 * p for v, g, p in zip(speed, slopes, (weight, bias))]
            weight, bias = weight - 0.05 * speed[0], bias - 0.05 * speed[1]
        torch.testing.assert_close(training.model.weight, nn.Parameter(weight), rtol=1e-11, atol=1e-12)

    def test_micro_batches_add_up_to_the_batch(self, linear):
        whole, parts = (run(**linear, accumulate=parts) for parts in (1, 4))
        torch.testing.assert_close(parts.model.weight, whole.model.weight, rtol=1e-12, atol=1e-14)
        assert parts.model.passes == 4 * whole.model.passes
        names = ("train_loss", "train_accuracy", "images", "top1")
        for ours, theirs in zip(parts.state.history, whole.state.history):
            assert [ours[name] for name in names] == pytest.approx([theirs[name] for name in names])

    @pytest.mark.parametrize("accumulate", [1, 2])
    def test_clipping_bounds_the_norm_of_the_gradient_and_keeps_its_direction(self, linear, accumulate):
        free, clipped = (
            run(**linear, epochs=1, batch_size=64, clip_grad=clip, accumulate=accumulate) for clip in (None, 1e-3)
        )
        rate = free.state.history[-1]["lr"]
        first = torch.cat([Linear().weight.flatten(), Linear().bias]).detach()
        moves = [torch.cat([run.model.weight.flatten(), run.model.bias]).detach() - first for run in (free, clipped)]
        assert moves[0].norm() > 100 * rate * 1e-3
        assert moves[1].norm().item() == pytest.approx(rate * 1e-3, rel=2e-3)  # torch adds 1e-6 to the norm
        assert F.cosine_similarity(*moves, dim=0).item() == pytest.approx(1)

    def test_ema_follows_timm_with_warm_up(self, linear, tmp_path):
        training = run(tmp_path, **linear, ema=0.55, lr=1.0)
        decays = [0.0] + [min(0.55, 1 - (1 + step) ** (-2 / 3)) for step in range(1, 8)]
        assert 0 < decays[1] < decays[2] < 0.55 == decays[-1]
        average = None
        for decay, state in zip(decays, states(tmp_path)):
            weight = state["model"]["weight"]
            average = weight if average is None else decay * average + (1 - decay) * weight
            torch.testing.assert_close(state["ema"]["weight"], average, rtol=1e-12, atol=1e-14)
        assert not torch.allclose(average, weight)
        assert isinstance(training.step.ema, ModelEmaV3)
        assert torch.equal(load_file(tmp_path / "last.safetensors")["weight"], training.step.ema.module.weight)
        tested = evaluate(training.step.ema.module, training.test_loader)
        assert tested.loss == training.state.history[-1]["test_loss"]

    def test_loss_tet(self, linear):
        training = run(**linear | dict(T=3), epochs=1, lr=0.0, loss="tet", tet_lambda=0.2)
        model = Linear(T=3)
        losses = []
        for images, soft in batches_of(training):
            steps = torch.stack([(images @ model.weight.T) * (t + 1) for t in range(3)])
            losses.append(tet(steps, soft, 0.2).item())
        assert training.state.history[-1]["train_loss"] == pytest.approx(np.mean(losses), rel=1e-6)

    def test_labels_are_smoothed(self, linear):
        training = run(**linear, epochs=1, lr=0.0, label_smoothing=0.3)
        losses = [
            F.cross_entropy(images @ Linear().weight.T, soft, label_smoothing=0.3).item()
            for images, soft in batches_of(training)
        ]
        assert training.state.history[-1]["train_loss"] == pytest.approx(np.mean(losses), rel=1e-6)


@pytest.mark.parametrize("decay_all", [True, False])
def test_weight_decay_excludes_vectors_on_request(decay_all):
    training = prepare(decay_all=decay_all, weight_decay=0.1)
    names = {parameter: name for name, parameter in training.model.named_parameters()}
    decays = {
        names[p]: group["weight_decay"] for group in training.step.optimizer.param_groups for p in group["params"]
    }
    assert decays.keys() == set(names.values())
    plain = {name for name, p in training.model.named_parameters() if p.dim() < 2}
    assert plain and len(plain) < len(decays)
    assert decays == {name: 0.0 if name in plain and not decay_all else 0.1 for name in decays}


@pytest.mark.parametrize("decay_all", [True, False])
def test_the_gate_decays_unless_it_is_spared(decay_all):
    """Independent of ``decay_all``, and in runs from before the setting it decayed."""
    assert Settings().decay_gate
    training = prepare(decay_gate=False, decay_all=decay_all, weight_decay=0.1)
    names = {parameter: name for name, parameter in training.model.named_parameters()}
    spared = {
        names[p] for group in training.step.optimizer.param_groups if not group["weight_decay"] for p in group["params"]
    }
    assert {name for name in spared if names and "gau" in name} == {name for name in names.values() if "gau" in name}
    assert any("head" in name for name in names.values() if name not in spared)
    vectors = {name for name, p in training.model.named_parameters() if p.dim() < 2}
    assert spared - vectors == training.model.no_weight_decay()
    assert (spared >= vectors) == (not decay_all)


def test_another_optimiser():
    training = run(opt="adamw", epochs=1, lr=1e-3)
    assert type(training.step.optimizer).__name__ == "AdamW"


@pytest.mark.medium
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_autocast_computes_in_half_and_keeps_parameters_and_loss_in_full_precision(amp, tmp_path):
    training = prepare(tmp_path, amp=amp, epochs=1)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}[amp]
    types_seen = set()
    training.model.stages[1][0].conv1.register_forward_hook(lambda module, x, y: types_seen.add(y.dtype))
    before = training.model.head.weight.detach().clone()
    training.run()
    assert types_seen == {half}  # in training and in the test
    floats = {value.dtype for value in training.model.state_dict().values() if value.is_floating_point()}
    assert floats == {torch.float32}
    assert not torch.equal(training.model.head.weight, before)
    plain = run(epochs=1)
    assert training.state.history[-1]["train_loss"] == pytest.approx(plain.state.history[-1]["train_loss"], rel=0.02)
    assert training.state.history[-1]["train_loss"] != plain.state.history[-1]["train_loss"]


@pytest.mark.medium
def test_channels_last_is_another_layout_of_the_same():
    training, plain = run(channels_last=True, epochs=1), run(epochs=1)
    weight = training.model.stages[0][0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    assert training.state.history[0]["train_loss"] == pytest.approx(plain.state.history[0]["train_loss"], rel=1e-4)


@pytest.mark.slow
def test_compiled_is_the_same_as_eager(tmp_path):
    """At the same weights: after a step or two a spike may fall to the other side of its threshold."""
    eager, compiled = (run(tmp_path / str(on), epochs=1, lr=0.0, compile=on) for on in (False, True))
    assert compiled.state.history[-1]["train_loss"] == pytest.approx(eager.state.history[-1]["train_loss"], rel=1e-5)
    names = [set(load_file(tmp_path / str(on) / "last.safetensors")) for on in (False, True)]
    assert names[0] == names[1]


@pytest.mark.medium
@pytest.mark.one_release
class TestNonFinite:
    RATE = f"{0.05 * (1 + math.cos(math.pi * 6 / 9)) / 2:.3g}"

    @staticmethod
    def fail(folder, spoil):
        """The message of a run whose weights are spoilt in step 6, the second of epoch 2."""
        training = prepare(folder)
        at_step(training, 6, lambda: spoil(training.model))
        with pytest.raises(NonFiniteLossError) as error:
            training.run()
        kept = last_state(folder)
        assert kept["position"] == [1, 1, 5]
        assert all(value.isfinite().all() for value in kept["model"].values())
        assert run(folder).state.epoch == 2  # where the cause is gone, it continues
        return str(error.value)

    def test_the_message_says_where(self, tmp_path):
        message = self.fail(tmp_path, lambda model: model.head.weight.data.fill_(math.inf))
        assert message == (
            f"The loss is nan at step 6 (epoch 2, learning rate {self.RATE}); weights or statistics are not finite in "
            "head; the last good checkpoint is kept; lower lr or set clip_grad."
        )

    def test_non_finite_weights_are_found_behind_a_finite_loss(self, tmp_path):
        message = self.fail(tmp_path, lambda model: model.stages[1][0].conv1.weight.data.fill_(math.inf))
        assert "nan" not in message
        assert f"at step 6 (epoch 2, learning rate {self.RATE}); weights or statistics are not finite in" in message
        assert "not finite in encoder.stem.0, " in message  # the gradient has carried it down to the first layer

    @pytest.mark.parametrize("minutes", ["0", "10"])
    def test_the_command_ends_in_one_line(self, minutes, tmp_path, capsys):
        folder = tmp_path / "run"
        assert train_script.main(command(folder, "--lr", "1e30", "--checkpoint-minutes", minutes)) == 1
        output = capsys.readouterr()
        (line,) = output.err.splitlines()
        assert re.match(r"train\.py: The loss is .* at step [12] \(epoch 1, learning rate .*e\+29\); weights or", line)
        kept = Checkpoints(folder / "checkpoints", 1).load()
        assert ("last good checkpoint is kept" if kept else "there is no checkpoint") in line
        assert kept is None or all(value.isfinite().all() for value in kept["model"].values())
        assert output.out == "" and not (folder / "result.csv").exists()

    def test_a_finite_run_is_not_stopped(self):
        assert math.isfinite(run(lr=2.0).state.history[-1]["train_loss"])


@pytest.mark.medium
class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_the_step_is_finished_and_kept_and_the_same_run_continues(self, number, tmp_path, whole):
        handlers = [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)]
        training = prepare(tmp_path, **WHOLE | {"checkpoint_minutes": 10.0})
        at_step(training, 6, lambda: os.kill(os.getpid(), number))
        with pytest.raises(InterruptedRunError) as error:
            training.run()
        assert error.value.exit_code == 128 + number
        assert f"{number.name} in epoch 2 (batch 2 of 4)" in str(error.value) and str(tmp_path) in str(error.value)
        assert last_state(tmp_path)["position"] == [1, 2, 6]
        assert [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)] == handlers
        run(tmp_path, **WHOLE)
        assert_same_run(tmp_path, whole)

    def test_during_the_test(self, tmp_path, whole):
        training = prepare(tmp_path, **WHOLE)
        training.step.ema.module.encoder.register_forward_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(InterruptedRunError, match=r"SIGTERM in epoch 1 \(batch 4 of 4\)"):
            training.run()
        assert not (tmp_path / "summary.csv").exists()
        run(tmp_path, **WHOLE)
        assert_same_run(tmp_path, whole)

    def test_a_second_signal_acts_at_once(self, tmp_path):
        training = prepare(tmp_path)

        def twice():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("held back")

        at_step(training, 3, twice)
        with pytest.raises(KeyboardInterrupt):
            training.run()
        assert last_state(tmp_path)["position"] == [0, 2, 2]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_without_a_folder_nothing_is_saved(self):
        training = prepare()
        at_step(training, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(InterruptedRunError, match="Nothing was saved"):
            training.run()

    def test_a_run_in_another_thread_trains(self):
        training = prepare(epochs=1)
        thread = threading.Thread(target=training.run)
        thread.start()
        thread.join()
        assert training.state.epoch == 1


def truncate(path):
    path.write_bytes(path.read_bytes()[:1000])


def flip_one_bit(path):
    content = bytearray(path.read_bytes())
    content[-2000] ^= 4
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.medium
@pytest.mark.one_release
class TestDamage:
    @staticmethod
    def interrupted(folder):
        training = prepare(folder, **WHOLE | {"keep_checkpoints": 2})
        at_step(training, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(InterruptedRunError):
            training.run()
        paths = sorted((folder / "checkpoints").iterdir())
        assert [int(path.name[15:24]) for path in paths] == [5, 6]
        return paths

    @pytest.mark.parametrize("damage", [truncate, flip_one_bit, empty])
    def test_the_newest_is_damaged(self, damage, tmp_path, whole, caplog):
        paths = self.interrupted(tmp_path)
        damage(paths[-1])
        caplog.set_level(logging.INFO)
        run(tmp_path, **WHOLE | {"keep_checkpoints": 2})
        assert str(paths[-1]) in caplog.text and str(paths[0]) not in caplog.text
        assert "resumes in epoch 2 (batch 1 of 4)" in caplog.text
        assert_same_run(tmp_path, whole)
        assert [int(path.name[15:24]) for path in (tmp_path / "checkpoints").iterdir()] == [8, 8]

    def test_all_are_damaged(self, tmp_path, whole, caplog):
        paths = self.interrupted(tmp_path)
        for path in paths:
            truncate(path)
        caplog.set_level(logging.INFO)
        training = prepare(tmp_path, **WHOLE | {"keep_checkpoints": 2})
        at_step(training, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(InterruptedRunError):
            training.run()
        assert all(str(path) in caplog.text for path in paths)
        assert "resumes" not in caplog.text
        assert last_state(tmp_path)["position"] == [0, 3, 3]  # from scratch, and kept beside the damaged ones
        run(tmp_path, **WHOLE | {"keep_checkpoints": 2})
        assert "resumes in epoch 1 (batch 3 of 4)" in caplog.text
        assert_same_run(tmp_path, whole)

    @pytest.mark.parametrize("minutes, steps", [(10.0, [8, 12, 12]), (0.0, [*range(1, 13), 12])])
    def test_epochs_without_a_test_have_one_when_it_is_due(self, minutes, steps, linear, tmp_path):
        """Four steps an epoch: one before the test of the second epoch, one before the last, and one at the end."""
        run(tmp_path, **linear, epochs=3, eval_every=2, checkpoint_minutes=minutes, keep_checkpoints=100)
        found = [int(path.name[15:24]) for path in (tmp_path / "checkpoints").iterdir()]
        assert sorted(found) == sorted(steps)

    def test_a_full_disk_leaves_the_checkpoints_before(self, tmp_path, whole, monkeypatch):
        training = prepare(tmp_path, **WHOLE)
        replace = os.replace

        def full(source, target, *args, **kwargs):
            if "step000000006" in str(target):
                raise OSError(28, "No space left on device")
            return replace(source, target, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            with pytest.raises(OSError, match="No space left"):
                training.run()
        assert last_state(tmp_path)["position"] == [1, 1, 5]
        run(tmp_path, **WHOLE)
        assert_same_run(tmp_path, whole)
        assert not [path for path in tmp_path.rglob("*") if path.suffix == ".tmp"]


@pytest.mark.one_release
class TestOutputs:
    def test_summary_has_one_line_per_epoch_with_the_numbers_of_the_run(self, linear, tmp_path):
        training = run(tmp_path, **linear, epochs=3, eval_every=2, lr=0.0)
        rows = table(tmp_path / "summary.csv")
        assert [row["epoch"] for row in rows] == ["1", "2", "3"]
        assert [row["top1"] != "" for row in rows] == [False, True, True]  # the last epoch is always tested
        model = Linear()
        for epoch, row in enumerate(rows):
            batches = batches_of(training, epoch)
            logits = [images @ model.weight.T for images, _ in batches]
            losses = [F.cross_entropy(y, soft).item() for y, (_, soft) in zip(logits, batches)]
            correct = sum((y.argmax(1) == soft.argmax(1)).sum().item() for y, (_, soft) in zip(logits, batches))
            assert float(row["train_loss"]) == pytest.approx(np.mean(losses))
            assert float(row["train_accuracy"]) == pytest.approx(100 * correct / 64)
            assert (row["images"], row["corrupt"]) == ("64", "0")
        images, labels = digits().images[1]
        logits = ((images / 255 - 0.3) / 0.4).double().flatten(1) @ model.weight.T
        for row in rows[1:]:
            assert float(row["top1"]) == pytest.approx(100 * (logits.argmax(1) == labels).double().mean().item())
            assert float(row["test_loss"]) == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)

    def test_the_kept_weights_are_those_that_were_tested(self, whole):
        settings = Settings(**yaml.safe_load((whole / "args.yaml").read_text()))
        assert settings == resolve(Settings(**SMALL | WHOLE), CPU.device)
        data = digits()
        rows = table(whole / "summary.csv")
        best = max(range(2), key=lambda at: float(rows[at]["top1"]))
        for name, row in (("last", rows[-1]), ("best", rows[best])):
            model = build_network(settings, data, CPU)
            model.load_state_dict(load_file(whole / f"{name}.safetensors"))
            tested = evaluate(model, data.testing(settings, model, CPU))
            assert float(row["top1"]) == 100 * tested.top1
            assert float(row["top5"]) == 100 * tested.top5
            assert float(row["test_loss"]) == tested.loss

    def test_among_equals_the_first_epoch_is_the_best_in_file_and_row(self, linear, tmp_path):
        run(tmp_path, **linear, epochs=3, lr=0.0)
        assert load_file(tmp_path / "best.safetensors")["passes"] == 4
        assert load_file(tmp_path / "last.safetensors")["passes"] == 12

    def test_unfinished_files_of_a_kill_are_removed(self, tmp_path):
        left, kept = tmp_path / ".summary.csv.0123abcd.tmp", tmp_path / ".notes.tmp"
        for path in (left, kept):
            path.write_text("epoch")
        run(tmp_path, epochs=1)
        assert kept.exists() and not left.exists()

    def test_the_same_weights_are_the_same_file(self, whole, tmp_path):
        run(tmp_path, **WHOLE)
        assert_same_run(tmp_path, whole)

    def test_each_file_is_replaced_atomically(self, tmp_path, monkeypatch):
        """Whoever reads while the run writes finds every line complete."""
        replace, seen = os.replace, []

        def look(source, target, *args, **kwargs):
            seen.append(Path(target).name)
            if Path(target).exists() and Path(target).suffix == ".csv":
                assert len(table(source)) == len(table(target)) + 1
            return replace(source, target, *args, **kwargs)

        monkeypatch.setattr(os, "replace", look)
        run(tmp_path)
        assert seen.count("summary.csv") == 2
        assert {"args.yaml", "last.safetensors", "best.safetensors"} < set(seen)

    def test_a_full_disk_names_the_folder_of_tensorboard(self, tmp_path, monkeypatch):
        pytest.importorskip("tensorboard")
        outputs = RunOutputs(tmp_path, Settings(), digits(), 1)

        def add_scalar(*arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(outputs.tensorboard, "add_scalar", add_scalar)
        with pytest.raises(OSError, match=r"No space left on device: '.*/tensorboard'"):
            outputs.write_summary([{"epoch": 1, "top1": 1.0}])
        outputs.close()

    def test_tensorboard_has_every_epoch_once_after_an_interruption_between_epochs(self, tmp_path):
        accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        training = prepare(tmp_path, epochs=3)
        at_step(training, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(InterruptedRunError):
            training.run()
        run(tmp_path, epochs=3)
        events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()
        rows = table(tmp_path / "summary.csv")
        assert [row["epoch"] for row in rows] == ["1", "2", "3"]
        for name in ("train_loss", "top1", "lr"):
            found = [(event.step, event.value) for event in events.Scalars(name)]
            assert found == [(int(row["epoch"]), pytest.approx(float(row[name]), rel=1e-5)) for row in rows]

    def test_wandb_that_is_not_installed_is_an_error(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "wandb", None)
        assert train_script.main(command(tmp_path / "run", "--wandb", "project")) == 2
        assert "train.py: --wandb " in capsys.readouterr().err
        assert not (tmp_path / "run" / "checkpoints").exists()

    def test_wandb_gets_every_epoch_under_a_name_that_a_resumed_run_has_too(self, tmp_path, monkeypatch):
        logged, about = [], {}
        fake = types.ModuleType("wandb")
        fake.init = lambda **given: (
            about.update(given)
            or types.SimpleNamespace(
                log=lambda numbers, step: logged.append((step, numbers)), finish=lambda: logged.append("finished")
            )
        )
        monkeypatch.setitem(sys.modules, "wandb", fake)
        training = run(tmp_path, wandb="project")
        assert [entry[0] for entry in logged[:-1]] == [1, 2] and logged[-1] == "finished"
        assert logged[1][1]["top1"] == training.state.history[1]["top1"]
        assert about["id"] == training.settings.name() and about["project"] == "project"


def command(folder, *arguments):
    options = ["--model", "gac_ms_resnet8_cifar", "-T", 2, "--dataset", "digits", "--train-limit", 40, "--epochs", 2,
               "--batch-size", 20, "--loader", "resident", "--device", "cpu", "--output", folder]  # fmt: skip
    return [*map(str, options), *arguments]


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory):
    """A finished run of the command, and what it printed."""
    folder = tmp_path_factory.mktemp("command") / "run"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert train_script.main(command(folder)) == 0
    return folder, printed.getvalue()


@pytest.fixture
def finished(finished_once, tmp_path):
    """A copy of it."""
    folder = shutil.copytree(finished_once[0], tmp_path / "run")
    return folder, finished_once[1].replace(str(finished_once[0]), str(folder))


@pytest.mark.medium
@pytest.mark.one_release
class TestCommand:
    def test_again_after_the_end_trains_nothing_and_prints_the_same(self, finished, capsys):
        folder, printed = finished
        assert printed.startswith(f"{folder}: test accuracy ") and printed.count("\n") == 1
        before = contents(folder, times=True)
        # how it is run may differ
        again = command(folder, "--workers", "1", "--keep-checkpoints", "5", "--device", "auto")
        if torch.cuda.is_available():
            again = again[:-2]
        assert train_script.main(again) == 0
        assert capsys.readouterr().out == printed
        assert contents(folder, times=True) == before

    def test_killed_between_the_last_checkpoint_and_the_result(self, finished, capsys):
        folder, printed = finished
        row = table(folder / "result.csv")
        (folder / "result.csv").unlink()
        checkpoints = contents(folder / "checkpoints", times=True)
        assert train_script.main(command(folder)) == 0
        assert capsys.readouterr().out == printed
        assert contents(folder / "checkpoints", times=True) == checkpoints
        assert table(folder / "result.csv") == row

    def test_other_settings_in_the_same_folder_are_refused_by_name(self, finished, capsys):
        folder, _ = finished
        before = contents(folder, times=True)
        assert train_script.main(command(folder, "--lr", "0.2", "--hflip", "0")) == 2
        output = capsys.readouterr()
        assert output.out == ""
        (line,) = output.err.splitlines()[-1:]
        assert line.startswith(f"train.py: --output {folder} ") and "(hflip: 0.5 -> 0.0, lr: 0.1 -> 0.2)" in line
        assert contents(folder, times=True) == before

    def test_places_may_differ_in_a_resumed_run(self, tmp_path, capsys, finished):
        folder = tmp_path / "other"
        settings = Settings(
            **SMALL | dict(batch_size=20, lr=0.1, train_limit=40, output=str(folder), keep_checkpoints=2)
        )
        training = Training(settings, train_script.load_data(settings), CPU, folder)
        at_step(training, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(InterruptedRunError):
            training.run()
        again = command(folder, "--workers", "0", "--keep-checkpoints", "1", "--checkpoint-minutes", "5")
        assert train_script.main(again) == 0
        assert_same_run(folder, finished[0])
        assert len(list((folder / "checkpoints").iterdir())) == 1
        assert yaml.safe_load((folder / "args.yaml").read_text())["keep_checkpoints"] == 1

    @pytest.mark.parametrize("lost", [True, False], ids=["lost", "overwritten"])
    def test_a_checkpoint_knows_its_settings(self, lost, finished, capsys):
        """Without its args.yaml, or with that of another start, a run is not continued as another one."""
        folder, _ = finished
        (folder / "result.csv").unlink()
        settings = Settings(**yaml.safe_load((folder / "args.yaml").read_text()) | {"seed": 1})
        (folder / "args.yaml").unlink() if lost else (folder / "args.yaml").write_text(settings.dump())
        other = command(folder, "--seed", "1")
        refused(capsys, train_script.main, other, "--output", str(folder), "(seed: 0 -> 1)", folder=folder)

    def test_a_checkpoint_knows_its_images(self, finished, capsys, monkeypatch):
        folder, _ = finished
        (folder / "result.csv").unlink()
        monkeypatch.setattr(Data, "fingerprint", lambda data: "0123456789ab")
        refused(capsys, train_script.main, command(folder), "--output", "other images", folder=folder)

    def test_a_checkpoint_of_an_earlier_version_is_refused(self, finished, capsys):
        folder, _ = finished
        (folder / "result.csv").unlink()
        state = last_state(folder)
        del state["run"]
        Checkpoints(folder / "checkpoints", 1).save(*state["position"][::2], state)
        refused(capsys, train_script.main, command(folder), "--output", "earlier version", folder=folder)

    def test_settings_that_were_added_since_have_their_defaults(self, finished, capsys):
        folder, printed = finished
        (folder / "result.csv").unlink()
        state = last_state(folder)
        del state["run"]["cutout"], state["run"]["encoder_source"]
        Checkpoints(folder / "checkpoints", 1).save(*state["position"][::2], state)
        assert train_script.main(command(folder)) == 0
        assert capsys.readouterr().out == printed

    @pytest.mark.parametrize("seed", ["0", "1"])
    def test_a_folder_in_use_is_refused_and_not_touched(self, seed, finished, capsys):
        folder, printed = finished
        with held(folder):
            assert train_script.main(command(folder)) == 0  # it only reads the row
            assert capsys.readouterr().out == printed
            (folder / "result.csv").unlink()
            arguments = command(folder, "--seed", seed)
            refused(capsys, train_script.main, arguments, "--output", "in use", str(folder), folder=folder)
        assert train_script.main(command(folder)) == 0

    def test_what_another_command_finishes_meanwhile_is_not_trained(self, finished, capsys, monkeypatch):
        folder, printed = finished
        row = (folder / "result.csv").rename(folder / "elsewhere")
        hold = run_module.hold_folder

        @contextlib.contextmanager
        def hold_after_the_other(*arguments):
            row.rename(folder / "result.csv")
            with hold(*arguments):
                yield

        monkeypatch.setattr(run_module, "hold_folder", hold_after_the_other)
        monkeypatch.setattr(run_module, "train", lambda *arguments: pytest.fail("it trains"))
        assert train_script.main(command(folder)) == 0
        assert capsys.readouterr().out == printed

    def test_damaged_settings_of_a_run_are_named(self, finished, capsys):
        folder, _ = finished
        (folder / "result.csv").unlink()
        (folder / "args.yaml").write_text("[1")
        assert train_script.main(command(folder)) == 2
        assert f"{folder / 'args.yaml'}" in capsys.readouterr().err

    def test_weights_of_an_encoder_that_is_not_imported(self, tmp_path, capsys):
        path = tmp_path / "last.safetensors"
        settings = {"encoder": "mine", "encoder_source": "affine.py:0123456789ab"}
        save_file({"weight": torch.zeros(1)}, path, {"settings": json.dumps(settings)})
        assert evaluate_script.main([str(path), "--device", "cpu"]) == 2
        error = capsys.readouterr().err
        assert str(path) in error and "'mine'" in error and "--import affine.py" in error and error.count("\n") == 1

    def test_a_batch_larger_than_the_set(self, tmp_path, capsys):
        assert train_script.main(command(tmp_path / "run", "--batch-size", "41")) == 2
        assert re.search("^train.py: --batch-size .* 40, got 41", capsys.readouterr().err)


RANDOM = ["--model", "ms_resnet8_cifar", "--encoder", "poisson"]


@pytest.mark.medium
@pytest.mark.one_release
class TestRandomEncoder:
    """What a random encoder's test draws is a function of seed and epoch; what was measured is kept."""

    @pytest.fixture(scope="class")
    @classmethod
    def random(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("random") / "run"
        assert train_script.main(command(folder, *RANDOM)) == 0
        return folder

    def test_killed_between_the_last_checkpoint_and_the_result(self, random, tmp_path):
        folder = shutil.copytree(random, tmp_path / "run")
        (folder / "result.csv").unlink()
        torch.rand(3)
        assert train_script.main(command(folder, *RANDOM)) == 0
        assert_same_run(folder, random)

    def test_what_was_measured_is_not_measured_again(self, random, tmp_path, monkeypatch):
        folder = shutil.copytree(random, tmp_path / "run")
        (folder / "result.csv").unlink()
        monkeypatch.setattr(engine, "evaluate", lambda *arguments: pytest.fail("it tests"))
        assert train_script.main(command(folder, *RANDOM)) == 0

    def test_killed_in_the_test(self, random, tmp_path, monkeypatch):
        def kill(*arguments):
            torch.rand(3)
            os.kill(os.getpid(), signal.SIGTERM)
            return evaluate(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(engine, "evaluate", kill)
            assert train_script.main(command(tmp_path / "run", *RANDOM)) == 143
        assert train_script.main(command(tmp_path / "run", *RANDOM)) == 0
        assert_same_run(tmp_path / "run", random)

    def test_how_often_it_is_tested_does_not_change_the_training(self, random, tmp_path):
        assert train_script.main(command(tmp_path / "run", *RANDOM, "--eval-every", "2")) == 0
        once, twice = (load_file(folder / "last.safetensors") for folder in (tmp_path / "run", random))
        torch.testing.assert_close(once, twice, **EXACT)
        (row,), (other,) = (table(folder / "result.csv") for folder in (tmp_path / "run", random))
        assert row["test_loss_last"] == other["test_loss_last"]  # a function of the epoch, not of the tests before it

    def test_each_epoch_and_seed_has_draws_of_its_own(self, linear, monkeypatch):
        draws = []

        def draw(*arguments):
            draws.append((torch.rand(1).item(), np.random.rand()))  # noqa: NPY002
            return evaluate(*arguments)

        monkeypatch.setattr(engine, "evaluate", draw)
        for seed in (0, 1, 0):
            run(**linear, seed=seed)
        assert draws[4:] == draws[:2]
        assert len(set(draws)) == 4

    def test_evaluate_repeats_the_row(self, random, capsys):
        (row,) = table(random / "result.csv")
        assert evaluate_script.main([str(random / "last.safetensors"), "--device", "cpu"]) == 0
        printed = capsys.readouterr().out
        assert f"top-5 {float(row['top5_last']):.2f} %, cross-entropy {float(row['test_loss_last']):.4f}" in printed


@pytest.mark.medium
@pytest.mark.one_release
class TestOperatorPath:
    @staticmethod
    def interrupted(folder):
        training = prepare(folder)
        at_step(training, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(InterruptedRunError):
            training.run()

    def test_it_is_in_row_and_state(self, tmp_path, monkeypatch):
        monkeypatch.setenv("GAC_SJ_OPS", "torch")
        assert train_script.main(command(tmp_path / "run")) == 0
        assert table(tmp_path / "run" / "result.csv")[0]["ops_path"] == "torch"
        assert last_state(tmp_path / "run")["paths"] == ["torch"]

    def test_a_run_that_resumes_on_another_path_warns_once(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setenv("GAC_SJ_OPS", "torch")
        self.interrupted(tmp_path)
        run(shutil.copytree(tmp_path, tmp_path / "same"))
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        monkeypatch.setattr(engine, "operator_paths", lambda modules, x, steps: {"cpp": 1})
        training = run(tmp_path)
        (warning,) = (record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
        assert "torch" in warning and "cpp" in warning
        assert training.state.paths == last_state(tmp_path)["paths"] == ["cpp", "torch"]

    def test_a_finished_run_does_not_warn(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setenv("GAC_SJ_OPS", "torch")
        run(tmp_path)
        monkeypatch.setattr(engine, "operator_paths", lambda modules, x, steps: {"cpp": 1})
        assert run(tmp_path).state.paths == ["torch"]
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    def test_a_path_that_is_not_available_is_refused_before_anything_is_written(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("GAC_SJ_OPS", "cupy")
        refused(capsys, train_script.main, command(tmp_path / "run"), "GAC_SJ_OPS", folder=tmp_path / "run")


class Unreadable:
    """Images of which one cannot be read."""

    def __init__(self, source, item):
        self.source, self.item = source, item

    def __getitem__(self, item):
        if item == self.item:
            raise OSError("truncated")
        return self.source[item]


@pytest.mark.medium
@pytest.mark.one_release
def test_unreadable_images_before_an_interruption_are_counted(tmp_path):
    data = digits("standard")
    settings = Settings(**SMALL | dict(loader="standard", workers=0, skip_corrupt=True))
    loader = Training(settings, data, CPU).loader
    loader.set_epoch(0)
    early = next(iter(loader.sampler))[0].item  # of the first batch; after the interruption nothing reads it
    broken = dataclasses.replace(data.train, source=Unreadable(data.train.source, data.train.index[early]))
    data = dataclasses.replace(data, train=broken)
    training = Training(settings, data, CPU, tmp_path)
    at_step(training, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(InterruptedRunError):
        training.run()
    Training(settings, data, CPU, tmp_path).run()
    assert [row["corrupt"] for row in table(tmp_path / "summary.csv")] == ["1", "1"]


@pytest.mark.one_release
class TestDryRun:
    def test_it_shows_the_network_and_the_data_and_leaves_no_file(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        assert train_script.main([*command("run")[:-2], "--dry-run"]) == 0
        output = capsys.readouterr().out
        model = build_model(Settings(**SMALL), digits().info)
        count = sum(p.numel() for p in model.parameters())
        assert f"{count:,} parameters" in output
        assert "million" in output and "per image" in output
        assert "training images 40, test images 360, classes 10, batches per epoch 2" in output
        assert "first batch: images [20, 1, 8, 8]" in output and "labels [20, 10]" in output
        lines = {line.split()[0]: line for line in output.splitlines() if line.strip()}
        for neuron in ("stages.0.0.lif1", "stages.2.0.lif2", "lif"):
            assert "[2, 20, " in lines[neuron]
            assert 0 <= float(lines[neuron].replace("silent", "").split()[-1]) <= 1
        assert list(tmp_path.iterdir()) == []

    def test_missing_data_is_replaced_and_reported(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        arguments = ["--model", "ms_resnet8_cifar", "-T", "2", "--batch-size", "8", "--workers", "0", "--dry-run"]
        data = ["--dataset", "folder", "--data-dir", "nowhere"]
        assert train_script.main([*arguments, *data, "--device", "cpu"]) == 0
        output = capsys.readouterr().out
        assert "generated images" in output and "nowhere" in output
        assert "first batch: images [8, 3, 32, 32]" in output
        assert list(tmp_path.iterdir()) == []
        assert train_script.main([*arguments[:-1], *data, "--device", "cpu", "--output", "run"]) == 2  # not to train on
        assert "nowhere" in capsys.readouterr().err

    def test_settings_that_do_not_fit_are_refused_as_in_a_run(self, capsys):
        assert train_script.main([*command("run")[:-2], "--dry-run", "--batch-size", "41"]) == 2
        assert "--batch-size" in capsys.readouterr().err
