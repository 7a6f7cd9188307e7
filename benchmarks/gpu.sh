#!/usr/bin/env bash
# Everything of this repository that needs a GPU, in one go of less than nine minutes.
set -u

usage="usage: [PYTHON=python3] [WHEELS=DIR] [DATA=DIR] benchmarks/gpu.sh FOLDER

Runs with the python and the PyTorch (2.11 or later, CUDA 13, CuPy 14) that it finds, without a network:
the tests that need a GPU, all sub-commands of speed.py, one epoch of training on images of CIFAR's size.
FOLDER gets a log of each part, the rows of speed.py and of the training, and summary.txt.

PYTHON   the interpreter (default: python3)
WHEELS   a folder of wheels, for packages that are not installed; they are unpacked for this run alone
DATA     a folder with CIFAR-10 in torchvision's layout (default: as many generated images)"

total=530 # seconds for all parts together

fail() {
    echo "gpu.sh: $1" >&2
    exit 2
}

case ${1-} in
-h | --help)
    echo "$usage"
    exit 0
    ;;
esac
if [ $# -ne 1 ] || [ -z "$1" ]; then
    echo "$usage" >&2
    exit 2
fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
case $python in /*) ;; */*) python=$PWD/$python ;; esac
"$python" -c 'import torch' 2>/dev/null ||
    fail "$python cannot import PyTorch; name another interpreter, PYTHON=... benchmarks/gpu.sh FOLDER."
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
    fail "PyTorch finds no GPU here; run it where there is one, with a driver for CUDA 13."
wheels='' data=''
if [ -n "${WHEELS-}" ]; then wheels=$(cd "$WHEELS" && pwd) || fail "the folder of wheels $WHEELS cannot be read."; fi
if [ -n "${DATA-}" ]; then data=$(cd "$DATA" && pwd) || fail "the folder of data $DATA cannot be read."; fi
mkdir -p "$1" || fail "the folder $1 cannot be made; name another one."
folder=$(cd "$1" && pwd)
summary=$folder/summary.txt
[ ! -e "$summary" ] || fail "$folder holds an earlier run; name another folder."
touch "$summary" || fail "nothing can be written into $folder; name another folder."

scratch=$(mktemp -d) running=''
trap 'rm -rf "$scratch"' EXIT
trap '[ -z "$running" ] || kill "$running" 2>/dev/null
echo "gpu.sh: interrupted; what is done stands in $summary." >&2
exit 130' INT TERM
export PYTHONPATH="$root:$scratch/packages${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
cd "$root" || exit 1

# names of packages; and of the modules that they bring, where the two differ
missing=$("$python" -c '
from importlib.util import find_spec

modules = {"pyyaml": "yaml", "pillow": "PIL", "scikit-learn": "sklearn"}
names = "torchvision timm huggingface_hub spikingjelly loguru numpy scipy pandas scikit-learn safetensors pyyaml tqdm"
print(*(name for name in [*names.split(), "matplotlib", "pillow", "pytest"] if not find_spec(modules.get(name, name))))
')
for name in $missing; do # one by one, so that a wheel that is not there keeps no other one away
    [ -n "$wheels" ] && "$python" -m pip install --quiet --no-index --find-links "$wheels" --no-deps \
        --target "$scratch/packages" "$name" ||
        echo "gpu.sh: $name is not installed; a wheel of it in a folder WHEELS=DIR helps."
done

failed=0

# part NAME SECONDS COMMAND...: run it, no longer than that, and note how it ended
part() {
    local name=$1 limit=$2 start=$SECONDS code
    local log=$folder/${name// /_}.log
    shift 2
    [ "$limit" -le $((total - SECONDS)) ] || limit=$((total - SECONDS))
    if [ "$limit" -lt 5 ]; then
        echo "not run: no time is left" >"$log"
        code=124
    else
        echo "$name ... (at most $limit s)"
        timeout --kill-after=5 "$limit" "$@" >"$log" 2>&1 &
        running=$! # in the background, so that an interruption need not wait for its end
        wait "$running"
        code=$?
    fi
    [ "$code" -eq 0 ] || failed=1
    local last
    last=$(grep -v -e '^[[:space:]]*$' -e '^make' "$log" | tail -n 1)
    printf '%-18s exit %3d %4d s  %s\n' "$name" "$code" $((SECONDS - start)) "$last" | tee -a "$summary"
}

speed() {
    local name=$1 limit=$2
    shift 2
    part "$name" "$limit" "$python" benchmarks/speed.py "$@" --output "$folder/speed.csv"
}

lif=(lif --elements 16777216) # far more than a GPU's cache holds
network=(network --model gac_ms_resnet18_cifar -T 6 --batch 128)
forms=(--also channels_last spikes_as_bytes channels_last+spikes_as_bytes cuda_graph channels_last+cuda_graph)
compiled=(--also channels_last+compile channels_last+compile+cuda_graph --modes forward+backward)

part env 20 "$python" -m gac_sj.cli.environment
part tests 150 make test-gpu PYTHON="$python"
speed 'speed encoder' 30 encoder
speed 'speed encoder bf16' 30 encoder --dtype bfloat16
speed 'speed lif' 35 "${lif[@]}" --dtype float32
speed 'speed lif bf16' 35 "${lif[@]}" --dtype bfloat16
speed 'speed network' 60 "${network[@]}" --dtype float32 "${forms[@]}"
speed 'speed network bf16' 60 "${network[@]}" --dtype bfloat16 "${forms[@]}"
speed 'speed memory' 40 memory --also spikes_as_bytes grad_checkpointing

images=(--dataset cifar10 --data-dir "$data")
if [ -z "$data" ]; then
    images=(--dataset folder --data-dir "$scratch/images")
    part images 30 "$python" -c '
import sys
from pathlib import Path

import numpy as np
from PIL import Image

random = np.random.default_rng(0)
for split, count in (("train", 50_000), ("test", 10_000)):
    for item in range(count):
        folder = Path(sys.argv[1], split, str(item % 10))
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{item}.png", compress_level=0)
print("60,000 images")
' "$scratch/images"
fi
part training 80 "$python" experiments/train.py --model gac_ms_resnet18_cifar -T 6 "${images[@]}" --loader resident \
    --batch-size 128 --epochs 1 --amp bf16 --device cuda --output "$scratch/training"
speed 'speed compiled' 150 "${network[@]}" --dtype bfloat16 "${compiled[@]}"
mkdir -p "$folder/training"
cp "$scratch"/training/*.csv "$scratch"/training/*.yaml "$folder/training" # not the weights

echo "gpu.sh: $SECONDS s; $summary"
exit "$failed"
