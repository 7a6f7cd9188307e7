"""Speed and memory, measured interleaved in one run; a variant whose result is wrong is not timed.

    python benchmarks/speed.py --quick
    python benchmarks/speed.py encoder
    python benchmarks/speed.py lif --dtype bfloat16
    python benchmarks/speed.py network --model gac_ms_resnet34 -T 4 --batch 1 --modes forward
    python benchmarks/speed.py memory
    python benchmarks/speed.py loaders --data-dir DIR
    python benchmarks/speed.py lif --against REV

``ours`` is the package on the path that it takes by itself (or that GAC_SJ_OPS names), ``spikingjelly`` the installed
release, ``naive`` the published way: a loop over steps behind a stem that runs T times. Prints the median, the 20 % and
80 % quantiles and the ratio of medians, and adds rows to --output where that is given.

``--against REV`` (encoder, lif, network) runs the same in this checkout and in a temporary worktree of a git revision,
in pairs of processes, and prints how many times as long this checkout takes: the median of the pairs' ratios and their
5, 25, 75 and 95 % quantiles.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path

import torch
from speeds import against, encoder, lif, loaders, memory, network
from speeds.checking import WrongResultError
from speeds.passes import MODES
from speeds.rows import report

from gac_sj._utils.provenance import commit, device_name, versions
from gac_sj.results.speed import speed_rows

BENCHMARKS = {"encoder": encoder, "lif": lif, "network": network, "memory": memory, "loaders": loaders}
#: What "all" runs: what needs no data.
ALL = ("encoder", "lif", "network", "memory")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = parser.add_subparsers(dest="benchmark", required=True)
    everything = names.add_parser("all", help=f"{', '.join(ALL)} with their defaults; without a name, this", **_EXACT)
    everything.set_defaults(repeats=None)
    commands = {"all": everything}
    for name, module in BENCHMARKS.items():
        commands[name] = names.add_parser(name, help=module.HELP, **_EXACT)
        module.add_arguments(commands[name])
    for name in ("encoder", "lif", "network"):
        commands[name].add_argument(
            "--modes", nargs="+", choices=MODES, default=[*MODES], metavar="MODE", help=f"default: {' '.join(MODES)}"
        )
        against.add_arguments(commands[name])
    for name, command in commands.items():
        add = command.add_argument
        add("--repeats", type=int, metavar="N", help="timings of each variant")
        add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default here: %(default)s")
        add("--output", type=Path, metavar="CSV", help="add the rows to this file")
        add("--quick", action="store_true", help="a small form; what is given beside it holds")
        if "--quick" in arguments and name != "all":
            command.set_defaults(**BENCHMARKS[name].QUICK)
    return parser.parse_args(arguments)


_EXACT = dict(allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter)


def run(args: argparse.Namespace) -> None:
    """Check, time, print and write down one benchmark.

    Raises:
        ValueError, OSError: arguments or files that cannot be used.
        WrongResultError: a variant does not compute the same; then none is timed.
    """
    for name in ("T", "batch", "size", "channels", "images", "elements", "repeats"):
        value = getattr(args, name, None)
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; give a whole number of at least 1.")
    args.device = _device(args.device)
    if hasattr(args, "modes"):  # training moves running statistics, and each variant has its own
        args.modes = sorted({*args.modes}, key=MODES.index)
    rows = speed_rows(args.output) if args.output else None
    comparisons = BENCHMARKS[args.benchmark].compare(args)
    shared = {
        "benchmark": args.benchmark,
        "repeats": args.repeats,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "commit": commit(),
        "versions": versions(),
        "device": device_name(args.device),
    }
    for comparison in comparisons:
        for row in report(comparison, shared, args.device):
            if rows:
                rows.add(row)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # streams, events and graphs are those of the current one
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"--device is {name}, which cannot be had here; give cpu, or cuda where there is one."
        ) from error
    return device


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["all", *arguments]
    try:
        args = parse(arguments)
        if hasattr(args, "against"):
            against.compare(args, arguments)
            return 0
        if hasattr(args, "pairs"):
            raise ValueError("--pairs needs --against REV.")
        names = ALL if args.benchmark == "all" else (args.benchmark,)
        for name in names:
            run(parse([name, *arguments[1:]]))
    except (ValueError, OSError, WrongResultError, torch.OutOfMemoryError) as error:
        print(f"speed.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
