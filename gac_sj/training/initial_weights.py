"""The weights that a run starts from: another run's, a folder in timm's form, published ones, or pretrained ones."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import timm
from torch import Tensor, nn

from gac_sj._utils.errors import UsageError
from gac_sj._utils.weights_source import HUB, identity, weights_file
from gac_sj.checkpoint.pretrained import CONFIG, load_pretrained
from gac_sj.checkpoint.published import load_reference_state_dict, read_reference, reference_names
from gac_sj.checkpoint.runs import build_model, read_weights
from gac_sj.data import DatasetInfo
from gac_sj.models.protocols import NetworkModule
from gac_sj.nn.time_steps import fit_time_steps
from gac_sj.training.settings import Settings

__all__ = ["load_initial_weights"]

_logger = logging.getLogger(__name__)


def load_initial_weights(model: NetworkModule, settings: Settings, info: DatasetInfo, log: bool = True) -> None:
    """Load the weights that the settings name, for another T and other classes too.

    Temporal attention of another T is resized (:func:`gac_sj.resize_time_steps`). A classifier of other classes is left
    as it was initialised. Everything else must fit.

    Args:
        model: the network, on the CPU; changed in place.
        settings: settings of the run.
        info: its data set.
        log: whether to say what was loaded.

    Raises:
        UsageError: there are no such weights, they have changed since the run began, or some do not fit (each is
            named); the model is unchanged then.
        OSError: they cannot be read or downloaded.
    """
    source = settings.init_from
    if source is None or identity(source) != settings.init_weights:
        raise UsageError(
            f"must be the weights that the run began with, SHA-256 {settings.init_weights}, got "
            f"{'none' if source is None else f'{source} with {identity(source)}'}",
            "name them, or another output for a new run",
            argument="init_from",
        )
    given = _read(source, settings, info)
    own = model.state_dict()
    state = fit_time_steps(given, own)
    resized = any(state[name] is not value for name, value in given.items())
    head = _names_of_head(model, {*own, *state})
    own_head = {name: own[name] for name in own if name in head}
    new_head = any(name not in state or state[name].shape != value.shape for name, value in own_head.items())
    if new_head or not own_head:
        state = {name: value for name, value in state.items() if name not in head} | own_head
    if problems := _problems(state, own):
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise UsageError(
            f"must have the weights of {settings.model} with the encoder {settings.encoder!r}, and {source} does not "
            f"fit: {shown}",
            "name other weights, or the network that they belong to",
            argument="init_from",
        )
    model.load_state_dict(state)
    if log:
        notes = [f"temporal attention resized to T={settings.T}"] * resized + ["a new classifier"] * new_head
        _logger.info("Starts from %s%s.", source, f" ({', '.join(notes)})" if notes else "")


def _read(source: str, settings: Settings, info: DatasetInfo) -> Mapping[str, Tensor]:
    """The tensors by the names of this package."""
    file = weights_file(source)
    if file is None:
        if source.startswith(HUB):
            return load_pretrained(source).state_dict()
        return timm.create_model(source, pretrained=True, in_chans=info.channels).state_dict()
    if file.suffix != ".safetensors":
        return _read_checkpoint(str(file), settings, info)
    if file.with_name(CONFIG).exists() and file.name != "last.safetensors":
        return load_pretrained(file).state_dict()
    return read_weights(file)[1]


def _read_checkpoint(path: str, settings: Settings, info: DatasetInfo) -> Mapping[str, Tensor]:
    """A file of ``torch.save``: a state dict of this package, or a published checkpoint."""
    state = read_reference(path)

    def size(key: str, otherwise: int) -> int:
        return next((len(state[name]) for name in (key, *reference_names(key)) if name in state), otherwise)

    # a network like that of the run, for the T and the classes of the file
    free = size("encoder.gau.temporal.by_step", settings.T)
    steps, classes = size("encoder.gau.temporal.excite.weight", free), size("head.weight", info.classes or 0)
    like = replace(settings, T=steps, T_schedule={})
    model = build_model(like, replace(info, classes=classes))
    if state.keys() & model.state_dict().keys():
        return state
    load_reference_state_dict(model, state)
    return model.state_dict()


def _names_of_head(model: nn.Module, names: set[str]) -> set[str]:
    """Those of the names that belong to the classifier."""
    find: Any = getattr(model, "get_classifier", lambda: None)
    classifier = getattr(model, "head", None) or find()  # of ma_snn, the classifier is a part of its head
    place = next((name for name, module in model.named_modules() if module is classifier), None)
    return {name for name in names if place and name.startswith(f"{place}.")}


def _problems(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    missing = [f"missing {name}" for name in own if name not in state]
    unexpected = [f"unexpected {name}" for name in state if name not in own]
    both = [name for name in own if name in state and state[name].shape != own[name].shape]
    return [
        *(f"{name} has shape {list(state[name].shape)} and needs {list(own[name].shape)}" for name in both),
        *missing,
        *unexpected,
    ]
