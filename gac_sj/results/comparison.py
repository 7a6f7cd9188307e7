"""Two sets of runs, paired by seed: the differences, their mean, its confidence interval and p-value."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from gac_sj._utils.errors import UsageError
from gac_sj.results.columns import text_of
from gac_sj.results.run import ENCODER_SETTINGS, Run

__all__ = ["MIN_SEEDS", "Interval", "corrected", "differing", "interval", "pair"]

#: Common seeds that an interval needs at least.
MIN_SEEDS = 3
#: What the two sets may differ in, and so what is compared.
COMPARED = ("model", *ENCODER_SETTINGS)


@dataclass(frozen=True)
class Interval:
    """A mean difference, its 95 % confidence interval and the p-value of the paired t-test.

    Args:
        mean: of the differences.
        low: lower end.
        high: upper end.
        n: number of differences.
        p: probability of a mean at least as far from 0 if there were no difference.
    """

    mean: float
    low: float
    high: float
    n: int
    p: float

    @property
    def includes_zero(self) -> bool:
        """Whether the differences are not significant at the 95 % level."""
        return self.low <= 0 <= self.high

    def verdict(self, a: str, b: str) -> str:
        """What the interval says.

        Args:
            a: name of the first set.
            b: name of the second set.
        """
        if self.includes_zero:
            return f"includes 0: no significant difference at the 95 % level ({self.n} seeds)."
        return f"excludes 0: {a} is {'above' if self.mean > 0 else 'below'} {b}."


def interval(differences: Sequence[float]) -> Interval:
    """The mean of some differences and its 95 % confidence interval.

    Student's t, which takes the differences as normally distributed.

    Args:
        differences: two at least.

    Raises:
        UsageError: SciPy is not installed.
    """
    try:
        from scipy import stats
    except ImportError as error:
        raise UsageError("Confidence intervals need SciPy", "run pip install 'gac_sj[benchmark]'") from error
    mean, n = statistics.mean(differences), len(differences)
    error_of_mean = statistics.stdev(differences) / n**0.5
    half = float(stats.t.ppf(0.975, n - 1)) * error_of_mean
    # equal differences have no spread: certain, unless they are 0
    p = float(2 * stats.t.sf(abs(mean) / error_of_mean, n - 1)) if error_of_mean else float(mean == 0)
    return Interval(mean, mean - half, mean + half, n, p)


def corrected(intervals: Sequence[Interval]) -> list[float]:
    """The p-values of several comparisons, each corrected for their number by Holm's method.

    If none of the differences exists, the smallest of them is below 0.05 in at most 5 % of cases.

    Args:
        intervals: of the comparisons that are made together, one at least.

    Raises:
        UsageError: statsmodels is not installed.
    """
    return list(_holm(tuple(each.p for each in intervals)))


@cache  # multipletests collects garbage first, which takes half a second in a program with torch
def _holm(p_values: tuple[float, ...]) -> tuple[float, ...]:
    try:
        from statsmodels.stats.multitest import multipletests
    except ImportError as error:
        raise UsageError("Several comparisons need statsmodels", "run pip install 'gac_sj[benchmark]'") from error
    return tuple(float(p) for p in multipletests(p_values, method="holm")[1])


def pair(a: Sequence[Run], b: Sequence[Run], over: Sequence[str] = ()) -> list[tuple[Run, Run]]:
    """The runs of the same seeds, ordered by seed.

    Args:
        a: runs of equal settings but for the seed.
        b: the same; what it may differ in from ``a`` is model, encoder, the encoder's options and ``over``.
        over: names of further settings.

    Raises:
        UsageError: the sets differ in more than that, or in nothing; fewer than :data:`MIN_SEEDS` common seeds; a name
            in ``over`` is not that of a setting.
    """
    if unknown := next((name for name in over if name not in a[0].settings), None):
        raise UsageError(f"has {unknown!r}, which is no setting", argument="over", options=a[0].settings, given=unknown)
    others = [name for name in a[0].settings if name not in (*COMPARED, *over, "seed")]
    if found := differing([a[0], b[0]], others):
        raise UsageError(
            f"A and B differ in more than the network ({found})", "compare runs of one recipe, or allow it with --over"
        )
    if not differing([a[0], b[0]], (*COMPARED, *over)):
        raise UsageError("A and B have the same settings", "name two different ones")
    seeds = {run.seed: run for run in b}
    pairs = [(run, seeds[run.seed]) for run in sorted(a, key=lambda run: run.seed) if run.seed in seeds]
    if len(pairs) < MIN_SEEDS:
        shared = ", ".join(str(run.seed) for run, _ in pairs) or "none"
        raise UsageError(f"A and B share {len(pairs)} seeds ({shared}), and this needs {MIN_SEEDS}", "train more")
    return pairs


def differing(runs: Sequence[Run], names: Sequence[str]) -> str:
    """The settings in which runs differ, with their values; empty if there are none.

    Args:
        runs: of any settings.
        names: of the settings to look at.
    """
    found = {name: dict.fromkeys(text_of(run.settings[name]) for run in runs) for name in names}
    return "; ".join(f"{name}: {', '.join(texts)}" for name, texts in found.items() if len(texts) > 1)
