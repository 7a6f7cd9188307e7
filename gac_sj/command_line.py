"""The commands of ``gac-sj`` (and ``python -m gac_sj``), one module of :mod:`gac_sj.commands` each."""

from __future__ import annotations

import argparse
import os
import sys

import gac_sj
from gac_sj.commands import convert, environment, export, models, predict, summary

__all__ = ["main"]

COMMANDS = {
    "env": environment,
    "models": models,
    "summary": summary,
    "convert": convert,
    "export": export,
    "predict": predict,
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: of the command line; None: those of this process.

    Returns:
        The exit status: 0; 2 where the user has to change something, with a sentence on stderr; 130 after Ctrl-C; 141
        where the reader of the output went away.
    """
    args = _parser().parse_args(arguments)
    try:
        COMMANDS[args.command].run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # what is left in the buffer would complain when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError) as error:
        print(f"gac-sj: {' '.join(str(error).split())}", file=sys.stderr)  # other packages write several lines
        return 2
    except KeyboardInterrupt:
        print("gac-sj: interrupted.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gac-sj",
        description="Gated Attention Coding for SpikingJelly.",
        epilog="gac-sj COMMAND --help says more. Training: experiments/train.py, benchmarks/run_cifar.py.",
    )
    parser.add_argument("--version", action="version", version=f"gac_sj {gac_sj.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        first_line = module.__doc__.partition("\n")[0]
        command = commands.add_parser(
            name, help=first_line, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(command)
    return parser
