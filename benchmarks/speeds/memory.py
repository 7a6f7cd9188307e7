"""Memory that training keeps for the backward pass, and peak memory of a GPU."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from spikingjelly.activation_based import functional
from torch.profiler import ProfilerActivity, profile

from gac_sj._utils.errors import UsageError
from speeds.measuring import Comparison, peak_memory
from speeds.network import QUICK, Networks, add_forms, add_network
from speeds.passes import TRAINING, Pass

__all__ = ["HELP", "QUICK", "add_arguments", "compare", "saved_bytes"]

HELP = "memory that training of a network keeps for the backward pass; on a GPU also its peak memory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark.

    Args:
        parser: of the sub-command.
    """
    add_network(parser)
    add_forms(parser)
    parser.set_defaults(repeats=3, modes=[TRAINING])


def compare(args: argparse.Namespace) -> list[Comparison]:
    """Check the networks and measure the memory of their training.

    Args:
        args: the parsed arguments.

    Returns:
        The comparison of training.

    Raises:
        UsageError: the network does not exist, or a form has no training.
        WrongResultError: a variant computes another result; then none is measured.
    """
    if any("folded" in form for form in args.also):
        raise UsageError(
            "cannot contain folded, a form for inference, where training is measured", "leave it out", argument="also"
        )
    networks = Networks(args)
    networks.add(args.also)
    networks.check([TRAINING])
    passes = {name: networks.variants[name].on(*networks.inputs(TRAINING)) for name in networks.of_mode(TRAINING)}
    of_variant = {
        name: {
            "ops_path": networks.variants[name].path,
            "saved_bytes": saved_bytes(run),
            "peak_memory": peak_memory(run),
        }
        for name, run in passes.items()
    }
    return [Comparison(TRAINING, passes, shared=networks.shared, of_variant=of_variant)]


def saved_bytes(run: Pass) -> int:
    """Bytes that a forward pass allocates and keeps: the graph, the output, the states of neurons.

    Args:
        run: the pass.
    """
    run()  # so that everything that is built only once exists
    run.forget()
    functional.reset_net(run.module)
    device = run.x.device
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        output = run.forward()
        kept = torch.cuda.memory_allocated(device) - before
    else:
        with _silent(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as memory:
            output = run.forward()
        kept = sum(event.self_cpu_memory_usage for event in memory.key_averages())
    del output
    return kept


@contextmanager
def _silent() -> Iterator[None]:
    """Redirect file descriptor 2, to which the profiler's C++ library reports missing GPUs."""
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)
