"""The row that a finished run leaves, for training and benchmarks alike: every setting, then what was measured."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from gac_sj.results.store import Rows, read_rows
from gac_sj.training.settings import Settings

__all__ = ["ANALYSED", "KEY", "MEASURED", "VOLATILE_COLUMNS", "as_text", "read_results", "result_rows"]


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
VOLATILE_COLUMNS = (
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
        ValueError, OSError: see :func:`gac_sj.results.store.read_rows`.
    """
    return read_rows(path, KEY + MEASURED + ANALYSED, _DEFAULTS)
