"""Callbacks: when they are called, what they may add, and that runs stay the same, also after a kill or a mistake.

Those of several processes are in tests/test_distributed.py.
"""

import csv
import hashlib
import os
import signal

import pytest
import torch
import train as train_script
import yaml
from helpers.files import table
from helpers.programs import refused
from spikingjelly.activation_based import neuron
from test_training import CPU, SMALL, command, digits, last_state
from torch import nn

from gac_sj._utils.errors import UsageError
from gac_sj.analysis import firing_rates
from gac_sj.training import network
from gac_sj.training.engine import InterruptedRunError, Training
from gac_sj.training.settings import Settings

pytestmark = [pytest.mark.one_release, pytest.mark.usefixtures("quick")]

#: sixteen images in a step, four steps in each of two epochs, a test after the second
TWICE = SMALL | dict(eval_every=2)


def run(*callbacks, folder=None, **changes):
    settings = Settings(**TWICE | changes)
    training = Training(settings, digits(settings.loader), CPU, folder, callbacks)
    training.run()
    return training


class Recorder:
    """It notes all calls."""

    def __init__(self):
        self.calls = []

    def on_step_end(self, training, result):
        self.calls.append(("step", training.state.step, result.images))

    def on_test_start(self, training):
        self.calls.append(("test start", training.state.epoch))

    def on_test_end(self, training, test):
        self.calls.append(("test", test.evaluation.images))

    def on_epoch_end(self, training, row):
        assert row["epoch"] == len(training.state.history) + 1
        with pytest.raises(TypeError):
            row["epoch"] = 7
        self.calls.append(("epoch", row["epoch"], row["top1"] != ""))


class Steps:
    """It counts steps, and has a state."""

    def __init__(self, name="steps"):
        self.name, self.count = name, 0

    def on_step_end(self, training, result):
        self.count += 1

    def on_epoch_end(self, training, row):
        return {self.name: torch.tensor(self.count)}

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class Forgetful(Steps):
    state_dict = load_state_dict = None


class Mistaken:
    """It raises after the sixth step, until it is corrected."""

    def __init__(self, correct=False):
        self.correct = correct

    def on_step_end(self, training, result):
        if training.state.step == 6 and not self.correct:
            raise KeyError("loss")


def summary(folder):
    with open(folder / "summary.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run without callbacks."""
    folder = tmp_path_factory.mktemp("plain")
    run(folder=folder)
    return folder


def assert_same_weights(folder, expected):
    for name in ("last.safetensors", "best.safetensors"):
        assert (folder / name).read_bytes() == (expected / name).read_bytes()
    ours, theirs = (last_state(path)["random"][0]["torch"] for path in (folder, expected))
    assert torch.equal(ours, theirs)


def test_calls_in_order():
    recorder = Recorder()
    run(recorder)
    steps = [("step", number, 16) for number in range(1, 9)]
    assert recorder.calls == [
        *steps[:4], ("epoch", 1, False), *steps[4:], ("test start", 1), ("test", 40), ("epoch", 2, True)
    ]  # fmt: skip


def test_a_run_is_the_same_with_callbacks_that_observe(plain, tmp_path):
    run(Recorder(), Steps(), folder=tmp_path, log_firing_rates=True)
    assert_same_weights(tmp_path, plain)
    for ours, theirs in zip(summary(tmp_path), summary(plain), strict=True):
        assert list(theirs) == list(ours)[: len(theirs)]
        assert [ours[name] for name in ("train_loss", "top1")] == [theirs[name] for name in ("train_loss", "top1")]
    assert last_state(plain)["callbacks"] == {}


def test_numbers_are_logged_with_the_epoch(tmp_path):
    class Numbers:
        def on_test_end(self, training, test):
            return {"errors": 40 - 40 * test.evaluation.top1}

    training = run(Numbers(), Steps(), folder=tmp_path)
    first, second = summary(tmp_path)
    assert (first["errors"], first["steps"], second["steps"]) == ("", "4.0", "8.0")
    assert float(second["errors"]) == pytest.approx(40 - 0.4 * training.state.history[1]["top1"])
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("steps")] == [(1, 4.0), (2, 8.0)]
    assert [event.step for event in events.Scalars("errors")] == [2]


