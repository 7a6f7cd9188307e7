"""Find the stem of a SpikingJelly network: the layers up to its first neuron, which an encoder can replace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from spikingjelly.activation_based import base, layer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gac_sj._utils.errors import UsageError
from gac_sj.encoders.stem import is_plain_sequential
from gac_sj.ops.shortcuts import does_only

__all__ = ["FoundStem", "class_name", "find_stem", "has_known_stem", "is_neuron_or_memory"]

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


class FoundStem(NamedTuple):
    """The stem of a network.

    Args:
        names: of its modules without the neuron, in order.
        neuron: name of the neuron that it ends in; None if it ends in none.
        layers: its layers in order, without the containers that run them one after the other.
        in_channels: channels of its input.
        channels: channels of its output.
    """

    names: tuple[str, ...]
    neuron: str | None
    layers: tuple[nn.Module, ...]
    in_channels: int
    channels: int


def find_stem(network: nn.Module, at: str | None, until: str | None) -> FoundStem:
    """The stem of a network.

    Args:
        network: a known model of SpikingJelly, or any network with ``at``.
        at: name of the stem's first module; None for known models.
        until: name of its last module; None: the first neuron that follows.

    Raises:
        UsageError: the network is not known and no name is given, a name does not fit, or the modules are not a stem.
    """
    names, neuron = _split(network, at or _require_known_stem(network), until)
    layers = tuple(child for name in names for child in _layers(network.get_submodule(name)))
    return FoundStem(tuple(names), neuron, layers, *_channels(layers))


def class_name(of: object) -> str:
    """The name of an object's class."""
    return type(of).__name__


def is_neuron_or_memory(module: nn.Module) -> bool:
    """Whether a module is one of SpikingJelly's neurons, derives from one, or is a user's own module with memory."""
    homes = [cls.__module__ for cls in type(module).__mro__]
    own = isinstance(module, base.MemoryModule) and not homes[0].startswith("spikingjelly.")
    return own or any(home.startswith(f"{_SPIKINGJELLY}.neuron") for home in homes)


def _has_neuron(module: nn.Module) -> bool:
    return any(map(is_neuron_or_memory, module.modules()))


def has_known_stem(network: nn.Module) -> bool:
    """Whether a network is one of SpikingJelly's models whose stem is known."""
    return _known_stem(network) is not None


def _known_stem(network: nn.Module) -> str | None:
    """The name of the stem's first module; None if the network is not a known model."""
    classes = {cls.__name__ for cls in type(network).__mro__ if cls.__module__.startswith(f"{_SPIKINGJELLY}.model.")}
    modules = dict(network.named_modules())
    for at, models in STEMS.items():
        if at in modules and classes.intersection(models):
            return at
    return None


def _require_known_stem(network: nn.Module) -> str:
    at = _known_stem(network)
    if at is not None:
        return at
    children = [f"{name} ({class_name(child)})" for name, child in network.named_children()]
    raise UsageError(
        f"{class_name(network)} is not a network whose stem is known; its first children are "
        f"{', '.join(children[:8]) or 'none'}",
        "name the stem's first module and its neuron, as in attach(network, at='conv1', until='sn1')",
    )


def _split(network: nn.Module, at: str, until: str | None) -> tuple[list[str], str | None]:
    """Names of the stem's modules without its neuron, and the neuron's name if the stem ends in one."""
    siblings = _siblings(network, at)
    while is_plain_sequential(first := network.get_submodule(at)) and _has_neuron(first):
        until = None if until == at else until
        siblings = [f"{at}.{name}" for name, _ in first.named_children()]
        at = siblings[0]
    following = siblings[siblings.index(at) :]
    if until is not None:
        if until not in following:
            raise UsageError(
                f"must be a module that follows at={at!r} in the same parent, got {until!r}",
                argument="until",
                options=following[:8],
            )
        following = following[: following.index(until) + 1]
    names: list[str] = []
    for name in following:
        module = network.get_submodule(name)
        if _has_neuron(module):
            is_neuron = is_neuron_or_memory(module)
            if not names or (until is not None and not (name == until and is_neuron)):
                raise UsageError(
                    f"{name} ({class_name(module)}) is or holds a neuron, and a stem runs from a convolution to the "
                    "first neuron",
                    "choose other names for at= and until=",
                )
            return names, name if is_neuron else None
        names.append(name)
    if until is None:
        raise UsageError(
            f"must name the last module of the stem, since no neuron follows {at!r} in its parent",
            argument="until",
            options=names[:8],
        )
    return names, None


def _siblings(network: nn.Module, name: str) -> list[str]:
    """Names of the children of the module that holds ``name``, in the order in which they were registered."""
    parent, dot, child = name.rpartition(".")
    modules = dict(network.named_modules())
    holder = modules.get(parent, network)
    names = [key for key, _ in holder.named_children()]
    if name not in modules or child not in names:
        raise UsageError(
            f"{class_name(network)} has no module {name!r}; {class_name(holder)} has {', '.join(names) or 'none'}"
        )
    return [f"{parent}{dot}{key}" for key in names]


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of containers that run them one after the other, so that the encoder sees what they are."""
    if not does_only(module, type(module)):  # the container itself must be called
        yield module
        return
    if class_name(module) == "SpikformerConv2dBN":
        module = module.get_submodule("block")
    if is_plain_sequential(module) or type(module) is layer.SeqToANNContainer:
        for child in module.children():
            yield from _layers(child)
    else:
        yield module


def _channels(layers: tuple[nn.Module, ...]) -> tuple[int, int]:
    """Channels in and out, as convolutions and BatchNorms tell them."""
    if not any(isinstance(module, nn.Conv2d) for module in layers):  # they are inside a user's own block
        layers = tuple(inner for module in layers for inner in module.modules())
    known = [module for module in layers if isinstance(module, (nn.Conv2d, _BatchNorm))]
    if not (known and isinstance(known[0], nn.Conv2d)):
        raise UsageError(
            f"must name a module with which a stem begins, a Conv2d, got {', '.join(map(class_name, layers))}",
            argument="at",
        )
    last = known[-1]
    return known[0].in_channels, last.out_channels if isinstance(last, nn.Conv2d) else last.num_features
