"""Say what there is here: versions, devices, and the path that each operator takes."""

from __future__ import annotations

import argparse

from gac_sj import env


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> None:
    print(env.report())
