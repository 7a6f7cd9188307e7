"""An encoder of this package in the place of a SpikingJelly network's stem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gac_sj._compat import forget_reset_modules
from gac_sj._utils.errors import UsageError
from gac_sj.encoders import DEFAULT_ENCODER, Encoder, EncoderInfo, create_encoder, encoder_info
from gac_sj.encoders.find_stem import FoundStem, class_name, find_stem, is_neuron_or_memory
from gac_sj.encoders.stem import is_time_invariant
from gac_sj.nn.presets import lif_preset

__all__ = ["Attached", "attach"]

#: Keywords of the encoder that the network and its stem decide.
_DECIDED = {"stem", "in_channels", "channels", "step_mode"}


@dataclass(frozen=True)
class Attached:
    """What :func:`attach` did to a network; ``str()`` says it in words.

    Args:
        encoder: name of the encoder.
        T: its number of time steps.
        in_channels: channels of the images.
        channels: channels of its sequence.
        at: its name inside the network (``network.get_submodule(at)``).
        replaced: names and classes of the modules whose place it took.
        neuron: class of the encoder's neuron; None if it has none.
        kept: number of the encoder's parameters that were the network's.
        added: number of its parameters that are new.
        once: whether a static image passes the stem once, not at every step.
    """

    encoder: str
    T: int
    in_channels: int
    channels: int
    at: str
    replaced: tuple[tuple[str, str], ...]
    neuron: str | None
    kept: int
    added: int
    once: bool

    def __str__(self) -> str:
        replaced = ", ".join(f"{name} ({cls})" for name, cls in self.replaced)
        return (
            f"{self.at} is now the encoder {self.encoder!r} (T={self.T}, {self.in_channels} -> {self.channels} "
            f"channels, neuron {self.neuron or 'none'}); it replaces {replaced}; {self.kept:,} of its parameters are "
            f"the network's own, {self.added:,} are new; a static image passes the stem "
            f"{'once' if self.once else 'at every step'}."
        )


def attach(
    network: nn.Module,
    T: int | None = None,
    encoder: str = DEFAULT_ENCODER,
    at: str | None = None,
    until: str | None = None,
    neuron: nn.Module | str = "keep",
    **encoder_options: Any,
) -> nn.Module:
    """Replace the stem of a SpikingJelly network, up to its first neuron, by an encoder (ours).

    The network is changed in place. The encoder's stem consists of the network's own modules (weights and running
    statistics included), with everything between normalisation and neuron; the encoder takes the place of the first of
    them, and ``nn.Identity`` that of the others, so that the names of all later modules stay. With the stem's own
    neuron and a gate of 1 the network computes what it did before. Known models (SpikingJelly 2.0.0; * 0.0.0.0.14
    too), and subclasses of them:

    ======================================================= ================================ =======================
    model                                                   replaced                         neuron of the stem
    ======================================================= ================================ =======================
    ``SpikingResNet`` *, ``SEWResNet`` *                    conv1, bn1, sn1                  sn1
    ``SpikingVGG`` *                                        features.0 to 2 (no bn: to 1)    features.2 (no bn: 1)
    ``MNISTNet``, ``CIFAR10Net``, their DVS relatives *     conv_fc.0 to 2                   conv_fc.2
    ``MSResNet``, ``MaxResNet``, ``AttMSResNet``            stem                             none
    ``MASNN``                                               conv_blocks.0: conv to cell      conv_blocks.0.cell
    ``Spikformer``                                          patch_embed.stages.0             its neuron
    ``QKFormer``, ``MaxFormer``                             patch_embed1.conv1, bn1 .. lif1  patch_embed1.lif1
    ``MaxFormer`` (``cifar=True``)                          patch_embed1.conv, bn            none
    ``SpikeDrivenTransformer``                              patch_embed.stages.0.0 to 2      patch_embed.stages.0.2
    ======================================================= ================================ =======================

    Feed images ``[N, C, H, W]`` or a sequence ``[T, N, C, H, W]``. The encoder's step mode is that of the network's
    neurons; in step mode "s", feed the same images T times. An image that the network repeats itself before its stem is
    encoded T times; SpikingJelly's models no longer do that. Load a checkpoint of the bare network before attaching.
    Attach before a network around this one is first reset: SpikingJelly 2.0.0 keeps a list of what it resets (otherwise
    call ``functional.invalidate_reset_cache`` on the outer one).

    Args:
        network: a model of the table, or any network with ``at``.
        T: number of time steps; None is the network's own ``T``, or 4 if it has none.
        encoder: one of :func:`gac_sj.list_encoders`.
        at: name of the first module of the stem. It and its followers must run one after the other and be registered
            in that order, as children of one module. The name of an ``nn.Sequential`` that holds a neuron means its
            first layer.
        until: name of the stem's last module; None is the first neuron after ``at``.
        neuron: which neuron fires on the stem's current. "keep": the stem's own, as it is; if the stem has none, the
            encoder's default. "drop": none. A preset's name (:func:`gac_sj.lif_preset`) or a module: that one in the
            place of the stem's own. It becomes the encoder's neuron; if the encoder takes none, such as GAC's form
            "current", it follows behind the encoder.
        encoder_options: further keywords of the encoder's class, except those that the stem and the network decide.
            Of a form, only gain and output apply to a neuron that is kept or a module.

    Returns:
        ``network``, with an :class:`Attached` as its attribute ``attached``.

    Raises:
        UsageError: no recognisable stem, a name that does not fit, an encoder that is there already, another T than the
            network was built for, a neuron that has several places or none, or what the encoder refuses. The network is
            unchanged then.
    """
    for name, module in network.named_modules():
        if isinstance(module, Encoder):
            there = f"{class_name(network)} has an encoder already ({name or 'itself'}, {class_name(module)})"
            raise UsageError(there, "build the network anew; attach needs its own stem")
    for argument, given in dict(at=at, until=until).items():
        if not isinstance(given, str | None):
            raise UsageError(f"must be the name of a module, got {class_name(given)}", argument=argument)
    if decided := _DECIDED.intersection(encoder_options):
        raise UsageError("is decided by the network and its stem", "leave it out", argument=", ".join(sorted(decided)))
    if not isinstance(neuron, str | nn.Module):
        raise UsageError(f"must be 'keep', 'drop', a preset's name or a module, got {neuron!r}", argument="neuron")
    info = encoder_info(encoder)
    stem = find_stem(network, at, until)
    own = None if stem.neuron is None else network.get_submodule(stem.neuron)
    modes = (getattr(module, "step_mode", "m") for module in network.modules() if is_neuron_or_memory(module))
    options = dict(
        T=_steps(network, T), step_mode=next(modes, "m"), in_channels=stem.in_channels, channels=stem.channels
    )
    inside, behind = _place_neuron(info, neuron, own, encoder_options)
    try:
        built = create_encoder(encoder, stem=nn.Sequential(*stem.layers), **(options | inside | encoder_options))
        behind = lif_preset(behind) if isinstance(behind, str) else behind
    except TypeError as error:  # Python's own, about keywords
        raise UsageError(f"The encoder {encoder!r} does not accept its keywords: {error}", "change them") from error
    if own is not None and built.neuron is own:
        _require_one_place(network, stem)
    _match(built, network)
    if behind is not None and behind is not own:
        _adopt(behind, built, network)

    replaced = stem.names if behind is own or stem.neuron is None else (*stem.names, stem.neuron)
    before = set(network.parameters())
    kept = sum(parameter.numel() for parameter in built.parameters() if parameter in before)
    attached = Attached(
        encoder=encoder,
        T=built.T,
        in_channels=built.in_channels,
        channels=built.channels,
        at=stem.names[0],
        replaced=tuple((name, class_name(network.get_submodule(name))) for name in replaced),
        neuron=None if built.neuron is None else class_name(built.neuron),
        kept=kept,
        added=sum(parameter.numel() for parameter in built.parameters()) - kept,
        once=is_time_invariant(built.stem),
    )
    for name in replaced:
        new: nn.Module = built if name == stem.names[0] else nn.Identity().train(network.training)
        if name == stem.neuron and behind is not None:
            new = behind
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, new)
    if getattr(getattr(type(network), "_to_sequence", None), "__module__", "").startswith("spikingjelly."):
        network._to_sequence = _as_given  # type: ignore[assignment]  # a method of SpikingJelly's models
    network.attached = attached  # type: ignore[assignment]  # nn.Module expects tensors and modules
    forget_reset_modules(network)
    return network


def _place_neuron(
    info: EncoderInfo, neuron: nn.Module | str, own: nn.Module | None, encoder_options: dict[str, Any]
) -> tuple[dict[str, Any], nn.Module | str | None]:
    """The encoder's keywords that concern its neuron, and the neuron that stands behind it, in the place of ``own``."""
    takes = info.neuron != "none" and info.cls.takes_neuron(**{**info.options, **encoder_options})
    if isinstance(neuron, str) and neuron == "drop":
        if info.neuron == "required":
            raise UsageError(f"cannot be 'drop': the encoder {info.name!r} needs a neuron", argument="neuron")
        return (dict(info.cls.without_neuron) if takes else {}), None
    given = own if isinstance(neuron, str) and neuron == "keep" else neuron
    if given is None:  # the encoder's default
        return {}, None
    if takes:
        return {"neuron": given}, None
    if own is None:
        shown = given if isinstance(given, str) else class_name(given)
        raise UsageError(
            f"has no place: neither the stem nor the encoder {info.name!r} has a neuron to replace, got {shown!r}",
            "leave it out",
            argument="neuron",
        )
    return {}, given


