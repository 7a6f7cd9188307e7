"""The folder of a run: whose it is, and that one command at a time uses it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gac_sj._utils.claims import FolderInUseError, claimed
from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj._utils.files import locked, read_text
from gac_sj._utils.reading import parse_yaml
from gac_sj.results.schema import RUNS, as_text
from gac_sj.training.build import Data
from gac_sj.training.distributed import DistributedContext
from gac_sj.training.settings import MAY_BE_OPEN, Settings

__all__ = ["FolderInUseError", "check_folder", "check_state", "hold_folder", "keeps", "run_key"]


@contextmanager
def hold_folder(folder: Path, world: DistributedContext) -> Iterator[None]:
    """Hold the folder of a run for its whole life, from before its checkpoint is read until its row is written.

    The hold is a lock and a claim (:mod:`gac_sj._utils.claims`). It ends with the first process, however that ends;
    its workers do not prolong it. On other machines, a claim that was not released lasts ten minutes.

    Args:
        folder: created when needed.
        world: the processes of the run; all of them call this, and the first one holds.

    Raises:
        FolderInUseError: another command holds it; nothing was touched.
        UsageError: the folder cannot be written.
    """
    with ExitStack() as held:

        def hold() -> None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(folder / ".run.lock", wait=False))
                held.enter_context(claimed(folder))
            except BlockingIOError as error:
                raise FolderInUseError(f"{folder} is in use by another process") from error
            except OSError as error:
                raise UsageError(
                    f"{folder} cannot be written ({error.strerror})", "name another folder", argument="output"
                ) from error

        world.on_first(hold)
        yield


def run_key(settings: Settings, data: Data) -> dict[str, str]:
    """The columns that identify the row of a run, as text.

    Args:
        settings: settings of the run.
        data: its data.
    """
    return as_text(data.resolved(settings).key() | {"data": data.fingerprint()})


def check_folder(folder: Path, settings: Settings) -> None:
    """Refuse to mix two runs in one folder.

    Args:
        folder: of the run; it need not exist.
        settings: settings of the run.

    Raises:
        UsageError: the folder holds a run with other settings, which the message names, or its args.yaml is damaged.
    """
    before = _settings_of(folder)
    if before is not None:
        _refuse_another(folder, as_text(before.key()), as_text(settings.key()))


def keeps(folder: Path, settings: Settings) -> bool:
    """Whether a folder holds a run with the values that settings have for what may be open.

    Args:
        folder: it need not exist.
        settings: all of them have values.

    Raises:
        UsageError: its args.yaml is damaged.
    """
    before = _settings_of(folder)
    return before is not None and all(getattr(before, name) == getattr(settings, name) for name in MAY_BE_OPEN)


def _settings_of(folder: Path) -> Settings | None:
    """The settings of the run in a folder; None if there is none."""
    path = folder / "args.yaml"
    if not path.exists():
        return None
    try:
        return Settings.recorded(parse_yaml(read_text(path)))
    except (TypeError, ValueError, OSError) as error:
        raise UsageError(
            f"has a damaged file {path} ({first_sentence(error)})",
            "move the folder away or name another output",
            argument="output",
        ) from error


def check_state(folder: Path | None, before: Mapping[str, str] | None, now: Mapping[str, str]) -> None:
    """Refuse to continue another run, whatever args.yaml says.

    Args:
        folder: of the run.
        before: :func:`run_key` of the run whose state was read; None for states that do not have it.
        now: that of this run.

    Raises:
        UsageError: they differ in settings, which the message names, or in their images.
    """
    if before is None:
        raise UsageError(
            f"{folder} holds a run of an earlier version of gac_sj", "name another output", argument="output"
        )
    # settings that were added since have their defaults
    _refuse_another(folder, {each.name: each.absent or "" for each in RUNS.columns if each.key} | dict(before), now)


def _refuse_another(folder: Path | None, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    differing = [name for name in now if before[name] != now[name]]
    if differing == ["data"]:
        raise UsageError(
            f"{folder} holds a run on other images", "name another output, or give its data to resume it",
            argument="output",
        )  # fmt: skip
    if differing:
        changes = ", ".join(f"{name}: {before[name]} -> {now[name]}" for name in differing)
        raise UsageError(
            f"{folder} holds a run with other settings ({changes})",
            "name another output, or give the same settings to resume it",
            argument="output",
        )
