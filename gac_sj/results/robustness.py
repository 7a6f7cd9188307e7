"""Accuracies on corrupted images and under attack: their rows, which benchmarks/robustness.py writes, and tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gac_sj._utils.errors import UsageError
from gac_sj.results.columns import Schema, column, columns_of, parse
from gac_sj.results.run import Record, group
from gac_sj.results.table import Mean, Table, Words, tabulate, values

__all__ = [
    "CLEAN", "ROBUSTNESS", "RUN_COLUMNS", "RobustnessKey", "RobustnessMeasured", "RobustnessTest", "robustness_groups",
    "robustness_sets", "robustness_tables", "severities",
]  # fmt: skip

#: The "corruption" of images that are not corrupted.
CLEAN = "clean"
#: Columns that the row of the run has too.
RUN_COLUMNS = ("dataset", "model", "encoder", "form", "model_options", "T", "epochs", "seed")


@dataclass(frozen=True, kw_only=True)
class RobustnessKey:
    """What a row is found by: the weights and their run, then the test."""

    weights: str = column("fingerprint of the weights")
    settings: str = column("stands for all settings of the run but encoder, form, model_options and seed")
    data: str = column("fingerprint of the run's images")
    dataset: str = column("of the run")
    model: str = column("of the run")
    encoder: str = column("of the run")
    form: str | None = column("of the run's encoder")
    model_options: dict[str, Any] = column("of the run")
    T: int = column("of the run")
    epochs: int = column("of the run")
    seed: int = column("of the run")
    corruption: str = column("corruption or attack; clean: neither")
    severity: int = column("1 to 5; 0 for clean images")
    images: int = column("number of test images")
    batch_size: int = column("images at a time, which decides what random encoders draw")
    corruption_seed: int = column("of corruptions, attacks and random encoders")
    pgd_steps: int | None = column("steps of the attack pgd")


@dataclass(frozen=True, kw_only=True)
class RobustnessMeasured:
    """What a test measures."""

    strength: float = column("what gac_sj.analysis says it is for each corruption; epsilon for attacks")
    gradient: str = column('"surrogate" or "straight-through" under attack, else empty')
    accuracy: float = column("percentage of the images")
    seconds: float = column("time of the test", volatile=True)
    commit: str = column("of the code; -dirty is appended if files differ from it")
    versions: str = column("Python and the packages that matter")
    device: str = column("product name; of a CPU also the number of threads")
    date: str = column("of the test, UTC", volatile=True)


_KEY = columns_of(RobustnessKey, key=True)
_MEASURED = columns_of(RobustnessMeasured)
#: The columns of robustness.csv.
ROBUSTNESS = Schema("robustness", _KEY + _MEASURED)
#: What the tests of one encoder differ in.
_TESTS = ("seed", "weights", "corruption", "severity", "pgd_steps")


@dataclass(frozen=True)
class RobustnessTest(Record):
    """The accuracy of one network on images of one corruption and severity: a row of robustness.csv.

    Args:
        settings: values of the columns of :class:`RobustnessKey`, by name.
        path: see :class:`gac_sj.results.run.Record`.
        measured: what the test measured.
    """

    measured: RobustnessMeasured

    @classmethod
    def from_row(cls, row: Mapping[str, str], path: Path | None = None) -> RobustnessTest:
        """Parse a row.

        Args:
            row: all cells by column.
            path: the file that it comes from.

        Raises:
            UsageError: a cell has a value of another type; the message names file and column.
        """
        return cls(parse(row, _KEY, path), path, RobustnessMeasured(**parse(row, _MEASURED, path)))

    @property
    def corruption(self) -> str:
        """The corruption or attack, or :data:`CLEAN`."""
        return self.settings["corruption"]

    @property
    def severity(self) -> int:
        """1 to 5; 0 for clean images."""
        return self.settings["severity"]


def robustness_sets(tests: Iterable[RobustnessTest]) -> dict[str, list[RobustnessTest]]:
    """The tests that can share a table, by the settings in which the sets differ; copies count once.

    Args:
        tests: of any runs.

    Raises:
        UsageError: two accuracies of one encoder, seed, corruption and severity in a set.
    """
    return {title: _without_copies(found) for title, found in group(tests, over=("encoder", *_TESTS)).items()}


def robustness_groups(tests: Iterable[RobustnessTest]) -> dict[str, list[RobustnessTest]]:
    """The tests of one set by the label of their encoder.

    Args:
        tests: one set of :func:`robustness_sets`.
    """
    return group(tests, over=_TESTS)


def severities(tests: Iterable[RobustnessTest]) -> dict[str, set[int]]:
    """The severities of every corruption, clean first.

    Args:
        tests: of any runs.
    """
    found: dict[str, set[int]] = {}
    for test in tests:
        found.setdefault(test.corruption, set()).add(test.severity)
    return {name: found[name] for name in sorted(found, key=lambda name: name != CLEAN)}


def robustness_tables(tests: Sequence[RobustnessTest]) -> list[Table]:
    """Accuracy by corruption, and by attack if there is one: the mean over severities of a run, then over seeds.

    An attack follows the gradient of the neurons' surrogates; for encoders without a gradient it follows another one.

    Args:
        tests: one set of :func:`robustness_sets`.
    """
    attacks = {test.corruption for test in tests if test.measured.gradient}
    levels, note = severities(tests), _note(tests)
    groups = group(_mean_over_severities(tests, levels))
    columns = {name: Mean(name.replace("_", " "), partial(_RunMeans.mean, name=name)) for name in levels}
    corrupted = [each for name, each in columns.items() if name not in attacks]
    attacked = [each for name, each in columns.items() if name in attacks or name == CLEAN]
    tables = [tabulate("Accuracy on corrupted images (%)", groups, corrupted, note)]
    if attacks:
        tables.append(tabulate("Accuracy under attack (%)", groups, [*attacked, Words("gradient", "gradient")], note))
    return tables


@dataclass(frozen=True)
class _RunMeans(Record):
    """The mean accuracy of a run by corruption, if it was tested at all severities, and the gradient of attacks."""

    means: Mapping[str, float]
    gradient: str

    def mean(self, name: str) -> float | None:
        """The mean accuracy on images of one corruption."""
        return self.means.get(name)


def _mean_over_severities(tests: Iterable[RobustnessTest], levels: Mapping[str, set[int]]) -> list[_RunMeans]:
    shared = (*RUN_COLUMNS, "settings")
    runs: dict[str, list[RobustnessTest]] = {}
    for test in tests:
        runs.setdefault(repr([test.settings[name] for name in shared]), []).append(test)
    found = []
    for of_run in runs.values():
        means = {}
        for name, wanted in levels.items():
            accuracies = {test.severity: test.measured.accuracy for test in of_run if test.corruption == name}
            if accuracies.keys() == wanted:
                means[name] = statistics.mean(accuracies.values())
        settings = {name: of_run[0].settings[name] for name in shared}
        found.append(_RunMeans(settings, None, means, ", ".join(values(of_run, "gradient"))))
    return found


def _without_copies(tests: Iterable[RobustnessTest]) -> list[RobustnessTest]:
    first: dict[str, RobustnessTest] = {}
    for test in tests:
        key = repr([test.settings[name] for name in (*RUN_COLUMNS, "corruption", "severity")])
        other = first.setdefault(key, test)
        if (other.measured.accuracy, other.settings["weights"]) != (test.measured.accuracy, test.settings["weights"]):
            places = " and ".join(values([other, test], "path")) or "The rows"
            raise UsageError(
                f"{places} have two accuracies of {test.label}, seed {test.seed}, {test.corruption} {test.severity}",
                "keep one",
            )
    return list(first.values())


def _note(tests: Sequence[RobustnessTest]) -> str:
    """One line: severities, seeds, data, network, commit and device."""
    dataset, model, T, epochs = (", ".join(values(tests, name)) for name in ("dataset", "model", "T", "epochs"))
    seeds = ", ".join(sorted(values(tests, "seed"), key=int))
    levels = sorted({level for name, found in severities(tests).items() if name != CLEAN for level in found})
    over = f"Mean over the severities {', '.join(map(str, levels))}, then mean" if levels else "Mean"
    return (
        f"{over} ± standard deviation over the seeds {seeds}: {dataset}, {' or '.join(values(tests, 'images'))} test "
        f"images, {model}, T = {T}, epochs: {epochs}; commit {', '.join(values(tests, 'commit'))}; "
        f"{'; '.join(values(tests, 'device'))}."
    )
