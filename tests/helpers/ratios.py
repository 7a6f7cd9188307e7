"""Ratios that a machine measures now beside those that are checked in."""

import csv

#: Columns that say what was timed, apart from how often.
SETTING = ("benchmark", "variant", "mode", "model", "dtype", "T", "batch", "size", "channels")


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def falls(found, recorded, share=0.2):
    """Sentences about ratios that fell by more than a share of what was recorded last, of the same CPU if there is one.

    Args:
        found: rows of speed.py that were measured now, on a CPU.
        recorded: checked-in rows.
        share: of a ratio.
    """
    last = {}
    for row in sorted(recorded, key=lambda row: row["date"]):
        if not row["device"].startswith("NVIDIA"):
            last[setting(row), None] = last[setting(row), row["device"]] = row
    for row in found:
        before = last.get((setting(row), row["device"]), last.get((setting(row), None)))
        if before and float(row["speedup"]) < (1 - share) * float(before["speedup"]):
            yield (
                f"{row['benchmark']}, {row['mode']}: {row['variant']} is {row['speedup']} times as fast as the "
                f"baseline, and was {before['speedup']} times (commit {before['commit']}, {before['device']})"
            )


def setting(row):
    return tuple(row.get(name, "") for name in SETTING)
