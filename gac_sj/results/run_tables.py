"""Tables of trained networks: a line per encoder, averaged over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from gac_sj._utils.errors import UsageError
from gac_sj.analysis.energy_profile import DEFAULT_PROFILE
from gac_sj.results.run import Run, group
from gac_sj.results.schema import TO_ANALYSE
from gac_sj.results.table import Mean, Steps, Table, mean, tabulate, values

__all__ = ["attention_energy", "group_over_encoders", "provenance", "run_tables"]

#: Columns of the table of accuracies.
_ACCURACY = (
    mean("last epoch (%)", "accuracy_last"),
    mean("best epoch (%)", "accuracy_best"),
    mean("training (%)", "train_accuracy_last"),
    mean("firing rate", "firing_rate_mean", 3),
    mean("parameters", "parameters", 0, exact=True),
)
_DYNAMICS = (
    mean("time to repeat", "time_to_repeat"),
    mean("duration not shorter", "duration_not_shorter", 3),
    mean("entropy (bits)", "entropy_bits", 3),
    mean("time to first spike", "time_to_first_spike"),
    mean("silent", "silent", 3),
    Steps("information by step (bits)", "information_by_step", 2),
    Steps("change by step", "change_by_step", 2),
    Steps("read-out by step (%)", "readout_by_step", unit=0.01),
)
_SPEED = {
    "images_per_second": "training (images/s)",
    "inference_images_per_second": "inference (images/s)",
    "inference_int8_images_per_second": "inference, 8 bits (images/s)",
    "encoder_images_per_second": "encoder alone (images/s)",
    "train_seconds": "training (s)",
}
#: What speeds depend on beside the encoder.
_MACHINE = {"device": "devices", "processes": "numbers of processes"}
#: The largest number of an encoder's seeds over the smallest, if they were timed on a quiet machine.
_QUIET = 1.25
#: Columns of energies with memory, which rows of before there were any lack.
_WITH_MEMORY = {"energy_dense_pj": "dense, with memory", "energy_event_pj": "event-driven, with memory"}
#: A part of the name of every attention layer in the networks of gac_sj.models.
_ATTENTION = {"gau", "attention"}


def group_over_encoders(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs that can share a table, by the settings in which the groups differ.

    Args:
        runs: of any settings.

    Raises:
        UsageError: there are none.
    """
    if not runs:
        raise UsageError("There are no runs", "give a file or folder that a finished run has left")
    return group(runs, over=("encoder", "seed"))


def run_tables(runs: Sequence[Run]) -> list[Table]:
    """Accuracy, energy, dynamics and speed; "-" stands for what was not measured or analysed.

    Args:
        runs: of equal settings but for encoder and seed.

    Raises:
        UsageError: there are no runs, or their settings or the profiles of their energies differ.
    """
    if len(sets := group_over_encoders(runs)) > 1:
        raise UsageError(f"Runs of several settings ({'; '.join(sets)}) are not averaged", "give those of one")
    groups, note = group(runs), provenance(runs)
    images = _counts(runs, "analysed_images")
    analysed = f"{note} Analysed on {images} test images." if images else f"{note} There is no analysis; {TO_ANALYSE}."
    costs = _profile(runs)
    return [
        tabulate("Accuracy", groups, _ACCURACY, note),
        tabulate("Energy of one image", groups, _energy_columns(runs), analysed + costs),
        tabulate("Dynamics", groups, _DYNAMICS, analysed),
        _speed(groups, note),
    ]


def provenance(runs: Sequence[Run]) -> str:
    """One line: data, network, seeds, commit and device of the runs of one table.

    Args:
        runs: of equal settings but for encoder and seed.
    """
    train, test = (_counts(runs, name) for name in ("train_images", "test_images"))
    dataset, T, epochs = (", ".join(values(runs, name)) for name in ("dataset", "T", "epochs"))
    counts = {len(found) for found in group(runs).values()}
    n = f"n = {counts.pop()}" if len(counts) == 1 else "n as in the table"
    seeds = ", ".join(sorted(values(runs, "seed"), key=int))
    return (
        f"Mean ± standard deviation over the seeds {seeds} ({n}): {dataset}, {train} training and {test} test images, "
        f"{runs[0].network}, T = {T}, epochs: {epochs}; commit {', '.join(values(runs, 'commit'))}; "
        f"{'; '.join(values(runs, 'device'))}."
    )


def attention_energy(by_layer: Mapping[str, Sequence[float]]) -> float:
    """The part of attention in the complete energy, in picojoules.

    Args:
        by_layer: the column ``energy_by_layer``.
    """
    parts = {name: set(name.removesuffix(" (gate)").split(".")) for name in by_layer}
    return sum(complete for name, (_, complete) in by_layer.items() if parts[name] & _ATTENTION)


