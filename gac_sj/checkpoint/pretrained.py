"""A folder that timm loads: ``config.json`` (architecture, model arguments, pixels) and ``model.safetensors``.

``timm.create_model("local-dir:DIR", pretrained=True)`` and, once it is on the Hugging Face Hub, ``"hf-hub:NAME"`` build
the same network with its weights; :func:`load_pretrained` does too, and compares the weights with the SHA-256 that the
config holds, which timm does not look at.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from timm.models._hub import HF_SAFE_WEIGHTS_NAME as WEIGHTS
from timm.models._hub import download_from_hf, save_config_for_hf
from timm.utils import unwrap_model
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["load_pretrained", "save_pretrained"]

CONFIG = "config.json"
HUB = "hf-hub:"


def save_pretrained(model: nn.Module, folder: str | Path, label_names: Iterable[str] | None = None) -> None:
    """Write a network that ``timm.create_model`` built into a new folder, whole or not at all.

    To the Hub: ``timm.models.push_to_hf_hub(model, "me/name")``, which writes the same but the checksum, or upload the
    folder. Memory format, type (``load_pretrained`` gives float32), a neuron's backend and wrappers
    (DistributedDataParallel, ``torch.compile``) are not kept.

    Args:
        model: its keywords are written too, so ``timm`` rebuilds it without them.
        folder: must not exist, or be empty.
        label_names: of the classes, in order; None keeps those that the model was loaded with.

    Raises:
        FileExistsError: the folder holds something, or is ".".
        ValueError: ``timm`` did not build the model, it was changed afterwards (folded, a layer replaced or set
            otherwise), one of its keywords is an object, or the names are not one a class.
        OSError: the folder cannot be written.
    """
    model, folder = unwrap_model(model), Path(folder)
    if "architecture" not in (getattr(model, "pretrained_cfg", None) or {}):
        raise ValueError(
            f"The model is a {type(model).__name__} that timm did not create, so no config rebuilds it; use "
            "create_model."
        )
    described: dict[str, Any] = {}
    if label_names is not None:
        if isinstance(label_names, str) or not isinstance(label_names, Iterable):
            raise ValueError(f"label_names is {label_names!r}; it needs the names of the classes in a list.")
        described["label_names"] = list(map(str, label_names))
        if (count := len(described["label_names"])) != model.num_classes:
            raise ValueError(f"label_names has {count} names for {model.num_classes} classes; give one a class.")
    if not folder.name or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise FileExistsError(f"{folder} exists and holds something, or is where you are; name a new folder.")
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    content = save(tensors, {"format": "pt"})
    described["sha256"] = hashlib.sha256(content).hexdigest()
    # timm leaves out dropout, which changes nothing in evaluation, but training goes on with it
    keywords = getattr(model, "_model_args", {})
    dropout = {key: rate for key, rate in keywords.items() if "drop" in key and key.endswith("rate")}
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        unfinished.mkdir(parents=True)
        save_config_for_hf(model, unfinished / CONFIG, model_config=described, model_args=dropout)
        _check_rebuilds(unfinished, model)
        (unfinished / WEIGHTS).write_bytes(content)
        unfinished.replace(folder)
    except OSError as error:
        raise OSError(f"{folder} cannot be written ({error.strerror}); choose another place.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check_rebuilds(folder: Path, model: nn.Module) -> None:
    """Raise ValueError where the config in ``folder`` builds a network with other tensors or layers."""
    with torch.device("meta"):
        rebuilt = _describe(timm.create_model(f"local-dir:{folder}"))
    given = _describe(model)
    if differing := [key for key in rebuilt | given if rebuilt.get(key) != given.get(key)]:
        shown = ", ".join(differing[:3]) + (f" and {len(differing) - 3} more" if len(differing) > 3 else "")
        raise ValueError(
            f"The {type(model).__name__} is not the network that its keywords build ({shown}); save it before it is "
            "folded or changed."
        )


def _describe(model: nn.Module) -> dict[str, Any]:
    """What the layers say of themselves, and the shapes of the tensors.

    Without what changes no result: a neuron's backend, and whether BatchNorms are synchronised.
    """
    layers = {
        name or "itself": (type(module).__name__, re.sub(r", backend=\w+", "", module.extra_repr()))
        for name, module in model.named_modules()
        if not isinstance(module, _BatchNorm)
    }
    return layers | {key: value.shape for key, value in model.state_dict().items()}


def load_pretrained(source: str | Path) -> nn.Module:
    """A network with its weights, on the CPU and in evaluation mode.

    Args:
        source: a folder of :func:`save_pretrained` (or of timm; "local-dir:" in front is ignored) or the
            ``model.safetensors`` in it, ``"hf-hub:NAME"``, or the ``last.safetensors`` of a run.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: a file is missing, damaged or does not fit the other one.
        OSError: the Hub does not give it.
    """
    if str(source).startswith(HUB):
        folder = _download(str(source).removeprefix(HUB))
    else:
        folder = Path(str(source).removeprefix("local-dir:"))
        if not folder.exists():
            raise FileNotFoundError(f"{folder} does not exist; give a folder of weights, or {HUB}NAME.")
    if folder.is_file() and not (folder.name == WEIGHTS and folder.with_name(CONFIG).exists()):
        return _of_run(folder).eval()
    if folder.is_file():
        folder = folder.parent
    content, architecture = _read(folder)
    try:
        model = timm.create_model(f"local-dir:{folder}")
        model.load_state_dict(load(content))
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} is damaged ({error}); fetch it again.") from error
    except (RuntimeError, TypeError, ValueError, AssertionError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder} does not hold the network {architecture!r} and its weights ({reason}).") from error
    return model.eval()


def _download(name: str) -> Path:
    """The folder in the Hub's cache."""
    try:
        files = [download_from_hf(name, file) for file in (CONFIG, WEIGHTS)]
    except Exception as error:  # no network, no such repository, no right to it: each has its own class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise OSError(
            f"{HUB}{name} cannot be had from the Hugging Face Hub ({reason}); check name and network."
        ) from error
    return Path(files[0]).parent


