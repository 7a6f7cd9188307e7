"""Print a script that completes commands, options and the names of networks and encoders in a shell.

gac-sj completion bash > ~/.local/share/bash-completion/completions/gac-sj
gac-sj completion zsh > FOLDER/_gac-sj
gac-sj completion fish > ~/.config/fish/completions/gac-sj.fish
gac-sj completion tcsh > gac-sj.tcsh

The package bash-completion reads the first; without it, and in tcsh, source the file where the shell starts. FOLDER is
one of zsh's $fpath. Nothing runs while you type, so write the script again after an update; with --import it knows what
your file registers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import shtab

from gac_sj.analysis.energy_profile import DEFAULT_PROFILE
from gac_sj.cli.convert import COLOUR
from gac_sj.cli.export import FORMATS
from gac_sj.cli.networks import names, pretrained_names
from gac_sj.encoders import encoder_info, list_encoders


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, help="your shell: %(choices)s")


def run(args: argparse.Namespace) -> None:
    """Print the script.

    Args:
        args: of the command line, with the parser of all commands as ``parser``.
    """
    commands = next(action for action in args.parser._actions if action.dest == "command")
    for command, parser in commands.choices.items():
        suggested = _suggestions(command)
        for action in parser._actions:
            if action.dest in suggested:
                action.choices = list(suggested[action.dest])
            elif action.type is Path or action.dest == "weights":
                action.complete = shtab.FILE
    print(shtab.complete(args.parser, args.shell))


def _suggestions(command: str) -> dict[str, Iterable[str]]:
    """Values of a command's arguments, which also take others."""
    encoders = [encoder_info(name) for name in list_encoders()]
    return {
        "network": names(),
        "pattern": names(),
        "model": pretrained_names() if command == "predict" else names(),
        "encoder": [encoder.name for encoder in encoders],
        "form": dict.fromkeys(form for encoder in encoders for form in encoder.forms),
        "format": FORMATS,
        "dataset": COLOUR,
        "energy": [DEFAULT_PROFILE],
    }
