"""SpikingJelly's own networks by name, ``spikingjelly:sew_resnet18``, behind any encoder of this package."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

from spikingjelly.activation_based import neuron, surrogate
from torch import nn

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj.encoders import encoder_info
from gac_sj.models.attached import AttachedNetwork
from gac_sj.nn.neuron import LIFNode
from gac_sj.nn.presets import PRESETS, lif_preset

__all__ = ["PREFIX", "create_spikingjelly", "list_spikingjelly", "require_spikingjelly"]

PREFIX = "spikingjelly:"
_PACKAGE = "spikingjelly.activation_based.model"
#: The modules of networks that :func:`gac_sj.attach` knows, and what SpikingJelly 2.0.0 has in those that 0.0.0.0.14
#: lacks. (Those of 0.0.0.0.14 have no neuron of their own; the others have that of their paper.)
_MODULES: dict[str, tuple[str, ...]] = {
    "spiking_resnet": (),
    "sew_resnet": (),
    "spiking_vgg": (),
    "parametric_lif_net": (),
    "ms_resnet": ("max_resnet18", "ms_resnet18", "ms_resnet34"),
    "masnn": ("att_ms_resnet18", "masnn_dvs128_gesture"),
    "spikformer": ("spikformer_cifar10", "spikformer_s", "spikformer_ti"),
    "qkformer": ("qkformer_10_384",),
    "spike_driven_transformer": ("sdt_8_384",),
    "maxformer": ("maxformer_10_384", "maxformer_cifar"),
}
#: Keywords of SpikingJelly's builders and neurons that are no options: the run decides, or they are objects.
_DECIDED = {
    *("T", "num_classes", "in_channels", "img_size_h", "img_size_w", "input_size", "spiking_neuron", "norm_layer"),
    *("pretrained", "progress", "block", "cfg", "surrogate_function", "step_mode", "store_v_seq", "backend", "kwargs"),
}


def list_spikingjelly() -> list[str]:
    """Names of the networks that the installed SpikingJelly has, with the prefix."""
    return sorted(f"{PREFIX}{name}" for module in _modules() for name in _builders(module))


def _modules() -> Iterator[ModuleType]:
    for name in _MODULES:
        try:
            yield importlib.import_module(f"{_PACKAGE}.{name}")
        except ModuleNotFoundError:  # 0.0.0.0.14
            continue


def _builders(module: ModuleType) -> dict[str, Callable[..., nn.Module]]:
    """The functions that build networks; the classes in the module that has none."""
    public: dict[str, Any] = {name: getattr(module, name) for name in module.__all__}
    functions: dict[str, Any] = {name: value for name, value in public.items() if inspect.isfunction(value)}
    return functions or {name: value for name, value in public.items() if _is_network(value)}


def _is_network(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, nn.Module)


def require_spikingjelly(name: str) -> None:
    """Refuse a network that the installed SpikingJelly does not have.

    Args:
        name: with the prefix.

    Raises:
        UsageError: there is no such network, or only in another release.
    """
    if name in (known := list_spikingjelly()):
        return
    if name.removeprefix(PREFIX) in {newer for names in _MODULES.values() for newer in names}:
        raise UsageError(
            f"cannot be {name!r}, which the installed SpikingJelly does not have",
            "pip install -U spikingjelly for release 2.0.0",
            argument="model",
        )
    raise UsageError(
        f"must be a network of the installed SpikingJelly, got {name!r}", argument="model", options=known, given=name
    )


def create_spikingjelly(
    name: str,
    *,
    T: int,
    num_classes: int,
    in_chans: int,
    size: tuple[int, int],
    encoder: str,
    form: str | None = None,
    **options: Any,
) -> AttachedNetwork:
    """Build a network of SpikingJelly with random weights behind an encoder.

    Networks that need a neuron get ``LIFNode`` with SpikingJelly's defaults, ATan as the surrogate function and a
    detached reset, as in SpikingJelly's own training scripts; others keep the neuron of their paper. SEW-ResNets add
    (``cnf="ADD"``).

    Args:
        name: with the prefix; see :func:`list_spikingjelly`.
        T: number of time steps.
        num_classes: number of classes; networks with a fixed number do not take it.
        in_chans: channels of the images.
        size: height and width of the images, for networks that are built for one.
        encoder: name of the encoder.
        form: of the encoder.
        options: keywords of SpikingJelly's builder and of the neuron (``tau``, ``v_threshold``, ...); ``neuron``, the
            name of a preset (:func:`gac_sj.lif_preset`) or of one of SpikingJelly's classes; all others are the
            encoder's.

    Raises:
        UsageError: no such network, an option of neither, or what the builder or :func:`gac_sj.attach` refuses.
    """
    require_spikingjelly(name)
    bare = name.removeprefix(PREFIX)
    module = next(module for module in _modules() if bare in _builders(module))
    builder = _builders(module)[bare]
    taken = _keywords(builder, module)
    given: dict[str, Any] = {"num_classes": num_classes} if "num_classes" in taken else {}
    decided: dict[str, Any] = dict(T=T, in_channels=in_chans, img_size_h=size[0], img_size_w=size[1], input_size=size)
    given |= {key: value for key, value in decided.items() if key in inspect.signature(builder).parameters}
    if "cnf" in taken:
        given["cnf"] = "ADD"
    node = options.pop("neuron", None)
    needs_neuron = not _MODULES[module.__name__.rpartition(".")[2]]
    given |= _neuron(node) if node is not None or needs_neuron else {}
    own = (taken | _keywords(LIFNode) | _keywords(given.get("spiking_neuron", LIFNode))) - _DECIDED
    given |= {key: options.pop(key) for key in own & options.keys()}
    _check_encoder_options(bare, {"neuron", *own}, encoder, options)
    try:
        network = builder(**given)
    except (TypeError, ValueError, AssertionError, NotImplementedError, RuntimeError, KeyError) as error:
        raise UsageError(f"SpikingJelly cannot build {bare} ({first_sentence(error)})", "change its options") from error
    return AttachedNetwork(network, T, in_chans, encoder, form, **options)


def _keywords(builder: Any, module: ModuleType | None = None) -> set[str]:
    """The keywords of a builder, and of the classes of networks in its module, to which it passes others."""
    classes = [value for value in vars(module).values() if _is_network(value)] if module else []
    called = [builder, *(cls for cls in classes if cls.__name__ in getattr(module, "__all__", ()))]
    return {name for each in called for name in inspect.signature(each).parameters}


def _neuron(name: str | None) -> dict[str, Any]:
    """The keywords of a builder that choose the neurons.

    Args:
        name: of a preset of this package, or of a class of SpikingJelly; None: this package's LIF neuron.

    Raises:
        UsageError: there is no such neuron.
    """
    if name in PRESETS:
        return {"spiking_neuron": partial(lif_preset, name)}
    cls = LIFNode if name is None else getattr(neuron, str(name), None)
    if not (inspect.isclass(cls) and issubclass(cls, neuron.BaseNode)):
        raise UsageError(
            f"must be the name of a preset or of a neuron of SpikingJelly, got {name!r}",
            argument="neuron",
            options=[*PRESETS, "IFNode", "LIFNode", "ParametricLIFNode"],
            given=name,
        )
    return {"spiking_neuron": cls, "surrogate_function": surrogate.ATan(), "detach_reset": True}


def _check_encoder_options(name: str, own: set[str], encoder: str, options: dict[str, Any]) -> None:
    """Raise UsageError for options that the encoder does not have, or that the network decides."""
    parameters = inspect.signature(encoder_info(encoder).cls).parameters.values()
    names = {each.name for each in parameters} - {"T", "in_channels", "channels", "stem", "step_mode", "neuron", "form"}
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)
    for option in options:
        if option in _DECIDED or not (takes_any or option in names):
            raise UsageError(
                f"is a keyword of neither SpikingJelly's {name} nor its encoder {encoder!r}",
                argument=option,
                options=sorted(own | names),
                given=option,
            )
