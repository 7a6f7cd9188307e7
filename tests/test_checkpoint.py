"""Published checkpoints are loaded by key names, strictly; test_golden.py compares what they compute."""

import copy
import os

import numpy as np
import pytest
import timm
import torch
from helpers import golden_values

from gac_sj.checkpoint import load_reference_state_dict, read_reference

GOLDEN = {name: golden_values.load(name) for name in ("cifar_ms_resnet18_gac_T4", "imagenet_ms_resnet18_gac_T4_K4")}


@pytest.fixture(scope="module")
def checkpoint():
    return {key: value.float() for key, value in golden_values.state_dict(GOLDEN["cifar_ms_resnet18_gac_T4"]).items()}


def build(name="gac_ms_resnet18_cifar", **options):
    return timm.create_model(name, **({"T": 4, "num_classes": 10, "form": "reference"} | options))


@pytest.mark.medium
def test_module_prefix_is_ignored(checkpoint):
    plain, prefixed = build(), build()
    load_reference_state_dict(plain, checkpoint)
    load_reference_state_dict(prefixed, {f"module.{key}": value for key, value in checkpoint.items()})
    for key, value in plain.state_dict().items():
        assert torch.equal(prefixed.state_dict()[key], value)
    assert torch.equal(plain.head.weight, checkpoint["fc1.weight"])


def test_one_of_several_names_suffices(checkpoint):
    aliases = {key for key, entry in GOLDEN["cifar_ms_resnet18_gac_T4"]["state_dict"].items() if len(entry) > 1}
    load_reference_state_dict(build(), {key: value for key, value in checkpoint.items() if key not in aliases})


def changed(checkpoint, **changes):
    return {k: v for k, v in (checkpoint | changes).items() if v is not None}


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"fc1.bias": None, "fc1_s.layer.module.bias": None}, r"missing fc1\.bias \(our head\.bias\)"),
        ({"layer9.0.conv1.weight": torch.zeros(1)}, r"unexpected layer9\.0\.conv1\.weight"),
        (
            {"encoding.SCA.sharedMLP.0.weight": torch.zeros(64, 64, 3, 3)},
            r"SCA.*\[64, 64, 3, 3\] and needs \[64, 64, 4, 4\]",
        ),
        ({"encoding.TA.sharedMLP.0.weight": torch.zeros(3, 6, 1, 1, 1)}, r"TA.*\[3, 6\] and needs \[2, 4\]"),
        (
            {"conv1_s.layer.module.weight": torch.zeros(64, 3, 3, 3)},
            r"conv1_s\.layer\.module\.weight differs from conv1\.weight",
        ),
    ],
    ids=["missing", "unexpected", "misshapen", "T", "contradictory"],
)
def test_misfitting_tensors_are_refused_and_change_nothing(checkpoint, changes, words):
    model = build()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=words):
        load_reference_state_dict(model, changed(checkpoint, **changes))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_wrapped_state_dict_is_unwrapped(checkpoint):
    model = build()
    load_reference_state_dict(model, {"state_dict": checkpoint, "epoch": 250})
    assert torch.equal(model.head.weight, checkpoint["fc1.weight"])


@pytest.mark.parametrize(
    "content,words",
    [
        ({"fc1.bias": 3}, "does not contain a state dict.*pass a dict"),
        ({"fc1.bias": torch.zeros(10), "module.fc1.bias": torch.zeros(10)}, "with and without .*'module.'.*remove one"),
        ({3: torch.zeros(10)}, "tensor named 3;"),
    ],
)
def test_non_state_dicts_are_refused(content, words):
    with pytest.raises(ValueError, match=words):
        load_reference_state_dict(build(), content)


def test_wrapped_model_is_refused(checkpoint):
    with pytest.raises(ValueError, match=r"^model .*DataParallel.*unwrap"):
        load_reference_state_dict(torch.nn.DataParallel(build()), checkpoint)


def test_other_forms_are_refused(checkpoint):
    for options in ({"form": "unit_gate"}, {"gain": 2.0}):
        with pytest.raises(ValueError, match="form='reference'"):
            load_reference_state_dict(build(**options), checkpoint)


