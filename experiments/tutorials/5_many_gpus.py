# %% [markdown]
"""Many GPUs: one run in several processes, killed and resumed. Here these are two processes on the CPU.

python experiments/tutorials/5_many_gpus.py
"""

# %%
import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gac_sj

REPOSITORY = Path(gac_sj.__file__).resolve().parents[1]  # make setup installs the package from there
OUTPUT = Path("runs/tutorials/many_gpus")
shutil.rmtree(OUTPUT, ignore_errors=True)  # a finished run would only print its result

# %% [markdown]
# A run is a YAML file and a command. On eight GPUs:
#
#     torchrun --nproc-per-node 8 experiments/train.py --config experiments/configs/imagenet_gac18_T4.yaml \
#         --data-dir imagenet
#
# `batch_size` counts the images of a step over all processes, so the recipe, learning rate included, stays the same;
# each process takes its part of every batch. `--sync-bn` gives BatchNorm the statistics of all processes. Without GPUs
# the processes communicate through gloo instead of NCCL, and nothing else differs, so you can try a run on two cores.
# This one trains a small network on handwritten digits and writes a checkpoint after every step.

# %%
RUN = [
    "experiments/train.py", "--model", "gac_ms_resnet8_cifar", "-T", "2", "--dataset", "digits", "--train-limit", "256",
    "--loader", "resident", "--crop", "none", "--hflip", "0", "--epochs", "4", "--batch-size", "32", "--lr", "0.1",
    "--sync-bn", "--checkpoint-minutes", "0", "--keep-checkpoints", "2", "--device", "cpu",
]  # fmt: skip


def start(name, *changes, processes=2):
    """Start the command in several processes, with a folder of its own."""
    arguments = [*RUN, *changes, "--output", f"{OUTPUT / name}"]
    print(f"\n$ torchrun --standalone --nproc-per-node {processes}", *arguments, flush=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", f"{processes}"]
    script = str(REPOSITORY / arguments[0])
    return subprocess.Popen([*torchrun, script, *arguments[1:]], env=os.environ | {"OMP_NUM_THREADS": "1"})


def finish(process):
    if status := process.wait():
        sys.exit(status)  # the command has printed why


finish(start("whole"))

# %% [markdown]
# Now the same run on a cluster that reclaims its machine: in the second epoch it receives SIGTERM. Both processes save
# a checkpoint, stop together and report it; the traceback below is torchrun's report that it was told to stop. Without
# a warning (SIGKILL, a power cut) the run resumes from its last checkpoint, at most ten minutes old
# (`--checkpoint-minutes`).

# %%
process = start("killed")
while not list((OUTPUT / "killed" / "checkpoints").glob("epoch00001-*.pt")):
    if process.poll() is not None:
        sys.exit("the run ended before it could be killed")
    time.sleep(0.01)
process.send_signal(signal.SIGTERM)
print(f"killed: exit status {process.wait()}")

# %% [markdown]
# The same command resumes in the middle of the epoch, and ends with the weights of the uninterrupted run, bit for bit
# (on the CPU; GPUs sum in an order of their own).

# %%
finish(start("killed"))
whole, resumed = ((OUTPUT / name / "last.safetensors").read_bytes() for name in ("whole", "killed"))
print(f"\nweights after the kill {'equal' if resumed == whole else 'DIFFER FROM'} those of the whole run, bit for bit")

# %% [markdown]
# What changes on GPUs. Leave `--device cpu` out, and:
#
# - `--amp bf16`: activations in half the memory, and the fast matrix units. Membrane potentials stay float32, and the
#   loss needs no scaling.
# - `--channels-last`: the memory layout that those units prefer.
# - `--compile`: `torch.compile` of network and loss; it takes minutes at the start, so use it for long runs.
# - `--cuda-graph`: one launch for a whole step, for small networks on one GPU.
# - `--loader resident` keeps a small data set on the GPU; ImageNet needs `--workers` instead, several for each process.
# - Checkpoints: leave `--checkpoint-minutes` out; one after every step is for this tutorial.
#
# The first four change precision or order of the arithmetic, so a run with one of them is another run, with other last
# digits and a row of its own. The first three also work on the CPU (`--compile` with a C++ compiler), which is useful
# for a trial and seldom faster. Here are the first two, in one process: the same recipe, because the batch is the same.

# %%
finish(start("bf16", "--amp", "bf16", "--channels-last", processes=1))
for name in ("whole", "killed", "bf16"):
    (row,) = csv.DictReader((OUTPUT / name / "result.csv").read_text().splitlines())
    print(f"{name}: processes {row['processes']}, amp {row['amp']}, test accuracy {float(row['accuracy_last']):.1f} %")
