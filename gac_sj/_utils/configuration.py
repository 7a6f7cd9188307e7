"""Settings as dataclasses that a YAML file and the command line fill in; used for training runs.

A setting is a field of a frozen dataclass, declared with :func:`setting`. Values are checked for type, choices and
range in one place (:func:`check`), wherever they come from.
"""

from __future__ import annotations

import argparse
import dataclasses
import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj._utils.files import read_text
from gac_sj._utils.reading import parse_yaml, require_plain

__all__ = ["add_arguments", "check", "default_of", "is_switch", "plain_type", "read_yaml", "setting"]

_WORDS = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a string",
    list: "a list of strings",
    dict: "a mapping",
}


def setting(
    group: str,
    default: Any,
    help: str,
    choices: Iterable[str] | Callable[[], Iterable[str]] = (),
    least: float | None = None,
    most: float = float("inf"),
    key: bool = True,
    option: bool = True,
    absent: Any = dataclasses.MISSING,
) -> Any:
    """A field of a settings dataclass.

    Args:
        group: heading in ``--help``.
        default: value where none is given; a dict or list is copied.
        help: text in ``--help``.
        choices: allowed values, or a function that returns them; empty: any.
        least: smallest number; None: any.
        most: largest number.
        key: whether the result depends on the setting.
        option: whether it is an option of the command line.
        absent: the value of records that were written before the setting existed; MISSING: the default.
    """
    absent = default if absent is dataclasses.MISSING else absent
    allowed = choices if callable(choices) else partial(tuple, tuple(choices))
    metadata = dict(
        group=group, help=help, choices=allowed, least=least, most=most, key=key, option=option, absent=absent
    )
    if isinstance(default, dict | list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a setting.

    Args:
        field: made by :func:`setting`.
    """
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def check(settings: Any) -> None:
    """Convert and check every setting, in place.

    Args:
        settings: an instance of a settings dataclass.

    Raises:
        UsageError: a value has another type, is not among the choices, or is out of range.
    """
    hints = get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value = _typed(field.name, getattr(settings, field.name), hints[field.name])
        object.__setattr__(settings, field.name, value)
        limits = field.metadata
        if value is None:
            continue
        choices = tuple(limits["choices"]())
        if choices and value not in choices and not isinstance(value, bool):
            raise UsageError(f"must be a known value, got {value!r}", argument=field.name, options=choices, given=value)
        if limits["least"] is not None and not limits["least"] <= value <= limits["most"]:
            upper = "" if limits["most"] == float("inf") else f" and at most {limits['most']:g}"
            raise UsageError(f"must be at least {limits['least']:g}{upper}, got {value}", argument=field.name)


@cache
def plain_type(hint: Any) -> tuple[type, bool]:
    """The plain type of a hint, such as dict of ``dict[str, int] | None``, and whether the value may be None.

    The first one of several, such as str of ``str | bool`` (:func:`is_switch`).

    Args:
        hint: of a field.
    """
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    plain = next(option for option in options if option is not type(None))
    return get_origin(plain) or plain, type(None) in options


def is_switch(hint: Any) -> bool:
    """Whether the values of a hint, ``str | bool``, are false, true and the names of ways to be on.

    Args:
        hint: of a field.
    """
    return get_origin(hint) in (Union, UnionType) and {str, bool} <= {*get_args(hint)}


def _typed(name: str, value: Any, hint: Any) -> Any:
    expected, optional = plain_type(hint)
    if (value is None and optional) or (isinstance(value, bool) and is_switch(hint)):
        return value
    if expected is float and not isinstance(value, bool) and isinstance(value, int | float | str):
        try:
            return float(value)  # YAML 1.1 reads 1e-3 as a string
        except (ValueError, OverflowError):
            pass
    elif isinstance(value, expected) and (expected is bool) == isinstance(value, bool):
        if isinstance(value, dict):
            return _numbered(name, value) if get_args(hint)[0] is int else _plain(name, value)
        if not isinstance(value, list) or all(isinstance(item, str) for item in value):
            return value
    raise UsageError(f"must be {_WORDS[expected]}, got {value!r}", argument=name)


def _plain(name: str, value: dict[str, Any]) -> dict[str, Any]:
    try:
        require_plain(value)
    except ValueError as error:
        raise UsageError(f"must be a mapping of plain values ({error})", argument=name) from error
    return value


def _numbered(name: str, value: dict[Any, Any]) -> dict[int, Any]:
    """The mapping with integers as keys, which are text in JSON and as this package reads YAML."""
    try:
        return {int(key) if isinstance(key, str) else operator.index(key): item for key, item in value.items()}
    except (ValueError, TypeError) as error:
        raise UsageError(f"must be a mapping of integers, got {value!r}", argument=name) from error


def read_yaml(path: str | Path, known: Iterable[str]) -> dict[str, Any]:
    """Settings of a YAML file. The file that its entry ``base`` names is read first, and the file overrides it.

    Args:
        path: the file; ``base`` is relative to its folder.
        known: names of the settings.

    Raises:
        UsageError: a file does not exist, is not YAML, has no settings or unknown ones, or is its own base.
    """
    return _read_yaml(Path(path), set(known), ())


def _read_yaml(path: Path, known: set[str], readers: tuple[Path, ...]) -> dict[str, Any]:
    def refuse(problem: str, advice: str) -> UsageError:
        return UsageError(f"{path} {problem}", advice, argument="config")

    try:
        content = parse_yaml(read_text(path))
    except OSError as error:
        raise refuse(f"cannot be read ({error.strerror})", "give a YAML file") from error
    except ValueError as error:
        raise refuse(f"is not YAML ({str(error).rstrip('.')})", "correct it") from error
    if path.resolve() in readers:
        raise refuse("is its own base", "name another base")
    if not isinstance(content, Mapping):
        raise refuse("has no settings", "write lines of name: value")
    settings = dict(content)
    base = settings.pop("base", None)
    if unknown := sorted(str(name) for name in settings if name not in known):
        raise refuse(f"has unknown settings: {', '.join(unknown)}", "--help lists the known ones")
    if base is not None and not isinstance(base, str):
        raise refuse(f"has the base {base!r}", "name a YAML file beside it")
    return (_read_yaml(path.parent / base, known, (*readers, path.resolve())) if base else {}) | settings


def add_arguments(parser: argparse.ArgumentParser, cls: type, without: Collection[str] = ()) -> None:
    """Add an option for every setting; options that are not given do not appear in the parsed arguments.

    Args:
        parser: gets a group of options for each group of settings.
        cls: a settings dataclass.
        without: names of settings that get no option.
    """
    hints = get_type_hints(cls)
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        about = field.metadata
        if not about["option"] or field.name in without:
            continue
        if about["group"] not in groups:
            groups[about["group"]] = parser.add_argument_group(about["group"])
        listed = ", ".join(about["choices"]())
        choices = f": {listed}" if listed else ""
        option: dict[str, Any] = {
            "dest": field.name,
            "default": argparse.SUPPRESS,
            "help": f"{about['help']}{choices} (default: {default_of(field)})".replace("%", "%%"),
        }
        expected, _ = plain_type(hints[field.name])
        if expected is bool:
            option["action"] = argparse.BooleanOptionalAction
        else:
            option |= {"metavar": "VALUE", "type": _text if expected in (str, list) else _value}
            option |= {"nargs": "+", "action": "extend"} if expected is list else {}
            option |= {"nargs": "?", "const": True, "type": _value} if is_switch(hints[field.name]) else {}
        names = ["-T"] if field.name == "T" else [f"--{field.name.replace('_', '-')}"]
        groups[about["group"]].add_argument(*names, **option)
        if is_switch(hints[field.name]):
            off = {"dest": field.name, "default": argparse.SUPPRESS, "action": "store_false", "help": "switch it off"}
            groups[about["group"]].add_argument(f"--no-{names[0].removeprefix('--')}", **off)


def _text(text: str) -> str | None:
    """A string as it is, although YAML would read a name such as 2024-05-01 or "a: b" otherwise; null is None."""
    return None if text in ("", "~", "null") else text


def _value(text: str) -> Any:
    """A value as YAML reads it, so that the command line and a file mean the same."""
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a YAML value ({first_sentence(error)})") from error