def test_max_pooled_network_is_refused(checkpoint):
    # its names and shapes fit
    with pytest.raises(ValueError, match="downsample='max'"):
        load_reference_state_dict(build(downsample="max"), checkpoint)


@pytest.mark.parametrize("options", [{"num_classes": 100}, {"T": 6}, {"encoder": "direct"}])
def test_networks_of_another_shape_are_refused(checkpoint, options):
    with pytest.raises(ValueError, match=r"does not fit.*create the model"):
        load_reference_state_dict(build(**options), checkpoint)


def ms_resnet_names(key: str, stem: int) -> str:
    """Names of the official MS-ResNet code (stem: number of its convolutions) for ours."""
    parts = key.split(".")
    leaf = parts[-1]
    if parts[0] == "head":
        return f"fc.{leaf}"
    if parts[0] == "encoder":
        at = int(parts[2])
        return f"conv1.{at}.{leaf}" if at < stem else f"conv1.{at}.bn.{leaf}"
    block = f"conv{int(parts[1]) + 2}_x.{parts[2]}"
    inside = ".".join(parts[3:-1])
    pooled = stem == 3
    return {
        "conv1": f"{block}.residual_function.1.{leaf}",
        "bn1": f"{block}.residual_function.2.bn.{leaf}",
        "conv2": f"{block}.residual_function.4.{leaf}",
        "bn2": f"{block}.residual_function.5.bn.{leaf}",
        "shortcut.1": f"{block}.shortcut.{int(pooled)}.{leaf}",
        "shortcut.2": f"{block}.shortcut.{1 + pooled}.bn.{leaf}",
    }[inside]


@pytest.mark.medium
@pytest.mark.parametrize("name,stem", [("ms_resnet18", 1), ("ms_resnet104", 3)])
def test_official_ms_resnet_checkpoints_are_loaded(name, stem):
    source, target = timm.create_model(name), timm.create_model(name)
    load_reference_state_dict(target, {ms_resnet_names(key, stem): value for key, value in source.state_dict().items()})
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in target.state_dict().items())


STATE = {"fc.weight": torch.ones(2, 3)}
OTHER = {"fc.weight": torch.zeros(2, 3)}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE},
        {"net": STATE, "acc": 95.0},
        {"net": {"state_dict": STATE}},
        {"state_dict_ema": STATE, "state_dict": OTHER},  # as timm does
        {"model_ema": STATE, "model": OTHER},
        {"state_dict": {"_orig_mod.fc.weight": torch.ones(2, 3)}},
        {"module._orig_mod.module.fc.weight": torch.ones(2, 3)},
    ],
)
def test_files_are_read_wrapped_or_not(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    found = read_reference(tmp_path / "weights.pth")
    assert found.keys() == {"fc.weight"} and torch.equal(found["fc.weight"], STATE["fc.weight"])


def test_what_torch_refuses_is_named(tmp_path):
    torch.save({"state_dict": STATE, "best_acc": np.float64(95)}, tmp_path / "best.pth")
    with pytest.raises(ValueError, match=r"best\.pth holds numpy\.\S+\.scalar, .*save its state dict alone\.$"):
        read_reference(tmp_path / "best.pth")


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(OSError, match=r"Not a regular file.*pipe\.pth"):
        read_reference(tmp_path / "pipe.pth")


def test_a_dict_that_contains_itself_is_refused(tmp_path):
    content = {}
    content["model"] = content
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="does not contain a state dict"):
        read_reference(tmp_path / "weights.pth")


class Malicious:
    def __reduce__(self):
        return (print, ("executed",))


def test_unreadable_files_are_refused_and_not_executed(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth does not exist"):
        read_reference(tmp_path / "nothing.pth")
    path = tmp_path / "weights.pth"
    torch.save({"fc.weight": torch.ones(200, 300)}, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"weights\.pth cannot be read.*truncated"):
        read_reference(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match=r"weights\.pth.*does not contain a state dict"):
        read_reference(path)
    torch.save({"fc.weight": Malicious()}, path)
    with pytest.raises(ValueError, match=r"weights\.pth holds print, which is not read"):
        read_reference(path)
    assert "executed" not in capsys.readouterr().out