def test_a_state_continues_when_a_run_resumes(plain, tmp_path):
    class Killer:
        def on_step_end(self, training, result):
            if training.state.step == 6:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(InterruptedRunError):
        run(Steps(), Forgetful("forgetful"), Killer(), folder=tmp_path)
    steps, forgetful, late = Steps(), Forgetful("forgetful"), Steps("late")
    run(steps, forgetful, late, folder=tmp_path)
    assert (steps.count, forgetful.count, late.count) == (8, 2, 2)
    assert list(last_state(tmp_path)["callbacks"].values()) == [{"count": 8}, {"count": 2}]
    assert_same_weights(tmp_path, plain)


def test_a_run_without_a_callback_that_had_a_state_says_so(tmp_path, caplog):
    with pytest.raises(UsageError):
        run(Steps(), Mistaken(), folder=tmp_path)
    caplog.set_level("INFO")
    run(folder=tmp_path)
    assert "without the callback test_callbacks:Steps, and drops its state" in caplog.text


def test_one_that_raises_is_named_and_the_run_resumes(plain, tmp_path):
    steps = Steps()
    line = Mistaken.on_step_end.__code__.co_firstlineno + 2
    with pytest.raises(UsageError, match=rf":Mistaken raises KeyError .*loss.* on_step_end, line {line};"):
        run(steps, Mistaken(), folder=tmp_path)
    assert steps.count == 6
    run(steps, Mistaken(correct=True), folder=tmp_path)  # a checkpoint after each step
    assert steps.count == 8
    assert_same_weights(tmp_path, plain)


@pytest.mark.parametrize(
    ("event", "returned", "words"),
    [
        ("on_epoch_end", 3, ["on_epoch_end", "numbers by name", "int"]),
        ("on_test_end", {"a": "b"}, ["on_test_end", "numbers by name", "'b'"]),
        ("on_test_end", {"top1": 99.0}, ["on_test_end", "'top1'", "another name"]),
        ("state_dict", {"a": object()}, ["state_dict", "tensors and plain values"]),
        ("state_dict", {"a": lambda: 0}, ["state_dict", "tensors and plain values"]),
        ("on_test_start", SystemExit(0), ["on_test_start", "SystemExit"]),
        ("load_state_dict", ValueError("Old. Very."), ["load_state_dict", "ValueError", "(Old)"]),
    ],
)
def test_what_a_callback_must_not_return_or_raise(event, returned, words, tmp_path):
    def method(*arguments):
        if isinstance(returned, BaseException):
            raise returned
        return returned

    odd = Steps()
    setattr(odd, event, method)
    if event == "load_state_dict":
        run(Steps(), folder=tmp_path, epochs=1, eval_every=1)
        with pytest.raises(UsageError) as caught:
            run(odd, folder=tmp_path, epochs=1, eval_every=1)
    else:
        with pytest.raises(UsageError) as caught:
            run(odd, folder=tmp_path, epochs=1, eval_every=1)
    assert all(word in str(caught.value) for word in ["callback test_callbacks:Steps", *words]), caught.value


def test_the_class_itself_is_refused():
    with pytest.raises(UsageError, match=r"^callback must be an object, got the class Steps; call it\.$"):
        Training(Settings(**SMALL), digits(), CPU, callbacks=[Steps])


LOG = """\
class Log:
    def on_epoch_end(self, training, row):
        return {"twice": 2 * row["epoch"]}

class Print:
    def on_test_end(self, training, test):
        if training.world.is_first:
            print("tested", test.evaluation.images)
"""


