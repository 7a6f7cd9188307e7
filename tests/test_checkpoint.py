"""Published checkpoints are loaded by key names, strictly; test_golden.py compares what they compute."""

import copy
import os

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from helpers import golden_values
from helpers.networks import wake

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


@pytest.mark.parametrize("downsample", ["max", "avg_shortcut"])
def test_other_shortcuts_are_refused(checkpoint, downsample):
    # their names and shapes fit
    with pytest.raises(ValueError, match=f"downsample='{downsample}'.*create the model with downsample='stride'"):
        load_reference_state_dict(build(downsample=downsample), checkpoint)


@pytest.mark.parametrize("options", [{"num_classes": 100}, {"T": 6}, {"encoder": "direct"}])
def test_networks_of_another_shape_are_refused(checkpoint, options):
    with pytest.raises(ValueError, match=r"does not fit.*create the model"):
        load_reference_state_dict(build(**options), checkpoint)


def ms_resnet_names(key: str, stem: int, pooled: bool = False) -> str:
    """Names of the official MS-ResNet codes for ours.

    Args:
        key: our name.
        stem: number of the stem's convolutions.
        pooled: whether a pool stands in front of the shortcuts' convolutions.
    """
    parts = key.split(".")
    leaf = parts[-1]
    if parts[0] == "head":
        return f"fc.{leaf}"
    if parts[0] == "encoder":
        at = int(parts[2])
        return f"conv1.{at}.{leaf}" if at < stem else f"conv1.{at}.bn.{leaf}"
    block = f"conv{int(parts[1]) + 2}_x.{parts[2]}"
    inside = ".".join(parts[3:-1])
    return {
        "conv1": f"{block}.residual_function.1.{leaf}",
        "bn1": f"{block}.residual_function.2.bn.{leaf}",
        "conv2": f"{block}.residual_function.4.{leaf}",
        "bn2": f"{block}.residual_function.5.bn.{leaf}",
        "shortcut.1": f"{block}.shortcut.{int(pooled)}.{leaf}",
        "shortcut.2": f"{block}.shortcut.{1 + pooled}.bn.{leaf}",
        "attention.temporal.squeeze": f"{block}.residual_function.6.attention.ta.sharedMLP.0.{leaf}",
        "attention.temporal.excite": f"{block}.residual_function.6.attention.ta.sharedMLP.2.{leaf}",
        "attention.channel.squeeze": f"{block}.residual_function.6.attention.ca.sharedMLP.0.{leaf}",
        "attention.channel.excite": f"{block}.residual_function.6.attention.ca.sharedMLP.2.{leaf}",
        "attention.spatial.convolution": f"{block}.residual_function.6.attention.sa.conv.{leaf}",
    }[inside]


@pytest.mark.medium
@pytest.mark.parametrize("name,stem", [("ms_resnet18", 1), ("ms_resnet104", 3)])
def test_official_ms_resnet_checkpoints_are_loaded(name, stem):
    source, target = timm.create_model(name), timm.create_model(name)
    published = {ms_resnet_names(key, stem, pooled=stem == 3): value for key, value in source.state_dict().items()}
    load_reference_state_dict(target, published)
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in target.state_dict().items())


def att_ms_resnet(**options):
    shape = dict(channels=(8, 16, 16, 24), blocks=(2, 1, 1, 1), stem_channels=8, num_classes=5, form="reference")
    return timm.create_model("att_ms_resnet18", **shape | options).double()


def att_ms_resnet_state_dict(model):
    """The names and shapes of the published code, whose channel and temporal attentions are 1x1x1 convolutions."""
    state = {ms_resnet_names(key, stem=1, pooled=True): value for key, value in model.state_dict().items()}
    return {key: value[..., None, None, None] if "sharedMLP" in key else value for key, value in state.items()}


