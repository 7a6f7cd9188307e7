"""Files and modules of users that register encoders: what ``--import`` runs."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj._utils.user_code import run_file
from gac_sj.encoders.registry import encoder_info, list_encoders, unregister_encoders

__all__ = ["import_plugins"]

_imported: set[str] = set()


def import_plugins(places: Iterable[str]) -> None:
    """Run files or modules that register encoders, each once in a process.

    Args:
        places: paths of Python files (``affine.py``), or names of importable modules (``package.affine``).

    Raises:
        UsageError: one does not exist, raises, or registers no encoder. Nothing of it stays registered then.
    """
    for place in places:
        is_file = place.endswith(".py") or "/" in place
        key = str(Path(place).resolve()) if is_file else place
        if key in _imported:
            continue
        before = set(list_encoders())
        try:
            run_file(Path(place)) if is_file else importlib.import_module(place)
        except Exception as error:  # a user's code raises whatever it likes
            unregister_encoders(set(list_encoders()) - before)
            raise _refusal(place, is_file, error) from error
        if not (set(list_encoders()) - before or _has_registered(place)):
            raise UsageError(
                f"cannot use {place}: it registers no encoder",
                "decorate its class with @gac_sj.register_encoder(NAME)",
                argument="import",
            )
        _imported.add(key)


def _has_registered(module: str) -> bool:
    """Whether an importable module, imported before, has registered an encoder."""
    homes = (encoder_info(name).cls.__module__ for name in list_encoders())
    return any(home == module or home.startswith(f"{module}.") for home in homes)


def _refusal(place: str, is_file: bool, error: Exception) -> UsageError:
    """What to say about a file or module that raised."""
    if isinstance(error, UsageError):
        return UsageError(f"cannot use {place}: {str(error).rstrip('.')}", argument="import")
    missing = isinstance(error, ModuleNotFoundError) and not is_file and place.startswith(error.name or "?")
    if missing or (is_file and not Path(place).exists()):
        return UsageError(
            f"must be a Python file or an importable module, and {place!r} does not exist",
            "pass the path of the file that registers the encoder",
            argument="import",
        )
    return UsageError(
        f"cannot use {place}: it raises {type(error).__name__} ({first_sentence(error)})",
        "correct the file",
        argument="import",
    )
