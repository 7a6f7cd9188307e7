"""A folder that timm loads: ``config.json`` (architecture, model arguments, pixels) and ``model.safetensors``.

``timm.create_model("local-dir:DIR", pretrained=True)`` and, once it is on the Hugging Face Hub, ``"hf-hub:NAME"`` build
the same network with its weights; so does :func:`load_pretrained`, which also compares the weights with the SHA-256 in
the config. A network of :func:`gac_sj.quantize` has int8 weights and their scales in the same file, and a
``quantization`` in the config, which :func:`load_pretrained` reads; timm, which does not know it, refuses the weights.
"""

from __future__ import annotations

import hashlib
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
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj._utils.files import read_bytes, read_text
from gac_sj._utils.reading import parse_json
from gac_sj._utils.weights_source import HUB
from gac_sj.checkpoint.config import problem
from gac_sj.checkpoint.runs import (
    LABEL_NAMES,
    build_model,
    data_info,
    load_network,
    read_label_names,
    read_weights,
)
from gac_sj.data import dataset_info
from gac_sj.encoders import find_encoder, require_source
from gac_sj.models.kinds import defaults_of
from gac_sj.nn.quantization import QUANTIZATION, quantization_of, rebuild
from gac_sj.training.settings import Settings

__all__ = ["load_pretrained", "save_pretrained"]

CONFIG = "config.json"
#: The model card, where there is one: the Hub shows it.
CARD = "README.md"


