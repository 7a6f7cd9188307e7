"""What the networks of this package share: an encoder in front, stages of blocks, timm's and our methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from inspect import Parameter, signature
from typing import Any, TypeVar

import timm
import torch
from spikingjelly.activation_based import base
from timm.models import build_model_with_cfg
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from gac_sj._utils.errors import UsageError
from gac_sj._utils.fixed import fixed
from gac_sj.encoders import (
    BASELINE_ENCODER,
    DEFAULT_ENCODER,
    REFERENCE_FORM,
    EncoderInfo,
    create_encoder,
    encoder_info,
)
from gac_sj.encoders.base import Encoder
from gac_sj.models.spike_bytes import spikes_as_bytes
from gac_sj.models.threads import one_at_a_time
from gac_sj.nn.neuron import LIFNode, lif_preset, outputs_spikes, reset_states

__all__ = ["OF_TIMM", "EncodedNetwork", "SpikingBlock", "bare_name", "build_encoder", "create", "default_encoder"]

#: Keywords of timm's builders, not of a network: they open files and addresses, or wrap the network.
OF_TIMM = frozenset({*signature(timm.create_model).parameters, *signature(build_model_with_cfg).parameters}) | {
    *("pruned", "features_only", "out_indices", "feature_cls"),  # in no signature
}


_Network = TypeVar("_Network", bound="EncodedNetwork")


class SpikingBlock(nn.Module):
    """Base class of blocks whose convolutions receive spikes; ``lif1`` is their first neuron."""

    #: whether the convolutions keep their spikes for the backward pass as bytes; compiled code cannot
    spikes_as_bytes = False
    #: whether the backward pass keeps only the input, and runs the block again
    grad_checkpointing = False
    lif1: LIFNode

    def __call__(self, x: Tensor) -> Tensor:
        if not (self.grad_checkpointing and torch.is_grad_enabled()):
            return super().__call__(x)
        return checkpoint(super().__call__, x, use_reentrant=False, context_fn=partial(_recompute, self))

    def _convolve(self, layers: nn.Module, spikes: Tensor, node: nn.Module) -> Tensor:
        """Run layers on the output of a neuron."""
        with spikes_as_bytes(spikes) if self.spikes_as_bytes and outputs_spikes(node) else nullcontext():
            return layers(spikes)


class EncodedNetwork(nn.Module, base.MultiStepModule):
    """Base class of the networks: encoder, stages, head. Step mode "m" only; each call starts from a reset state.

    A subclass sets ``encoder``, ``stages`` (sequences of blocks), ``lif`` (the last neuron) and ``head``. It implements
    :meth:`forward_features`, :meth:`pool`, :meth:`_logits` and :meth:`new_head`.

    Args:
        T: number of time steps, at least 1.
        num_classes: number of logits; 0 removes the classifier.

    Raises:
        UsageError: ``num_classes`` is below 0.
    """

    T = fixed("T")
    encoder: Encoder
    stages: nn.Sequential
    lif: LIFNode
    head: nn.Module
    in_chans: int
    #: what timm knows about the network: input size, statistics of pixels, name of the classifier
    pretrained_cfg: dict[str, Any]
    _model_args: dict[str, Any]

    def __init__(self, T: int, num_classes: int):
        super().__init__()
        self.step_mode = "m"
        self.T = T
        self.num_classes = _classes(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Spikes of the last neuron before the head, ``[T, N, num_features, h, w]``."""
        raise NotImplementedError(f"{self._get_name()} must implement forward_features.")

    def pool(self, features: Tensor) -> Tensor:
        """The input of the classifier, ``[T, N, head_hidden_size]``."""
        raise NotImplementedError(f"{self._get_name()} must implement pool.")

    def _logits(self, features: Tensor) -> Tensor:
        """``[T, N, num_features, h, w]`` -> ``[T, N, num_classes]``."""
        raise NotImplementedError(f"{self._get_name()} must implement _logits.")

    def new_head(self, num_classes: int) -> nn.Module:
        """Build a classifier; with 0 classes, the identity."""
        raise NotImplementedError(f"{self._get_name()} must implement new_head.")

    def forward_stages(self, x: Tensor) -> Tensor:
        """Reset the network, and return the stages' output ``[T, N, C, h, w]`` for its input."""
        reset_states(self)
        return self.stages(self.encoder(x))

    def set_spikes_as_bytes(self, enable: bool = True) -> None:
        """Keep spikes for the backward pass as one byte each, with the same results."""
        for block in self._blocks():
            block.spikes_as_bytes = enable

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the input of each block, and run the block again in the backward pass (timm's name for it)."""
        for block in self._blocks():
            block.grad_checkpointing = enable

    @property
    def grad_checkpointing(self) -> bool:
        """Whether a block runs again in the backward pass; assigning is :meth:`set_grad_checkpointing`."""
        return any(block.grad_checkpointing for block in self._blocks())

    @grad_checkpointing.setter
    def grad_checkpointing(self, enable: bool) -> None:
        self.set_grad_checkpointing(enable)

    def _blocks(self) -> Iterator[SpikingBlock]:
        return (module for module in self.modules() if isinstance(module, SpikingBlock))

    @one_at_a_time
    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits ``[N, num_classes]``, averaged over time; with ``pre_logits`` the output of :meth:`pool`."""
        return self.pool(features) if pre_logits else self._logits(features).mean(0)

    @one_at_a_time
    def forward_sequence(self, x: Tensor) -> Tensor:
        """Logits of every step, ``[T, N, num_classes]``."""
        return self._logits(self.forward_features(x))

    @one_at_a_time
    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new, randomly initialised one; the pooling stays as it is.

        Args:
            num_classes: number of logits; 0 removes the classifier.
            global_pool: None or "avg" (timm's argument).

        Raises:
            UsageError: another ``global_pool``, or ``num_classes`` is below 0.
        """
        if global_pool not in (None, "avg"):
            raise UsageError(f"must be None or 'avg', got {global_pool!r}", "leave it out", argument="global_pool")
        self.num_classes = _classes(num_classes)
        weight = next(self.parameters())
        self.head = self.new_head(num_classes).to(weight.device, weight.dtype)

    def extra_repr(self) -> str:
        return f"T={self.T}, num_classes={self.num_classes}"


def build_encoder(
    network: type[nn.Module], name: str, form: str | None, neuron: str, options: dict[str, Any], **shape: Any
) -> tuple[Encoder, Callable[[], LIFNode]]:
    """Build a network's encoder, and the function that builds the network's neurons.

    Args:
        network: its class, for the message about an unknown keyword.
        name: one of :func:`gac_sj.list_encoders`.
        form: of the encoder; "reference" makes all neurons of the network strict, behind any encoder.
        neuron: name of the neuron preset, for the encoder as well.
        options: further keywords of the encoder: all that the network does not have.
        shape: T, in_channels, channels and stem of the encoder.

    Raises:
        UsageError: an unknown encoder or preset, a form that does not belong to them, or an unknown keyword.
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
    make_neuron = partial(lif_preset, neuron, strict=form == REFERENCE_FORM)
    if info.forms:
        options["neuron"] = neuron  # a preset's name: the form may change it
    elif info.neuron == "required":
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
    """Build a network as timm does.

    Args:
        cls: of the network.
        variant: timm's name, which decides about the default encoder.
        defaults: keywords of the class for this variant.
        pretrained: whether to load weights.
        kwargs: keywords that the user gave, timm's own included.

    Raises:
        UsageError: ``features_only``, or an encoder that is not registered.
    """
    given = {name: value for name, value in kwargs.items() if name not in OF_TIMM}
    if kwargs.get("features_only"):
        raise UsageError(f"is not supported by {variant}", "call its forward_features", argument="features_only")
    kwargs = defaults | {"encoder": default_encoder(variant)} | kwargs
    info = encoder_info(kwargs["encoder"])
    if info.needs_unit_range:
        # timm's data pipeline then leaves the pixels in [0, 1]
        channels = kwargs.get("in_chans", 3)
        overlay = {"mean": (0.0,) * channels, "std": (1.0,) * channels}
        kwargs["pretrained_cfg_overlay"] = (kwargs.get("pretrained_cfg_overlay") or {}) | overlay
    model: _Network = build_model_with_cfg(cls, variant, pretrained, **kwargs)
    # timm writes both into a folder of weights, and today's defaults may change
    model.in_chans = model.encoder.in_channels
    size = getattr(model, "img_size", None)
    if size is not None:  # after the loading, which compares the size that the weights were made for
        model.pretrained_cfg["input_size"] = (model.pretrained_cfg["input_size"][0], *size)
    form = {} if model.encoder.form is None else {"form": model.encoder.form}
    model._model_args = {"T": model.T, "encoder": info.name} | form | given
    return model


def _classes(number: int) -> int:
    if number < 0:
        raise UsageError(f"must be the number of classes, or 0 for no classifier, got {number}", argument="num_classes")
    return number


class _Again:
    """Context of a block's second run: it starts from the same state, and its BatchNorms count no batch."""

    def __init__(self, block: nn.Module):
        self.block = block

    def __enter__(self) -> None:
        reset_states(self.block)
        self.norms: list[Any] = [module for module in self.block.modules() if isinstance(module, _BatchNorm)]
        self.before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in self.norms]
        for norm in self.norms:
            norm.momentum = 0.0

    def __exit__(self, *error: object) -> None:
        for norm, (momentum, batches) in zip(self.norms, self.before):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)


def _recompute(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """The contexts of a block's first and further runs."""
    return nullcontext(), _Again(block)
