"""The published checkpoints of GAC, MS-ResNet and Att-MS-ResNet (MA-SNN), by their key names."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from gac_sj._utils.errors import UsageError
from gac_sj._utils.files import read_bytes
from gac_sj.encoders import REFERENCE_FORM
from gac_sj.models import MSResNet

__all__ = ["load_reference_state_dict", "read_reference", "reference_names"]

#: Under what names a dict holds a state dict. timm also prefers the EMA.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "net")


def read_reference(path: str | Path) -> dict[str, Tensor]:
    """Read a published ``.pth`` file without executing code.

    Args:
        path: a file that ``torch.save`` wrote: a state dict, or a dict that holds one (:data:`WRAPPERS`).

    Raises:
        FileNotFoundError: no such file.
        OSError: it cannot be read.
        UsageError: truncated, or not a state dict; what else it holds than tensors and plain values is named.
    """
    path = Path(path)
    try:
        content = read_bytes(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"The checkpoint {path} does not exist; pass the path of a .pth file.") from error
    try:
        content = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        if refused := re.search(r"(?i)unsupported (?:global: )?GLOBAL (\S+)", str(error)):
            raise UsageError(
                f"The checkpoint {path} holds {refused[1]}, which is not read because it could run code",
                "if you trust the file, load it with torch.load(..., weights_only=False) and save its state dict alone",
            ) from error
        raise UsageError(
            f"The checkpoint {path} cannot be read ({type(error).__name__}): it is truncated, or not a file of plain "
            "tensors",
            "download it again",
        ) from error
    try:
        return _state_dict(content)
    except ValueError as error:
        raise UsageError(f"{path}: {str(error).rstrip('.')}") from error


def _state_dict(content: object) -> dict[str, Tensor]:
    """The names and tensors of a state dict, alone or inside dicts, without the prefixes of wrappers."""
    for _ in range(2):  # a dict may contain itself
        for key in WRAPPERS:
            if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UsageError("The checkpoint does not contain a state dict", "pass a dict of names and tensors")
    if unnamed := [key for key in content if not isinstance(key, str)]:
        raise UsageError(f"The checkpoint has a tensor named {unnamed[0]!r}", "pass a dict of texts and tensors")
    plain = {re.sub(r"^((module|_orig_mod)\.)+", "", key): value for key, value in content.items()}
    if len(plain) < len(content):
        raise UsageError(
            "The checkpoint has the same names with and without the prefix 'module.' or '_orig_mod.'",
            "remove one of them",
        )
    return plain


@torch.no_grad()
def load_reference_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load the weights of the published GAC, MS-ResNet or Att-MS-ResNet code into an MS-ResNet of this package; strict.

    The published networks register many tensors under several names; one of them is enough, and all that are present
    must agree. Prefixes ``module.`` and ``_orig_mod.`` are ignored. If an error is raised, the model is unchanged.

    Args:
        model: an :class:`gac_sj.models.MSResNet` with the same shape; GAC with ``form="reference"``, which for any
            encoder gives neurons that fire only above the threshold, as the published ones do.
        state_dict: maps names of the published code to tensors, alone or inside a dict (:data:`WRAPPERS`).

    Raises:
        UsageError: the model is not an MSResNet of this package, has other shortcuts, is spike-driven, or has GAC in
            another form; there is no state dict; or a tensor is missing, unexpected, misshapen or contradictory (each
            is named).
    """
    if not isinstance(model, MSResNet):
        raise UsageError(f"must be an MSResNet, got {type(model).__name__}", "unwrap or build it", argument="model")
    if model.spike_driven:
        raise UsageError(
            "The model has spike_driven=True, and the shortcuts of the published networks receive membrane potentials",
            "create it without",
        )
    encoder = model.encoder
    if encoder.form is not None and not encoder.is_reference:
        raise UsageError(
            f"The model's encoder has the form {encoder.form!r} or changed options, and published weights need the "
            "published encoder",
            f"create the model with form={REFERENCE_FORM!r} alone",
        )
    given = _state_dict(state_dict)
    # names and shapes alone would fit: with a pool in front of a shortcut's convolution its norm stands at 2
    shortcuts = [name for name in given if re.search(r"\.(shortcut\.[02]|downsample)\.", name)]
    published = "avg_shortcut" if any(".shortcut.2." in name for name in shortcuts) else "stride"
    if shortcuts and model.downsample != published:
        raise UsageError(
            f"The model has downsample={model.downsample!r}, and the checkpoint's shortcuts are those of {published!r}",
            f"create the model with downsample={published!r}",
        )
    loaded, problems, used = {}, [], set()
    for key, target in model.state_dict().items():
        names = reference_names(key)
        found = [name for name in names if name in given]
        used.update(found)
        if not found:
            problems.append(f"missing {names[0]} (our {key})")
            continue
        value = given[found[0]]
        if target.dim() == 2 and value.shape[2:] == (1, 1, 1):  # published as 1x1x1 convolutions
            value = value.flatten(1)
        if value.shape != target.shape:
            problems.append(f"{found[0]} has shape {list(value.shape)} and needs {list(target.shape)}")
        problems += [
            f"{name} differs from {found[0]}" for name in found[1:] if not _equal(given[name], given[found[0]])
        ]
        loaded[key] = value
    problems = [f"unexpected {name}" for name in given if name not in used] + problems
    if problems:
        shown = "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise UsageError(
            f"The checkpoint does not fit {model._get_name()} (T={model.T}, {model.num_classes} classes): {shown}",
            "create the model with the depth, T, encoder and number of classes of the checkpoint",
        )
    model.load_state_dict(loaded, strict=True)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _norm(*prefixes: str) -> list[str]:
    """The published BatchNorm is a wrapper that registers its layer twice."""
    return [f"{prefix}.{wrapper}" for prefix in prefixes for wrapper in ("bn", "seqbn.module")]


