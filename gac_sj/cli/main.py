"""The commands of ``gac-sj`` (and ``python -m gac_sj``), one module of :mod:`gac_sj.cli` each."""

from __future__ import annotations

import argparse
from types import ModuleType

import gac_sj
from gac_sj.cli import convert, environment, export, models, predict, push, summary
from gac_sj.cli.program import program

__all__ = ["main"]

COMMANDS: dict[str, ModuleType] = {
    "env": environment,
    "models": models,
    "summary": summary,
    "convert": convert,
    "export": export,
    "predict": predict,
    "push": push,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gac-sj",
        description="Gated Attention Coding for SpikingJelly.",
        epilog="gac-sj COMMAND --help says more. Training: experiments/train.py, benchmarks/run_cifar.py.",
    )
    parser.add_argument("--version", action="version", version=f"gac_sj {gac_sj.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        text = module.__doc__ or ""
        command = commands.add_parser(
            name,
            help=text.partition("\n")[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
    return parser


@program(_parser)
def main(args: argparse.Namespace) -> None:
    """Run a command; see :func:`gac_sj.cli.program.program` for its exit status."""
    COMMANDS[args.command].run(args)
