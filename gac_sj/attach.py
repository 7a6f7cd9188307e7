"""An encoder of this package in the place of a SpikingJelly network's stem."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from inspect import signature
from typing import Any

from spikingjelly.activation_based import base, layer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gac_sj._compat import forget_reset_modules
from gac_sj.encoder import Encoder
from gac_sj.encoding import DEFAULT_RECIPE, ENCODERS, RECIPES, GatedAttentionCoding, create_encoder
from gac_sj.stem import repeats_itself

__all__ = ["Attached", "attach"]

_SPIKINGJELLY = "spikingjelly.activation_based"

#: Where the stems of SpikingJelly's models begin: the first module, and the classes (subclasses count).
STEMS: dict[str, tuple[str, ...]] = {
    "conv1": ("SpikingResNet", "SEWResNet"),
    "features.0": ("SpikingVGG",),
    "conv_fc.0": ("MNISTNet", "CIFAR10Net", "CIFAR10DVSNet", "DVSGestureNet"),
    "stem": ("MSResNet",),
    "conv_blocks.0.conv": ("MASNN",),
    "patch_embed.stages.0.conv_bn": ("Spikformer",),
    "patch_embed1.conv1": ("QKFormer", "MaxFormer"),
    "patch_embed1.conv": ("MaxFormer",),
    "patch_embed.stages.0.0": ("SpikeDrivenTransformer",),
}


#: Keywords of the encoder that the network and its stem decide.
_DECIDED = {"stem", "in_channels", "channels", "step_mode"}


@dataclass(frozen=True)
class Attached:
    """What :func:`attach` did to a network; ``str()`` says it in words.

    Args:
        encoder, T, in_channels, channels: of the encoder.
        at: its name inside the network (``network.get_submodule(at)``).
        replaced: names and classes of the modules that it took the place of.
        neuron: class of the encoder's neuron; None where it has none.
        kept, added: number of the encoder's parameters that were the network's, and that are new.
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
        replaced = ", ".join(f"{name} ({kind})" for name, kind in self.replaced)
        return (
            f"{self.at} is now the encoder {self.encoder!r} (T={self.T}, {self.in_channels} -> {self.channels} "
            f"channels, neuron {self.neuron or 'none'}); it replaces {replaced}; {self.kept:,} of its parameters are "
            f"the network's own, {self.added:,} are new; a static image passes the stem "
            f"{'once' if self.once else 'at every step'}."
        )


