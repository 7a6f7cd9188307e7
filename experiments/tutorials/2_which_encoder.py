# %% [markdown]
"""Which encoder for my data? Several under one recipe, over several seeds, and what the numbers can show.

python experiments/tutorials/2_which_encoder.py                       # scikit-learn's handwritten digits
python experiments/tutorials/2_which_encoder.py --data-dir my_images  # yours: train/<class>/*, test/<class>/*
"""

# %%
import argparse
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean

import gac_sj
from gac_sj.results import load

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data-dir", help="an image folder (default: digits)")
args = parser.parse_args([] if "ipykernel" in sys.modules else None)  # a notebook has its own arguments
REPOSITORY = Path(gac_sj.__file__).resolve().parents[1]  # make setup installs the package from there
OUTPUT = Path("runs/tutorials/encoders", Path(args.data_dir or "digits").resolve().name)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # in so small a network, more threads only wait for each other


def run(script, *arguments):
    """Run a program of this repository and print the command."""
    command = [script, *map(str, arguments)]
    print("\n$ python", *command, flush=True)
    if status := subprocess.run([sys.executable, REPOSITORY / script, *command[1:]]).returncode:
        sys.exit(status)  # the program has printed why


# %% [markdown]
# One network behind three encoders: GAC, direct coding (the stem's current, as in the paper's baseline), and direct
# coding with a neuron (spikes, as in GAC), with the same recipe and the same three seeds. Few images and short runs
# keep this tutorial under two minutes; for a real answer, leave `--train-limit` and `--epochs` out. An interrupted
# command resumes when it is run again, and a second one with other encoders adds rows.

# %%
data = ["--dataset", "folder", "--data-dir", args.data_dir]
if args.data_dir is None:
    data = ["--dataset", "digits", "--train-limit", 500, "--epochs", 8, "--eval-every", 8]
encoders = ["gac", "direct", "direct_lif"]
run("benchmarks/run_cifar.py", *data, "--encoders", *encoders, "--seeds", 0, 1, 2, "--output", OUTPUT)

# %% [markdown]
# Means hide what seeds do, so compare pairs: runs of one seed see the same images in the same order. An interval that
# includes 0 means no significant difference with these seeds, not that the two are equal. Read the last epoch: the best
# one was chosen with the test set, which flatters.

# %%
results = OUTPUT / "results.csv"
for other in encoders[1:]:
    run("experiments/compare.py", f"{results}:gac", f"{results}:{other}")

# %% [markdown]
# Accuracy has a price. *Paper* counts energy as GAC's authors do, without the attention; *complete* counts everything
# that runs (the third tutorial has both by layer). `report.html` in the same folder has all measurements, with plots.

# %%
print("\nEnergy of one image, mean over seeds:")
for encoder in encoders:
    runs = [run for run in load(results).runs if run.label == encoder]
    paper, complete = (mean(run.value(f"energy_{way}_pj") for run in runs) / 1e3 for way in ("paper", "complete"))
    print(f"{encoder:10}  paper {paper:7.1f} nJ   complete {complete:7.1f} nJ   ({len(runs)} seeds)")

# %% [markdown]
# How to read it. Where an interval includes 0, take the encoder with less energy, or train more seeds. Where it lies
# above or below 0, the result holds for this network, this number of images and this length of training.
#
# When this was written, GAC had 1.1 points less than `direct` on the digits, and 1.0 less than `direct_lif`. GAC was
# below in each of the three seeds, and yet both intervals include 0: three seeds are few. It took 2.9 times their
# complete energy. So a task as small as this one gives no reason to use GAC. `docs/benchmarks/cifar10.md` finds much
# the same on CIFAR-10 with a small network; the paper's gains come from full networks at full length, which have not
# been rerun here.
