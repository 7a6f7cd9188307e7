"""Settings as dataclasses that a YAML file and the command line fill in; used for training runs.

A setting is a field of a frozen dataclass made by :func:`setting`. Values are checked for type, choices and range in
one place (:func:`check`), wherever they come from.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from gac_sj._utils.errors import UsageError

__all__ = ["add_arguments", "check", "read_yaml", "setting"]

_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a string", dict: "a mapping"}


def setting(
    group: str,
    default: Any,
    help: str,
    choices: Iterable[str] | Callable[[], Iterable[str]] = (),
    least: float | None = None,
    most: float = float("inf"),
    key: bool = True,
    option: bool = True,
) -> Any:
    """A field of a settings dataclass.

    Args:
        group: heading in ``--help``.
        default: value where none is given; a dict is copied.
        help: text in ``--help``.
        choices: allowed values, or a function that returns them; empty: any.
        least: smallest number; None: any.
        most: largest number.
        key: whether the setting decides about the result.
        option: whether the command line offers it.
    """
    allowed = choices if callable(choices) else partial(tuple, tuple(choices))
    metadata = dict(group=group, help=help, choices=allowed, least=least, most=most, key=key, option=option)
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check(settings: Any) -> None:
    """Convert and check every setting.

    Raises:
        ValueError: a value of another type, not among the choices, or out of its range.
    """
    hints = get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value = _typed(field.name, getattr(settings, field.name), hints[field.name])
        object.__setattr__(settings, field.name, value)
        limits = field.metadata
        if value is None:
            continue
        choices = tuple(limits["choices"]())
        if choices and value not in choices:
            raise UsageError(f"must be a known word, got {value!r}", argument=field.name, options=choices, given=value)
        if limits["least"] is not None and not limits["least"] <= value <= limits["most"]:
            upper = "" if limits["most"] == float("inf") else f" and at most {limits['most']:g}"
            raise UsageError(f"must be at least {limits['least']:g}{upper}, got {value}", argument=field.name)


def _kinds(hint: Any) -> tuple[type, bool]:
    """The plain type of a hint, and whether it may be None."""
    options = get_args(hint) if type(None) in get_args(hint) else (hint,)
    kind = next(option for option in options if option is not type(None))
    return get_origin(kind) or kind, type(None) in options


def _typed(name: str, value: Any, hint: Any) -> Any:
    kind, optional = _kinds(hint)
    if value is None and optional:
        return None
    if kind is float and not isinstance(value, bool) and isinstance(value, int | float | str):
        try:
            return float(value)  # YAML 1.1 reads 1e-3 as a string
        except ValueError:
            pass
    elif isinstance(value, kind) and (kind is bool) == isinstance(value, bool):
        return value
    raise UsageError(f"must be {_WORDS[kind]}, got {value!r}", argument=name)


def read_yaml(path: str | Path, known: Iterable[str]) -> dict[str, Any]:
    """Settings of a YAML file; its ``base``, a path beside it, is read first and it goes over that.

    Raises:
        ValueError: not there, no mapping of settings, an unknown name, or bases in a circle.
    """
    return _read_yaml(Path(path), set(known), ())


def _read_yaml(path: Path, known: set[str], readers: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in readers:
        raise ValueError(f"The config {path} is its own base; name another one.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"The config {path} cannot be read ({error.strerror}); give a YAML file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"The config {path} is not YAML ({' '.join(str(error).split())}); mend it.") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"The config {path} holds no settings; write lines of name: value.")
    settings = dict(content)
    base = settings.pop("base", None)
    if unknown := sorted(str(name) for name in settings if name not in known):
        raise ValueError(f"The config {path} has unknown settings: {', '.join(unknown)}; --help lists the known ones.")
    if base is not None and not isinstance(base, str):
        raise ValueError(f"The base of the config {path} is {base!r}; give the path of a YAML file beside it.")
    return (_read_yaml(path.parent / base, known, (*readers, path.resolve())) if base else {}) | settings


def add_arguments(parser: argparse.ArgumentParser, kind: type) -> None:
    """An option for every setting of ``kind``; those that are not given do not appear in the result."""
    hints = get_type_hints(kind)
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        about = field.metadata
        if not about["option"]:
            continue
        if about["group"] not in groups:
            groups[about["group"]] = parser.add_argument_group(about["group"])
        default = {} if field.default is dataclasses.MISSING else field.default
        listed = ", ".join(about["choices"]())
        choices = f": {listed}" if listed else ""
        option: dict[str, Any] = {
            "dest": field.name,
            "default": argparse.SUPPRESS,
            "help": f"{about['help']}{choices} (default: {default})".replace("%", "%%"),
        }
        if _kinds(hints[field.name])[0] is bool:
            option["action"] = argparse.BooleanOptionalAction
        else:
            option |= {"metavar": "VALUE", "type": _word if _kinds(hints[field.name])[0] is str else _value}
        names = ["-T"] if field.name == "T" else [f"--{field.name.replace('_', '-')}"]
        groups[about["group"]].add_argument(*names, **option)


def _word(text: str) -> str | None:
    """As it is, whatever YAML would make of a name such as 2024-05-01 or "a: b"; null is no word."""
    return None if text in ("", "~", "null") else text


def _value(text: str) -> Any:
    """As YAML reads it, so that both ways mean the same."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no value") from error