def _read(folder: Path) -> tuple[bytes, Any]:
    """The weights as they lie in the file, whose checksum is right, and the architecture that they belong to.

    Raises:
        ValueError: a file is missing or damaged.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        content = (folder / WEIGHTS).read_bytes()
    except FileNotFoundError as error:
        lacking = Path(error.filename).name
        raise ValueError(f"{folder} has no {lacking}; give a folder with {CONFIG} and {WEIGHTS}.") from error
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} is damaged ({error}); fetch it again.") from error
    if not isinstance(config, dict) or "architecture" not in config:
        raise ValueError(f"{folder / CONFIG} names no architecture; give a folder of save_pretrained or timm.")
    # timm writes none
    if config.get("sha256") not in (None, hashlib.sha256(content).hexdigest()):
        raise ValueError(f"{folder / WEIGHTS} is damaged or another network's: its checksum is wrong; fetch it again.")
    return content, config["architecture"]


def _of_run(path: Path) -> nn.Module:
    """The network of a run, with the statistics and the resizing of its test images; class names are not known.

    Raises:
        ValueError: the file is damaged, or no weights of a run.
    """
    # training imports all the rest
    from gac_sj.checkpoint.runs import load_network, read_weights
    from gac_sj.data import dataset_info

    settings, weights = read_weights(path)
    classes = len(weights.get(f"{timm.get_pretrained_cfg(settings.model).classifier}.weight", ()))
    model = load_network(settings, weights, dataset_info(settings.dataset).for_network(settings.model, classes))
    model.pretrained_cfg.update(
        interpolation=settings.interpolation, crop_pct=settings.crop_fraction or model.pretrained_cfg["crop_pct"]
    )
    return model
