"""Settings: defaults, then YAML with its bases, then the command line; one sentence where they are wrong."""

import argparse
import dataclasses
import datetime
import os
import pickle
import shlex

import pytest
import torch
import train as train_script
import yaml

from gac_sj._utils.errors import UsageError
from gac_sj.encoders import DEFAULT_ENCODER, encoder_info
from gac_sj.training.settings import Settings
from gac_sj.training.settings_sources import add_arguments, from_args

pytestmark = pytest.mark.one_release

DEFAULT_FORM = encoder_info(DEFAULT_ENCODER).default_form
FIELDS = {field.name: field for field in dataclasses.fields(Settings)}
BOOLEANS = [name for name, field in FIELDS.items() if field.type in ("bool", "bool | None")]
#: what says where and how a run is read, run and written
PLACES = {"data_dir", "workers", "device", "output", "checkpoint_minutes", "keep_checkpoints", "wandb"}
PLACES |= {"grad_checkpointing", "spikes_as_bytes"}  # of activations in memory
PLACES |= {"log_firing_rates", "callback"}  # they observe
PLACES |= {"continue_from"}


def read(*arguments):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return from_args(parser.parse_args([*map(str, arguments)]))


def write(path, text):
    path.write_text(text)
    return path


def option(name):
    return "-T" if name == "T" else f"--{name.replace('_', '-')}"


def another(name):
    """A valid value that is not the default."""
    special = {
        "model": "ms_resnet8_cifar",
        "encoder": "direct",
        "form": "reference",
        "model_options": {"drop_rate": 0.1},
        "T_schedule": {0: 1, 2: 4},
        "freeze": ["encoder.*", "head.weight"],
        "dataset": "digits",
        "img_size": "64x96",
        "mean": "0.5,0.25",
        "std": "0.5,0.25",
        "crop": "none",
        "interpolation": "bicubic",
        "erasing_mode": "const",
        "loader": "resident",
        "opt": "adamw",
        "loss": "tet",
        "amp": "bf16",
        "channels_last": True,
        "batch_size": 62,
        "accumulate": 2,
        "mix_probability": 0.5,
        "device": "cpu",
        "callback": ["mine.py:Log"],
    }
    default = FIELDS[name].default
    if name in special:
        return special[name]
    if isinstance(default, bool):
        return not default
    kind = FIELDS[name].type
    return "word" if "str" in kind else 1 + (default or 0) if "int" in kind else 0.25


def test_the_command_line_overrides_yaml_its_base_and_the_defaults(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path / "root.yaml", "epochs: 30\nlr: 0.3\nmomentum: 0.3\nmodel_options: {gain: 2.0}")
    write(tmp_path / "deep" / "base.yaml", "base: ../root.yaml\nlr: 0.2\nmomentum: 0.2")
    config = write(tmp_path / "deep" / "run.yaml", "base: base.yaml\nmomentum: 0.1\nseed: 5")
    settings = read("--config", config, "--seed", 7)
    given = (settings.epochs, settings.lr, settings.momentum, settings.seed)
    assert given == (30, 0.2, 0.1, 7)
    assert settings.model_options == {"gain": 2.0}
    assert settings == Settings(epochs=30, lr=0.2, momentum=0.1, seed=7, model_options={"gain": 2.0})


def test_yaml_overrides_its_base_with_defaults(tmp_path):
    write(tmp_path / "base.yaml", "clip_grad: 1.0\nsync_bn: true")
    config = write(tmp_path / "run.yaml", "base: base.yaml\nclip_grad: null\nsync_bn: false")
    assert read("-c", config) == Settings()
    config = tmp_path / "base.yaml"
    assert read("-c", config).clip_grad == 1.0
    assert read("-c", config, "--clip-grad", "null", "--no-sync-bn") == Settings()


def test_every_notation_of_a_number_is_read(tmp_path):
    for text, value in {"1e-3": 1e-3, "1": 1.0, "5.e-5": 5e-5, "+.5": 0.5}.items():
        for settings in (read("-c", write(tmp_path / "run.yaml", f"lr: {text}")), read("--lr", text)):
            assert settings.lr == value and type(settings.lr) is float


