"""The weights that a run saves (last.safetensors, best.safetensors), and the network that they belong to."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj._utils.files import fingerprint, read_bytes, read_text
from gac_sj._utils.reading import parse_json, parse_yaml
from gac_sj.data import DatasetInfo, dataset_info
from gac_sj.data.statistics import as_size
from gac_sj.encoders import encoder_info
from gac_sj.models.kinds import create_network, pixel_statistics
from gac_sj.models.protocols import NetworkModule
from gac_sj.training.settings import Settings

__all__ = [
    "LABEL_NAMES", "build_model", "data_info", "fingerprint", "load_network", "read_label_names", "read_weights",
    "with_data",
]  # fmt: skip

#: The entry of a file of weights, among the settings, that has the names of the classes.
LABEL_NAMES = "label_names"
#: Settings that weights do not decide: where and how a run is read, run and written.
PLACES = {field.name for field in dataclasses.fields(Settings) if not field.metadata["key"]}


def data_info(settings: Settings, classes: int | None = None) -> DatasetInfo:
    """What the data set of a run is for its network, with the size, mean and std of its settings where they are known.

    Args:
        settings: settings of the run.
        classes: number of classes, where it is known.

    Raises:
        UsageError: there is not one mean or std for each channel.
    """
    size = None if settings.img_size is None else as_size(settings.img_size)
    info = dataset_info(settings.dataset, settings.dataset_source).normalised(settings.mean, settings.std)
    return info.for_network(settings.model, classes, size)


def build_model(settings: Settings, info: DatasetInfo) -> NetworkModule:
    """The network of a run; its ``pretrained_cfg`` has the data set's statistics, or those that its encoder needs.

    Args:
        settings: settings of the run.
        info: its data set, with size and classes (:meth:`gac_sj.data.DatasetInfo.for_network`).

    Raises:
        UsageError: ``model_options``, encoder and form do not fit each other, or the network lacks what
            :class:`gac_sj.models.protocols.Network` says.
    """
    if info.size is None or info.classes is None:
        info = info.for_network(settings.model, info.classes)
    assert info.size is not None and info.classes is not None  # for_network
    encoder = encoder_info(str(settings.encoder))
    try:
        return create_network(
            settings.model,
            settings.model_source,
            T=settings.T,
            encoder=encoder.name,
            form=settings.form,
            num_classes=info.classes,
            shape=info.shape,
            statistics=pixel_statistics(encoder, info.mean, info.std),
            options=settings.model_options,
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


def read_weights(path: Path) -> tuple[Settings, dict[str, Tensor]]:
    """Settings and tensors of a file that a run has saved.

    Args:
        path: last.safetensors or best.safetensors, or the index (``*.safetensors.index.json``) of weights in several
            files beside it, as huggingface_hub writes them.

    Raises:
        UsageError: the file does not exist, is damaged, does not belong to a run, or needs an encoder that is not
            registered.
    """
    try:
        contents = _contents(path)
        weights = {name: tensor for content in contents for name, tensor in load(content).items()}
        settings = _recorded(path, contents)
        settings.pop(LABEL_NAMES, None)
        return Settings.recorded({name: value for name, value in settings.items() if name not in PLACES}), weights
    except UsageError as error:
        raise UsageError(f"{path} cannot be used: {str(error).rstrip('.')}") from error
    except (OSError, SafetensorError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read as weights of a run ({first_sentence(error)})", "give its last.safetensors"
        ) from error


def _contents(path: Path) -> list[bytes]:
    """The files of weights: those that an index names, which are beside it, or the file itself."""
    if path.suffix != ".json":
        return [read_bytes(path)]
    names = set(parse_json(read_text(path))["weight_map"].values())
    return [read_bytes(path.with_name(name)) for name in sorted(names)]


def _recorded(path: Path, contents: list[bytes]) -> dict[str, Any]:
    """The settings in the header of a file of weights, or in an index, and the names of the classes among them.

    Raises:
        ValueError: it has none.
    """
    if path.suffix == ".json":
        metadata = parse_json(read_text(path)).get("metadata", {})
    else:
        (content,) = contents
        header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = header.get("__metadata__", {})
    if "settings" not in metadata:
        raise ValueError("it has no settings")
    settings = parse_json(metadata["settings"])
    if not isinstance(settings, dict):
        raise ValueError("its settings are not a mapping")
    return settings


def read_label_names(path: Path) -> list[str] | None:
    """The names of the classes in a file of weights that :func:`read_weights` accepts.

    Args:
        path: see :func:`read_weights`.

    Returns:
        The names in order; None for weights that were saved without them.

    Raises:
        UsageError: they are not a list of names.
    """
    found = _recorded(path, _contents(path)).get(LABEL_NAMES)
    if not (found is None or (isinstance(found, list) and all(isinstance(name, str) for name in found))):
        raise UsageError(f"{path} has names of classes that are not text", "give the last.safetensors of a run")
    return found


def with_data(settings: Settings, weights: Path, data_dir: str | None) -> Settings:
    """The settings of a run with the folder of its data: a given one, or that of the ``args.yaml`` beside its weights.

    An ``args.yaml`` that is missing, damaged or of another data set, or a folder that is gone, counts for nothing.

    Args:
        settings: of the run (:func:`read_weights`).
        weights: the file that they were read from.
        data_dir: what a user has given.
    """
    if data_dir is None:
        with suppress(OSError, ValueError):
            found = parse_yaml(read_text(weights.parent / "args.yaml"))
            if isinstance(found, dict) and found.get("dataset") == settings.dataset:
                place = found.get("data_dir")
                data_dir = place if isinstance(place, str) and Path(place).exists() else None
    return replace(settings, data_dir=data_dir)


def load_network(settings: Settings, weights: dict[str, Tensor], info: DatasetInfo) -> NetworkModule:
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
