"""The row of a finished run, for training and benchmarks alike: every setting, then what was measured and analysed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from gac_sj.results.columns import ColumnInfo, Schema, as_row, column, columns_of, text_of
from gac_sj.training.settings import Settings

__all__ = [
    "ANALYSED_COLUMNS", "KEY_COLUMNS", "MEASURED_COLUMNS", "NOT_ANALYSED", "RUNS", "TO_ANALYSE", "VOLATILE_COLUMNS",
    "Analysed", "Measured", "as_row", "as_text",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a training run measures. Accuracies are percentages of the test images."""

    accuracy_best: float = column("of the best test epoch, which chooses by the test set")
    best_epoch: int = column("the epoch of accuracy_best")
    accuracy_last: float = column("after the last epoch: the one to compare")
    top5_last: float | None = column("top-5 accuracy after the last epoch")
    accuracy_by_epoch: dict[Any, float] = column("accuracy after each tested epoch")
    accuracy_by_steps: list[float] | None = column("accuracy when only the first 1, 2, ... steps are read")
    test_loss_last: float = column("cross-entropy on the test images after the last epoch")
    train_loss_last: float = column("mean loss of the last epoch")
    train_accuracy_last: float | None = column("accuracy on the training images as the network learned from them")
    parameters: int = column("trainable numbers of the network")
    train_images: int = column("number of training images")
    test_images: int = column("number of test images")
    corrupt_images: int | None = column("unreadable training images that were skipped in the last epoch")
    train_seconds: float = column("training time", volatile=True)
    images_per_second: float = column("training throughput", volatile=True)
    firing_rate_mean: float = column("spikes per neuron and step on the test images, mean over layers")
    firing_rates: dict[str, float] = column("the same by layer")
    processes: int | None = column("training processes")
    ops_path: str = column("what ran the neurons; several where the run was resumed on another path", absent="")
    callbacks: str = column("code of users that was called, with the digests of its files", absent="")
    commit: str = column("of the code; -dirty is appended if files differ from it")
    versions: str = column("Python and the packages that matter")
    device: str = column("product name; of a CPU also the number of threads")
    date: str = column("of the end of the run, UTC", volatile=True)


@dataclass(frozen=True, kw_only=True)
class Analysed:
    """What the analysis finds in the trained network, on test images.

    Energies are picojoules and operations are counts, both for one image; see :mod:`gac_sj.analysis.energy` and
    :mod:`gac_sj.analysis.dynamics`.
    """

    analysed_images: int = column("number of test images")
    energy_paper_pj: float = column("energy by the convention of GAC's authors")
    energy_complete_pj: float = column("energy of everything that ran")
    energy_encoder_pj: float = column("the encoder's part of energy_complete_pj")
    dense_macs: float = column("multiply-accumulates, zeros included")
    effective_macs: float = column("multiply-accumulates without zeros")
    effective_acs: float = column("accumulations without zeros")
    energy_by_layer: dict[str, tuple[float, float]] = column("[paper, complete] by layer")
    energy_profile: str | None = column("what operations and memory cost; older rows: at 45 nm", absent=None)
    energy_dense_pj: float | None = column("energy of a dense machine, with its memory", absent=None)
    energy_event_pj: float | None = column("energy of an event-driven machine, with its memory", absent=None)
    memory_by_layer: dict[str, tuple[float, float]] | None = column(
        "[dense, event-driven] energy of the memory alone, by layer and neuron", absent=None
    )
    non_spiking_layers: list[str] = column("layers behind the encoder that receive other values than spikes")
    firing_rates_by_step: dict[str, list[float]] = column("spikes per neuron by layer and step")
    time_to_repeat: float | None = column("steps until the encoder's output repeats")
    duration_not_shorter: float | None = column("fraction whose time to repeat is not below that of direct coding")
    entropy_bits: float | None = column("of a unit's output over images")
    information_by_step: list[float] = column("bits that a step adds to those before it")
    time_to_first_spike: float | None = column("first step with an output, from 1; nan if there is none")
    silent: float | None = column("fraction of units and images without output")
    change_by_step: list[float] = column("mean absolute difference to the step before")
    readout_by_step: list[float] | None = column("accuracy of a linear classifier on one step's output")
    gate_mean: float | None = column("of the encoder's gate, 0 to its gain; empty without a gate", absent=None)
    gate_spread: float | None = column("standard deviation of the gate over the steps", absent=None)
    gate_silent: float | None = column(
        "fraction of the hidden units of the temporal attention that no image makes fire; empty without hidden units",
        absent=None,
    )
    inference_images_per_second: float = column("throughput of the network", volatile=True)
    encoder_images_per_second: float = column("throughput of the encoder alone", volatile=True)
    inference_int8_images_per_second: float | None = column(
        "throughput of the network with weights of 8 bits; empty without instructions or layers for it",
        volatile=True,
        absent=None,
    )


def as_text(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as they are written into rows."""
    return {name: text_of(value) for name, value in settings.items()}


def _setting_columns() -> tuple[ColumnInfo, ...]:
    """Every setting that decides about a result; rows from before it existed have a value that it declares."""
    hints = get_type_hints(Settings)
    return tuple(
        ColumnInfo(
            field.name,
            hints[field.name],
            field.metadata["help"],
            key=True,
            absent=text_of(field.metadata["absent"]),
        )
        for field in fields(Settings)
        if field.metadata["key"]
    )


#: The columns of results.csv and result.csv. All cells of an analysis that was not made are empty.
RUNS = Schema(
    "runs",
    (
        *_setting_columns(),
        ColumnInfo("data", str, "fingerprint of the training and test images", key=True),
        *columns_of(Measured),
        *columns_of(Analysed, absent=""),
    ),
)
#: The settings, the seed among them, and the fingerprint of the images.
KEY_COLUMNS = RUNS.key
MEASURED_COLUMNS = tuple(field.name for field in fields(Measured))
ANALYSED_COLUMNS = tuple(field.name for field in fields(Analysed))
#: What differs between two runs of one command on one machine: measured times, speeds, dates.
VOLATILE_COLUMNS = RUNS.volatile
#: How the columns of the analysis come about, also for a finished run.
TO_ANALYSE = "train.py --analyse makes it"
#: The cells of a run that was not analysed.
NOT_ANALYSED = dict.fromkeys(ANALYSED_COLUMNS, "")
