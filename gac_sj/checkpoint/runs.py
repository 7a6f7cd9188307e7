"""The weights that a run leaves (last.safetensors, best.safetensors), and the network that they belong to."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from gac_sj.data import DATASETS
from gac_sj.training.settings import Settings

if TYPE_CHECKING:
    from gac_sj.training.build import Data

__all__ = ["build_model", "fingerprint", "load_network", "read_weights"]


def build_model(settings: Settings, data: Data) -> nn.Module:
    """The network of a run; its ``pretrained_cfg`` has the data set's mean and deviation, or what its encoder needs.

    Raises:
        ValueError, TypeError: ``model_options``, encoder and form do not fit each other.
    """
    mean, std = DATASETS[settings.dataset]
    options: dict[str, Any] = dict(settings.model_options)
    if settings.form is not None:
        options["form"] = settings.form
    try:
        return timm.create_model(
            settings.model,
            T=settings.T,
            encoder=settings.encoder,
            num_classes=len(data.train.classes),
            in_chans=data.train.channels,
            pretrained_cfg_overlay={"mean": mean, "std": std, "input_size": (data.train.channels, *data.size)},
            **options,
        )
    except (TypeError, AssertionError, RuntimeError) as error:
        raise ValueError(f"model_options is {settings.model_options}, and the network says: {error}.") from error


def read_weights(path: Path) -> tuple[Settings, dict[str, Tensor]]:
    """Settings and tensors of a file that a run has left.

    Raises:
        ValueError: not there, damaged, or no weights of a run.
    """
    try:
        with safe_open(path, "pt") as file:
            settings = Settings(**json.loads((file.metadata() or {})["settings"]))
            return settings, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = str(error).rstrip(".")
        raise ValueError(f"{path} cannot be read as weights of a run ({reason}); give its last.safetensors.") from error


def fingerprint(path: Path) -> str:
    """Twelve letters that stand for the content of a file.

    Raises:
        OSError: it cannot be read.
    """
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def load_network(settings: Settings, weights: dict[str, Tensor], data: Data) -> nn.Module:
    """The network of a run with its weights, on the CPU.

    Raises:
        ValueError: the weights are another network's.
    """
    model = build_model(settings, data)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"The weights do not fit {settings.model} ({' '.join(str(error).split())}).") from error
    return model