def _speed(groups: Mapping[str, Sequence[Run]], note: str) -> Table:
    """The speeds that can be compared; those of different machines, or of a busy one, are left out with the reason.

    Rows do not say what else ran. Seeds of one encoder have equal work, so their speeds do.
    """
    runs = [run for found in groups.values() for run in found]
    for name, plural in _MACHINE.items():
        if len(several := values(runs, name)) > 1:
            return Table("Speed", (), (), f"Left out: the rows are of several {plural} ({'; '.join(several)}).")
    kept: list[Mean] = []
    left_out: dict[str, list[str]] = {}
    for name, title in _SPEED.items():
        measured = {label: [run.value(name) for run in found if run.value(name)] for label, found in groups.items()}
        ratios = {label: max(found) / min(found) for label, found in measured.items() if len(found) > 1}
        label = max(ratios, key=lambda label: ratios[label], default="")
        if label and ratios[label] > _QUIET:
            reason = f"the seeds of {label} differ by a factor of {ratios[label]:.2f}"
            left_out.setdefault(reason, []).append(title)
        elif alone := next((label for label, found in measured.items() if len(found) == 1), None):
            left_out.setdefault(f"{alone} has one seed only", []).append(title)
        elif ratios:
            kept.append(mean(title, name, 1))
    if left_out:
        reasons = "; ".join(f"{', '.join(titles)} ({reason})" for reason, titles in left_out.items())
        rule = f"Speeds are shown where every encoder has two seeds or more that agree within a factor of {_QUIET}"
        note = f"{note}\nLeft out: {reasons}. {rule}, as on a quiet machine."
    return tabulate("Speed", groups, kept, note)


def _profile(runs: Sequence[Run]) -> str:
    """A sentence on the profile of the energies; empty for rows of before there was another than 45 nm."""
    found = dict.fromkeys(run.analysed.energy_profile or DEFAULT_PROFILE for run in runs if run.analysed is not None)
    if len(found) > 1:
        raise UsageError(f"Energies of several profiles ({', '.join(found)}) are not averaged", "give runs of one")
    return f" Costs: {next(iter(found))}." if values(runs, "energy_profile") else ""


def _attention(run: Run, unit: float) -> float | None:
    return None if run.analysed is None else attention_energy(run.analysed.energy_by_layer) / unit


def _encoder_share(run: Run) -> float | None:
    if run.analysed is None or not run.analysed.energy_complete_pj:
        return None
    return 100 * run.analysed.energy_encoder_pj / run.analysed.energy_complete_pj


def _non_spiking(run: Run) -> float | None:
    return None if run.analysed is None else len(run.analysed.non_spiking_layers)


def _energy_columns(runs: Sequence[Run]) -> tuple[Mean, ...]:
    joules, unit = _scale(runs, ("energy_paper_pj", "energy_complete_pj"), {"nJ": 1e3, "µJ": 1e6, "mJ": 1e9})
    counted, count = _scale(
        runs,
        ("dense_macs", "effective_macs", "effective_acs"),
        {"thousand": 1e3, "million": 1e6, "billion": 1e9},
    )
    return (
        mean(f"paper ({joules})", "energy_paper_pj", unit=unit),
        mean(f"complete ({joules})", "energy_complete_pj", unit=unit),
        *(mean(f"{title} ({joules})", name, unit=unit) for name, title in _WITH_MEMORY.items() if values(runs, name)),
        Mean(f"attention ({joules})", partial(_attention, unit=unit)),
        Mean("encoder's share (%)", _encoder_share, 1),
        mean(f"dense MACs ({counted})", "dense_macs", 1, unit=count, exact=True),
        mean(f"effective MACs ({counted})", "effective_macs", 1, unit=count),
        mean(f"effective ACs ({counted})", "effective_acs", 1, unit=count),
        Mean("non-spiking layers", _non_spiking, 1, exact=True),
    )


def _scale(runs: Sequence[Run], names: Sequence[str], units: Mapping[str, float]) -> tuple[str, float]:
    """The largest unit in which no number but 0 is below 1; else the first."""
    smallest = min((value for run in runs for name in names if (value := run.value(name))), default=0.0)
    scales = list(units.items())
    return next((each for each in reversed(scales) if smallest >= each[1]), scales[0])


def _counts(runs: Sequence[Run], name: str) -> str:
    found = dict.fromkeys(count for run in runs if (count := run.value(name)) is not None)
    return " or ".join(f"{count:,.0f}" for count in found)
