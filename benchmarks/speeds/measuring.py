"""Times of variants taken in turns, beside what a device reaches at best: a copy, a matrix product; peak memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from speeds.passes import Pass

__all__ = ["Comparison", "copying", "device_time", "measure", "multiplying", "peak_memory", "wall_time"]

WARM_UP = 2  # rounds that are not counted

Run = Callable[[], object]
Clock = Callable[[Run, torch.device], float]


def wall_time(run: Run, device: torch.device) -> float:
    """Milliseconds until the result is there: what a user waits, launches included."""
    _synchronize(device)
    start = time.perf_counter()
    run()
    _synchronize(device)
    return 1000 * (time.perf_counter() - start)


def device_time(run: Run, device: torch.device) -> float:
    """Milliseconds that a GPU works: it is kept busy until all kernels are queued. Elsewhere the wall time."""
    if device.type != "cuda":
        return wall_time(run, device)
    queueing = wall_time(run, device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(int(4e6 * queueing))  # cycles: twice the time at 2 GHz, so that the queue never runs dry
    start.record()
    run()
    end.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(end)


def measure(runs: Mapping[str, Run], repeats: int, device: torch.device, clock: Clock) -> dict[str, list[float]]:
    """Milliseconds of each variant, taken in turns after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(WARM_UP + repeats):
        for name, run in runs.items():
            taken = clock(run, device)
            if repeat >= WARM_UP:
                times[name].append(taken)
    return times


@dataclass(frozen=True)
class Comparison:
    """Checked variants of one mode.

    Args:
        mode: "forward", "forward+backward" or "pass".
        runs: what is timed, by variant.
        baseline: the variant that the others are compared with.
        clock: takes the time.
        shared: columns that are equal in all rows.
        of_variant: columns by variant.
        traffic: bytes that a run reads and writes at least; 0 where nobody asks.
        flops: of a run, by variant.
        limits: what the device reaches at best, timed in turns with the variants: a column of a rate, what is run for
            it, and the bytes or FLOPs of that.
    """

    mode: str
    runs: Mapping[str, Run]
    baseline: str = "naive"
    clock: Clock = wall_time
    shared: Mapping[str, object] = field(default_factory=dict)
    of_variant: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    traffic: int = 0
    flops: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, tuple[Run, float]] = field(default_factory=dict)


def copying(like: Tensor) -> tuple[Run, float]:
    """A copy of a tensor, and the bytes that it reads and writes."""
    source, target = torch.zeros_like(like), torch.empty_like(like)
    return lambda: target.copy_(source), 2 * source.nbytes


def multiplying(device: torch.device, dtype: torch.dtype) -> tuple[Run, float]:
    """A product of large square matrices, and its FLOPs; of float32 in the precision of a GPU's convolutions."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))

    def run() -> None:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")  # TensorFloat-32, which convolutions take by themselves
        try:
            torch.mm(a, b)
        finally:
            torch.set_float32_matmul_precision(before)

    return run, 2 * n**3


def peak_memory(run: Pass) -> int | None:
    """Bytes that a pass and its module need on a GPU at most, as if they were alone there; None elsewhere."""
    device = run.x.device
    if device.type != "cuda":
        return None
    run()
    run.forget()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    own = sum(tensor.nbytes for tensor in (*run.module.parameters(), *run.module.buffers()))
    run.forget()
    return torch.cuda.max_memory_allocated(device) - before + own


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
