"""Encoders in one word: how command lines name an encoder with its options, and how tables label it."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

import yaml

from gac_sj._utils.errors import UsageError
from gac_sj._utils.reading import parse_yaml
from gac_sj.encoders.registry import encoder_info, find_encoder

__all__ = ["encoder_label", "parse_encoder"]


def parse_encoder(text: str) -> tuple[str, str | None, dict[str, Any]]:
    """Read "NAME" or "NAME:OPTION,...", where an option is a form, a shorthand or KEYWORD=VALUE (YAML).

    Args:
        text: such as "gac", "gac:current", "gac:reference,kernel_size=3".

    Returns:
        The encoder's name, its form (None where none is given), and further keywords.

    Raises:
        UsageError: an unknown encoder or option.
    """
    name, colon, rest = text.partition(":")
    info = encoder_info(name)
    form: str | None = None
    keywords: dict[str, Any] = {}
    # at commas outside of lists and mappings
    for option in re.split(r",(?![^\[{]*[\]}])", rest) if colon else []:
        keyword, equals, value = option.partition("=")
        if equals and keyword:
            try:
                keywords[keyword] = parse_yaml(value)
                continue
            except ValueError:
                pass
        elif option in info.forms and form is None:
            form = option
            continue
        elif option in info.shorthands and not keywords.keys() & info.shorthands[option].keys():
            keywords |= info.shorthands[option]
            continue
        choices = [f"{name}:{word}" for word in (*info.forms, *info.shorthands, "KEYWORD=VALUE")]
        raise UsageError(f"cannot be read from {text!r}", argument="encoder", options=choices)
    return name, form, keywords


def encoder_label(name: str, form: str | None, options: Mapping[str, Any]) -> str:
    """How tables name an encoder: with its form and options where they are not the defaults.

    It is what :func:`parse_encoder` reads: "gac", "gac:current", "gac:reference,kernel_size=3".

    Args:
        name: of the encoder, registered or not.
        form: its form, or None.
        options: further keywords.
    """
    info = find_encoder(name)
    parts = [f"{keyword}={_as_yaml(value)}" for keyword, value in options.items()]
    # the form of an encoder without forms is that of the network's neurons
    if form is not None and (info is None or (info.forms and form != info.default_form)):
        parts.insert(0, form)
    return f"{name}:{','.join(parts)}" if parts else name


def _as_yaml(value: Any) -> str:
    """A value as Python writes it, or as YAML does if YAML would read that as another one (None, 1e-05, "3")."""
    text = str(value)
    try:
        if parse_yaml(text) == value:
            return text
    except ValueError:
        pass
    return yaml.safe_dump(value, default_flow_style=True, width=sys.maxsize).removesuffix("...\n").rstrip()
