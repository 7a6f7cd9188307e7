"""Steps as CUDA graphs: what a graph holds and what stays outside, held on a CPU by a stand-in that runs no Python."""

import logging

import pytest
import torch
from helpers.capture import record
from test_training import CPU, SMALL, digits
from torch import nn

from gac_sj._utils.errors import UsageError
from gac_sj.training import capture, step
from gac_sj.training.capture import Captured
from gac_sj.training.distributed import DistributedContext
from gac_sj.training.engine import Training
from gac_sj.training.graphed import capturable, check_device
from gac_sj.training.settings import Settings

pytestmark = [pytest.mark.one_release, pytest.mark.usefixtures("quick")]

CHANGES = dict(epochs=2, batch_size=16, ema=0.9, warmup_epochs=1.0, opt="momentum", checkpoint_minutes=10.0)


@pytest.fixture
def on_a_cpu(monkeypatch):
    monkeypatch.setenv("GAC_SJ_OPS", "torch")
    monkeypatch.setattr(capture, "cuda_graph", record)
    monkeypatch.setattr(step, "check_device", lambda world: None)


def train(folder=None, count=96, **changes):
    training = Training(Settings(**SMALL | CHANGES | changes), digits(count=count), CPU, folder)
    training.run()
    return training


def replays(training):
    return training.step.captured._replay is not None


