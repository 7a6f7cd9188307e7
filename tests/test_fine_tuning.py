"""Starting from weights of a run, a folder, a file or a name; frozen parts; more epochs for a finished run."""

import dataclasses
import logging
import shutil

import pytest
import timm
import torch
import train as train_script
import yaml
from helpers.files import contents
from helpers.programs import refused
from safetensors.torch import load_file
from test_training import CPU, SMALL, assert_same_run, at_step, digits, flat, last_state, prepare, run, table
from timm.models import _registry
from torch.nn.modules.batchnorm import _BatchNorm

import gac_sj
from gac_sj._utils.errors import UsageError
from gac_sj._utils.files import fingerprint
from gac_sj.checkpoint.runs import build_model, read_weights
from gac_sj.nn.time_steps import temporal_pairs
from gac_sj.training import continuation
from gac_sj.training.engine import InterruptedRunError, Training
from gac_sj.training.hardware import resolve
from gac_sj.training.settings import Settings

pytestmark = pytest.mark.usefixtures("quick")

MODEL = "gac_ms_resnet8_cifar"
COMMAND = [
    "--model", MODEL, "-T", "2", "--dataset", "digits", "--train-limit", "64", "--batch-size", "16", "--loader",
    "resident", "--device", "cpu", "--lr", "0.05",
]  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory, quick):
    """A finished run."""
    folder = tmp_path_factory.mktemp("source")
    run(folder, epochs=1)
    return folder


def tensors(training):
    return training.model.state_dict()


def assert_equal(found, expected, without=()):
    for name, value in expected.items():
        assert torch.equal(found[name], value) != (name in without), name


@pytest.mark.parametrize("place", ["", "last.safetensors"])
def test_weights_of_a_run(place, source):
    path = source / place
    training = prepare(init_from=str(path))
    assert_equal(tensors(training), load_file(source / "last.safetensors"))
    assert training.settings.init_weights == fingerprint(source / "last.safetensors")
    plain = resolve(Settings(**SMALL), CPU.device)
    assert training.settings.key() == plain.key() | {"init_weights": training.settings.init_weights}
    assert training.settings.name() != plain.name()


def test_the_ema_starts_from_them_too(source):
    training = prepare(init_from=str(source), ema=0.9)
    assert_equal(training.step.tested.state_dict(), load_file(source / "last.safetensors"))


@pytest.mark.parametrize("T", [1, 4, 6])
def test_another_T_resizes_the_attention(T, source, caplog):
    caplog.set_level(logging.INFO)
    training = prepare(init_from=str(source), T=T)
    weights = load_file(source / "last.safetensors")
    resized = {name for pair in temporal_pairs(weights) for name in pair}
    expected = gac_sj.resize_time_steps(weights, T)
    assert_equal(tensors(training), expected)
    assert_equal(tensors(training), {name: weights[name] for name in weights.keys() - resized})
    assert f"(temporal attention resized to T={T})" in caplog.text
    training.run()


def test_a_schedule_of_T_begins_with_its_first(source):
    training = prepare(init_from=str(source), T=4, T_schedule={0: 1, 1: 4})
    assert_equal(tensors(training), gac_sj.resize_time_steps(load_file(source / "last.safetensors"), 1))


