"""The commands of ``gac-sj`` (and ``python -m gac_sj``), one module of :mod:`gac_sj.cli` each."""

from __future__ import annotations

import argparse
from types import ModuleType

import gac_sj
from gac_sj.cli import completion, convert, environment, export, models, predict, push, summary
from gac_sj.cli.networks import pretrained_names
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
    "completion": completion,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gac-sj",
        description="Gated Attention Coding for SpikingJelly.",
        epilog="gac-sj COMMAND --help says more. Training: experiments/train.py, benchmarks/run_cifar.py.",
    )
    parser.add_argument("--version", action="version", version=f"gac_sj {gac_sj.__version__}")
    parser.set_defaults(parser=parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
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
    if args.command is None:
        print(_first_steps())
    else:
        COMMANDS[args.command].run(args)


def _first_steps() -> str:
    """What people do first, a command each."""
    weights = next(iter(pretrained_names()), "NAME")
    return f"""\
Gated Attention Coding for SpikingJelly. What people do first:

classify a picture with weights that come with the package
    gac-sj predict IMAGE --model {weights} --pretrained
put an encoder in front of a network, and see what it costs (in your own code: help(gac_sj.attach))
    gac-sj summary spikingjelly:sew_resnet18 --encoder gac
train a network (in a clone of the repository, like the next one)
    python experiments/train.py --dataset digits --model gac_ms_resnet8_cifar --output runs/first
compare encoders
    python benchmarks/run_cifar.py --dataset digits --encoders gac direct --output runs/digits
see the versions, devices and operators here
    gac-sj env

gac-sj --help lists all commands."""
