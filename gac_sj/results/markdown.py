"""The parts of the READMEs that are made from checked-in rows, each between two markers.

<!-- rows: digits -->
whatever BLOCKS["digits"] says
<!-- rows: end -->
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from compare import LEAST, interval, pair

from gac_sj._utils.files import write_atomically
from gac_sj.results.files import read_folder
from gac_sj.results.robustness import robustness_sets, robustness_tables
from gac_sj.results.speed import speed_sentences
from gac_sj.results.table import Row, Table
from gac_sj.results.tables import by_encoder, by_settings, result_tables

__all__ = ["BLOCKS", "Page", "rewrite", "rewrite_pages"]

REPOSITORY = Path(__file__).resolve().parents[2]
#: What has blocks, below the repository.
PAGES = ("README.md", "benchmarks/README.md")
BEGIN, END = "<!-- rows: NAME -->", "<!-- rows: end -->"
MARKER = re.compile(r"^<!-- rows: (.*) -->$", re.MULTILINE)

RUN = "python benchmarks/run_cifar.py --dataset"
TEST = "python benchmarks/robustness.py"
SMALL = f"{RUN} cifar10 --train-limit 10000 --eval-every"
#: The checked-in rows.
FORMS = "experiments/encoder_forms/results.csv"
CIFAR = "experiments/results/cifar10_small/results.csv"
DIGITS = "benchmarks/results/digits/results.csv"
STEPS = "benchmarks/results/digits_steps/results.csv"
ATTENTION = "benchmarks/results/digits_attention/results.csv"
ROBUST_CIFAR = "experiments/results/cifar10_small/robustness.csv"
ROBUST_DIGITS = "benchmarks/results/digits/robustness.csv"
SPEED = "benchmarks/results/speed.csv"
# one command where the rows came with several, each with some of these encoders and seeds
_ENCODERS = "gac direct direct_lif direct_matched poisson latency weighted_phase gac:current"
#: What makes them.
COMMANDS: dict[str, tuple[str, ...]] = {
    FORMS: (
        f"{SMALL} 5 --epochs 10 --encoders gac:reference gac:unit_gate gac:low_threshold gac:current direct "
        "--output experiments/encoder_forms",
    ),
    CIFAR: (
        f"{SMALL} 3 --epochs 15 --encoders {_ENCODERS} --output experiments/results/cifar10_small",
        f"{SMALL} 3 --epochs 15 --encoders direct:block_attention=TCSA --output experiments/results/cifar10_small",
    ),
    DIGITS: (
        f"{RUN} digits --seeds 0 1 2 3 4 --encoders {_ENCODERS} temporal_wise multi_dimensional gac:temporal "
        "gac:spatial gac:reference gac:unit_gate gac:kernel_size=3 gac:depth=1 --output benchmarks/results/digits",
        f"{RUN} digits --seeds 0 1 2 3 4 --encoders gac direct --model-options '{{spike_driven: true}}' "
        "--output benchmarks/results/digits",
    ),
    STEPS: tuple(
        f"{RUN} digits --encoders gac direct -T {T} --output benchmarks/results/digits_steps" for T in (1, 2, 4, 8)
    ),
    ATTENTION: (
        f"{RUN} digits --seeds 0 1 2 3 4 --encoders gac direct direct:block_attention=TCSA direct:block_attention=TA "
        "direct:block_attention=CA direct:block_attention=SA --output benchmarks/results/digits_attention",
    ),
    ROBUST_CIFAR: (
        f"{TEST} runs/cifar10_small --data-dir DIR --images 100 --output experiments/results/cifar10_small",
    ),
    ROBUST_DIGITS: (f"{TEST} runs/digits --images 350 --output benchmarks/results/digits",),
    SPEED: (
        *(
            f"python benchmarks/speed.py {arguments} --output {SPEED}"
            for arguments in (
                "encoder",
                "lif",
                "lif --dtype bfloat16",
                "network --also channels_last folded spikes_as_bytes grad_checkpointing",
                "network --dtype bfloat16 --also channels_last",
                "network --model gac_ms_resnet34 -T 4 --batch 1 --modes forward --also channels_last folded",
                "network --model gac_ms_resnet8_cifar -T 4 --batch 32 --also channels_last compile",
                "memory --also spikes_as_bytes grad_checkpointing",
                "loaders --data-dir DIR",
            )
        ),
    ),
}
#: What is compared, paired by seed, where there are enough common seeds.
PAIRS = (
    ("gac", "direct"),
    ("gac", "direct_lif"),
    ("gac", "direct_matched"),
    ("gac:current", "direct"),
    ("gac", "direct:block_attention=TCSA"),
    ("direct:block_attention=TCSA", "direct"),
    ("gac:spike_driven=True", "gac"),
    ("direct:spike_driven=True", "direct"),
)


@dataclass(frozen=True)
class Page:
    """A text with blocks.

    Args:
        base: the folder that holds the rows' paths, the repository.
        path: of the text, below it.
    """

    base: Path
    path: str

    def rows(self, kind: str, path: str) -> list[Row]:
        """Checked-in rows of results, robustness or speed.

        Raises:
            ValueError: they are missing, or cannot be read.
        """
        if not (self.base / path).is_file():
            raise ValueError(f"{path} is missing; make it with: {' and '.join(COMMANDS[path])}")
        rows = getattr(read_folder(self.base / path), kind)
        if not rows:
            raise ValueError(f"{path} has no rows of {kind}; make it again with: {' and '.join(COMMANDS[path])}")
        return rows

    def link(self, path: str) -> str:
        """To a file below the base, as it stands in this text."""
        return f"[{path}]({os.path.relpath(self.base / path, (self.base / self.path).parent)})"

    def made_by(self, path: str) -> str:
        """The commands that make the rows."""
        return f"Made by {', '.join(f'`{command}`' for command in COMMANDS[path])}."

    def written(self, tables: list[Table], path: str) -> str:
        """Tables, each with what it rests on."""
        return "\n\n".join(f"{table.markdown()}\n\n{table.note} Rows: {self.link(path)}." for table in tables)


def results(page: Page, path: str, titles: tuple[str, ...]) -> str:
    """Some tables of results, for each set of equal settings, and GAC against the others, paired by seed."""
    parts = []
    for title, rows in by_settings(page.rows("results", path)).items():
        tables = [table for table in result_tables(rows) if table.title in titles and not table.is_empty]
        parts += [f"With {title}:"] if title else []
        parts.append(page.written(tables, path) or f"The rows of {page.link(path)} were not analysed.")
        if "Accuracy" in titles and (found := differences(rows)):
            parts.append(found)
    return "\n\n".join([*parts, page.made_by(path)])


def dynamics(page: Page) -> str:
    """What the encoders put out, on both data sets."""
    return "\n\n".join(results(page, path, ("Dynamics",)) for path in (CIFAR, DIGITS))


def robustness(page: Page, path: str) -> str:
    """Accuracy by corruption and attack, for each set of equal settings."""
    parts = []
    for title, rows in robustness_sets(page.rows("robustness", path)).items():
        parts += [f"With {title}:"] if title else []
        parts.append(page.written(robustness_tables(rows), path))
    return "\n\n".join([*parts, page.made_by(path)])


def speed(page: Page, benchmark: str = "") -> str:
    """A sentence for each measurement, of one benchmark or all.

    Raises:
        ValueError: there is none, or see :meth:`Page.rows`.
    """
    rows = [row for row in page.rows("speed", SPEED) if benchmark in ("", row["benchmark"])]
    if not rows:
        command = f"python benchmarks/speed.py {benchmark} --output {SPEED}"
        raise ValueError(f"{SPEED} has no rows of {benchmark}; add them with: {command}")
    return "\n".join([*(f"- {sentence}" for sentence in speed_sentences(rows)), "", f"Rows: {page.link(SPEED)}."])


def differences(rows: list[Row]) -> str:
    """What PAIRS differ in, last epoch, paired by seed; "" where there are too few common seeds."""
    groups = by_encoder(rows)
    lines = ["Last epoch, paired by seed, each with its own 95 % confidence interval (Student's t):", ""]
    for one, other in PAIRS:
        ours, theirs = groups.get(one, []), groups.get(other, [])
        if len({row["seed"] for row in ours} & {row["seed"] for row in theirs}) >= LEAST:
            lines.append(f"- {difference(one, other, pair(ours, theirs))}")
    return "\n".join(lines) if len(lines) > 2 else ""


def difference(a: str, b: str, pairs: list[tuple[Row, Row]]) -> str:
    """The mean difference, its interval, and what that says."""
    mean, low, high = interval([float(left["accuracy_last"]) - float(right["accuracy_last"]) for left, right in pairs])
    if low <= 0 <= high:
        verdict = f"The interval includes 0: these {len(pairs)} seeds do not tell them apart."
    else:
        verdict = f"The interval excludes 0: `{a}` is {'above' if mean > 0 else 'below'} `{b}`."
    return f"`{a}` - `{b}`: {mean:+.2f} points, [{low:+.2f}, {high:+.2f}], {len(pairs)} seeds. {verdict}"


#: What stands between <!-- rows: NAME --> and <!-- rows: end -->.
BLOCKS: dict[str, Callable[[Page], str]] = {
    "encoder forms": partial(results, path=FORMS, titles=("Accuracy",)),
    "cifar10 small": partial(results, path=CIFAR, titles=("Accuracy", "Energy of one image")),
    "digits": partial(results, path=DIGITS, titles=("Accuracy", "Energy of one image")),
    "digits steps": partial(results, path=STEPS, titles=("Accuracy",)),
    "digits attention": partial(results, path=ATTENTION, titles=("Accuracy", "Energy of one image")),
    "dynamics": dynamics,
    "robustness cifar10": partial(robustness, path=ROBUST_CIFAR),
    "robustness digits": partial(robustness, path=ROBUST_DIGITS),
    "speed": speed,
    "speed encoder": partial(speed, benchmark="encoder"),
    "speed lif": partial(speed, benchmark="lif"),
    "speed loaders": partial(speed, benchmark="loaders"),
}


def rewrite(text: str, page: Page) -> str:
    """The text with what its rows say in every block.

    Raises:
        ValueError: no block, an unknown one or one that does not end; rows that are missing or cannot be read.
    """
    parts, place, name = [], 0, None
    for marker in MARKER.finditer(text):
        if (marker[1] == "end") != (name is not None):
            raise ValueError(
                f"{page.path} has {marker[0]} where {END if name else BEGIN} belongs; each block needs both."
            )
        if name is None:
            name = marker[1]
            if name not in BLOCKS:
                raise ValueError(f"{page.path} has the block {name!r}; choose from {', '.join(BLOCKS)}.")
            parts.append(text[place : marker.end()])
        else:
            parts.append(f"\n\n{BLOCKS[name](page)}\n\n")
            name = None
            place = marker.start()
    if name is not None or not parts:
        raise ValueError(f"{page.path} needs {BEGIN} and {END} around each block, and one block at least.")
    return "".join([*parts, text[place:]])


def rewrite_pages(check: bool) -> list[str]:
    """Write the blocks of all pages again, or only look; those that were out of date.

    Raises:
        ValueError, OSError: see :func:`rewrite`; a page that cannot be read or written. Then none is written.
    """
    try:
        before = {path: (REPOSITORY / path).read_text(encoding="utf-8") for path in PAGES}
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{' and '.join(PAGES)} have blocks, and one cannot be read ({error}); put it back."
        ) from error
    after = {path: rewrite(text, Page(REPOSITORY, path)) for path, text in before.items()}
    stale = [path for path in PAGES if after[path] != before[path]]
    for path in [] if check else stale:
        write_atomically(REPOSITORY / path, after[path].encode())
    return stale