def reference_names(key: str) -> list[str]:
    """All names under which the published codes hold our tensor ``key``, the likeliest first."""
    module, _, leaf = key.rpartition(".")
    if match := re.fullmatch(r"encoder\.stem\.(\d)", module):
        at = match[1]
        sequential = [f"conv1.{at}", *_norm(f"conv1.{at}")]
        names = {"0": ["conv1", "conv1_s.layer.module"], "1": _norm("bn1", "conv1_s.bn")}.get(at, []) + sequential
    elif match := re.fullmatch(r"encoder\.gau\.temporal\.(squeeze|excite)", module):
        names = [f"encoding.TA.sharedMLP.{0 if match[1] == 'squeeze' else 2}"]
    elif match := re.fullmatch(r"encoder\.gau\.spatial_channel\.convolutions\.(\d)", module):
        names = [f"encoding.SCA.sharedMLP.{2 * int(match[1])}"]
    elif match := re.fullmatch(r"stages\.(\d)\.(\d+)\.(.+)", module):
        stage, block = int(match[1]), match[2]
        cifar, imagenet = f"layer{stage + 1}.{block}", f"conv{stage + 2}_x.{block}"
        homes = [imagenet] if match[3].startswith("attention.") else [cifar, imagenet]
        names = [f"{home}.{name}" for home in homes for name in _block_names(match[3])]
    elif module == "head":
        names = ["fc1", "fc1_s.layer.module", "fc"]
    else:
        names = [module]
    return [f"{name}.{leaf}" for name in names]


def _block_names(module: str) -> list[str]:
    """Published names inside a block: GAC's CIFAR, GAC's ImageNet, MS-ResNet's and Att-MS-ResNet's."""
    attention = "residual_function.6.attention"
    return {
        "conv1": ["conv1", "conv1_s.layer.module", "residual_function.1"],
        "bn1": _norm("bn1", "conv1_s.bn", "residual_function.2"),
        "conv2": ["conv2", "conv2_s.layer.module", "residual_function.4"],
        "bn2": _norm("bn2", "conv2_s.bn", "residual_function.5"),
        # with a pool in front (MS-ResNet-104) the convolution stands at 1 and the norm at 2
        "shortcut.1": ["downsample.layer.module", "shortcut.0", "shortcut.1"],
        "shortcut.2": _norm("downsample.bn", "shortcut.1", "shortcut.2"),
        "attention.temporal.squeeze": [f"{attention}.ta.sharedMLP.0"],
        "attention.temporal.excite": [f"{attention}.ta.sharedMLP.2"],
        "attention.channel.squeeze": [f"{attention}.ca.sharedMLP.0"],
        "attention.channel.excite": [f"{attention}.ca.sharedMLP.2"],
        "attention.spatial.convolution": [f"{attention}.sa.conv"],
    }.get(module, [module])
