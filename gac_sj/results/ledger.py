"""The ledger: which configs were run, with what result, and which were not."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from gac_sj._utils.configuration import read_yaml
from gac_sj.results.run import Run, group
from gac_sj.results.schema import as_text
from gac_sj.results.table import MISSING, markdown_table, mean, values
from gac_sj.training.settings import Settings

__all__ = ["LEDGER_COLUMNS", "config_of", "ledger", "read_configs", "still_rising"]

LEDGER_COLUMNS = (
    "config", "model", "encoder", "data set", "T", "epochs", "n", "seeds", "last epoch (%)", "best epoch (%)",
    "still rising", "images/s", "commit", "rows",
)  # fmt: skip


def read_configs(folder: Path) -> dict[Path, dict[str, str]]:
    """The settings of every YAML file in a folder, as they are written into rows, without the seed and what is open.

    Args:
        folder: of the files.

    Raises:
        UsageError: see :class:`gac_sj.training.settings.Settings`.
        ValueError: see :func:`gac_sj._utils.configuration.read_yaml`.
    """
    names = [field.name for field in fields(Settings)]
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        settings = Settings(**read_yaml(path, names))
        left_out = {"seed", *settings.open}
        found[path] = as_text({name: value for name, value in settings.key().items() if name not in left_out})
    return found


def ledger(runs: Iterable[Run], configs: Mapping[Path, Mapping[str, str]], base: Path) -> str:
    """Two tables in Markdown: a line for every set of runs that differ in nothing but the seed, and the idle configs.

    Args:
        runs: of any settings.
        configs: as :func:`read_configs` returns them.
        base: folder that paths are relative to.
    """
    sets = [sorted(found, key=lambda run: run.seed) for found in group(runs).values()]
    used = [config_of(found[0], configs) for found in sets]
    table = markdown_table(LEDGER_COLUMNS, (_cells(*each, base) for each in zip(sets, used)))
    idle = [[_named(path, base), "not run"] for path in configs if path not in used]
    return "\n".join([
        "## Runs", "", table if sets else "There are no runs yet.", "",
        "## Configs that were never run", "", markdown_table(("config", "status"), idle),
    ])  # fmt: skip


def still_rising(runs: Sequence[Run]) -> str:
    """Whether the test accuracy was still rising: the gain of the last test over the one before, and its error.

    It was if the mean gain over the seeds is above its standard error; "-" if one seed or one test cannot tell.

    Args:
        runs: that differ in nothing but the seed.
    """
    curves = [list(run.measured.accuracy_by_epoch.values()) for run in runs]
    if len(runs) < 2 or len(curves[0]) < 2:
        return "-"
    gains = [curve[-1] - curve[-2] for curve in curves]
    gain, error = statistics.mean(gains), statistics.stdev(gains) / len(gains) ** 0.5
    return f"{'yes' if gain > error else 'no'} ({gain:+.2f} ± {error:.2f})"


def config_of(run: Run, configs: Mapping[Path, Mapping[str, str]]) -> Path | None:
    """The YAML file with exactly the settings of a run; None if there is none.

    Args:
        run: of any settings.
        configs: as :func:`read_configs` returns them.
    """
    settings = as_text(run.settings)
    return next((path for path, config in configs.items() if config.items() <= settings.items()), None)


def _cells(runs: Sequence[Run], config: Path | None, base: Path) -> list[str]:
    settings = runs[0].settings
    files = list(dict.fromkeys(run.path for run in runs if run.path is not None))
    limit = "" if settings["train_limit"] is None else f", {settings['train_limit']:,} training images"
    speed = statistics.mean(run.measured.images_per_second for run in runs)
    return [
        _named(config, base) if config else MISSING,
        settings["model"],
        runs[0].label,
        settings["dataset"] + limit,
        str(settings["T"]),
        str(settings["epochs"]),
        str(len(runs)),
        "; ".join(values(runs, "seed")),
        mean("", "accuracy_last").cell(runs).text,
        mean("", "accuracy_best").cell(runs).text,
        still_rising(runs),
        f"{speed:,.0f} on {'; '.join(values(runs, 'device'))}",
        "; ".join(values(runs, "commit")),
        ", ".join(_named(path, base) for path in files),
    ]


def _named(path: Path, base: Path) -> str:
    return f"`{Path(os.path.relpath(path, base)).as_posix()}`"
