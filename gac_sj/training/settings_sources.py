"""Where settings come from: a YAML file, and the command line, which overrides it."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

from gac_sj._utils import configuration
from gac_sj._utils.configuration import read_yaml
from gac_sj.training.settings import Settings

__all__ = ["add_arguments", "from_args", "from_command_line", "from_file"]

#: Of all settings.
NAMES = tuple(field.name for field in dataclasses.fields(Settings))


def add_arguments(parser: argparse.ArgumentParser, without: Collection[str] = ()) -> None:
    """Add ``--config`` and an option for every setting.

    Args:
        parser: the parser of a program.
        without: names of settings that get no option.
    """
    parser.add_argument("-c", "--config", metavar="FILE", help="YAML file of settings; the command line overrides it")
    configuration.add_arguments(parser, Settings, without)


def from_file(path: str | Path) -> dict[str, Any]:
    """The settings that a YAML file gives.

    Args:
        path: of the file.

    Raises:
        UsageError: see :func:`gac_sj._utils.configuration.read_yaml`.
    """
    return read_yaml(path, NAMES)


def from_command_line(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that a command line gives.

    Args:
        args: what a parser with :func:`add_arguments` has parsed.
    """
    return {name: value for name, value in vars(args).items() if name in NAMES}


def from_args(args: argparse.Namespace) -> Settings:
    """The settings of ``--config``, overridden by the command line.

    Args:
        args: what a parser with :func:`add_arguments` has parsed.

    Raises:
        UsageError: see :class:`Settings` and :func:`gac_sj._utils.configuration.read_yaml`.
    """
    return Settings(**(from_file(args.config) if args.config else {}) | from_command_line(args))
