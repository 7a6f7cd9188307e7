"""Measure speed and memory of variants in turns, in one run. Results are checked first; a wrong variant is not timed.

    python benchmarks/speed.py --quick
    python benchmarks/speed.py encoder
    python benchmarks/speed.py lif --dtype bfloat16
    python benchmarks/speed.py norm_lif --channels 64 --size 8
    python benchmarks/speed.py network --model gac_ms_resnet34 -T 4 --batch 1 --modes forward
    python benchmarks/speed.py memory
    python benchmarks/speed.py train --forms float32 bfloat16+channels_last
    python benchmarks/speed.py inference
    python benchmarks/speed.py loaders --data-dir DIR
    python benchmarks/speed.py lif --against REV

``ours`` is this package on its default path (or that of GAC_SJ_OPS), ``spikingjelly`` is the installed release, and
``naive`` does what the published code does: a stem that runs T times, then a loop over steps. The program prints the
median, the 20 % and 80 % quantiles and the ratio of medians, and appends rows to the file --output.

``--against REV`` (encoder, lif, norm_lif, network, train) measures this checkout and a temporary worktree of a git
revision in pairs of processes, and prints how many times as long this checkout takes: the median of the ratios of the
pairs and their 5, 25, 75 and 95 % quantiles.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import sys
from pathlib import Path

import torch
from speeds import against, encoder, inference, lif, loaders, memory, network, norm_lif, train
from speeds.passes import MODES
from speeds.rows import report

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj._utils.provenance import commit, device_name, versions
from gac_sj._utils.validation import positive
from gac_sj.cli.program import program
from gac_sj.results.speed import SPEED
from gac_sj.results.store import Rows

BENCHMARKS = {
    "encoder": encoder,
    "lif": lif,
    "norm_lif": norm_lif,
    "network": network,
    "memory": memory,
    "train": train,
    "inference": inference,
    "loaders": loaders,
}
#: The benchmarks that "all" runs; they need no data.
ALL = ("encoder", "lif", "norm_lif", "network", "memory")


def build_parser(quick: bool = False) -> argparse.ArgumentParser:
    """The parser of the command line.

    Args:
        quick: whether the command line has ``--quick``, which changes defaults.
    """
    parser = argparse.ArgumentParser(
        "speed.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = parser.add_subparsers(dest="benchmark", required=True)
    everything = names.add_parser("all", help=f"{', '.join(ALL)} with their defaults; the default", **_EXACT)
    everything.set_defaults(repeats=None)
    commands = {"all": everything}
    for name, module in BENCHMARKS.items():
        commands[name] = names.add_parser(name, help=module.HELP, **_EXACT)
        module.add_arguments(commands[name])
    for name in ("encoder", "lif", "norm_lif", "network"):
        commands[name].add_argument(
            "--modes", nargs="+", choices=MODES, default=[*MODES], metavar="MODE", help=f"default: {' '.join(MODES)}"
        )
        against.add_arguments(commands[name])
    against.add_arguments(commands["train"])
    for name, command in commands.items():
        add = command.add_argument
        add("--repeats", type=int, metavar="N", help="number of timings of each variant")
        add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default here: %(default)s")
        add("--output", type=Path, metavar="CSV", help="append the rows to this file")
        add("--quick", action="store_true", help="smaller defaults; explicit options still apply")
        if quick and name != "all":
            command.set_defaults(**BENCHMARKS[name].QUICK)
    return parser


_EXACT = dict(allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter)


def run(args: argparse.Namespace) -> None:
    """Check, time, print and record one benchmark.

    Args:
        args: the parsed arguments.

    Raises:
        UsageError: an argument cannot be used, or memory does not suffice.
        OSError: a file cannot be read or written.
        WrongResultError: a variant computes another result; then none is timed.
    """
    for name in ("T", "batch", "size", "channels", "images", "elements", "repeats"):
        if getattr(args, name, None) is not None:
            positive(name, getattr(args, name))
    args.device = _device(args.device)
    if hasattr(args, "modes"):  # forward before training, which changes running statistics, each variant its own
        args.modes = sorted({*args.modes}, key=MODES.index)
    rows = Rows(args.output, SPEED) if args.output else None
    try:
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
    except torch.OutOfMemoryError as error:
        raise UsageError(
            f"The benchmark needs more memory than the device has ({first_sentence(error)})", "pass a smaller --batch"
        ) from error


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # streams, events and graphs belong to the current device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"must be a device that is available here, got {name!r}",
            "pass cpu, or cuda if there is a GPU",
            argument="device",
        ) from error
    return device


def main(arguments: list[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: the command line; None: that of this process. Without the name of a benchmark it means "all".

    Returns:
        The exit status.
    """
    given = [*(sys.argv[1:] if arguments is None else arguments)]
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help")):
        given = ["all", *given]
    parser = functools.partial(build_parser, "--quick" in given)

    @program(parser)
    def measure(args: argparse.Namespace) -> None:
        if hasattr(args, "against"):
            against.compare(args, given)
            return
        if hasattr(args, "pairs"):
            raise UsageError("needs --against REV", argument="pairs")
        for name in ALL if args.benchmark == "all" else (args.benchmark,):
            known, _ = parser().parse_known_args([name, *given[1:]])  # --import has been dealt with
            run(known)

    return measure(given)


if __name__ == "__main__":
    sys.exit(main())
