"""One run, from its settings to its row of results."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gac_sj._utils.claims import check_claim
from gac_sj._utils.provenance import commit, device_name, versions
from gac_sj.analysis.energy_profile import DEFAULT_PROFILE, EnergyProfile
from gac_sj.checkpoint.runs import load_network, read_weights
from gac_sj.results.schema import NOT_ANALYSED, Measured, as_row
from gac_sj.results.store import Rows
from gac_sj.training.analysis import analyse
from gac_sj.training.build import Data
from gac_sj.training.callbacks import Callback
from gac_sj.training.distributed import DistributedContext
from gac_sj.training.engine import Training
from gac_sj.training.folder import hold_folder, run_key
from gac_sj.training.settings import Settings

__all__ = ["complete", "is_analysed", "is_complete", "train"]


def complete(
    settings: Settings,
    data: Data,
    world: DistributedContext,
    folder: Path,
    rows: Rows,
    analysis: EnergyProfile | None,
    keep_checkpoints: bool = True,
) -> dict[str, Any]:
    """Do what a run still lacks of its training, its row and its analysis.

    Args:
        settings: settings of the run.
        data: its data.
        world: its processes.
        folder: for checkpoints and run outputs.
        rows: that have the run's row, or get it.
        analysis: the profile of the analysis that the row is to have, which needs the saved weights; None: no analysis.
        keep_checkpoints: whether they stay when nothing is left to do.

    Returns:
        The row; it lacks the analysis, or has an earlier one with another profile, if its weights are gone.

    Raises:
        FolderInUseError: another command is at it.
        UsageError: see :class:`gac_sj.training.engine.Training`.
        InterruptedRunError: SIGTERM or SIGINT was received.
        NonFiniteLossError: a loss, weight or statistic is not finite.
        CorruptImageError: an image cannot be read.
    """
    key, weights, checkpoints = run_key(settings, data), folder / "last.safetensors", folder / "checkpoints"

    def find() -> tuple[dict[str, Any] | None, bool]:
        row = rows.find(key)
        return row, is_complete(row, folder, analysis, keep_checkpoints)

    def keep(row: dict[str, Any]) -> None:
        check_claim(folder)
        rows.replace(row)

    row, is_done = world.on_first(find)
    if row is not None and is_done:
        return row
    with hold_folder(folder, world):
        row, _ = world.on_first(find)  # another command may have been at it meanwhile
        if row is None:
            row = trained = train(settings, data, world, folder)
            world.on_first(lambda: keep(trained))
        if world.is_first and analysis and not is_analysed(row, analysis) and weights.exists():
            model = load_network(settings, read_weights(weights)[1], data.info)
            keep(row := row | analyse(model, settings, data, world.device, analysis))
        if world.is_first and not keep_checkpoints:
            check_claim(folder)
            shutil.rmtree(checkpoints, ignore_errors=True)
    return row


def is_analysed(row: Mapping[str, Any], profile: EnergyProfile) -> bool:
    """Whether a row has an analysis with the energies of a profile.

    Args:
        row: of a finished run.
        profile: what operations and memory cost.
    """
    return bool(row["analysed_images"]) and (row["energy_profile"] or DEFAULT_PROFILE) == profile.name


def is_complete(
    row: dict[str, Any] | None, folder: Path, analysis: EnergyProfile | None, keep_checkpoints: bool
) -> bool:
    """Whether nothing is left to do for a run.

    Args:
        row: of the run, if there is one.
        folder: of the run.
        analysis: see :func:`complete`.
        keep_checkpoints: see :func:`complete`.
    """
    if row is None or ((folder / "checkpoints").exists() and not keep_checkpoints):
        return False
    return analysis is None or is_analysed(row, analysis) or not (folder / "last.safetensors").exists()


def train(
    settings: Settings,
    data: Data,
    world: DistributedContext,
    folder: Path | None = None,
    callbacks: Iterable[Callback] = (),
) -> dict[str, Any]:
    """Train and test one network; a run that was killed resumes from its last checkpoint.

    Args:
        settings: settings of the run.
        data: its data.
        world: its processes.
        folder: for checkpoints and run outputs, held (:func:`gac_sj.training.folder.hold_folder`); None: nothing is
            written.
        callbacks: called besides those of the settings (:mod:`gac_sj.training.callbacks`).

    Returns:
        The row of the run; the columns of the analysis are empty.

    Raises:
        UsageError: see :class:`gac_sj.training.engine.Training`.
        InterruptedRunError: SIGTERM or SIGINT was received.
        NonFiniteLossError: a loss, weight or statistic is not finite.
        CorruptImageError: an image cannot be read.
    """
    training = Training(settings, data, world, folder, callbacks)
    settings = training.settings
    evaluation, rates = training.run()
    history, seconds = training.state.history, training.state.seconds
    tested = {row["epoch"]: float(row["top1"]) for row in history if row["top1"] != ""}
    best = max(tested, key=lambda epoch: tested[epoch])
    last = history[-1]
    measured = Measured(
        accuracy_best=round(tested[best], 3),
        best_epoch=best,
        accuracy_last=round(tested[settings.epochs], 3),
        top5_last=round(100 * evaluation.top5, 3),
        accuracy_by_epoch={epoch: round(value, 3) for epoch, value in tested.items()},
        accuracy_by_steps=[round(100 * value, 3) for value in evaluation.by_steps.tolist()],
        test_loss_last=round(evaluation.loss, 5),
        train_loss_last=round(last["train_loss"], 5),
        train_accuracy_last=round(last["train_accuracy"], 3),
        parameters=sum(p.numel() for p in training.model.parameters()),
        train_images=len(data.train),
        test_images=evaluation.images,
        corrupt_images=last["corrupt"],
        train_seconds=round(seconds, 1),
        images_per_second=round(sum(row["images"] for row in history) / seconds, 1),
        firing_rate_mean=round(sum(rates.values()) / len(rates), 5),
        firing_rates={name: round(rate, 5) for name, rate in rates.items()},
        processes=world.size,
        ops_path=", ".join(training.state.paths),
        callbacks=", ".join(training.callbacks.sources),
        commit=commit(),
        versions=versions(),
        device=device_name(world.device),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
    )
    return run_key(settings, data) | as_row(measured) | NOT_ANALYSED