def _require_one_place(network: nn.Module, stem: FoundStem) -> None:
    node = network.get_submodule(stem.neuron or "")
    places = [name for name, module in network.named_modules(remove_duplicate=False) if module is node]
    if len(places) > 1:
        raise UsageError(
            f"{' and '.join(places)} are one neuron, which the encoder would reset for both", "give each its own"
        )


def _steps(network: nn.Module, T: int | None) -> int:
    built_for = getattr(network, "T", None)
    if not isinstance(built_for, int):
        return 4 if T is None else T
    if T not in (None, built_for):
        raise UsageError(
            f"must be {built_for}, for which {class_name(network)} was built, got {T}",
            "leave it out, or build the network anew",
            argument="T",
        )
    return built_for


def _match(encoder: Encoder, network: nn.Module) -> None:
    """Give the new parts of the encoder the device, the type and the training mode of the network."""
    encoder.training = encoder.stem.training = network.training
    for child in encoder.children():
        if child is not encoder.stem:
            _adopt(child, encoder, network)


def _adopt(module: nn.Module, encoder: Encoder, network: nn.Module) -> None:
    weight = next(encoder.stem.parameters())
    module.to(weight.device, weight.dtype).train(network.training)


def _as_given(x: Tensor) -> Tensor:
    """Replaces ``_to_sequence``: the encoder takes images and sequences. A plain function survives pickling."""
    return x