def published_att_ms_resnet(weights, images, T):
    """Logits of Att-MS-ResNet (arXiv 2209.13929) in evaluation mode, from the names of its published code."""

    def convolve(name, x, **options):
        return F.conv2d(x.flatten(0, 1), weights[f"{name}.weight"], **options).unflatten(0, (T, -1))

    def norm(name, x):
        mean, var, scale, shift = (
            weights[f"{name}.bn.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x.flatten(0, 1), mean, var, scale, shift).unflatten(0, (T, -1))

    def fire(x):
        v, spikes = torch.zeros_like(x[0]), []
        for current in x:
            v = 0.25 * v + current
            spikes.append((v > 0.5).to(v))
            v = v * (1 - spikes[-1])
        return torch.stack(spikes)

    def attend(name, x):  # channels, then pixels
        squeeze, excite = (weights[f"{name}.ca.sharedMLP.{at}.weight"].flatten(1) for at in (0, 2))
        pooled = x.mean((0, 3, 4)), x.amax((0, 3, 4))
        x = x * torch.sigmoid(sum(F.relu(of @ squeeze.T) @ excite.T for of in pooled))[..., None, None]
        maps = torch.stack([x.mean((0, 2)), x.amax((0, 2))], 1)
        return F.relu(x * torch.sigmoid(F.conv2d(maps, weights[f"{name}.sa.conv.weight"], padding=1)))

    x = norm("conv1.1", convolve("conv1.0", images.expand(T, *images.shape), stride=2, padding=3))
    for block in sorted({key.split(".residual")[0] for key in weights if ".residual_function." in key}):
        branch, pooled = f"{block}.residual_function", f"{block}.shortcut.1.weight" in weights
        y = norm(f"{branch}.2", convolve(f"{branch}.1", fire(x), stride=1 + pooled, padding=1))
        y = norm(f"{branch}.5", convolve(f"{branch}.4", fire(y), padding=1))
        if pooled:
            means = F.avg_pool2d(x.flatten(0, 1), 2).unflatten(0, (T, -1))
            x = norm(f"{block}.shortcut.2", convolve(f"{block}.shortcut.1", means))
        x = x + attend(f"{branch}.6.attention", y)
    return F.linear(fire(x).mean((0, 3, 4)), weights["fc.weight"], weights["fc.bias"])


@pytest.mark.medium
@pytest.mark.parametrize("T", [1, 3])
def test_published_att_ms_resnet_is_loaded_and_computes_the_same(T):
    torch.manual_seed(0)
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    source, target = wake(att_ms_resnet(T=T), x), att_ms_resnet(T=T).eval()
    torch.nn.init.normal_(source.head.weight)
    published = att_ms_resnet_state_dict(source)
    load_reference_state_dict(target, {f"module.{key}": value for key, value in published.items()})
    logits = target(x)
    assert torch.equal(logits, source(x)) and logits.std() > 1e-3
    torch.testing.assert_close(logits, published_att_ms_resnet(published, x, T))


@pytest.mark.parametrize("attention", ["TA", "TCSA"])
def test_other_attentions_have_the_published_names_too(attention):
    source, target = (att_ms_resnet(T=4, block_attention=attention) for _ in range(2))
    load_reference_state_dict(target, att_ms_resnet_state_dict(source))
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in target.state_dict().items())


@pytest.mark.parametrize(
    "options,words",
    [
        (dict(block_attention="CA"), r"unexpected conv2_x\.0\.residual_function\.6\.attention\.sa\.conv\.weight"),
        (dict(block_channel_reduction=4), r"ca\.sharedMLP\.0\.weight has shape \[1, 8\] and needs \[2, 8\]"),
        (dict(downsample="stride"), "create the model with downsample='avg_shortcut'"),
        (dict(stem="three"), r"conv1\.0\.weight has shape \[8, 3, 7, 7\] and needs \[8, 3, 3, 3\]"),
    ],
)
def test_att_ms_resnets_of_another_shape_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        load_reference_state_dict(att_ms_resnet(**options), att_ms_resnet_state_dict(att_ms_resnet()))


def test_layers_that_no_published_code_has_are_named():
    model = att_ms_resnet()
    torch.nn.utils.parametrize.register_parametrization(model.stages[0][0].conv1, "weight", torch.nn.Identity())
    with pytest.raises(ValueError, match=r"missing .*conv1\.parametrizations\.weight\.original"):
        load_reference_state_dict(model, att_ms_resnet_state_dict(att_ms_resnet()))


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
