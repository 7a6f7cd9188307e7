"""Times of variants in turns, the best rates of a device (a copy, a matrix product), and peak memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

try:
    import resource
except ImportError:  # Windows
    resource = None

from speeds.passes import Pass

__all__ = ["Comparison", "copying", "device_time", "measure", "multiplying", "page_faults", "peak_memory", "wall_time"]

WARM_UP = 2  # rounds before the timings

Run = Callable[[], object]
Clock = Callable[[Run, torch.device], float]


def wall_time(run: Run, device: torch.device) -> float:
    """Milliseconds until the result is available, launches included.

    Args:
        run: what is timed.
        device: its device.
    """
    _synchronize(device)
    start = time.perf_counter()
    run()
    _synchronize(device)
    return 1000 * (time.perf_counter() - start)


def device_time(run: Run, device: torch.device) -> float:
    """Milliseconds of work on a GPU, which is kept busy until all kernels are queued; on other devices the wall time.

    Args:
        run: what is timed.
        device: its device.
    """
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


def page_faults() -> int | None:
    """Pages that the system has given to this process so far, none from a file; None where it does not count them."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt if resource else None


def measure(
    runs: Mapping[str, Run], repeats: int, device: torch.device, clock: Clock
) -> tuple[dict[str, list[float]], dict[str, list[int]]]:
    """Milliseconds and page faults of each variant, in turns and after a warm-up; no faults where none are counted.

    Args:
        runs: what is timed, by variant.
        repeats: number of timings of each variant.
        device: their device.
        clock: takes the time.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    faults: dict[str, list[int]] = {name: [] for name in runs}
    for repeat in range(WARM_UP + repeats):
        for name, run in runs.items():
            before = page_faults()
            taken = clock(run, device)
            if repeat >= WARM_UP:
                times[name].append(taken)
                if before is not None:
                    faults[name].append(page_faults() - before)
    return times, faults


@dataclass(frozen=True)
class Comparison:
    """Checked variants of one mode.

    Args:
        mode: "forward", "forward+backward" or "pass".
        runs: what is timed, by variant.
        baseline: the variant that the others are compared with.
        clock: takes the time.
        shared: columns that are equal in all rows.
        of_variant: columns of each variant.
        traffic: minimum number of bytes that a run reads and writes; 0 if it is not reported.
        flops: operations of a run, by variant.
        limits: the best rates of the device, timed in turns with the variants: the column of a rate, the run that
            reaches it, and the bytes or operations of that run.
        limit_of: of variants with limits of their own, columns and the names of their runs among ``limits``.
        images: number of images of a run; 0 if the rate of images is not reported.
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
    limit_of: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    images: int = 0


def copying(like: Tensor) -> tuple[Run, float]:
    """A copy of a tensor, and the number of bytes that it reads and writes.

    Args:
        like: the tensor.
    """
    source, target = torch.zeros_like(like), torch.empty_like(like)
    return lambda: target.copy_(source), 2 * source.nbytes


def multiplying(device: torch.device, dtype: torch.dtype) -> tuple[Run, float]:
    """A product of large square matrices, and its operations; float32 has the precision of convolutions on a GPU.

    Args:
        device: of the matrices.
        dtype: of the matrices.
    """
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))

    def run() -> None:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")  # TensorFloat-32, the default of convolutions
        try:
            torch.mm(a, b)
        finally:
            torch.set_float32_matmul_precision(before)

    return run, 2 * n**3


def peak_memory(run: Pass) -> int | None:
    """Peak memory in bytes of a pass with its module on a GPU, without everything else there; None on other devices.

    Args:
        run: the pass.
    """
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
