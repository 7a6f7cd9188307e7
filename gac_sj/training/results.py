"""The row that a finished run leaves, for training and benchmarks alike: every setting, then what was measured."""

from __future__ import annotations

import datetime
import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from gac_sj.training.build import Data
from gac_sj.training.distributed import World
from gac_sj.training.engine import Training
from gac_sj.training.rows import Rows, commit, device_name, read_rows, versions
from gac_sj.training.settings import Settings

__all__ = [
    "ANALYSED", "KEY", "MEASURED", "PASSING", "as_text", "read_results", "result_rows", "run_key", "train",
]  # fmt: skip

#: All settings that decide about a result, the seed, and which images they were.
KEY = (*(field.name for field in fields(Settings) if field.metadata["key"]), "data")
#: Accuracies in percent. Commit, device, date and speed are recorded and not part of the key.
MEASURED = (
    "accuracy_best", "best_epoch", "accuracy_last", "top5_last", "accuracy_by_epoch", "accuracy_by_steps",
    "test_loss_last", "train_loss_last", "train_accuracy_last", "parameters", "train_images", "test_images",
    "corrupt_images", "train_seconds", "images_per_second", "firing_rate_mean", "firing_rates", "processes", "commit",
    "versions", "device", "date",
)  # fmt: skip
#: What gac_sj.analysis finds in the trained network, on test images; empty in rows that were not analysed. Energies are
#: picojoules and operations counts per image; see :mod:`gac_sj.analysis.energy` and :mod:`gac_sj.analysis.dynamics`.
ANALYSED = (
    "analysed_images", "energy_paper_pj", "energy_complete_pj", "energy_encoder_pj", "dense_macs", "effective_macs",
    "effective_acs", "energy_by_layer", "non_spiking_layers", "firing_rates_by_step", "time_to_repeat",
    "duration_not_shorter", "entropy_bits", "information_by_step", "time_to_first_spike", "silent", "change_by_step",
    "readout_by_step", "inference_images_per_second", "encoder_images_per_second",
)  # fmt: skip
#: What differs between two runs of one command on one machine: measured times, speeds, dates.
PASSING = (
    "train_seconds", "images_per_second", "inference_images_per_second", "encoder_images_per_second", "date",
)  # fmt: skip


def as_text(settings: dict[str, Any]) -> dict[str, str]:
    """Settings as they stand in rows."""
    return {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in settings.items()}


#: What a setting was before it existed, and what stands for an analysis that was not made.
_DEFAULTS = as_text({field.name: {} if field.default is MISSING else field.default for field in fields(Settings)})
_DEFAULTS |= dict.fromkeys(ANALYSED, "")


def result_rows(path: Path) -> Rows:
    """The rows of a file with this schema, to look up and to add to."""
    return Rows(path, KEY, KEY + MEASURED + ANALYSED, _DEFAULTS)


def read_results(path: Path) -> list[dict[str, str]]:
    """The rows of a file with this schema.

    Raises:
        ValueError, OSError: see :func:`gac_sj.training.rows.read_rows`.
    """
    return read_rows(path, KEY + MEASURED + ANALYSED, _DEFAULTS)


def run_key(settings: Settings, data: Data) -> dict[str, str]:
    """What a row is found by, as it stands in the file."""
    return as_text(settings.key() | {"data": data.fingerprint()})


def train(settings: Settings, data: Data, world: World, folder: Path | None = None) -> dict[str, Any]:
    """Train and test one network, from its last checkpoint where there is one; its row, not analysed.

    Raises:
        ValueError, InterruptedRunError, NonFiniteLossError, CorruptImageError: see :class:`Training`.
    """
    training = Training(settings, data, world, folder)
    evaluation, rates = training.run()
    tested = {row["epoch"]: float(row["top1"]) for row in training.history if row["top1"] != ""}
    best = max(tested, key=tested.get)
    last = training.history[-1]
    return run_key(settings, data) | {
        "accuracy_best": round(tested[best], 3),
        "best_epoch": best,
        "accuracy_last": round(tested[settings.epochs], 3),
        "top5_last": round(100 * evaluation.top5, 3),
        "accuracy_by_epoch": json.dumps({epoch: round(value, 3) for epoch, value in tested.items()}),
        "accuracy_by_steps": json.dumps([round(100 * value, 3) for value in evaluation.by_steps.tolist()]),
        "test_loss_last": round(evaluation.loss, 5),
        "train_loss_last": round(last["train_loss"], 5),
        "train_accuracy_last": round(last["train_accuracy"], 3),
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "train_images": len(data.train),
        "test_images": evaluation.images,
        "corrupt_images": last["corrupt"],
        "train_seconds": round(training.seconds, 1),
        "images_per_second": round(sum(row["images"] for row in training.history) / training.seconds, 1),
        "firing_rate_mean": round(sum(rates.values()) / len(rates), 5),
        "firing_rates": json.dumps({name: round(rate, 5) for name, rate in rates.items()}),
        "processes": world.size,
        "commit": commit(),
        "versions": versions(),
        "device": device_name(world.device),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        **dict.fromkeys(ANALYSED, ""),
    }