@pytest.mark.parametrize("model", [MODEL, "ma_snn"])
def test_other_classes_get_a_new_classifier(model, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    options = {"model_options": {"input_pool": 2, "channels": [4, 4], "hidden": 8}} if model == "ma_snn" else {}
    settings = Settings(**SMALL | {"model": model} | options)
    data = digits()
    other = build_model(settings, dataclasses.replace(data.info, classes=3))
    gac_sj.checkpoint.save_pretrained(other, tmp_path / "three")
    fresh = Training(settings, data, CPU).model.state_dict()
    training = Training(dataclasses.replace(settings, init_from=str(tmp_path / "three")), data, CPU)
    given = other.state_dict()
    head = [name for name in given if name.startswith("head.")]
    assert head
    for name, value in tensors(training).items():
        assert torch.equal(value, fresh[name] if name in head else given[name])
    assert "a new classifier" in caplog.text


def test_another_image_size(tmp_path):
    network = timm.create_model(MODEL, T=2, in_chans=1)
    network.pretrained_cfg["input_size"] = (1, 32, 32)
    gac_sj.checkpoint.save_pretrained(network, tmp_path / "large")
    training = prepare(init_from=f"local-dir:{tmp_path / 'large'}", epochs=1)  # digits have 8 x 8 pixels
    assert_equal(tensors(training), network.state_dict())
    assert training.model.pretrained_cfg["input_size"] == (1, 8, 8)
    training.run()


def published(model, path, **wrapped):
    """A published checkpoint: other names, 1x1x1 convolutions for the temporal attention."""
    state = {}
    for name, value in model.state_dict().items():
        is_temporal = "temporal" in name
        state[gac_sj.checkpoint.reference_names(name)[0]] = value[..., None, None, None] if is_temporal else value
    torch.save({"state_dict": state} | wrapped, path)


@pytest.mark.parametrize(("T", "classes"), [(2, 10), (4, 10), (6, 100)])
def test_published_checkpoints(T, classes, tmp_path):
    network = timm.create_model(MODEL, T=T, in_chans=1, num_classes=classes, form="reference")
    published(network, tmp_path / "gac.pth")
    training = prepare(init_from=str(tmp_path / "gac.pth"), form="reference")
    expected = gac_sj.resize_time_steps(network.state_dict(), 2)
    body = {name: value for name, value in expected.items() if classes == 10 or not name.startswith("head.")}
    assert_equal(tensors(training), body)


def test_a_state_dict_of_this_package(tmp_path):
    network = timm.create_model(MODEL, T=2, in_chans=1)
    torch.save(network.state_dict(), tmp_path / "mine.pt")
    assert_equal(tensors(prepare(init_from=str(tmp_path / "mine.pt"))), network.state_dict())


def test_the_name_of_a_network_with_pretrained_weights(tmp_path, monkeypatch):
    network = timm.create_model(MODEL, T=4)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    about = dataclasses.replace(timm.get_pretrained_cfg(MODEL), file=str(tmp_path / "weights.pth"))
    monkeypatch.setitem(_registry._model_pretrained_cfgs, MODEL, about)
    training = prepare(init_from=MODEL)
    assert training.settings.init_weights == MODEL
    # timm adds up the first convolution's colours for images with one channel
    expected = gac_sj.resize_time_steps(network.state_dict(), 2)
    assert_equal({**tensors(training), "encoder.stem.0.weight": expected["encoder.stem.0.weight"]}, expected)
    assert tensors(training)["encoder.stem.0.weight"].shape == (16, 1, 3, 3)


BAD = {
    "nowhere": ("nowhere.safetensors", "'nowhere.safetensors'"),
    "no_weights": ("gac_ms_resnet18_cifar", "without pretrained weights"),
    "empty_folder": ("empty", "neither model.safetensors nor last.safetensors"),
    "damaged": ("damaged.safetensors", "damaged.safetensors"),
    "damaged_pth": ("damaged.pth", "damaged.pth"),
    "no_run": ("foreign.safetensors", "has no settings"),
    "direct": ("direct.pt", "missing encoder.gau.temporal.squeeze.weight"),
    "wider": ("wide.pt", "stages.0.0.conv1.weight has shape [32, 16, 3, 3] and needs [16, 16, 3, 3]"),
    "channels": ("colour.pt", "encoder.stem.0.weight has shape [16, 3, 3, 3] and needs [16, 1, 3, 3]"),
}


@pytest.mark.parametrize("case", BAD)
def test_weights_that_do_not_fit_are_named(case, tmp_path, capsys, monkeypatch):
    from safetensors.torch import save_file

    place, words = BAD[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged.safetensors").write_bytes(b"\x08")
    (tmp_path / "damaged.pth").write_bytes(b"PK")
    save_file({"x": torch.zeros(1)}, "foreign.safetensors")
    for name, options in {
        "direct": {"encoder": "direct", "in_chans": 1},
        "wide": {"channels": (32, 32, 64), "in_chans": 1},
        "colour": {},
    }.items():
        torch.save(timm.create_model(MODEL, T=2, **options).state_dict(), f"{name}.pt")
    before = contents(tmp_path, times=True)
    refused(capsys, train_script.main, [*COMMAND, "--dry-run", "--init-from", place], words)
    refused(capsys, train_script.main, [*COMMAND, "--init-from", place, "--output", "run"], words)
    after = contents(tmp_path, times=True)
    assert {name: value for name, value in after.items() if not str(name).startswith("run")} == before
    assert not list(tmp_path.glob("run/*.safetensors"))


def test_a_resumed_run_knows_its_weights(source, tmp_path):
    path = tmp_path / "weights.safetensors"
    shutil.copy(source / "last.safetensors", path)
    folder = tmp_path / "run"
    training = prepare(folder, init_from=str(path))
    at_step(training, 6, lambda: training._signals._remember(15, None))
    with pytest.raises(InterruptedRunError):
        training.run()
    moved = shutil.copy(path, tmp_path / "moved.safetensors")  # the content counts
    run(folder, init_from=str(moved))
    whole = tmp_path / "whole"
    run(whole, init_from=str(path))
    assert_same_run(folder, whole)
    shutil.copy(source / "last.safetensors", path)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UsageError, match=r"other settings \(init_weights: \w+ -> \w+\)"):
        prepare(folder, init_from=str(path))
    recorded = Settings(**yaml.safe_load((whole / "args.yaml").read_text()))
    with pytest.raises(UsageError, match=r"^init_from must be the weights that the run began with"):
        Training(dataclasses.replace(recorded, loader="resident"), digits(), CPU)
    settings, _ = read_weights(whole / "last.safetensors")
    assert settings.init_weights == recorded.init_weights and settings.init_from is None


class TestFrozen:
    def test_parameters_and_statistics_stay(self, source):
        training = prepare(init_from=str(source), freeze=["encoder.*", "stages.0.*"], weight_decay=0.1, ema=0.5)
        before = {name: value.clone() for name, value in tensors(training).items()}
        training.run()
        for network in (training.model, training.step.tested):
            for name, value in network.state_dict().items():
                is_frozen = name.startswith(("encoder.", "stages.0."))
                if value.dtype.is_floating_point or is_frozen:
                    assert torch.equal(value, before[name]) == is_frozen, name

    def test_batch_norms_with_frozen_parameters_are_in_evaluation_mode(self):
        training = prepare(freeze=["encoder.stem.*", "stages.1.0.bn1.weight"])
        seen = {}
        for name, module in training.model.named_modules():
            if isinstance(module, _BatchNorm):
                module.register_forward_pre_hook(lambda m, x, name=name: seen.update({name: m.training}))
        training._train_epoch()
        assert {name for name, trains in seen.items() if not trains} == {"encoder.stem.1"}
        assert "stages.1.0.bn1" in seen  # its bias is trained

    @pytest.mark.parametrize("decay_all", [True, False])
    def test_a_change_of_T_keeps_them_frozen(self, decay_all, tmp_path):
        frozen = ["encoder.gau.temporal.squeeze.*", "stages.0.*"]
        training = prepare(T=4, T_schedule={0: 1, 1: 4}, freeze=frozen, decay_all=decay_all, opt="adamw")
        training.run()
        names = {name for name, parameter in training.model.named_parameters() if not parameter.requires_grad}
        assert names and all(name.startswith(("encoder.gau.temporal.squeeze", "stages.0.")) for name in names)

    @pytest.mark.medium
    @pytest.mark.parametrize("changes", [{"grad_checkpointing": True}, {"sync_bn": True}, {"accumulate": 2}])
    def test_with_other_settings(self, changes, source):
        training = prepare(init_from=str(source), freeze=["encoder.*", "stages.0.*"], **changes)
        before = {name: value.clone() for name, value in tensors(training).items()}
        training.run()
        assert_equal(tensors(training), {name: value for name, value in before.items() if name.startswith("stages.0.")})

    def test_on_the_command_line_and_in_the_row(self, tmp_path):
        arguments = [*COMMAND, "--epochs", "1", "--freeze", "encoder.*", "stages.?.*"]
        assert train_script.main([*arguments, "--output", str(tmp_path / "run")]) == 0
        assert table(tmp_path / "run" / "result.csv")[0]["freeze"] == '["encoder.*", "stages.?.*"]'
        assert read_weights(tmp_path / "run" / "last.safetensors")[0].freeze == ["encoder.*", "stages.?.*"]

    @pytest.mark.parametrize(
        ("patterns", "words"),
        [
            (["encoder.*", "layer1.*"], ["'layer1.*' matches none", "stages.*"]),
            (["*"], ["'*' match every parameter"]),
            (["encoder.*", "stages.*", "head.*"], ["every parameter"]),
        ],
    )
    def test_patterns_that_match_nothing_or_everything(self, patterns, words, capsys, tmp_path):
        arguments = [*COMMAND, "--dry-run", "--freeze", *patterns]
        refused(capsys, train_script.main, arguments, "--freeze", *words, folder=tmp_path)

    def test_other_types(self):
        for value in ("encoder.*", [1], {"a": 1}):
            with pytest.raises(UsageError, match="freeze must be a list of strings"):
                Settings(freeze=value)


class TestMoreEpochs:
    @staticmethod
    def train(folder, epochs, *more):
        return train_script.main([*COMMAND, "--ema", "0.9", "--epochs", str(epochs), "--output", str(folder), *more])

    def test_a_finished_run_is_continued_in_a_folder_of_its_own(self, tmp_path, caplog, capsys):
        caplog.set_level(logging.INFO)
        folder, longer = tmp_path / "run", tmp_path / "run-epochs3"
        assert self.train(folder, 2) == 0
        before, state = contents(folder, times=True), last_state(folder)
        assert self.train(folder, 3) == 0
        assert f"Continues the finished run in {folder} after 2 epochs, up to 3" in caplog.text
        assert str(longer) in capsys.readouterr().out
        assert contents(folder, times=True) == before
        rows, old = table(longer / "summary.csv"), table(folder / "summary.csv")
        assert rows[:2] == old and len(rows) == 3
        # the learning rate is that of three epochs, from the third on
        rates = [row["lr"] for row in run(ema=0.9, epochs=3).state.history]
        assert float(rows[2]["lr"]) == pytest.approx(rates[2]) and float(rows[1]["lr"]) != pytest.approx(rates[1])
        row = table(longer / "result.csv")[0]
        name = Settings(**yaml.safe_load((folder / "args.yaml").read_text())).name()
        assert (row["epochs"], row["continues"]) == ("3", f"2:{name}")
        assert table(folder / "result.csv")[0]["continues"] == "None"
        # the same command finds the result, and the continuation can be continued
        assert self.train(folder, 3) == 0 and self.train(longer, 3) == 0
        assert self.train(longer, 4) == 0
        assert table(tmp_path / "run-epochs3-epochs4" / "result.csv")[0]["continues"].startswith("3:")
        assert last_state(longer)["position"] == [3, 0, 12] and state["position"] == [2, 0, 8]

    def test_it_begins_with_the_whole_state_and_resumes(self, tmp_path, monkeypatch):
        run(tmp_path / "run", ema=0.9, epochs=1, model_options={"drop_rate": 0.2})
        given = resolve(Settings(**SMALL | dict(ema=0.9, epochs=2, model_options={"drop_rate": 0.2})), CPU.device)
        settings, folder = continuation.continue_finished(given, tmp_path / "run")
        state = last_state(tmp_path / "run")
        training = Training(settings, digits(), CPU, folder)
        training.load_state_dict(training._saved_state())
        now = training.state_dict()
        for part in ("model", "ema", "random"):
            torch.testing.assert_close(flat(now[part]), flat(state[part]), rtol=0, atol=0)
        torch.testing.assert_close(now["optimizer"]["state"], state["optimizer"]["state"], rtol=0, atol=0)
        assert now["position"] == state["position"]
        at_step(training, 2, lambda: training._signals._remember(15, None))
        with pytest.raises(InterruptedRunError):
            training.run()
        Training(settings, digits(), CPU, folder).run()
        whole = dataclasses.replace(settings)
        Training(whole, digits(), CPU, tmp_path / "whole").run()
        assert_same_run(folder, tmp_path / "whole")

    def test_what_is_not_finished_or_other_is_refused(self, tmp_path, capsys):
        folder = tmp_path / "run"
        training = prepare(folder, epochs=2)
        at_step(training, 6, lambda: training._signals._remember(15, None))
        with pytest.raises(InterruptedRunError):
            training.run()
        settings = resolve(Settings(**SMALL | {"epochs": 3}), CPU.device)
        with pytest.raises(UsageError, match=r"^epochs cannot be raised to 3: .* is in epoch 2; finish it with 2"):
            continuation.continue_finished(settings, folder)
        run(folder, epochs=2)
        for changes in ({"epochs": 1}, {"epochs": 3, "lr": 0.1}):
            other = resolve(Settings(**SMALL | changes), CPU.device)
            assert continuation.continue_finished(other, folder) == (other, folder)  # and check_folder refuses it
            with pytest.raises(UsageError, match="other settings"):
                Training(other, digits(), CPU, folder)
        longer, place = continuation.continue_finished(settings, folder)
        with pytest.raises(UsageError, match="other images"):
            Training(longer, digits(count=80), CPU, place).run()
        shutil.rmtree(folder / "checkpoints")
        with pytest.raises(UsageError, match="has no checkpoint"):
            continuation.continue_finished(settings, folder)
        with pytest.raises(UsageError, match="has no checkpoint"):
            Training(longer, digits(), CPU, place).run()
