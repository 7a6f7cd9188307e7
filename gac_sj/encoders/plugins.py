"""Files and modules of users that register encoders or networks, or define what records name: what --import runs."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from inspect import isfunction
from pathlib import Path
from types import ModuleType

import timm

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj._utils.user_code import run_file
from gac_sj.encoders.registry import encoder_info, list_encoders, unregister_encoders

__all__ = ["import_plugins"]

_imported: set[str] = set()


def import_plugins(places: Iterable[str]) -> None:
    """Run files or modules that register encoders, or networks with timm, each once in a process.

    A file may also have functions alone, those of networks or data sets (``FILE.py:FUNCTION``) that records name.

    Args:
        places: paths of Python files (``affine.py``), or names of importable modules (``package.affine``).

    Raises:
        UsageError: one does not exist, raises, or has none of these. No encoder of it stays registered then.
    """
    for place in places:
        is_file = place.endswith(".py") or "/" in place
        key = str(Path(place).resolve()) if is_file else place
        if key in _imported:
            continue
        before = set(list_encoders())
        try:
            module = run_file(Path(place)) if is_file else importlib.import_module(place)
        except Exception as error:  # a user's code raises whatever it likes
            unregister_encoders(set(list_encoders()) - before)
            raise _refusal(place, is_file, error) from error
        if not (set(list_encoders()) - before or _has_registered(module.__name__) or _has_functions(module)):
            raise UsageError(
                f"cannot use {place}: it registers no encoder and no network, and has no function that returns one or "
                "data sets",
                "decorate the class of an encoder with @gac_sj.register_encoder(NAME)",
                argument="import",
            )
        _imported.add(key)


def _has_registered(module: str) -> bool:
    """Whether a module, perhaps imported before, has registered an encoder, or a network with timm."""
    homes = [encoder_info(name).cls.__module__ for name in list_encoders()]
    homes += [timm.model_entrypoint(name).__module__ for name in timm.list_models()]
    return any(home == module or home.startswith(f"{module}.") for home in homes)


def _has_functions(module: ModuleType) -> bool:
    """Whether a user's file has functions of its own."""
    own = (value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__)
    return getattr(module, "__gac_sj_file__", False) and any(map(isfunction, own))


def _refusal(place: str, is_file: bool, error: Exception) -> UsageError:
    """What to say about a file or module that raised."""
    if isinstance(error, UsageError):
        return UsageError(f"cannot use {place}: {str(error).rstrip('.')}", argument="import")
    missing = isinstance(error, ModuleNotFoundError) and not is_file and place.startswith(error.name or "?")
    if missing or (is_file and not Path(place).exists()):
        return UsageError(
            f"must be a Python file or an importable module, and {place!r} does not exist",
            "pass the path of the file that registers the encoder or network",
            argument="import",
        )
    return UsageError(
        f"cannot use {place}: it raises {type(error).__name__} ({first_sentence(error)})",
        "correct the file",
        argument="import",
    )
