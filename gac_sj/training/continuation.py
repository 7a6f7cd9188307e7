"""More epochs for a finished run: a new run that begins with everything that the finished one knew."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gac_sj._utils.errors import UsageError
from gac_sj._utils.files import read_bytes, read_text, write_atomically
from gac_sj._utils.reading import parse_yaml
from gac_sj.training.checkpoints import Checkpoints
from gac_sj.training.folder import check_state
from gac_sj.training.settings import Settings

__all__ = ["continue_finished", "finished_state"]

_logger = logging.getLogger(__name__)
#: What the two runs differ in.
_OWN = ("epochs", "continues")


def continue_finished(settings: Settings, folder: Path) -> tuple[Settings, Path]:
    """Settings and folder of a run; if its folder holds a finished run of fewer epochs, those of its continuation.

    The continuation has a folder of its own, ``FOLDER-epochsN``, a key of its own (``continues``: epochs and name of
    the finished run) and all epochs of both. It begins with the whole state of the finished run: weights, optimiser,
    EMA, random states, history. Its learning rate is that of a run of N epochs at the same epoch (ours), so it rises
    from the end of the first cosine to the second one, a warm restart; a run of N epochs in one go ends with other
    weights.

    Args:
        settings: settings that the user gave; all of them have values.
        folder: for the run.

    Raises:
        UsageError: the run of fewer epochs is not finished, or its last checkpoint is gone.
    """
    try:
        before = Settings.recorded(parse_yaml(read_text(folder / "args.yaml")))
    except (TypeError, ValueError, OSError):  # none, or a damaged one, which check_folder names
        return settings, folder
    same = {name: value for name, value in before.key().items() if name not in _OWN}
    if settings.epochs < before.epochs or any(settings.key()[name] != value for name, value in same.items()):
        return settings, folder
    if settings.epochs == before.epochs:  # the run itself, which may continue another one
        return replace(settings, continues=before.continues, continue_from=before.continue_from), folder
    state = Checkpoints(folder / "checkpoints", 1).load()
    if state is None or state["position"][0] < before.epochs:
        lacks = "has no checkpoint" if state is None else f"is in epoch {state['position'][0] + 1}"
        raise UsageError(
            f"cannot be raised to {settings.epochs}: the run of {before.epochs} epochs in {folder} {lacks}",
            f"finish it with {before.epochs} epochs, or name another output",
            argument="epochs",
        )
    continues = f"{before.epochs}:{before.name()}"
    longer = folder.with_name(f"{folder.name}-epochs{settings.epochs}")
    return replace(settings, continues=continues, continue_from=str(folder), output=str(longer)), longer


def finished_state(settings: Settings, folder: Path | None, key: Mapping[str, str]) -> dict[str, Any]:
    """The state of the finished run, for the first start of its continuation; it also gets a copy of its best weights.

    Args:
        settings: of the continuation (:func:`continue_finished`).
        folder: of the continuation.
        key: :func:`gac_sj.training.folder.run_key` of the continuation.

    Raises:
        UsageError: the finished run is gone, or has other settings or images.
    """
    parent = Path(str(settings.continue_from))
    state = Checkpoints(parent / "checkpoints", 1).load()
    if state is None:
        raise UsageError(
            f"{parent}, the run of {str(settings.continues).partition(':')[0]} epochs that this one continues, has no "
            "checkpoint",
            "put it back, or name another output",
        )
    own = {name: key[name] for name in _OWN}
    check_state(parent, state["run"] | own, key)
    _logger.info(
        "Continues the finished run in %s after %d epochs, up to %d, with the learning rate of %d epochs.",
        parent, state["position"][0], settings.epochs, settings.epochs,
    )  # fmt: skip
    best = parent / "best.safetensors"
    if folder is not None and best.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / best.name, read_bytes(best))
    return state | {"run": dict(key), "schedule": None}