@pytest.mark.medium
@pytest.mark.usefixtures("on_a_cpu")
class TestTraining:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"opt": "adamw", "lr": 0.001, "amp": "bf16", "accumulate": 2, "clip_grad": 0.5, "random_erasing": 0.5},
            {
                "T": 2,
                "T_schedule": {0: 1, 1: 2},
                "opt": "sgd",
                "channels_last": True,
                "label_smoothing": 0.1,
                "cutout": 2,
                "decay_all": False,
                "decay_gate": False,
                "eval_every": 2,
            },
        ],
        ids=["momentum", "micro-batches", "a graph for each T"],
    )
    def test_a_graph_learns_what_the_step_learns(self, changes):
        """The learning rate rises and falls, and the decay of the EMA grows, inside the graph too."""
        plain, graphed = train(**changes), train(cuda_graph=True, **changes)
        assert replays(graphed)
        for name in ("model", "ema"):
            ours, theirs = graphed.step.state_dict()[name], plain.step.state_dict()[name]
            if theirs is not None:
                torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        losses = [[row["train_loss"] for row in each.state.history] for each in (plain, graphed)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
        rates = [[group["lr"] for group in each.step.state_dict()["optimizer"]["param_groups"]]
                 for each in (plain, graphed)]  # fmt: skip
        assert rates[0] == rates[1] and isinstance(rates[1][0], float)

    def test_a_run_resumes(self, tmp_path):
        whole = train(cuda_graph=True)
        first = Training(Settings(**SMALL | CHANGES, cuda_graph=True), digits(count=96), CPU)
        first._set_time_steps(0)
        first._train_epoch()
        state = first.state_dict()
        again = Training(first.settings, digits(count=96), CPU)
        again.load_state_dict(state)
        again.run()
        torch.testing.assert_close(again.step.state_dict()["ema"], whole.step.state_dict()["ema"], rtol=0, atol=0)

    def test_a_batch_of_another_shape_and_a_hook_run_without(self, caplog):
        training = train(cuda_graph=True, min_lr=0.01)
        images, labels = torch.randn(8, 1, 8, 8), torch.arange(8)
        before = [value.clone() for value in training.model.parameters()]
        with caplog.at_level(logging.WARNING, "gac_sj"):
            for _ in range(2):  # said once
                training.step(images, labels, training.state)
            training.model.register_forward_hook(lambda *_: None)
            training.step(images.repeat(2, 1, 1, 1), labels.repeat(2), training.state)
        shape, hook = (record.getMessage() for record in caplog.records)
        assert "[8, 1, 8, 8]" in shape and "captured with [16, 1, 8, 8]" in shape and "has a hook" in hook
        assert any(not torch.equal(*pair) for pair in zip(before, training.model.parameters()))

    def test_what_cannot_be_captured_trains_without(self, monkeypatch, caplog):
        def refuse(function):
            function()
            raise RuntimeError("operation not permitted when stream is capturing")

        monkeypatch.setattr(capture, "cuda_graph", refuse)
        with caplog.at_level(logging.WARNING, "gac_sj"):
            assert train(cuda_graph=True).state.test is not None
        assert "not permitted when stream is capturing" in caplog.text


class TestCaptured:
    def test_the_first_calls_run_the_function(self):
        calls = []

        def double(x):
            calls.append(x)
            return (2 * x,)

        captured = Captured(double, record)
        for number in range(6):
            x = torch.full((2,), float(number))
            (output,) = captured(x)
            assert output.tolist() == [2.0 * number] * 2
        assert len(calls) == capture.WARM_UP + 1  # and once recorded

    def test_outputs_stay(self):
        captured = Captured(lambda x: (x + 1,), lambda function: function)
        outputs = [captured(torch.tensor([float(number)]))[0] for number in range(6)]
        assert torch.cat(outputs).tolist() == [1, 2, 3, 4, 5, 6]

    def test_another_shape_is_refused_in_one_sentence(self):
        captured = Captured(lambda x: (x + 1,), record)
        for _ in range(5):
            captured(torch.zeros(4, 2))
        with pytest.raises(UsageError, match=r"\[3, 2\] float32 .* captured with \[4, 2\] float32; call") as error:
            captured(torch.zeros(3, 2))
        assert str(error.value).count(". ") == 0
        captured.forget()
        assert captured(torch.zeros(3, 2))[0].shape == (3, 2)


class TestRefusals:
    def test_devices(self):
        with pytest.raises(UsageError, match="needs a GPU, got the device cpu"):
            check_device(CPU)
        with pytest.raises(UsageError, match="one process, got 2"):
            check_device(DistributedContext(0, 2, torch.device("cuda")))
        with pytest.raises(UsageError, match="GPU"):
            Training(Settings(**SMALL, cuda_graph=True), digits(), CPU)

    @pytest.mark.parametrize(
        "changes", [{"amp": "fp16"}, {"compile": "reduce-overhead"}, {"grad_checkpointing": True}], ids=str
    )
    def test_settings(self, changes):
        with pytest.raises(UsageError, match=next(iter(changes))):
            Settings(cuda_graph=True, **changes)
        assert Settings(cuda_graph=True, compile=True).name() != Settings(compile=True).name()

    def test_optimisers(self):
        assert capturable("momentum") == {"fused": True} and capturable("adamw") == {"capturable": True, "fused": True}
        for opt in ("lamb", "lion"):
            with pytest.raises(UsageError, match=f"{opt}.*momentum"):
                capturable(opt)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CPU has no CUDA graphs")
class TestOnCuda:
    def test_a_graph_learns_what_the_step_learns(self, monkeypatch):
        monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
        world = DistributedContext(0, 1, torch.device("cuda"))
        losses = []
        for cuda_graph in (False, True):
            settings = Settings(**SMALL | CHANGES | {"device": "cuda"}, cuda_graph=cuda_graph)
            training = Training(settings, digits(count=96), world)
            training.run()
            losses.append([row["train_loss"] for row in training.state.history])
        assert replays(training) and training.step.captured._failure is None
        assert losses[0] == pytest.approx(losses[1], rel=1e-2)

    def test_random_numbers_go_on(self):
        dropout = nn.Dropout(0.5)
        captured = Captured(lambda x: (dropout(x),))
        outputs = [captured(torch.ones(1000, device="cuda"))[0] for _ in range(8)]
        assert not any(torch.equal(outputs[-1], other) for other in outputs[:-1])
