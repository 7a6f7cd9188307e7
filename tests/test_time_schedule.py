"""A schedule of T: the first epochs with fewer time steps, resumed across every change."""

import dataclasses
import logging
import os
import shutil

import pytest
import torch
import train as train_script
from helpers.programs import refused
from test_distributed import places
from test_resume import FORKS, finish, started, steps, wait_for
from test_time_steps import Weighed
from test_training import CPU, SMALL, assert_same_run, at_step, digits, last_state, prepare, run, states, table

from gac_sj._utils.errors import UsageError
from gac_sj.checkpoint.runs import read_weights
from gac_sj.data import load_datasets
from gac_sj.encoders import register_encoder
from gac_sj.nn.time_steps import fit_time_steps, temporal_pairs
from gac_sj.training.build import Data
from gac_sj.training.distributed import distributed_context
from gac_sj.training.engine import InterruptedRunError, Training
from gac_sj.training.settings import Settings

pytestmark = pytest.mark.usefixtures("quick")

#: four steps in each of three epochs, with T = 1, 2, 4
SCHEDULE = {0: 1, 1: 2, 2: 4}
GROWING = dict(T=4, T_schedule=SCHEDULE, epochs=3, ema=0.9, opt="adamw", lr=0.01, random_erasing=0.5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, quick):
    """A run that nobody disturbed, with all its checkpoints."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder, **GROWING)
    return folder


def test_the_epochs_have_the_steps_of_the_schedule(whole):
    assert Settings(**SMALL | GROWING).T_schedule == SCHEDULE
    hidden = [state["model"]["encoder.gau.temporal.excite.weight"].shape for state in states(whole)]
    # after every step, and after the end
    assert [tuple(shape) for shape in hidden] == [(1, 1)] * 4 + [(2, 1)] * 4 + [(4, 2)] * 5
    assert [row["epoch"] for row in table(whole / "summary.csv")] == ["1", "2", "3"]
    settings, weights = read_weights(whole / "last.safetensors")
    assert (settings.T, settings.T_schedule) == (4, SCHEDULE)
    assert weights["encoder.gau.temporal.excite.weight"].shape == (4, 2)
    # those of an earlier epoch belong to a network of its T
    settings, weights = read_weights(whole / "best.safetensors")
    assert len(weights["encoder.gau.temporal.excite.weight"]) == settings.T


def test_a_change_resizes_weights_and_ema_and_clears_the_optimiser(tmp_path):
    training = prepare(tmp_path, **GROWING)
    at_step(training, 4, lambda: None)
    training._train_epoch()
    training._end_epoch()
    before, old = training.step.state_dict(), training.step
    random = torch.get_rng_state()
    training._set_time_steps(1)
    after = training.step.state_dict()
    assert training.step is not old and training.model.T == training.step.tested.T == 2
    assert torch.equal(torch.get_rng_state(), random)
    changed = {name for pair in temporal_pairs(before["model"]) for name in pair}
    assert changed
    for part in ("model", "ema"):
        torch.testing.assert_close(after[part], fit_time_steps(before[part], after["model"]), rtol=0, atol=0)
        for name in before[part].keys() - changed:
            assert torch.equal(before[part][name], after[part][name])
        assert all(before[part][name].shape != after[part][name].shape for name in changed)
    numbers = [number for group in before["optimizer"]["param_groups"] for number in group["params"]]
    names = {id(parameter): name for name, parameter in old.model.named_parameters()}
    order = [names[id(parameter)] for group in old.optimizer.param_groups for parameter in group["params"]]
    kept = after["optimizer"]["state"]
    for number, name in zip(numbers, order, strict=True):
        if name in changed:
            assert kept[number] and not any(value.any() for value in kept[number].values())  # as AdamW begins
        else:
            torch.testing.assert_close(kept[number], before["optimizer"]["state"][number], rtol=0, atol=0)
    assert after["schedule"] == before["schedule"]
    assert training.step.lr == old.lr
    training._train_epoch()
    assert kept.keys() == training.step.state_dict()["optimizer"]["state"].keys()


@pytest.mark.medium
@pytest.mark.parametrize("steps", [3, 4, 5, 8, 9, 11, 12])
@pytest.mark.one_release
def test_a_resumed_run_ends_bit_equal(steps, whole, tmp_path):
    """Stopped before, at and after each change."""
    shutil.copy(whole / "args.yaml", tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for path in (whole / "checkpoints").iterdir():
        if int(path.name[15:24]) <= steps and not path.name.startswith("epoch00003"):
            shutil.copy(path, tmp_path / "checkpoints")
    if (done := (steps - 1) // 4) and steps % 4 != 0:
        write_best(whole, tmp_path, done)
    run(tmp_path, **GROWING)
    if (tmp_path / "best.safetensors").exists():
        assert_same_run(tmp_path, whole)
    else:  # the best epoch was before
        ours, theirs = last_state(tmp_path), last_state(whole)
        torch.testing.assert_close(ours["model"], theirs["model"], rtol=0, atol=0)
        assert (tmp_path / "last.safetensors").read_bytes() == (whole / "last.safetensors").read_bytes()
        assert table(tmp_path / "summary.csv") == table(whole / "summary.csv")


def write_best(whole, folder, epochs):
    """The run had written its best weights before it was stopped."""
    rows = [float(row["top1"]) for row in table(whole / "summary.csv")]
    if max(rows) in rows[:epochs]:
        shutil.copy(whole / "best.safetensors", folder)


@pytest.mark.medium
@pytest.mark.one_release
def test_a_signal_between_two_steps_and_the_same_run_continues(whole, tmp_path):
    training = prepare(tmp_path, **GROWING)
    at_step(training, 4, lambda: os.kill(os.getpid(), 15))  # the last step with T = 1
    with pytest.raises(InterruptedRunError, match=r"epoch 1 \(batch 4 of 4\)"):
        training.run()
    run(tmp_path, **GROWING)
    assert_same_run(tmp_path, whole)


@pytest.mark.medium
@pytest.mark.parametrize(
    "changes",
    [
        {"model": "ms_resnet8_cifar"},
        {"model": "ms_resnet8_cifar", "encoder": "poisson", "random_erasing": 0.0},
        {"model": "att_ms_resnet8_cifar"},
        {"grad_checkpointing": True, "opt": "momentum", "loss": "tet"},
        {"amp": "bf16", "channels_last": True, "accumulate": 2},
        {"opt": "radam", "decay_all": False, "clip_grad": 1.0, "form": "lite"},
        {"spikes_as_bytes": True, "opt": "lamb"},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())),
)
def test_with_other_encoders_and_settings(changes, tmp_path):
    training = prepare(tmp_path, **GROWING | changes)
    training.run()
    assert training.model.T == 4 and training.model.encoder.T == 4
    assert training.model.forward_sequence(torch.rand(2, 1, 8, 8)).shape[0] == 4
    assert all(value.isfinite().all() for value in training.model.state_dict().values())
    # every T is resumed
    for position in ([0, 2, 2], [1, 2, 6], [2, 2, 10]):
        state = next(state for state in states(tmp_path) if state["position"] == position)
        again = prepare(**GROWING | changes)
        again.load_state_dict(state)
        assert SCHEDULE[position[0]] == again.model.T


@pytest.mark.slow
def test_compiled():
    """At the same weights: after a step or two a spike may fall to the other side of its threshold."""
    changes = dict(T=2, T_schedule={0: 1, 1: 2}, epochs=2, lr=0.0, opt="momentum", ema=None)
    plain, compiled = (run(**GROWING | changes | {"compile": compiles}) for compiles in (False, True))
    assert compiled.model.T == 2
    losses = [[row["train_loss"] for row in each.state.history] for each in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def process(place, folder):
    torch.set_num_threads(1)
    os.environ |= place
    with distributed_context("cpu") as world:
        settings = Settings(**SMALL | GROWING | {"sync_bn": True, "random_erasing": 0.0})
        training = Training(settings, digits("resident", 64), world, folder)
        training.run()
        torch.save(training.model.state_dict(), folder / f"{world.rank}.pt")


@pytest.mark.slow
@pytest.mark.one_release
def test_two_processes_stay_equal(tmp_path):
    processes = [FORKS.Process(target=process, args=(place, tmp_path)) for place in places()]
    for each in processes:
        each.start()
    for each in processes:
        each.join(120)
    assert [each.exitcode for each in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert first["encoder.gau.temporal.excite.weight"].shape == (4, 2)


def test_one_T_is_no_schedule():
    assert Settings(**SMALL | {"T": 4, "T_schedule": {0: 4}}) == Settings(**SMALL | {"T": 4})
    plain, growing = Settings(**SMALL | {"T": 4}), Settings(**SMALL | {"T": 4, "T_schedule": {0: 1, 1: 4}})
    assert plain.name() != growing.name() and plain.key() != growing.key()
    assert [growing.at_epoch(epoch).T for epoch in (0, 1, 7)] == [1, 4, 4]
    assert growing.at_epoch(1) is growing


BAD = {
    "ends_elsewhere": ("{0: 1, 1: 2}", "end at T=4"),
    "ends_above": ("{0: 1, 1: 8}", "end at T=4"),
    "late": ("{1: 1, 2: 4}", "epoch 0"),
    "negative": ("{-1: 1, 0: 2, 1: 4}", "epoch 0"),
    "decreasing_epochs": ("{0: 1, 2: 2, 1: 4}", "increasing"),
    "decreasing_steps": ("{0: 2, 1: 1, 2: 4}", "increasing"),
    "equal_steps": ("{0: 4, 1: 4}", "increasing"),
    "no_steps": ("{0: 0, 1: 4}", "positive integers"),
    "floats": ("{0: 1.5, 1: 4}", "positive integers"),
    "text": ("{0: one, 1: 4}", "positive integers"),
    "epoch_as_float": ("{0: 1, 1.5: 4}", "1.5"),
    "epoch_as_text": ("{zero: 1}", "mapping of integers"),
    "after_the_end": ("{0: 1, 3: 4}", "3 epochs"),
    "list": ("[1, 4]", "a mapping"),
    "number": ("4", "a mapping"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_schedules_are_refused(case, capsys, tmp_path):
    text, words = BAD[case]
    arguments = ["--dataset", "digits", "-T", 4, "--epochs", 3, "--output", tmp_path / "run"]
    if case == "epoch_as_float":  # not even YAML of ours
        with pytest.raises(SystemExit):
            train_script.main([*map(str, arguments), "--T-schedule", text])
        return
    refused(capsys, train_script.main, [*arguments, "--T-schedule", text], "--T-schedule", words, folder=tmp_path)


def test_events_are_refused():
    data = Data(*(part.balanced(16) for part in load_datasets("moving_shapes", T=4)), (32, 32))
    settings = Settings(
        **SMALL | {"dataset": "moving_shapes", "loader": "standard", "T": 4, "T_schedule": {0: 1, 1: 4}}
    )
    with pytest.raises(UsageError, match=r"^T_schedule .*event data such as moving_shapes.*T=4 frames"):
        Training(settings, data, CPU)


def test_an_encoder_whose_tensors_depend_on_T_is_refused(clean_registry):
    register_encoder("weighed")(Weighed)
    with pytest.raises(UsageError, match=r"^T_schedule .*encoder\.weights"):
        prepare(model="ms_resnet8_cifar", encoder="weighed", T=4, T_schedule={0: 1, 1: 4})


@pytest.mark.slow
@pytest.mark.one_release
def test_the_command_says_what_it_does_and_a_killed_one_continues(tmp_path, capsys, caplog):
    arguments = ["--model", "gac_ms_resnet8_cifar", "-T", "4", "--T-schedule", "{0: 1, 1: 2, 2: 4}", "--dataset",
                 "digits", "--train-limit", "128", "--epochs", "3", "--batch-size", "16", "--loader", "resident",
                 "--checkpoint-minutes", "0", "--device", "cpu"]  # fmt: skip
    with started(tmp_path / "killed", *arguments) as one:
        wait_for(9, tmp_path / "killed", one)
        one.kill()
    assert steps(tmp_path / "killed") >= 9
    with started(tmp_path / "killed", *arguments, number=1) as two:
        (code,), (said,) = finish(two)
    assert code == 0 and "resumes in epoch" in said and "T = 4 in epoch 3" in said
    caplog.set_level(logging.INFO)
    assert train_script.main([*arguments, "--output", str(tmp_path / "whole")]) == 0
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    row = table(tmp_path / "whole" / "result.csv")[0]
    assert row["T_schedule"] == '{"0": 1, "1": 2, "2": 4}' and row["T"] == "4"
    assert len(row["accuracy_by_steps"].split(",")) == 4
    assert dataclasses.asdict(read_weights(tmp_path / "whole" / "last.safetensors")[0])["T_schedule"] == SCHEDULE
