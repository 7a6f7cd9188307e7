"""Many GPUs: one run in several processes, killed and continued. Here they are two on the CPU.

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

REPOSITORY = Path(__file__).resolve().parents[2]
OUTPUT = Path("runs/tutorials/many_gpus")
shutil.rmtree(OUTPUT, ignore_errors=True)  # a run that is there would only say its result

# %% [markdown]
# A run is a YAML file and a command. On eight GPUs:
#
#     torchrun --nproc-per-node 8 experiments/train.py --config experiments/configs/imagenet_gac18_T4.yaml \
#         --data-dir imagenet
#
# `batch_size` counts the images of a step over all processes, so the recipe, learning rate included, stays what it is;
# each process takes its part of every batch. `--sync-bn` gives BatchNorm the statistics of all of them. Without GPUs
# the processes talk through gloo in place of NCCL, and nothing else differs, so a run can be tried on two cores. This
# one trains a small network on handwritten digits, and writes a checkpoint after every step.

# %%
RUN = [
    "experiments/train.py", "--model", "gac_ms_resnet8_cifar", "-T", "2", "--dataset", "digits", "--train-limit", "256",
    "--loader", "resident", "--crop", "none", "--hflip", "0", "--epochs", "4", "--batch-size", "32", "--lr", "0.1",
    "--sync-bn", "--checkpoint-minutes", "0", "--keep-checkpoints", "2", "--device", "cpu",
]  # fmt: skip


def start(name, *changes, processes=2):
    """The command in so many processes, in a folder of its own."""
    arguments = [*RUN, *changes, "--output", f"{OUTPUT / name}"]
    print(f"\n$ torchrun --standalone --nproc-per-node {processes}", *arguments, flush=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", f"{processes}"]
    script = str(REPOSITORY / arguments[0])
    return subprocess.Popen([*torchrun, script, *arguments[1:]], env=os.environ | {"OMP_NUM_THREADS": "1"})


def finish(process):
    if status := process.wait():
        sys.exit(status)  # the command has said why


finish(start("whole"))

# %% [markdown]
# Now the same run, and a cluster that wants its machine back: in the second epoch it gets SIGTERM. Both processes stop
# together, behind a checkpoint, and say so; the traceback below is torchrun's way to say that it was told to stop.
# Where there is no warning (SIGKILL, a power cut), the last checkpoint counts, at most ten minutes old
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
# The same command continues, in the middle of the epoch, and ends with the weights of the run that was not disturbed,
# bit for bit (on the CPU; GPUs add up in an order of their own).

# %%
finish(start("killed"))
whole, continued = ((OUTPUT / name / "last.safetensors").read_bytes() for name in ("whole", "killed"))
print(
    f"\nweights after the kill {'equal' if continued == whole else 'DIFFER FROM'} those of the whole run, bit for bit"
)

# %% [markdown]
# What changes on GPUs. Take `--device cpu` out, and:
#
# - `--amp bf16`: activations in half the memory, and the fast matrix units. Potentials of neurons stay float32, and no
#   loss has to be scaled.
# - `--channels-last`: the layout that those units want.
# - `--compile`: `torch.compile` of network and loss; minutes at the start, for a long run.
# - `--loader resident` keeps a small data set on the GPU; ImageNet wants `--workers` instead, some for each process.
# - Checkpoints: leave `--checkpoint-minutes` out; after every step is for this tutorial.
#
# The first three change precision or order of the arithmetic, so a run with one of them is another run, with other last
# digits and a row of its own. They work on the CPU as well (`--compile` where there is a C++ compiler), which is good
# for trying and seldom faster. Here are the first two, in one process: the same recipe, since the batch is the same.

# %%
finish(start("bf16", "--amp", "bf16", "--channels-last", processes=1))
for name in ("whole", "killed", "bf16"):
    (row,) = csv.DictReader((OUTPUT / name / "result.csv").read_text().splitlines())
    print(f"{name}: processes {row['processes']}, amp {row['amp']}, test accuracy {float(row['accuracy_last']):.1f} %")
