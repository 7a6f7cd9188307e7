"""Encoders by name. Everything that the rest of the package wants to know about an encoder is asked here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args

from gac_sj._utils.errors import UsageError
from gac_sj._utils.user_code import SESSION, class_source
from gac_sj.encoders.base import Encoder

__all__ = [
    "BASELINE_ENCODER",
    "DEFAULT_ENCODER",
    "REFERENCE_FORM",
    "EncoderInfo",
    "create_encoder",
    "encoder_info",
    "find_encoder",
    "list_encoders",
    "register_encoder",
    "require_source",
]

#: The encoder of networks whose timm name begins with its name, and of :func:`gac_sj.attach`.
DEFAULT_ENCODER = "gac"
#: The encoder of all other networks, which published results compare with.
BASELINE_ENCODER = "direct"
#: The form of an encoder, and of a whole network, that equals the published code.
REFERENCE_FORM = "reference"

Neuron = Literal["required", "optional", "none"]
_EncoderClass = TypeVar("_EncoderClass", bound=type[Encoder])
_REGISTRY: dict[str, EncoderInfo] = {}


@dataclass(frozen=True)
class EncoderInfo:
    """What a registered encoder is and needs.

    Args:
        name: of the encoder.
        cls: its class.
        neuron: whether the class takes a keyword ``neuron``. "required": it cannot do without, and a network hands it
            one like its own; "optional": it works with a neuron and without; "none": it takes none.
        forms: values of its keyword ``form``; empty for encoders without forms. A network hands an encoder with forms
            the name of its neuron preset, which the form may change or ignore.
        options: default keywords, which explicit ones replace.
        shorthands: names that stand for keywords in ``NAME:SHORTHAND``.
        in_comparison: whether the benchmark compares it unless told otherwise.
        help: one line for ``--help`` and tables.
        source: "FILE:DIGEST" of the file that defines the class, with the first 12 hex digits of its SHA-256; None for
            the encoders of this package.
    """

    name: str
    cls: type[Encoder]
    neuron: Neuron = "none"
    forms: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    shorthands: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    in_comparison: bool = True
    help: str = ""
    source: str | None = None

    @property
    def needs_unit_range(self) -> bool:
        """Whether pixels must lie in [0, 1]."""
        return self.cls.needs_unit_range

    @property
    def default_form(self) -> str | None:
        """The form where none is given; None for encoders without forms."""
        return self.options.get("form")


def register_encoder(
    name: str,
    *,
    neuron: Neuron = "none",
    forms: Iterable[str] = (),
    options: Mapping[str, Any] = MappingProxyType({}),
    shorthands: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    needs_unit_range: bool = False,
    in_comparison: bool = True,
    help: str = "",
) -> Callable[[_EncoderClass], _EncoderClass]:
    """Class decorator: make an encoder known by name to networks, ``attach``, training and benchmarks.

    Args:
        name: letters, digits and underscores; not registered yet.
        neuron: see :class:`EncoderInfo`.
        forms: see :class:`EncoderInfo`; the default form is ``options["form"]``.
        options: see :class:`EncoderInfo`.
        shorthands: see :class:`EncoderInfo`.
        needs_unit_range: whether pixels must lie in [0, 1]: networks and loaders then do not normalise them.
        in_comparison: see :class:`EncoderInfo`.
        help: see :class:`EncoderInfo`; the first line of the class's docstring where empty.

    Raises:
        UsageError: the name is taken or not a plain word, the class is not an :class:`gac_sj.Encoder`, or an argument
            does not fit.

    Example::

        @gac_sj.register_encoder("inverted", help="the stem of inverted images")
        class Inverted(gac_sj.Encoder):
            def encode(self, x):
                return self.over_time(self.features(-x))
    """
    forms = tuple(forms)
    if not (isinstance(name, str) and name.isidentifier()):
        raise UsageError(f"must be a word of letters, digits and underscores, got {name!r}", argument="name")
    if neuron not in get_args(Neuron):
        raise UsageError(
            f"must say what the encoder takes, got {neuron!r}", argument="neuron", options=get_args(Neuron)
        )
    if forms and options.get("form") not in forms:
        raise UsageError("needs a default among the forms", "pass options={'form': NAME}", argument="forms")

    def register(cls: _EncoderClass) -> _EncoderClass:
        if not (isinstance(cls, type) and issubclass(cls, Encoder)):
            given = cls.__name__ if isinstance(cls, type) else type(cls).__name__
            raise UsageError(
                f"{given} is not a subclass of gac_sj.Encoder, which {name!r} must be", "derive it from that"
            )
        if name in _REGISTRY:
            known = _REGISTRY[name].cls
            raise UsageError(
                f"The encoder {name!r} is already registered ({known.__module__}.{known.__qualname__})",
                "choose another name",
            )
        if needs_unit_range:
            cls.needs_unit_range = True
        text = help or (inspect.getdoc(cls) or name).partition("\n")[0].rstrip(".")
        shorts = {word: dict(keywords) for word, keywords in shorthands.items()}
        _REGISTRY[name] = EncoderInfo(
            name, cls, neuron, forms, MappingProxyType(dict(options)), shorts, in_comparison, text, class_source(cls)
        )
        return cls

    return register


def unregister_encoders(names: Iterable[str]) -> None:
    """Forget encoders, such as those of a file that failed."""
    for name in names:
        del _REGISTRY[name]


def list_encoders() -> list[str]:
    """Names of the registered encoders, those of this package first."""
    return list(_REGISTRY)


def find_encoder(name: str) -> EncoderInfo | None:
    """What is registered under a name; None if nothing is, as in rows of somebody else's encoder."""
    return _REGISTRY.get(name)


def encoder_info(name: str) -> EncoderInfo:
    """What is registered under a name.

    Raises:
        UsageError: nothing is; the message lists the names.
    """
    if not isinstance(name, str) or name not in _REGISTRY:
        raise UsageError(
            f"must be a registered encoder, got {name!r}", argument="encoder", options=_REGISTRY, given=name
        )
    return _REGISTRY[name]


def require_source(name: str, source: str | None) -> None:
    """Make sure that an encoder which weights or settings were made with is the one that is registered.

    Args:
        name: of the encoder.
        source: its recorded :attr:`EncoderInfo.source`; None for the encoders of this package.

    Raises:
        UsageError: nothing is registered under the name, or a class from another file.
    """
    if source is None:
        encoder_info(name)
        return
    place, _, digest = source.rpartition(":")
    info = find_encoder(name)
    if info is None:
        known = place != SESSION
        advice = f"add --import {place}" if known else "define and register it first"
        raise UsageError(f"The encoder {name!r} is defined in {place}, which was not imported", advice)
    if info.source != source:
        raise UsageError(
            f"The encoder {name!r} was defined in {place} with SHA-256 {digest}, and the registered one comes from "
            f"{info.source or 'gac_sj'}",
            f"import the {place} that was used",
        )


def create_encoder(name: str, **options: Any) -> Encoder:
    """Build an encoder by name.

    Args:
        name: one of :func:`list_encoders`.
        options: keywords of the encoder's class; they replace its registered default options.

    Raises:
        UsageError: no encoder has that name.
        ValueError: see the encoder's class.
    """
    info = encoder_info(name)
    return info.cls(**{**info.options, **options})
