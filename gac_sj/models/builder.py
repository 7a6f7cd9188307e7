"""How a network comes about: its encoder, timm's builder, and whose keyword is whose."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import Parameter, signature
from typing import Any, TypeVar

import timm
from timm.models import build_model_with_cfg
from torch import nn

from gac_sj._utils.errors import UsageError
from gac_sj.encoders import (
    BASELINE_ENCODER,
    DEFAULT_ENCODER,
    REFERENCE_FORM,
    EncoderInfo,
    create_encoder,
    encoder_info,
)
from gac_sj.encoders.base import Encoder
from gac_sj.models.features import FeatureMaps, feature_options
from gac_sj.models.network import EncodedNetwork
from gac_sj.models.shipped import UNTRAINED, find_weights
from gac_sj.nn.presets import neuron_factory

__all__ = ["OF_TIMM", "bare_name", "build_encoder", "create", "default_encoder"]

#: Keywords of timm's builders, not of a network: they open files and addresses, or wrap the network.
OF_TIMM = frozenset({*signature(timm.create_model).parameters, *signature(build_model_with_cfg).parameters}) | {
    *("pruned", "features_only", "out_indices", "feature_cls"),  # in no signature
}


_Network = TypeVar("_Network", bound="EncodedNetwork")


def build_encoder(
    network: type[nn.Module],
    name: str,
    form: str | None,
    neuron: str | Callable[[], nn.Module],
    options: dict[str, Any],
    **shape: Any,
) -> tuple[Encoder, Callable[[], Any]]:
    """Build a network's encoder, and the function that builds the network's neurons.

    Args:
        network: its class, for the message about an unknown keyword.
        name: one of :func:`gac_sj.list_encoders`.
        form: of the encoder; "reference" makes all neurons of the network strict, behind any encoder.
        neuron: name of the neuron preset, for the encoder as well, or a function that builds a neuron.
        options: further keywords of the encoder: all that the network does not have.
        shape: T, in_channels, channels and stem of the encoder.

    Raises:
        UsageError: an unknown encoder or preset, a form that does not belong to them, an unknown keyword, or a function
            that builds no neuron.
    """
    info = encoder_info(name)
    options = dict(options)
    _check_keywords(network, info, options, {*shape, "step_mode"})
    if info.forms:
        if form is not None:
            options["form"] = form
    elif form not in (None, REFERENCE_FORM):
        raise UsageError(
            f"must be None or {REFERENCE_FORM!r} for the encoder {name!r}, which has no forms, got {form!r}",
            argument="form",
        )
    make_neuron = neuron_factory(neuron, strict=form == REFERENCE_FORM)
    if info.forms and isinstance(neuron, str):
        options["neuron"] = neuron  # a preset's name: the form may change it
    elif info.neuron == "required" or (info.forms and info.cls.takes_neuron(**{**info.options, **options})):
        options["neuron"] = make_neuron()
    return create_encoder(name, **shape, **options), make_neuron


def _check_keywords(network: type[nn.Module], info: EncoderInfo, options: Iterable[str], decided: set[str]) -> None:
    """Raise UsageError for options that the encoder does not have, or that the network decides."""
    parameters = signature(info.cls).parameters.values()
    names = {each.name for each in parameters if each.kind is not Parameter.VAR_KEYWORD}
    takes_any = len(names) < len(parameters)
    for option in options:
        if option in decided or not (takes_any or option in names):
            own = [name for name in signature(network).parameters if name != "encoder_options"]
            raise UsageError(
                f"is a keyword of neither {network.__name__} nor its encoder {info.name!r}",
                argument=option,
                options=[*own, *sorted(names.difference(decided, own))],
                given=option,
            )


#: The names of networks whose default encoder is DEFAULT_ENCODER begin with it.
_PREFIX = f"{DEFAULT_ENCODER}_"


def default_encoder(variant: str) -> str:
    """The name of the encoder that a network has where none is named."""
    return DEFAULT_ENCODER if variant.startswith(_PREFIX) else BASELINE_ENCODER


def bare_name(variant: str) -> str:
    """The name of the network behind the encoder, which is the same for both default encoders."""
    return variant.removeprefix(_PREFIX)


def create(
    cls: type[_Network], variant: str, defaults: dict[str, Any], pretrained: bool, kwargs: dict[str, Any]
) -> _Network:
    """Build a network as timm does; with ``features_only=True``, :class:`gac_sj.models.features.FeatureMaps` around it.

    Args:
        cls: of the network.
        variant: timm's name, which decides about the default encoder.
        defaults: keywords of the class for this variant.
        pretrained: whether to load weights.
        kwargs: keywords that the user gave, timm's own included.

    Raises:
        UsageError: a ``feature_cls`` that cannot run the network, an encoder that is not registered, or weights of the
            package (:mod:`gac_sj.models.shipped`) that were trained for another network, or are damaged.
    """
    if kwargs.get("features_only"):
        kwargs = dict(kwargs)
        kwargs["feature_cfg"] = feature_options(kwargs)
    given = {name: value for name, value in kwargs.items() if name not in OF_TIMM}
    defaults = defaults | {"encoder": default_encoder(variant)}
    weights = find_weights(variant, pretrained, kwargs)
    if weights is not None:
        if pretrained:
            own = {name: each.default for name, each in signature(cls).parameters.items()}
            weights.check(given, own | defaults)
            kwargs = kwargs | weights.loading(defaults.get("pretrained_filter_fn"))
        given = {**weights.keywords, **given}
    elif not pretrained and not kwargs.get("pretrained_cfg"):  # an untrained network is not that of any weights
        kwargs = kwargs | {"pretrained_cfg": UNTRAINED[variant]}
    kwargs = defaults | kwargs | given
    info = encoder_info(kwargs["encoder"])
    if info.needs_unit_range:
        # timm's data pipeline then leaves the pixels in [0, 1]
        channels = kwargs.get("in_chans", 3)
        overlay = {"mean": (0.0,) * channels, "std": (1.0,) * channels}
        kwargs["pretrained_cfg_overlay"] = (kwargs.get("pretrained_cfg_overlay") or {}) | overlay
    built: Any = build_model_with_cfg(cls, variant, pretrained, **kwargs)
    model: EncodedNetwork = built.model if isinstance(built, FeatureMaps) else built
    # timm writes both into a folder of weights, and today's defaults may change
    built.in_chans = model.in_chans = model.encoder.in_channels
    # after the loading, which compares the size that the weights were made for
    model.describe_size(built.pretrained_cfg)
    pinned = {name: value for name in ("form", "gate") if (value := getattr(model.encoder, name, None)) is not None}
    built._model_args = {"T": model.T, "encoder": info.name} | pinned | given
    return built
