"""The settings of a comparison: what all runs share, each run, and its folder."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gac_sj._utils.errors import UsageError
from gac_sj._utils.files import safe_name
from gac_sj.data import DATASETS
from gac_sj.encoders import encoder_label, parse_encoder
from gac_sj.results.store import Rows
from gac_sj.training.build import Data
from gac_sj.training.folder import run_key
from gac_sj.training.hardware import resolve
from gac_sj.training.settings import Settings
from gac_sj.training.settings_sources import from_command_line, from_file

__all__ = ["OF_A_RUN", "fill_in", "folder_of", "options_of", "read_settings", "settings"]

#: Recipes of comparisons; a data set may have its own.
RECIPES = Path(__file__).resolve().parents[2] / "experiments" / "recipes"
#: The settings that a comparison varies, or keeps for itself; a file may have them, as that of a run does.
OF_A_RUN = ("encoder", "form", "encoder_source", "seed", "output")


def read_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that all runs share: those of ``--config``, or of the recipe, overridden by the command line.

    Args:
        args: of the command line.

    Raises:
        UsageError: see :func:`gac_sj.training.settings_sources.from_file`.
    """
    given = from_command_line(args)
    found = from_file(args.config or recipe_for(given.get("dataset"))) | given
    if not (args.config or "warmup_epochs" in given) and isinstance(found["epochs"], int):
        found["warmup_epochs"] = max(0, min(found["warmup_epochs"], found["epochs"] - 1))
    return {name: value for name, value in found.items() if name not in OF_A_RUN}


def recipe_for(dataset: str | None) -> Path:
    """The recipe of a data set where no file is given: its own, or that of all others."""
    own = RECIPES / f"comparison_{dataset}.yaml"
    return own if dataset in DATASETS and own.exists() else RECIPES / "comparison.yaml"


def settings(shared: Mapping[str, Any], name: str, seed: int) -> Settings:
    """The run of one encoder and seed.

    Args:
        shared: settings of all runs (:func:`read_settings`).
        name: of the encoder, with its options.
        seed: of the run.

    Raises:
        UsageError: an unknown encoder, or see :class:`Settings`.
    """
    encoder, form, options = parse_encoder(name)
    options |= shared.get("model_options") or {}
    return Settings(**shared | dict(encoder=encoder, form=form, model_options=options, seed=seed))


@contextmanager
def options_of(name: str, shared: Mapping[str, Any]) -> Iterator[None]:
    """Name ``--encoders`` in an error about keywords that were given there, not by ``model_options``.

    Args:
        name: of the encoder, with its options.
        shared: settings of all runs.
    """
    try:
        yield
    except UsageError as error:
        if error.argument != "model_options" or shared.get("model_options"):
            raise
        raise UsageError(f"cannot be {name!r}: {str(error).rstrip('.')}", argument="encoders") from error


def folder_of(run: Settings, data: Data, output: Path) -> Path:
    """The folder of a run below the command's."""
    name = encoder_label(run.encoder, run.form, run.model_options).replace(":", "-")
    return output / "runs" / safe_name(f"{name}-seed{run.seed}-{run.name()}-{data.fingerprint()}")


def fill_in(runs: list[Settings], data: Data, output: Path, rows: Rows, device: torch.device) -> list[Settings]:
    """The runs with values for what is open, the same for all: those of runs that are there, or the fastest.

    Args:
        runs: of equal settings but for encoder and seed.
        data: of the runs.
        output: folder of the command.
        rows: of all runs.
        device: that they run on.
    """

    runs = [data.resolved(run) for run in runs]

    def filled(values: Settings) -> list[Settings]:
        return [replace(run, **{name: getattr(values, name) for name in runs[0].open}) for run in runs]

    def exist(values: Settings) -> bool:
        return any(rows.find(run_key(run, data)) or folder_of(run, data, output).exists() for run in filled(values))

    return filled(resolve(runs[0], device, exist))