class TestCommandLine:
    @pytest.fixture
    def file(self, tmp_path):
        path = tmp_path / "mine.py"
        path.write_text(LOG)
        return path

    def test_files_with_classes(self, file, tmp_path, capsys):
        folder = tmp_path / "run"
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"callback": ["absent.py:Absent"]}))
        given = ["--config", tmp_path / "config.yaml"]  # which the command line overrides
        given += ["--callback", f"{file}:Log", "--callback", f"{file}:Print"]
        assert train_script.main(command(folder, *map(str, given))) == 0
        assert capsys.readouterr().out.startswith("tested ")
        assert [row["twice"] for row in summary(folder)] == ["2.0", "4.0"]
        (row,) = table(folder / "result.csv")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        assert row["callbacks"] == f"mine.py:Log:{digest}, mine.py:Print:{digest}"
        assert yaml.safe_load((folder / "args.yaml").read_text())["callback"] == [f"{file}:Log", f"{file}:Print"]
        # not part of the key
        before = (folder / "result.csv").read_bytes()
        assert train_script.main(command(folder)) == 0
        assert (folder / "result.csv").read_bytes() == before

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ("absent.py:Log", ["'absent.py'", "does not exist"]),
            ("mine.py", ["FILE.py:NAME", "'mine.py'"]),
            ("mine.py:", ["FILE.py:NAME", "'mine.py:'"]),
            (":Log", ["FILE.py:NAME", "':Log'"]),
            ("mine.py:Lag", ["'Lag'", "mine.py", "did you mean 'Log'", "Print"]),
            ("broken.py:Log", ["broken.py", "RuntimeError", "(It broke)"]),
            ("leaves.py:Log", ["leaves.py", "SystemExit"]),
            ("others.py:Needy", ["others.py:Needy", "without arguments", "TypeError", "'path'"]),
            ("others.py:NUMBER", ["others.py:NUMBER", "without arguments", "TypeError"]),
            ("others.py:Nothing", ["others.py:Nothing", "none of the methods", "on_step_end", "on_epoch_end"]),
            ("others.py:Half", ["others.py:Half", "only one of state_dict and load_state_dict"]),
            ("notes.txt:Log", ["notes.txt", "not a Python file"]),
        ],
    )
    def test_bad_input_is_one_sentence(self, given, words, file, tmp_path, monkeypatch, capsys):
        (tmp_path / "broken.py").write_text("raise RuntimeError('It broke. Badly.')")
        (tmp_path / "leaves.py").write_text("import sys\nsys.exit()")
        (tmp_path / "notes.txt").write_text("notes")
        (tmp_path / "others.py").write_text(
            "NUMBER = 3\nclass Needy:\n def __init__(self, path): pass\nclass Nothing:\n on_step_end = None\n"
            "class Half:\n def on_step_end(self, training, result): pass\n def state_dict(self): return {}\n"
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.dont_write_bytecode", True)
        arguments = command(tmp_path / "run", "--callback", given)
        refused(capsys, train_script.main, arguments, "train.py: --callback ", *words, folder=tmp_path)

    def test_one_that_raises_ends_the_command_in_one_sentence(self, tmp_path, monkeypatch, capsys):
        path = tmp_path / "late.py"
        path.write_text("class Late:\n    def on_epoch_end(self, training, row):\n        return row['loss']\n")
        arguments = command(tmp_path / "run", "--callback", f"{path}:Late")
        refused(capsys, train_script.main, arguments, "--callback late.py:Late", "KeyError", "on_epoch_end, line 3")
        assert train_script.main(command(tmp_path / "run")) == 0


class TestFiringRates:
    def test_of_a_gated_network(self, tmp_path):
        training = run(folder=tmp_path, log_firing_rates=True)
        first, second = summary(tmp_path)
        logged = {name: float(value) for name, value in second.items() if "/" in name}
        assert all(first[name] == "" for name in logged)
        rates = training.state.test.rates
        assert {name.removeprefix("firing_rate/"): logged[name] for name in logged if "rate/" in name} == rates
        encoder, gates = training.step.tested.encoder, []
        with torch.no_grad():
            gates = [encoder.attention_maps(images).gate for images, _ in training.test_loader]
        gate = torch.cat(gates, 1)
        assert logged["gate_mean/encoder.gau"] == pytest.approx(gate.mean().item(), rel=1e-5)
        assert logged["gate_spread/encoder.gau"] == pytest.approx(gate.std(0, correction=0).mean().item(), rel=1e-5)
        assert 0.0 <= logged["gate_silent/encoder.gau"] <= 1.0
        assert len(logged) == len(rates) + 3
        assert not any(module._forward_hooks for module in training.model.modules())

    def test_of_an_encoder_without_a_gate(self):
        training = run(model="ms_resnet8_cifar", log_firing_rates=True)
        assert {name.partition("/")[0] for name in training.state.history[-1] if "/" in name} == {"firing_rate"}

    def test_of_a_network_without_an_encoder_of_ours(self, monkeypatch):
        class Other(nn.Module):
            pretrained_cfg = {"mean": (0.3,), "std": (0.4,), "crop_pct": 1.0}

            def __init__(self):
                super().__init__()
                self.linear, self.lif = nn.Linear(64, 10), neuron.LIFNode(step_mode="m")

            def forward_sequence(self, x):
                self.lif.reset()
                return self.lif(self.linear(x.flatten(1)).expand(2, -1, -1))

        monkeypatch.setattr(network, "build_model", lambda settings, info: Other())
        training = run(log_firing_rates=True)
        with torch.no_grad(), firing_rates(training.model) as rates:
            for images, _ in training.test_loader:
                training.model.forward_sequence(images)
        assert {name: value for name, value in training.state.history[-1].items() if "/" in name} == {
            "firing_rate/lif": rates["lif"]
        }
