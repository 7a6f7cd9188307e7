"""Finished runs, and the one way to group them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from gac_sj._utils.errors import UsageError
from gac_sj.encoders import encoder_label
from gac_sj.models import bare_name
from gac_sj.results.columns import columns_of, parse, text_of
from gac_sj.results.schema import ANALYSED_COLUMNS, RUNS, Analysed, Measured

__all__ = ["ENCODER_SETTINGS", "Record", "Run", "group"]

#: The settings that say which encoder a network has. The model is another one: "gac_" names a default encoder.
ENCODER_SETTINGS = ("encoder", "form", "encoder_source", "model_options")
#: Settings that titles name first.
_TELLING = ("dataset", "model", "T", "epochs")


@dataclass(frozen=True)
class Record:
    """A row that was read: what was set, and the file that it comes from.

    Args:
        settings: values of the key columns, by name.
        path: the file; None if the record was not read from one.
    """

    settings: Mapping[str, Any]
    path: Path | None

    @cached_property
    def label(self) -> str:
        """How tables name the encoder: "gac", "gac:current", "gac:attention=temporal"."""
        settings = self.settings
        return encoder_label(settings["encoder"], settings["form"], settings["model_options"])

    @property
    def network(self) -> str:
        """The network behind the encoder: the model's name without the default encoder in it."""
        return bare_name(self.settings["model"])

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.settings["seed"]

    def value(self, name: str) -> Any:
        """The value of a column.

        Args:
            name: a setting, what was measured, or "path".

        Returns:
            The value; None if it was not measured.
        """
        if name in self.settings:
            return self.settings[name]
        parts = (self, *vars(self).values())
        owners = (part for part in parts if name in getattr(part, "__dataclass_fields__", ()))
        return getattr(next(owners, None), name, None)


@dataclass(frozen=True)
class Run(Record):
    """A finished run: one row of results.csv or result.csv, parsed and checked.

    Args:
        settings: every setting that decides about the result, and ``data``, the fingerprint of its images. They are
            typed as in :class:`gac_sj.training.settings.Settings` and not validated, so that rows of an encoder that
            is not registered can be read.
        path: see :class:`Record`.
        measured: accuracies, losses, speeds, and where they were measured.
        analysed: energy and dynamics; None if the run was not analysed.
    """

    measured: Measured
    analysed: Analysed | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, str], path: Path | None = None) -> Run:
        """Parse a row.

        Args:
            row: all cells by column, as :meth:`gac_sj.results.store.Rows.find` returns them.
            path: the file that it comes from.

        Raises:
            UsageError: a cell has a value of another type; the message names file and column.
        """
        settings = parse(row, (each for each in RUNS.columns if each.key), path)
        if settings["encoder"] is None:
            raise UsageError(f"{path or 'A row'} has {row['encoder']!r} as encoder, which must be a name", "fix it")
        measured = Measured(**parse(row, columns_of(Measured), path))
        if not all(epoch.isdecimal() for epoch in measured.accuracy_by_epoch):
            raise UsageError(f"{path or 'A row'} has accuracy_by_epoch whose names are not numbers", "make it again")
        found = any(row[name] for name in ANALYSED_COLUMNS)
        return cls(settings, path, measured, Analysed(**parse(row, columns_of(Analysed), path)) if found else None)


_Record = TypeVar("_Record", bound=Record)


def group(records: Iterable[_Record], over: str | Collection[str] = "seed") -> dict[str, list[_Record]]:
    """Records that differ in nothing but some settings.

    Args:
        records: runs, or rows of another kind.
        over: the settings in which the records of one group may differ. "encoder" stands for all of
            :data:`ENCODER_SETTINGS` and for the default encoder in the model's name.

    Returns:
        Groups in the order in which they first appear. Their names say how they differ: the label of the encoder,
        unless "encoder" is in ``over``, and the settings that tell apart groups of one label: "gac (T=2)", "T=2,
        lr=0.1". The only group over encoders is named "".
    """
    over = {over} if isinstance(over, str) else set(over)
    with_encoder = "encoder" in over
    over |= set(ENCODER_SETTINGS) if with_encoder else set()
    groups: dict[tuple[tuple[str, str], ...], list[_Record]] = {}
    for record in records:
        shared = {name: text_of(value) for name, value in record.settings.items() if name not in over}
        if with_encoder and "model" in shared:
            shared["model"] = record.network
        groups.setdefault(tuple(shared.items()), []).append(record)
    by_label: dict[str, list[dict[str, str]]] = defaultdict(list)
    for key, found in groups.items():
        by_label["" if with_encoder else found[0].label].append(dict(key))
    named: dict[str, list[_Record]] = {}
    for key, found in groups.items():
        label = "" if with_encoder else found[0].label
        told = ", ".join(f"{name}={dict(key)[name]}" for name in _telling(by_label[label]))
        named[f"{label} ({told})" if label and told else label or told] = found
    return named


def _telling(groups: list[dict[str, str]]) -> list[str]:
    """The settings that tell groups apart; one that those before it determine is left out."""
    names = sorted(groups[0], key=lambda name: _TELLING.index(name) if name in _TELLING else len(_TELLING))
    told: list[str] = []
    distinct = 1
    for name in names:
        found = len({tuple(each.get(other) for other in (*told, name)) for each in groups})
        if found > distinct:
            told.append(name)
            distinct = found
    return told