def save_pretrained(model: nn.Module, folder: str | Path, label_names: Iterable[str] | None = None) -> None:
    """Write a network that ``timm.create_model`` built into a new folder, whole or not at all.

    For the Hub, add a model card (:data:`CARD`) and ``gac-sj push`` the folder. Memory format, type
    (``load_pretrained`` returns float32), a neuron's backend and wrappers (DistributedDataParallel, ``torch.compile``)
    are not saved.

    Args:
        model: its keywords are saved too, so timm rebuilds it without them.
        folder: must be new or empty.
        label_names: names of the classes, in order; None keeps those that the model was loaded with.

    Raises:
        FileExistsError: the folder is not empty, or is ".".
        UsageError: timm did not build the model, it was changed afterwards (folded, a layer replaced or changed, except
            by :func:`gac_sj.quantize`), one of its keywords is an object, or there is not one name for each class.
        OSError: the folder cannot be written.
    """
    model, folder = unwrap_model(model), Path(folder)
    if "architecture" not in (getattr(model, "pretrained_cfg", None) or {}):
        raise UsageError(
            f"The model is a {type(model).__name__} that timm did not create, so no config rebuilds it",
            "build it with timm.create_model",
        )
    described: dict[str, Any] = {}
    if label_names is not None:
        if isinstance(label_names, str) or not isinstance(label_names, Iterable):
            raise UsageError(f"must be a list of class names, got {label_names!r}", argument="label_names")
        described["label_names"] = list(map(str, label_names))
        if (count := len(described["label_names"])) != model.num_classes:
            raise UsageError(
                f"must have {model.num_classes} names, one for each class, got {count}", argument="label_names"
            )
    if not folder.name or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise FileExistsError(f"{folder} is not empty, or is the current folder; name a new folder.")
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    content = save(tensors, {"format": "pt"})
    described["sha256"] = hashlib.sha256(content).hexdigest()
    keywords = getattr(model, "_model_args", {})
    info = find_encoder(keywords.get("encoder", ""))
    if info is not None and info.source is not None:
        described["encoder_source"] = info.source
    # timm leaves out dropout, which does not change evaluation, but training goes on with it
    dropout = {key: rate for key, rate in keywords.items() if "drop" in key and key.endswith("rate")}
    if (quantization := quantization_of(model)) is not None:
        described[QUANTIZATION] = quantization.as_config()
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        unfinished.mkdir(parents=True)
        save_config_for_hf(model, str(unfinished / CONFIG), model_config=described, model_args=dropout)
        _check_rebuilds(unfinished, model, described.get(QUANTIZATION))
        (unfinished / WEIGHTS).write_bytes(content)
        unfinished.replace(folder)
    except OSError as error:
        raise OSError(f"{folder} cannot be written ({error.strerror}); choose another folder.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check_rebuilds(folder: Path, model: nn.Module, quantization: dict[str, Any] | None) -> None:
    """Raise UsageError if the config in ``folder`` builds a network with other tensors or layers."""
    with torch.device("meta"):
        rebuilt = _describe(_build(folder, quantization))
    given = _describe(model)
    if differing := [key for key in rebuilt | given if rebuilt.get(key) != given.get(key)]:
        shown = ", ".join(differing[:3]) + (f" and {len(differing) - 3} more" if len(differing) > 3 else "")
        raise UsageError(
            f"The {type(model).__name__} differs from the network that its keywords build ({shown})",
            "save it before it is folded or changed",
        )


def _build(folder: Path, quantization: dict[str, Any] | None) -> nn.Module:
    """The network of the config in ``folder``, in evaluation mode, without its weights."""
    model = timm.create_model(f"local-dir:{folder}").eval()
    if quantization is not None:
        rebuild(model, quantization)
    return model


def _describe(model: nn.Module) -> dict[str, Any]:
    """What the layers say of themselves, and the shapes of the tensors.

    A neuron's backend and synchronised BatchNorms are left out, since they do not change results.
    """
    layers = {
        name or "itself": (type(module).__name__, re.sub(r", backend=\w+", "", module.extra_repr()))
        for name, module in model.named_modules()
        if not isinstance(module, _BatchNorm)
    }
    return layers | {key: value.shape for key, value in model.state_dict().items()}


def load_pretrained(source: str | Path) -> nn.Module:
    """Load a network with its weights, on the CPU and in evaluation mode.

    Args:
        source: a folder of :func:`save_pretrained` (or of timm; a prefix "local-dir:" is ignored) or the
            ``model.safetensors`` in it, ``"hf-hub:NAME"``, or the ``last.safetensors`` of a run.

    Raises:
        FileNotFoundError: there is no such folder or file.
        UsageError: a file is missing, damaged or does not fit the other one, or the encoder is not registered.
        OSError: the Hub does not serve it.
    """
    if str(source).startswith(HUB):
        folder = _download(str(source).removeprefix(HUB))
    else:
        folder = Path(str(source).removeprefix("local-dir:"))
        if not folder.exists():
            raise FileNotFoundError(f"{folder} does not exist; pass a folder of weights, or {HUB}NAME.")
    if folder.is_file() and not (folder.name == WEIGHTS and folder.with_name(CONFIG).exists()):
        return _of_run(folder).eval()
    if folder.is_file():
        folder = folder.parent
    content, config = _read(folder)
    if encoder_source := config.get("encoder_source"):
        require_source(config["model_args"]["encoder"], encoder_source)
    try:
        model = _build(folder, config.get(QUANTIZATION))
        model.load_state_dict(load(content))
    except SafetensorError as error:
        raise UsageError(f"{folder / WEIGHTS} is damaged ({first_sentence(error)})", "download it again") from error
    except Exception as error:  # the config may name any network of timm with any arguments
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UsageError(
            f"{folder} does not hold the network {config['architecture']!r} and its weights ({reason})"
        ) from error
    return model


def _download(name: str) -> Path:
    """The folder in the Hub's cache."""
    try:
        files = [download_from_hf(name, file) for file in (CONFIG, WEIGHTS)]
    except Exception as error:  # no network, no such repository, no right to it: each has its own class
        raise OSError(
            f"{HUB}{name} cannot be downloaded from the Hugging Face Hub ({first_sentence(error)}); check the name and "
            "the network."
        ) from error
    return Path(files[0]).parent


def _read(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """The content of the weights' file, whose checksum is right, and the config.

    Raises:
        UsageError: a file is missing or damaged.
    """
    try:
        config = parse_json(read_text(folder / CONFIG))
        content = read_bytes(folder / WEIGHTS)
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise UsageError(f"{folder} has no {missing}", f"pass a folder with {CONFIG} and {WEIGHTS}") from error
    except ValueError as error:
        raise UsageError(f"{folder / CONFIG} is damaged ({first_sentence(error)})", "download it again") from error
    if found := problem(config):
        raise UsageError(f"{folder / CONFIG} {found}", "pass a folder of save_pretrained or timm")
    # timm writes no checksum
    if config.get("sha256") not in (None, hashlib.sha256(content).hexdigest()):
        raise UsageError(
            f"{folder / WEIGHTS} is damaged or belongs to another network: its checksum is wrong", "download it again"
        )
    return content, config


def _of_run(path: Path) -> nn.Module:
    """The network of a run, with the statistics and the resizing of its test images, and the names of its classes.

    Raises:
        UsageError: the file is damaged, or does not hold weights of a run.
    """
    settings, weights = read_weights(path)
    names = read_label_names(path)
    classes = _classes(settings, weights) if names is None else len(names)
    model = load_network(settings, weights, data_info(settings, classes))
    model.pretrained_cfg.update(
        {} if names is None else {LABEL_NAMES: names, "num_classes": len(names)},  # timm drops names of another number
        interpolation=settings.interpolation,
        crop_pct=settings.crop_fraction or model.pretrained_cfg["crop_pct"],
    )
    return model


def _classes(settings: Settings, weights: dict[str, Tensor]) -> int | None:
    """The number of classes of weights that do not have their names; None where it is that of the data set."""
    classifier = defaults_of(settings.model).classifier
    if classifier is None and dataset_info(settings.dataset, settings.dataset_source).classes is None:
        with torch.device("meta"):  # of another package: its last matrix
            shapes = build_model(settings, data_info(settings)).state_dict()
        classifier = [name for name, value in shapes.items() if value.dim() == 2][-1].removesuffix(".weight")
    return None if classifier is None else len(weights.get(f"{classifier}.weight", ()))
