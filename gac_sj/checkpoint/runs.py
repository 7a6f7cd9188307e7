"""The weights that a run saves (last.safetensors, best.safetensors), and the network that they belong to."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import timm
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj._utils.files import fingerprint, read_bytes
from gac_sj._utils.reading import parse_json
from gac_sj.data import DatasetInfo
from gac_sj.models.network import EncodedNetwork
from gac_sj.training.settings import Settings

__all__ = ["build_model", "fingerprint", "load_network", "read_weights"]

#: Settings that weights do not decide: where and how a run is read, run and written.
PLACES = {field.name for field in dataclasses.fields(Settings) if not field.metadata["key"]}


def build_model(settings: Settings, info: DatasetInfo) -> EncodedNetwork:
    """The network of a run; its ``pretrained_cfg`` has the data set's statistics, or those that its encoder needs.

    Args:
        settings: settings of the run.
        info: its data set, with size and classes (:meth:`gac_sj.data.DatasetInfo.for_network`).

    Raises:
        UsageError: ``model_options``, encoder and form do not fit each other.
    """
    if info.size is None or info.classes is None:
        info = info.for_network(settings.model, info.classes)
    options: dict[str, Any] = dict(settings.model_options)
    if settings.form is not None:
        options["form"] = settings.form
    statistics = {"mean": info.mean, "std": info.std, "input_size": info.shape}
    try:
        model = timm.create_model(
            settings.model,
            T=settings.T,
            encoder=settings.encoder,
            num_classes=info.classes,
            in_chans=info.channels,
            pretrained_cfg_overlay=statistics,
            **options,
        )
    except UsageError as error:
        if error.argument not in settings.model_options:
            raise
        raise UsageError(f"must fit {settings.model} ({str(error).rstrip('.')})", argument="model_options") from error
    except (TypeError, AssertionError, RuntimeError) as error:
        raise UsageError(
            f"must fit {settings.model}, got {settings.model_options} ({first_sentence(error)})",
            argument="model_options",
        ) from error
    return cast(EncodedNetwork, model)  # all networks in gac_sj.models.MODULES are


def read_weights(path: Path) -> tuple[Settings, dict[str, Tensor]]:
    """Settings and tensors of a file that a run has saved.

    Args:
        path: last.safetensors or best.safetensors.

    Raises:
        UsageError: the file does not exist, is damaged, does not belong to a run, or needs an encoder that is not
            registered.
    """
    try:
        content = read_bytes(path)
        weights = load(content)
        header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])
        if "settings" not in header.get("__metadata__", {}):
            raise ValueError("it has no settings")
        settings = parse_json(header["__metadata__"]["settings"])
        if not isinstance(settings, dict):
            raise ValueError("its settings are not a mapping")
        return Settings(**{name: value for name, value in settings.items() if name not in PLACES}), weights
    except UsageError as error:
        raise UsageError(f"{path} cannot be used: {str(error).rstrip('.')}") from error
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read as weights of a run ({first_sentence(error)})", "give its last.safetensors"
        ) from error


def load_network(settings: Settings, weights: dict[str, Tensor], info: DatasetInfo) -> EncodedNetwork:
    """The network of a run with its weights, on the CPU.

    Args:
        settings: settings of the run.
        weights: its tensors (:func:`read_weights`).
        info: its data set.

    Raises:
        UsageError: the weights belong to another network.
    """
    model = build_model(settings, info)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UsageError(f"The weights do not fit {settings.model} ({' '.join(str(error).split())})") from error
    return model