def attach(
    network: nn.Module,
    T: int | None = None,
    encoder: str = "gac",
    at: str | None = None,
    until: str | None = None,
    neuron: nn.Module | str | None = "stem",
    **encoder_options: Any,
) -> nn.Module:
    """Replace the stem of a SpikingJelly network, up to its first neuron, by an encoder (ours).

    The network is changed in place. The encoder's stem consists of the network's own modules (weights and running
    statistics included), with what stands between normalisation and neuron; it stands where the first of them stood,
    and ``nn.Identity`` stands for the others, so that the names of all later modules stay. With the stem's own neuron
    and a gate of 1 the network computes what it did before. Known models (SpikingJelly 2.0.0; * 0.0.0.0.14 too), and
    subclasses of them:

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

    Feed images ``[N, C, H, W]`` or a sequence ``[T, N, C, H, W]`` (the encoder's step mode is that of the network's
    neurons; in "s" feed T times the same images). An image that the network repeats itself before its stem is encoded
    T times; SpikingJelly's models no longer do that. Load a checkpoint of the bare network before attaching. Attach
    before a network around this one is first reset: SpikingJelly 2.0.0 keeps a list of what it resets (else call
    ``functional.invalidate_reset_cache`` on the outer one).

    Args:
        network: a model of the table, or any network with ``at``.
        T: number of time steps; None is the network's own ``T``, or 4 where it has none.
        encoder: a name in :data:`gac_sj.encoding.ENCODERS`.
        at: name of the first module of the stem. It and what follows must run one after the other and be registered
            in that order, as children of one module. A name of an ``nn.Sequential`` that holds a neuron means its
            first layer.
        until: name of the stem's last module; None is the first neuron after ``at``.
        neuron: "stem" is the stem's own, or what the encoder brings where the stem has none. A preset or a module
            replaces it. The stem's own is kept as it is: of GAC's recipe only gain and output count then. With None,
            and in encoders that take no neuron, there is none in the encoder (GAC's gate weighs the current), and the
            stem's own stays behind it.
        encoder_options: further keywords of the encoder's class, but for those that the stem and the network decide.

    Returns:
        ``network``, with an :class:`Attached` as its attribute ``attached``.

    Raises:
        ValueError: no recognisable stem, a name that does not fit, an encoder that is there already, another T than the
            network was built for, a neuron that stands elsewhere too or has no place in the encoder, or what the
            encoder refuses. The network is as it was then.
    """
    for name, module in network.named_modules():
        if isinstance(module, Encoder):
            there = f"{_kind(network)} has an encoder already ({name or 'itself'}, {_kind(module)})"
            raise ValueError(f"{there}; attach needs a network with its own stem; build it anew.")
    for keyword, name in dict(at=at, until=until).items():
        if not isinstance(name, str | None):
            raise ValueError(f"{keyword}= is no name but {_kind(name)}; give a module's name, as in {keyword}='conv1'.")
    if decided := _DECIDED.intersection(encoder_options):
        raise ValueError(f"{', '.join(sorted(decided))}: the network and its stem decide that; leave it out.")
    parts, own = _find_stem(network, at or _known_stem(network), until)
    layers = [child for name in parts for child in _layers(network.get_submodule(name))]
    modes = (getattr(module, "step_mode", "m") for module in network.modules() if _is_neuron(module))
    options = dict(T=_steps(network, T), step_mode=next(modes, "m"), **_channels(layers)) | encoder_options
    try:
        options = _neuron_options(encoder, neuron, own and network.get_submodule(own), encoder_options) | options
        built = create_encoder(encoder, stem=nn.Sequential(*layers), **options)
    except TypeError as error:  # Python's own, about keywords
        raise ValueError(f"The encoder {encoder!r} refuses what it was given: {error}; change that.") from error
    if own and options.get("neuron") is not None:
        if built.neuron is network.get_submodule(own):
            _require_one_place(network, own)
        parts.append(own)
    _match(built, network)

    before = set(network.parameters())
    kept = sum(parameter.numel() for parameter in built.parameters() if parameter in before)
    attached = Attached(
        encoder=encoder,
        T=built.T,
        in_channels=built.in_channels,
        channels=built.channels,
        at=parts[0],
        replaced=tuple((name, _kind(network.get_submodule(name))) for name in parts),
        neuron=None if getattr(built, "neuron", None) is None else _kind(built.neuron),
        kept=kept,
        added=sum(parameter.numel() for parameter in built.parameters()) - kept,
        once=repeats_itself(built.stem),
    )
    for name in parts:
        parent, _, child = name.rpartition(".")
        stand_in = built if name == parts[0] else nn.Identity().train(network.training)
        setattr(network.get_submodule(parent), child, stand_in)
    if getattr(getattr(type(network), "_to_sequence", None), "__module__", "").startswith("spikingjelly."):
        network._to_sequence = _as_given
    network.attached = attached
    forget_reset_modules(network)
    return network


def _kind(of: object) -> str:
    return type(of).__name__


def _is_neuron(module: nn.Module) -> bool:
    """SpikingJelly's neurons, what derives from them, and a user's own modules with memory."""
    homes = [kind.__module__ for kind in type(module).__mro__]
    own = isinstance(module, base.MemoryModule) and not homes[0].startswith("spikingjelly.")
    return own or any(home.startswith(f"{_SPIKINGJELLY}.neuron") for home in homes)


def _is_sequential(module: nn.Module) -> bool:
    return type(module).forward is nn.Sequential.forward  # SpikingJelly's containers are subclasses with their own


def _known_stem(network: nn.Module) -> str:
    classes = {kind.__name__ for kind in type(network).__mro__ if kind.__module__.startswith(f"{_SPIKINGJELLY}.model.")}
    modules = dict(network.named_modules())
    for at, models in STEMS.items():
        if at in modules and classes.intersection(models):
            return at
    children = [f"{name} ({_kind(child)})" for name, child in network.named_children()]
    raise ValueError(
        f"{_kind(network)} has no stem that attach knows; name the first module of it and its neuron, as in "
        f"attach(network, at='conv1', until='sn1'); its first children are {', '.join(children[:8]) or 'none'}."
    )


def _find_stem(network: nn.Module, at: str, until: str | None) -> tuple[list[str], str | None]:
    """Names of the stem's modules without its neuron, and the neuron's name where the stem ends in one."""
    siblings = _siblings(network, at)
    while _is_sequential(first := network.get_submodule(at)) and any(map(_is_neuron, first.modules())):
        until = None if until == at else until
        siblings = [f"{at}.{name}" for name, _ in first.named_children()]
        at = siblings[0]
    following = siblings[siblings.index(at) :]
    if until is not None:
        if until not in following:
            raise ValueError(
                f"until={until!r} is not among what follows at={at!r} in the same module; the stem can end at "
                f"{', '.join(following[:8])}."
            )
        following = following[: following.index(until) + 1]
    parts: list[str] = []
    for name in following:
        module = network.get_submodule(name)
        if any(map(_is_neuron, module.modules())):
            if not parts or (until is not None and not (name == until and _is_neuron(module))):
                raise ValueError(
                    f"{name} ({_kind(module)}) is or holds a neuron; a stem runs from a convolution to the first "
                    "neuron; choose other names for at= and until=."
                )
            return parts, name if _is_neuron(module) else None
        parts.append(name)
    if until is None:
        raise ValueError(f"No neuron follows {at!r} in its module; give until=, the last of {', '.join(parts[:8])}.")
    return parts, None


