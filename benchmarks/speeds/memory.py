"""What training keeps for the backward pass, and what a GPU needs at most."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from spikingjelly.activation_based import functional
from torch.profiler import ProfilerActivity, profile

from speeds.measuring import Comparison, peak_memory
from speeds.network import QUICK, Networks, add_forms, add_network
from speeds.passes import TRAINING, Pass

__all__ = ["HELP", "QUICK", "add_arguments", "compare", "saved_bytes"]

HELP = "what training of a network keeps for the backward pass; on a GPU also its peak memory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    add_forms(parser)
    parser.set_defaults(repeats=3, modes=[TRAINING])


def compare(args: argparse.Namespace) -> list[Comparison]:
    """Check the networks and ask what their training keeps.

    Raises:
        ValueError: no network of that name, or a form that has no training.
        WrongResultError: a variant is wrong; then none is measured.
    """
    if any("folded" in form for form in args.also):
        raise ValueError("folded is a form for inference, and memory is that of training; leave it out of --also.")
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
    """Bytes that are alive after a forward pass and were not before it: the graph, the output, the neurons' states."""
    run()  # what is built once is there
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
    """The profiler's C++ library writes of GPUs that are not there to file 2."""
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)