@pytest.mark.parametrize("text", ["2024-05-01", "7", "runs #3", "a: b", "[x]", "on", "1e3"])
def test_strings_on_the_command_line_are_not_parsed(text):
    assert read("--output", text).output == text
    assert read("--data-dir", text).data_dir == text


def test_null_on_the_command_line_is_none(tmp_path):
    config = write(tmp_path / "run.yaml", "auto_augment: rand-m9\noutput: there\ntrain_limit: 10")
    assert read("-c", config, "--auto-augment", "null", "--output", "null", "--train-limit", "null") == Settings()


#: command, then what its error has: the argument as its option, and the remedy or what was given
REFUSED = {
    "missing": ("--config nowhere.yaml", ["--config nowhere.yaml", "No such file"]),
    "folder": ("--config .", ["--config ."]),
    "broken": ("--config broken.yaml", ["--config broken.yaml", "not YAML"]),
    "binary": ("--config binary.yaml", ["--config binary.yaml", "not YAML"]),
    "list": ("--config list.yaml", ["--config list.yaml", "name: value"]),
    "empty": ("--config empty.yaml", ["--config empty.yaml", "name: value"]),
    "unknown_key": ("--config unknown.yaml", ["--config unknown.yaml", "learning_rate, lrs;"]),
    "key_of_another_type": ("--config number.yaml", ["--config number.yaml", "settings: 3;"]),
    "linked_to_itself": ("--config link.yaml", ["--config link.yaml", "symbolic links"]),
    "a_pipe": ("--config pipe.yaml", ["--config pipe.yaml", "regular file"]),
    "a_set": ("--config set.yaml", ["--config set.yaml", "tag:yaml.org,2002:set"]),
    "deep": ("--config deep.yaml", ["--config deep.yaml", "32 levels"]),
    "anchors": ("--config anchors.yaml", ["--config anchors.yaml", "100,000 values"]),
    "a_large_number": ("--config large.yaml", ["--config large.yaml", "64 bits"]),
    "of_timm": (
        "--model-options '{cache_dir: x, pretrained: true}'",
        ["--model-options", "cache_dir, pretrained", "leave them out"],
    ),
    "unknown_base": ("--config orphan.yaml", ["nowhere.yaml", "No such file"]),
    "own_base": ("--config own.yaml", ["own.yaml", "another base"]),
    "circle": ("--config circle1.yaml", ["another base"]),
    "base_of_another_type": ("--config basenumber.yaml", ["basenumber.yaml", "3"]),
    "yaml_type": ("--config type.yaml", ["--sync-bn", "true or false", "'yes please'"]),
    "int": ("--epochs 1.5", ["--epochs", "integer", "1.5"]),
    "int_bool": ("--epochs true", ["--epochs", "integer", "True"]),
    "float": ("--lr fast", ["--lr", "a number", "'fast'"]),
    "float_bool": ("--lr true", ["--lr", "a number", "True"]),
    "not_a_number": ("--lr .nan", ["--lr", "nan"]),
    "strings": ("--config list_of.yaml", ["--callback", "a list of strings", "'mine.py:Log'"]),
    "mapping": ("--model-options 3", ["--model-options", "a mapping", "3"]),
    "low": ("--batch-size 0", ["--batch-size", "at least 1", "0"]),
    "high": ("--hflip 1.5", ["--hflip", "at least 0 and at most 1", "1.5"]),
    "negative": ("--seed -1", ["--seed", "at least 0", "-1"]),
    "choice": ("--loss mse", ["--loss", "'mse'", "ce, tet"]),
    "data_set": ("--dataset cifar11", ["--dataset", "did you mean 'cifar10'", "moving_shapes"]),
    "encoder": ("--encoder morse", ["--encoder", "'morse'", "gac", "poisson"]),
    "model": ("--model gac_resnet18_cifar", ["--model", "did you mean 'gac_ms_resnet18_cifar'"]),
    "optimiser": ("--opt sdg", ["--opt", "'sdg'", "did you mean 'sgd'", "adamw"]),
    "warm_up": ("--warmup-epochs 5 --epochs 5", ["--warmup-epochs", "epochs=5"]),
    "micro_batches": ("--batch-size 9 --accumulate 2", ["--batch-size", "accumulate=2", "9"]),
    "compiled_bytes": ("--compile --spikes-as-bytes", ["compile", "spikes_as_bytes", "leave one out"]),
    "twice_augmented": ("--auto-augment v0 --color-jitter 0.4", ["--auto-augment", "color_jitter", "leave one out"]),
    "odd": ("--batch-size 9 --mixup 0.2", ["--batch-size", "even", "9"]),
    "resident": ("--loader resident --crop resize", ["--loader", "'resident'", "crop=resize", "loader=standard"]),
    "form": ("--model ms_resnet8_cifar --form current --dataset digits", ["--form", "'current'"]),
    "form_twice": ("--model-options '{form: current}'", ["--model-options", "form"]),
    "model_options": ("--model-options '{wheels: 4}' --dataset digits", ["--model-options", "wheels"]),
    "device": ("--device tpu", ["--device", "'tpu'", "cpu"]),
    "device_number": ("--device cuda:99", ["--device", "'cuda:99'", "cpu"]),
    "plugin": ("--import nowhere.py", ["--import", "nowhere.py"]),
}
if not torch.cuda.is_available():
    REFUSED["fused"] = ("--opt fusedadam --dataset digits", ["--opt", "'fusedadam'", "CUDA", "choose another"])


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_sentence(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    files = {
        "broken": "lr: [1",
        "list": "- lr",
        "empty": "",
        "unknown": "lrs: 1\nlr: 1\nlearning_rate: 2",
        "number": "lr: 1\n3: 4",
        "set": "model_options: !!set {a}",
        "deep": f"model_options: {'[' * 3000}",
        "anchors": "a0: &a0 x\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}]\n" for n in range(30)),
        "large": f"epochs: 1{'0' * 30}",
        "orphan": "base: nowhere.yaml",
        "own": "base: own.yaml",
        "circle1": "base: circle2.yaml",
        "circle2": "base: ./circle1.yaml",
        "basenumber": "base: 3",
        "type": "sync_bn: yes please",
        "list_of": "callback: mine.py:Log",
    }
    for name, text in files.items():
        write(tmp_path / f"{name}.yaml", text)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00lr")
    (tmp_path / "link.yaml").symlink_to("link.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    command, parts = REFUSED[case]
    assert train_script.main(shlex.split(command)) == 2
    output = capsys.readouterr()
    assert output.out == ""
    lines = output.err.splitlines()
    assert len(lines) == 1 and ": " in lines[0] and lines[0].endswith(".")
    for part in parts:
        assert part in lines[0]


def test_an_unknown_option_is_named(capsys):
    with pytest.raises(SystemExit) as error:
        train_script.main(["--learning-rate", "0.1"])
    assert error.value.code == 2
    assert "--learning-rate" in capsys.readouterr().err


def test_help_shows_every_setting_with_its_default_and_choices(capsys):
    with pytest.raises(SystemExit) as error:
        train_script.main(["--help"])
    assert error.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--encoder-source" not in text
    for name, field in FIELDS.items():
        if not field.metadata["option"]:
            continue
        default = field.default_factory() if field.default is dataclasses.MISSING else field.default
        form = ", --no-" if name in BOOLEANS else " [VALUE]" if field.type == "str | bool" else " VALUE"
        start = text.index(f"{option(name)}{form}")
        assert f"(default: {default})" in text[start:]
        assert all(choice in text[start:] for choice in field.metadata["choices"]())
    assert {field.metadata["group"] for field in FIELDS.values()} == {
        "augmentation", "network", "data", "optimisation", "run",
    }  # fmt: skip


@pytest.mark.parametrize("name", [*BOOLEANS, "compile"])
def test_every_boolean_can_be_switched_both_ways(name, tmp_path):
    on = write(tmp_path / "on.yaml", f"{name}: true")
    off = write(tmp_path / "off.yaml", f"{name}: false")
    dashed = name.replace("_", "-")
    assert getattr(read("-c", off, f"--{dashed}"), name) is True
    assert getattr(read("-c", on, f"--no-{dashed}"), name) is False


# init_from is a place whose content belongs to the key: tests/test_fine_tuning.py
@pytest.mark.parametrize(
    "name", [name for name, field in FIELDS.items() if field.metadata["option"] and name != "init_from"]
)
def test_every_setting_is_an_option_and_part_of_the_key_unless_it_is_a_place(name, tmp_path):
    # 62 images are even and more than one part
    base = {"batch_size": 64} | ({"mixup": 0.2} if name.startswith("mix_") else {})
    default, value = Settings(**base), another(name)
    changed = Settings(**base | {name: value})
    assert value != getattr(default, name)
    assert (changed.key() == default.key()) == (name in PLACES)
    assert (changed.name() == default.name()) == (name in PLACES)
    assert FIELDS[name].metadata["key"] == (name not in PLACES)
    # dumped and read again, and on the command line
    assert read("-c", write(tmp_path / "args.yaml", changed.dump())) == changed
    config = write(tmp_path / "base.yaml", default.dump())
    given = [option(name), yaml.safe_dump(value, default_flow_style=True).split("\n")[0]]
    if isinstance(value, list):
        given = [option(name), *value]
    if isinstance(value, bool):
        given = [option(name) if value else f"--no{option(name)[1:]}"]
    if name == "model":  # the dump names the encoder, which the model would decide
        given += ["--encoder", "null", "--form", "null"]
    if name == "encoder":
        given += ["--form", "null"]
    assert read("-c", config, *given) == changed


def test_the_name_depends_on_values_and_not_on_their_order():
    one = Settings(model_options={"gain": 1.0, "drop_rate": 0.1})
    other = Settings(model_options={"drop_rate": 0.1, "gain": 1.0})
    assert one.name() == other.name()
    assert len(one.name()) == 10
    assert Settings(lr=1).name() == Settings(lr=1.0).name()


def test_naming_the_default_encoder_changes_nothing():
    gac, direct = Settings(), Settings(model="ms_resnet18_cifar")
    assert (gac.encoder, gac.form) == ("gac", DEFAULT_FORM)
    assert (direct.encoder, direct.form) == ("direct", None)
    assert Settings(encoder="gac", form=DEFAULT_FORM) == gac
    assert Settings(model="ms_resnet18_cifar", encoder="direct") == direct
    assert Settings(model="ms_resnet18_cifar", encoder="gac").form == DEFAULT_FORM
    assert Settings(encoder="poisson").form is None


def test_a_source_that_is_not_registered_says_what_to_import():
    with pytest.raises(UsageError, match=r"'mine' .*affine\.py.*--import affine\.py\.$"):
        Settings(encoder="mine", encoder_source="affine.py:0123456789ab")
    with pytest.raises(UsageError, match=r"'gac' .*affine"):
        Settings(encoder_source="affine.py:0123456789ab")


def test_errors_survive_pickling():
    """Other processes send them."""
    with pytest.raises(UsageError) as caught:
        Settings(batch_size=0)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and again.argument == "batch_size"


@pytest.mark.parametrize("value", [{1, 2}, datetime.date(2024, 5, 1), b"x", torch.nn.ReLU(), {None: 1}, 2**70])
def test_options_of_the_network_are_plain_values(value):
    """They are written into YAML, rows and weights."""
    with pytest.raises(UsageError, match=r"^model_options must be a mapping of plain values \(it has "):
        Settings(model_options={"gain": value})
    assert Settings(model_options={"channels": (4, 4, 4)}).dump()