def _siblings(network: nn.Module, name: str) -> list[str]:
    """Names of the children of the module that holds ``name``, in the order in which they were registered."""
    parent, dot, child = name.rpartition(".")
    modules = dict(network.named_modules())
    holder = modules.get(parent, network)
    names = [key for key, _ in holder.named_children()]
    if name not in modules or child not in names:
        raise ValueError(f"{_kind(network)} has no module {name!r}; {_kind(holder)} has {', '.join(names) or 'none'}.")
    return [f"{parent}{dot}{key}" for key in names]


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of containers that run them one after the other, so that the encoder sees what they are."""
    if _kind(module) == "SpikformerConv2dBN":
        module = module.block
    if _is_sequential(module) or type(module) is layer.SeqToANNContainer:
        for child in module:
            yield from _layers(child)
    else:
        yield module


def _channels(layers: list[nn.Module]) -> dict[str, int]:
    """The encoder's in_channels and channels, as convolutions and BatchNorms tell them."""
    if not any(isinstance(module, nn.Conv2d) for module in layers):  # they are inside a user's own block
        layers = [inner for module in layers for inner in module.modules()]
    known = [module for module in layers if isinstance(module, (nn.Conv2d, _BatchNorm))]
    if not (known and isinstance(known[0], nn.Conv2d)):
        given = ", ".join(map(_kind, layers))
        raise ValueError(f"The stem would be {given}; an encoder's stem begins with a Conv2d; choose another at=.")
    last = known[-1]
    channels = last.out_channels if isinstance(last, nn.Conv2d) else last.num_features
    return dict(in_channels=known[0].in_channels, channels=channels)


def _weighs_current(recipe: str = DEFAULT_RECIPE, output: str | None = None, **_: Any) -> bool:
    return (output or (recipe in RECIPES and RECIPES[recipe].output)) == "current"


def _neuron_options(
    encoder: str, neuron: nn.Module | str | None, own: nn.Module | None, encoder_options: dict[str, Any]
) -> dict[str, Any]:
    """The encoder's keywords that concern its neuron."""
    kind = ENCODERS.get(encoder, Encoder)
    accepted = signature(kind).parameters.get("neuron")
    if kind is GatedAttentionCoding and _weighs_current(**encoder_options):
        if neuron not in ("stem", None):
            given = neuron if isinstance(neuron, str) else _kind(neuron)
            raise ValueError(
                f"The gate weighs the current, and neuron={given!r} has no place there; leave neuron= out."
            )
        neuron = None
    if neuron == "stem":
        return {} if accepted is None or own is None else {"neuron": own}
    if neuron is None and (
        accepted is None or (kind is GatedAttentionCoding and encoder_options.get("output") != "spikes")
    ):
        return {"output": "current"} if accepted else {}
    if accepted is None or (neuron is None and accepted.default is not None):
        needs = "takes no" if accepted is None else "needs a"
        raise ValueError(f"The encoder {encoder!r} {needs} neuron, and neuron is {neuron!r}; leave neuron= out.")
    return {"neuron": neuron}


def _require_one_place(network: nn.Module, own: str) -> None:
    node = network.get_submodule(own)
    places = [name for name, module in network.named_modules(remove_duplicate=False) if module is node]
    if len(places) > 1:
        raise ValueError(
            f"{' and '.join(places)} are one neuron, which the encoder would reset for both; give each its own."
        )


def _steps(network: nn.Module, T: int | None) -> int:
    built_for = getattr(network, "T", None)
    if not isinstance(built_for, int):
        return 4 if T is None else T
    if T not in (None, built_for):
        raise ValueError(f"T is {T}, and {_kind(network)} was built for T={built_for}; build it anew or leave T out.")
    return built_for


def _match(encoder: Encoder, network: nn.Module) -> None:
    """Give what is new in the encoder the device, the type and the training mode of what it joins."""
    weight = next(encoder.stem.parameters())
    encoder.training = encoder.stem.training = network.training
    for child in encoder.children():
        if child is not encoder.stem:
            child.to(weight.device, weight.dtype).train(network.training)


def _as_given(x: Tensor) -> Tensor:
    """In the place of ``_to_sequence``: the encoder takes images and sequences. A plain function survives pickling."""
    return x
