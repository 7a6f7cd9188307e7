"""A network, or its weights, for another number of time steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, cast, overload

import timm
import torch
from timm.utils import unwrap_model
from torch import Tensor, nn

from gac_sj._utils.errors import UsageError
from gac_sj._utils.validation import positive
from gac_sj.nn.copying import copy_network
from gac_sj.nn.time_steps import (
    free_attentions,
    hidden_units,
    resize_free_attention,
    resize_temporal_attention,
    temporal_pairs,
)

__all__ = ["resize_time_steps"]

_Network = TypeVar("_Network", bound=nn.Module)


@overload
def resize_time_steps(
    model_or_state: _Network, T: int, temporal_reduction: int | None = None
) -> _Network: ...  # pragma: no cover


@overload
def resize_time_steps(
    model_or_state: Mapping[str, Tensor], T: int, temporal_reduction: int | None = None
) -> dict[str, Tensor]: ...  # pragma: no cover


def resize_time_steps(
    model_or_state: nn.Module | Mapping[str, Tensor], T: int, temporal_reduction: int | None = None
) -> nn.Module | dict[str, Tensor]:
    """A copy of a trained network for another number of time steps, to train or run it with more or fewer (ours).

    Both matrices of each temporal attention, of GAC's gate and of blocks, are interpolated linearly and scaled, so that
    an input which is constant over time keeps its output, interpolated over time where that varies
    (:func:`gac_sj.nn.time_steps.resize_temporal_attention` derives it and says where a single hidden unit cannot). Free
    temporal attention is interpolated in the same way. All other tensors keep their values: convolutions, BatchNorm and
    neurons do not depend on T. With the same T everything is bit-equal. The result is not trained for its T: fine-tune
    it.

    Args:
        model_or_state: a network of this package, one that :func:`gac_sj.attach` changed, an encoder or an attention,
            which stay as they are; or the state dict of one.
        T: the new number of time steps, at least 1.
        temporal_reduction: ratio of T to the hidden units, for a state dict whose sizes leave it open (T = 1: one
            hidden unit, whatever the ratio). None: the default of the layer if it gives the number of hidden units,
            else T divided by it. A network knows its own.

    Returns:
        A new network, on the same device, of the same type and in the same mode, in the reset state, with its own
        parameters; its keywords (``_model_args``), from which timm builds it again, have the new T. For a state dict, a
        new dict with all tensors, those of temporal attention resized.

    Raises:
        UsageError: ``T`` or ``temporal_reduction`` is not a positive integer, nothing in the network has time steps, a
            matrix of its attention is pruned or parametrised, or other tensors depend on T too, such as those of your
            own encoder.
    """
    T = positive("T", T)
    if temporal_reduction is not None:
        positive("temporal_reduction", temporal_reduction)
    if not isinstance(model_or_state, nn.Module):
        state = dict(model_or_state)
        for squeeze, excite in temporal_pairs(model_or_state):
            ratio = temporal_reduction or _likely_ratio(squeeze, state[squeeze])
            state[squeeze], state[excite] = resize_temporal_attention(
                state[squeeze], state[excite], T, hidden_units(T, ratio)
            )
        return state | {name: resize_free_attention(state[name], T) for name in free_attentions(state)}
    model = copy_network(unwrap_model(model_or_state))
    before = {steps for module in model.modules() if isinstance(steps := vars(module).get("T"), int)}
    if not before:
        raise UsageError(
            f"must be a network with time steps or a state dict, got {type(model).__name__}", argument="model_or_state"
        )
    _resize_attention(model, T, temporal_reduction)
    for module in model.modules():
        if isinstance(vars(module).get("T"), int):
            vars(module)["T"] = T  # fixed for everybody else
        if dataclasses.is_dataclass(attached := vars(module).get("attached")):
            vars(module)["attached"] = dataclasses.replace(cast(Any, attached), T=T)
    if "T" in (keywords := getattr(model, "_model_args", {})):
        cast(Any, model)._model_args = keywords | {"T": T}
        _check_other_tensors(model)
    return model


def _resize_attention(model: nn.Module, T: int, temporal_reduction: int | None) -> None:
    parameters = dict(model.named_parameters())
    for name, module in model.named_modules():
        for part, own in (("squeeze", "squeeze.weight"), ("by_step", "by_step")):
            if name.rpartition(".")[2] == "temporal" and hasattr(module, part) and f"{name}.{own}" not in parameters:
                raise UsageError(
                    f"{name}.{part} has no plain weight, so it cannot be resized",
                    "remove its pruning or parametrisation",
                )
    for pair in temporal_pairs(parameters):
        squeeze, excite = (parameters[name] for name in pair)
        ratio = temporal_reduction or _ratio(model, pair[0]) or _likely_ratio(pair[0], squeeze)
        for name, weight in zip(pair, resize_temporal_attention(squeeze, excite, T, hidden_units(T, ratio))):
            layer: Any = model.get_submodule(name.removesuffix(".weight"))
            layer.weight = nn.Parameter(weight, requires_grad=parameters[name].requires_grad)
            sizes = ("out_features", "in_features") if isinstance(layer, nn.Linear) else ("out_channels", "in_channels")
            for size, value in zip(sizes, weight.shape):
                setattr(layer, size, value)
    for name in free_attentions(parameters):
        attention: Any = model.get_submodule(name.rpartition(".")[0])
        resized = resize_free_attention(parameters[name], T)
        attention.by_step = nn.Parameter(resized, requires_grad=parameters[name].requires_grad)


def _ratio(model: nn.Module, name: str) -> int | None:
    """The reduction ratio that the attention, or the nearest module around it, was built with."""
    while name:
        name = name.rpartition(".")[0]
        module = vars(model.get_submodule(name))
        if ratio := module.get("temporal_reduction"):
            return ratio
    return None


def _likely_ratio(name: str, squeeze: Tensor) -> int:
    """A reduction ratio that gives the number of hidden units: the default of the layer, or T divided by it."""
    hidden, T = squeeze.shape[:2]
    default = 1 if ".attention.temporal." in f".{name}" else 2
    return default if hidden_units(T, default) == hidden else T // hidden


def _check_other_tensors(model: nn.Module) -> None:
    """Raise UsageError if timm builds the network with tensors of other shapes: more than attention depends on T."""
    keywords: Any = model._model_args
    architecture: Any = model.pretrained_cfg
    with torch.device("meta"):
        built = timm.create_model(architecture["architecture"], **keywords | {"num_classes": model.num_classes})
    own = model.state_dict()
    wrong = [name for name, value in built.state_dict().items() if name in own and own[name].shape != value.shape]
    if wrong:
        raise UsageError(
            f"cannot be changed: {', '.join(wrong[:3])} depend{'s' if len(wrong) == 1 else ''} on it in a way that is "
            "not known",
            "build the network anew",
            argument="T",
        )
