"""Several processes: they train what one would with the same global batch, one writes, and they stop together."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch
from helpers.files import contents, held
from test_resume import BATCHES, FORKS, RUN, SCRIPT, finish, started, steps, wait_for
from test_training import CPU, SMALL, Known, assert_same_run, digits, known, last_state, table

from gac_sj.checkpoint.runs import build_model
from gac_sj.training import checkpoints, network, outputs
from gac_sj.training.distributed import DistributedContext, distributed_context
from gac_sj.training.engine import Training
from gac_sj.training.evaluation import evaluate
from gac_sj.training.settings import Settings

pytestmark = pytest.mark.one_release

#: five steps of SGD; augmented image by image, which depends on the place in the global batch
FIVE_STEPS = SMALL | dict(epochs=1, loader="standard", workers=0, auto_augment="rand-m9-n2", sync_bn=True)
CASES = {
    "gac": {},
    "direct": {"model": "ms_resnet8_cifar"},
    "micro_batches": {"accumulate": 2, "loss": "tet", "clip_grad": 0.5},
    "plain": {"sync_bn": False, "ema": 0.5},
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def places(size=2):
    """What torchrun tells each process."""
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]


def doubled(settings, info):
    """A network in float64 for images in float32."""
    model = build_model(settings, info).double()
    model.encoder.register_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))
    return model


class Calls(list):
    """A callback that notes its calls."""

    def on_step_end(self, training, result):
        self.append((training.state.step, result.images))

    def on_test_end(self, training, test):
        self.append(test.evaluation.images)
        return {"rank": training.world.rank}


def train(world, folder, **changes):
    settings, calls = Settings(**FIVE_STEPS | changes), Calls()
    with mock.patch.object(network, "build_model", doubled):
        training = Training(settings, digits("standard", 80), world, folder, [calls])
    evaluation, _ = training.run()
    weights = {name: value.clone() for name, value in training.model.state_dict().items()}
    return {
        "weights": weights,
        "tested": training.step.tested.state_dict(),
        "history": training.state.history,
        "by_steps": evaluation.by_steps,
        "confusion": evaluation.confusion,
        "loss": evaluation.loss,
        "calls": list(calls),
    }


def sentence(world, **changes):
    """What is said about settings that do not fit."""
    with pytest.raises(ValueError) as error:
        Training(Settings(**FIVE_STEPS | changes), digits("standard", 80), world)
    return str(error.value)


def process(place, folder):
    """What each of two processes does; the tests look at the results."""
    torch.set_num_threads(1)
    os.environ |= place
    with distributed_context("cpu") as world, ExitStack() as patches:
        if not world.is_first:
            for module in (checkpoints, outputs):
                patches.enter_context(mock.patch.object(module, "write_atomically", side_effect=AssertionError))
        results = {name: train(world, folder / name, **case) for name, case in CASES.items()}
        batches = known(10)[2][world.rank :: world.size]
        results["evaluation"] = evaluate(Known(), batches, world)
        results["sentences"] = [
            sentence(world, batch_size=15),
            sentence(world, batch_size=10, accumulate=2),
            sentence(world, batch_size=14, mixup=0.2, accumulate=7),
        ]
    torch.save(results, folder / f"{world.rank}.pt")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    processes = [FORKS.Process(target=process, args=(place, folder)) for place in places()]
    for each in processes:
        each.start()
    for each in processes:
        each.join(120)
    assert [each.exitcode for each in processes] == [0, 0]
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.medium
@pytest.mark.parametrize("case", ["gac", "direct", "micro_batches"])
def test_two_processes_train_what_one_does_with_the_same_global_batch(case, two, tmp_path):
    alone = train(CPU, tmp_path, **CASES[case])
    first = doubled(Settings(**FIVE_STEPS | CASES[case]), digits("standard", 80).info).state_dict()
    assert any((alone["weights"][name] - first[name]).abs().max() > 1e-3 for name in first)  # it has trained
    for results in two[1]:
        torch.testing.assert_close(results[case]["weights"], alone["weights"], rtol=0, atol=1e-9)
        assert torch.equal(results[case]["by_steps"], alone["by_steps"])
        assert torch.equal(results[case]["confusion"], alone["confusion"])
    ours, theirs = two[1][0][case]["history"], alone["history"]
    for name in ("train_loss", "train_accuracy", "images", "test_loss", "top1", "lr"):
        close = 1e-6 if name == "test_loss" else 1e-9  # tested in float32
        assert [row[name] for row in ours] == pytest.approx([row[name] for row in theirs], rel=close)


def test_every_process_calls_its_callbacks_and_the_first_one_logs(two):
    for results in two[1]:
        assert results["gac"]["calls"] == [*((step, 8) for step in range(1, 6)), 40]
    (row,) = table(two[0] / "gac" / "summary.csv")
    assert row["rank"] == "0.0"


def test_without_synchronised_batchnorm_the_weights_differ(two):
    """So that the test above could fail."""
    weights = [two[1][0][case]["weights"] for case in ("gac", "plain")]
    assert max((a - b).abs().max() for a, b in zip(*(w.values() for w in weights))) > 1e-4


def test_the_saved_weights_are_those_that_were_tested_together(two):
    """Each process has its own statistics without synchronisation; the accuracy is of the weights in the file."""
    results = two[1]
    settings = Settings(**FIVE_STEPS | CASES["plain"])
    data = digits("standard", 80)
    model = doubled(settings, data.info)
    model.load_state_dict(results[0]["plain"]["tested"])
    alone = evaluate(model, data.testing(settings, model, CPU))
    assert results[0]["plain"]["loss"] == pytest.approx(alone.loss, rel=1e-6)
    assert torch.equal(results[0]["plain"]["confusion"], alone.confusion)
    assert alone.images == 40
    torch.testing.assert_close(results[1]["plain"]["tested"], results[0]["plain"]["tested"], rtol=0, atol=0)


def test_the_first_process_writes_for_all(two):
    folder, results = two
    for case in CASES:
        names = {path.name for path in (folder / case).iterdir()}
        assert {"args.yaml", "summary.csv", "last.safetensors", "best.safetensors", "checkpoints"} <= names
        (row,) = table(folder / case / "summary.csv")
        assert row["images"] == "80"
        assert float(row["test_loss"]) == results[0][case]["history"][0]["test_loss"]
        assert len(last_state(folder / case)["random"]) == 2


def test_evaluation_adds_up_over_processes(two):
    alone = evaluate(Known(), known(10)[2])
    for results in two[1]:
        shared = results["evaluation"]
        assert torch.equal(shared.confusion, alone.confusion)
        assert (shared.top1, shared.top5, shared.by_steps.tolist()) == (alone.top1, alone.top5, alone.by_steps.tolist())
        assert shared.loss == pytest.approx(alone.loss, rel=1e-9)


def test_a_batch_that_cannot_be_divided_is_refused(two):
    for results in two[1]:
        odd, accumulated, mixing = results["sentences"]
        assert re.search("^batch_size .*multiple of 2 .*2 processes.* 15", odd)
        assert re.search("^batch_size .*multiple of 4 .*2 micro-batches.* 10", accumulated)
        assert re.search("^batch_size .*even.* 7", mixing)


@contextmanager
def pair(folder, *arguments):
    """The real command in two processes, without torchrun around them."""
    with ExitStack() as stack:
        yield [stack.enter_context(started(folder, *arguments, **place)) for place in places()]


TWO = [*RUN, "--workers", "0", "--sync-bn", "--epochs", "2", "--model-options", "{drop_rate: 0.2}"]


@pytest.mark.slow
def test_the_command_in_two_processes_killed_and_run_again(tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    with pair(whole, *TWO) as processes:
        assert finish(*processes)[0] == [0, 0]
    assert (tmp_path / "whole-0.out").read_text().startswith(f"{whole}: test accuracy")
    assert (tmp_path / "whole-1.out").read_text() == "" == (tmp_path / "whole-1.err").read_text()
    assert len(list((whole / "tensorboard").iterdir())) == 1
    with pair(folder, *TWO) as processes:
        wait_for(BATCHES + 3, folder, *processes)
        processes[1].kill()
        codes, _ = finish(*processes)
    assert codes[1] == -signal.SIGKILL and codes[0] != 0  # the other one does not wait for ever
    left = last_state(folder)
    assert left["position"][2] >= BATCHES + 3 and len(left["totals"]) == 2
    with pair(folder, *TWO) as processes:
        assert finish(*processes)[0] == [0, 0]
    assert_same_run(folder, whole)  # the numbers of the half epoch included


@pytest.mark.medium
def test_a_folder_in_use_is_refused_by_both(tmp_path):
    folder = tmp_path / "run"
    with held(folder), pair(folder, *TWO) as processes:
        codes, said = finish(*processes)
        assert codes == [2, 2]
        for text in said:
            assert re.fullmatch(rf"train\.py: --output {folder} is in use .*\.\n", text)
        assert contents(folder) == {}


@pytest.mark.medium
def test_a_signal_to_one_process_stops_both(tmp_path):
    with pair(tmp_path / "run", *TWO) as processes:
        wait_for(2, tmp_path / "run", *processes)
        os.kill(processes[1].pid, signal.SIGTERM)
        codes, said = finish(*processes)
    assert codes == [143, 143]
    for text in said:
        assert "Traceback" not in text
        assert re.search("^train.py: .*SIGTERM in epoch 1 ", text.splitlines()[-1])


@pytest.mark.medium
def test_a_run_of_two_processes_resumes_in_one(tmp_path):
    """Sums over processes stay whole."""
    folder = tmp_path / "run"
    arguments = [*TWO, "--epochs", "1"]
    with pair(folder, *arguments) as processes:
        wait_for(3, folder, *processes)
        os.kill(processes[0].pid, signal.SIGTERM)
        assert finish(*processes)[0] == [143, 143]
    with started(folder, *arguments) as process:
        assert finish(process)[0] == [0]
    (row,) = table(folder / "summary.csv")
    assert row["images"] == "128"
    assert 1 < float(row["train_loss"]) < 4


def test_one_process_needs_no_communication():
    world = DistributedContext(0, 1, torch.device("cpu"))
    values = torch.tensor([1.0, 2.0])
    assert world.sum(values) is values and world.max(3) == 3 and world.gather("a") == ["a"]
    assert world.from_first("a") == "a" == world.on_first(lambda: "a")


@contextmanager
def torchrun(folder, *arguments):
    """The command as users start it on several devices."""
    with open(f"{folder}.log", "a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port(),
             SCRIPT, *arguments, "--output", folder],
            env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        workers = ranks(process)
        process.kill()
        process.wait()
        for worker in workers:
            os.killpg(worker, signal.SIGKILL)


def ranks(process):
    """Process ids of what torchrun has started."""
    try:
        return [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    except OSError:
        return []


def await_checkpoint(step, folder, process):
    while steps(folder) < step:
        assert process.poll() is None
        time.sleep(0.01)


@pytest.fixture(scope="module")
def by_torchrun(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torchrun") / "whole"
    arguments = [*TWO, "--workers", "2"]
    with torchrun(folder, *arguments) as process:
        assert process.wait(300) == 0
    return folder, arguments


@pytest.mark.slow
def test_torchrun_is_the_same_as_two_processes(by_torchrun, tmp_path):
    with pair(tmp_path / "run", *TWO) as processes:
        assert finish(*processes)[0] == [0, 0]
    assert_same_run(tmp_path / "run", by_torchrun[0])
    with open(by_torchrun[0] / "result.csv") as file:
        assert re.search(r"\bprocesses\b", file.readline())
    assert table(by_torchrun[0] / "result.csv")[0]["processes"] == "2"
    assert json.loads(table(by_torchrun[0] / "result.csv")[0]["accuracy_by_steps"])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_torchrun_is_stopped_and_run_again(number, by_torchrun, tmp_path):
    """It sends SIGTERM on to each process and its workers; SIGKILL it cannot."""
    whole, arguments = by_torchrun
    folder = tmp_path / "run"
    with torchrun(folder, *arguments, "--checkpoint-minutes", "0") as process:
        await_checkpoint(BATCHES + 2, folder, process)
        workers = ranks(process)
        assert len(workers) == 2
        process.send_signal(number)
        process.wait(120)
        deadline = time.monotonic() + 60
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.monotonic() < deadline, "they train on alone"
            time.sleep(0.1)
    said = Path(f"{folder}.log").read_text()
    assert len(re.findall(r"^train\.py: .*SIGTERM in epoch 2 .*heckpoint", said, re.MULTILINE)) == 2
    assert "DataLoader worker" not in said
    with torchrun(folder, *arguments) as process:
        assert process.wait(300) == 0
    assert_same_run(folder, whole)


@pytest.mark.slow
def test_torchrun_with_a_batch_that_cannot_be_divided(tmp_path):
    with torchrun(tmp_path / "run", *TWO, "--batch-size", "15", "--mixup", "0", "--cutmix", "0") as process:
        assert process.wait(300) != 0
    said = Path(f"{tmp_path / 'run'}.log").read_text()
    assert re.search(r"train\.py: --batch-size .*2 processes.* 15", said)
    assert not (tmp_path / "run" / "args.yaml").exists()
