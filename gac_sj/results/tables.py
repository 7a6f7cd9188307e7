"""Tables of trained networks: which rows may be averaged, and a line per encoder over its seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial
from itertools import takewhile

from gac_sj.encoders import encoder_label
from gac_sj.models import bare_name
from gac_sj.results.schema import MEASURED
from gac_sj.results.table import Column, Row, Steps, Table, column, json_of, number, tabulate, values

__all__ = [
    "attention_energy", "by_encoder", "by_settings", "label", "network_name", "provenance", "result_tables",
    "settings_of", "spread",
]  # fmt: skip

#: What the rows of one table may differ in: a line is one encoder with its recipe and options.
VARYING = ("encoder", "form", "model_options", "seed")


def label(row: Row) -> str:
    """How the encoder of a row is named: with recipe and options where those are not the default ones.

    "gac", "gac:current", "gac:attention=temporal", "gac:reference,kernel_size=3".
    """
    form = None if row["form"] == "None" else row["form"]
    return encoder_label(row["encoder"], form, json_of(row, "model_options") or {})


def by_encoder(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by the label of their encoder.

    What the label does not say, the recipe of the neurons of direct coding and the name of the network, is added where
    two sets of rows would have the same.
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((label(row), row["form"], row["model"]), []).append(row)
    names = Counter(name for name, *_ in groups)
    return {
        name if names[name] == 1 else f"{name} ({form}, {model})": rows for (name, form, model), rows in groups.items()
    }


def network_name(row: Row) -> str:
    """The network behind the encoder: "gac_" says what its default encoder is."""
    return bare_name(row["model"])


def settings_of(row: Row, but: tuple[str, ...] = VARYING) -> dict[str, str]:
    """The settings of a row, with the name of the network behind the encoder, but for some."""
    # settings stand before what was measured, also in older files
    names = takewhile(lambda name: name != MEASURED[0], row)
    return {name: network_name(row) if name == "model" else row[name] for name in names if name not in but}


def by_settings(rows: Iterable[Row], but: tuple[str, ...] = VARYING) -> dict[str, list[Row]]:
    """The rows that may stand in one table: of equal settings but for some; by those in which the sets differ.

    Raises:
        ValueError: there is no row.
    """
    sets: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in rows:
        sets.setdefault(tuple(settings_of(row, but).items()), []).append(row)
    if not sets:
        raise ValueError("There are no rows; name a file or folder that a finished run has left.")
    found: dict[str, set[str]] = {}
    for settings in sets:
        for name, value in settings:
            found.setdefault(name, set()).add(value)
    titled: dict[str, list[Row]] = {}
    for settings, group in sets.items():
        title = ", ".join(f"{name}={value}" for name, value in settings if len(found[name]) > 1)
        while title in titled:  # another version's rows name other settings
            title = f"{title} (other columns)".strip()
        titled[title] = group
    return titled


def spread(rows: Iterable[Row], name: str) -> str:
    """Mean ± standard deviation of a column."""
    return column("", name).cell(list(rows)).text


def provenance(rows: list[Row]) -> str:
    """One line: data, network, seeds, commit and device of the rows of one table."""
    train, test = (_counts(rows, name) for name in ("train_images", "test_images"))
    dataset, T, epochs = (", ".join(values(rows, name)) for name in ("dataset", "T", "epochs"))
    counts = {len(group) for group in by_encoder(rows).values()}
    n = f"n = {counts.pop()}" if len(counts) == 1 else "n as in the table"
    seeds = ", ".join(sorted(values(rows, "seed"), key=int))
    return (
        f"Mean ± standard deviation over the seeds {seeds} ({n}): {dataset}, {train} training and {test} test images, "
        f"{network_name(rows[0])}, T = {T}, epochs: {epochs}; commit {', '.join(values(rows, 'commit'))}; "
        f"{'; '.join(values(rows, 'device'))}."
    )


def result_tables(rows: list[Row]) -> list[Table]:
    """Accuracy, energy, dynamics and speed of rows of equal settings; ``"-"`` where rows were not analysed.

    Raises:
        ValueError: a number is damaged, or settings differ.
    """
    if len(sets := by_settings(rows)) > 1:
        raise ValueError(f"Rows of several settings ({'; '.join(sets)}) are not averaged; give those of one.")
    groups, note = by_encoder(rows), provenance(rows)
    images = _counts(rows, "analysed_images")
    analysed = f"{note} Analysed on {images} test images." if images else f"{note} Not analysed."
    energy = _scale(rows, ENERGIES, {"nJ": 1e3, "µJ": 1e6, "mJ": 1e9})
    operations = _scale(rows, OPERATIONS, {"thousand": 1e3, "million": 1e6, "billion": 1e9})
    return [
        tabulate("Accuracy", groups, ACCURACY, note),
        tabulate("Energy of one image", groups, _energy_columns(*energy, *operations), analysed),
        tabulate("Dynamics", groups, DYNAMICS, analysed),
        tabulate("Speed", groups, SPEED, note),
    ]


ENERGIES = ("energy_paper_pj", "energy_complete_pj")
#: A part of the name of every layer of attention in the networks of gac_sj.models.
ATTENTION = {"gau", "attention"}
OPERATIONS = ("dense_macs", "effective_macs", "effective_acs")
ACCURACY = (
    column("last epoch (%)", "accuracy_last"),
    column("best epoch (%)", "accuracy_best"),
    column("training (%)", "train_accuracy_last"),
    column("firing rate", "firing_rate_mean", 3),
    column("parameters", "parameters", 0, exact=True),
)
DYNAMICS = (
    column("time to repeat", "time_to_repeat"),
    column("duration not shorter", "duration_not_shorter", 3),
    column("entropy (bits)", "entropy_bits", 3),
    column("time to first spike", "time_to_first_spike"),
    column("silent", "silent", 3),
    Steps("information by step (bits)", "information_by_step", 2),
    Steps("change by step", "change_by_step", 2),
    Steps("read-out by step (%)", "readout_by_step", unit=0.01),
)
SPEED = (
    column("training (images/s)", "images_per_second", 1),
    column("inference (images/s)", "inference_images_per_second", 1),
    column("encoder alone (images/s)", "encoder_images_per_second", 1),
    column("training (s)", "train_seconds", 1),
)


def attention_energy(row: Row, unit: float = 1.0) -> float | None:
    """What of the complete energy attention takes, in units of so many picojoules."""
    layers = json_of(row, "energy_by_layer")
    if layers is None:
        return None
    parts = {name: set(name.removesuffix(" (gate)").split(".")) for name in layers}
    return sum(complete for name, (_, complete) in layers.items() if parts[name] & ATTENTION) / unit


def _energy_columns(joules: str, unit: float, counted: str, thousands: float) -> tuple[Column, ...]:
    return (
        column(f"paper ({joules})", "energy_paper_pj", unit=unit),
        column(f"complete ({joules})", "energy_complete_pj", unit=unit),
        Column(f"attention ({joules})", partial(attention_energy, unit=unit)),
        Column("encoder's share (%)", _encoder_share, 1),
        column(f"dense MACs ({counted})", "dense_macs", 1, unit=thousands, exact=True),
        column(f"effective MACs ({counted})", "effective_macs", 1, unit=thousands),
        column(f"effective ACs ({counted})", "effective_acs", 1, unit=thousands),
        Column("non-spiking layers", _non_spiking, 1, exact=True),
    )


def _encoder_share(row: Row) -> float | None:
    part, whole = number(row, "energy_encoder_pj"), number(row, "energy_complete_pj")
    return 100 * part / whole if part is not None and whole else None


def _non_spiking(row: Row) -> float | None:
    names = json_of(row, "non_spiking_layers")
    return None if names is None else len(names)


def _scale(rows: list[Row], names: tuple[str, ...], units: dict[str, float]) -> tuple[str, float]:
    """The largest unit in which no number but 0 is below 1; else the first."""
    smallest = min((value for row in rows for name in names if (value := number(row, name))), default=0.0)
    return next((each for each in reversed(units.items()) if smallest >= each[1]), next(iter(units.items())))


def _counts(rows: list[Row], name: str) -> str:
    found = dict.fromkeys(count for row in rows if (count := number(row, name)) is not None)
    return " or ".join(f"{count:,.0f}" for count in found)
