#!/usr/bin/env bash
# Runs everything in this repository that needs a GPU, in less than nine minutes.
set -u

usage="usage: [PYTHON=python3] [WHEELS=DIR] [DATA=DIR] benchmarks/gpu.sh FOLDER

Runs the tests that need a GPU, all sub-commands of speed.py, and one epoch of training on images of CIFAR's
size, without network access. It needs an interpreter with PyTorch 2.11 or later, CUDA 13 and CuPy 14. FOLDER
gets a log of each part, the rows of speed.py and of the training, and summary.txt.

PYTHON   the interpreter (default: python3)
WHEELS   a folder of wheels of packages that are not installed; they are installed for this run only
DATA     a folder with CIFAR-10 in torchvision's layout (default: the same number of generated images)"

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
    fail "PYTHON must be an interpreter with PyTorch, got $python; use PYTHON=... benchmarks/gpu.sh FOLDER."
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
    fail "PyTorch finds no GPU; run the script on a machine with a GPU and a driver for CUDA 13."
wheels='' data=''
if [ -n "${WHEELS-}" ]; then wheels=$(cd "$WHEELS" && pwd) || fail "WHEELS must be a readable folder, got $WHEELS."; fi
if [ -n "${DATA-}" ]; then data=$(cd "$DATA" && pwd) || fail "DATA must be a readable folder, got $DATA."; fi
mkdir -p "$1" || fail "FOLDER cannot be created, got $1; name another one."
folder=$(cd "$1" && pwd)
summary=$folder/summary.txt
[ ! -e "$summary" ] || fail "FOLDER must not contain an earlier run, got $folder; name another one."
touch "$summary" || fail "FOLDER must be writable, got $folder; name another one."

scratch=$(mktemp -d) running=''
trap 'rm -rf "$scratch"' EXIT
trap '[ -z "$running" ] || kill "$running" 2>/dev/null
echo "gpu.sh: interrupted; $summary lists the finished parts." >&2
exit 130' INT TERM
export PYTHONPATH="$root:$scratch/packages${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
cd "$root" || exit 1

# names of packages, and the names of their modules where the two differ
missing=$("$python" -c '
from importlib.util import find_spec

modules = {"pyyaml": "yaml", "pillow": "PIL", "scikit-learn": "sklearn"}
names = "torchvision timm huggingface_hub spikingjelly loguru numpy scipy pandas scikit-learn safetensors pyyaml tqdm"
print(*(name for name in [*names.split(), "matplotlib", "pillow", "pytest"] if not find_spec(modules.get(name, name))))
')
for name in $missing; do # one by one, so that a missing wheel does not prevent the others
    [ -n "$wheels" ] && "$python" -m pip install --quiet --no-index --find-links "$wheels" --no-deps \
        --target "$scratch/packages" "$name" ||
        echo "gpu.sh: $name is not installed; put a wheel of it into a folder and pass WHEELS=DIR."
done

failed=0

# part NAME SECONDS COMMAND...: run the command with a time limit and record its exit status
part() {
    local name=$1 limit=$2 start=$SECONDS code
    local log=$folder/${name// /_}.log
    shift 2
    [ "$limit" -le $((total - SECONDS)) ] || limit=$((total - SECONDS))
    if [ "$limit" -lt 5 ]; then
        echo "not run: the time is used up" >"$log"
        code=124
    else
        echo "$name ... (at most $limit s)"
        timeout --kill-after=5 "$limit" "$@" >"$log" 2>&1 &
        running=$! # in the background, so that an interruption takes effect at once
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

lif=(lif --elements 16777216) # far more than the cache of a GPU holds
network=(network --model gac_ms_resnet18_cifar -T 6 --batch 128)
forms=(--also channels_last spikes_as_bytes channels_last+spikes_as_bytes cuda_graph channels_last+cuda_graph)
graphs=(--forms bfloat16+channels_last bfloat16+channels_last+cuda_graph)
compiled=(--also channels_last+compile channels_last+compile+cuda_graph --modes forward+backward)

part env 20 "$python" -m gac_sj env
part tests 150 make test-gpu PYTHON="$python"
speed 'speed encoder' 30 encoder
speed 'speed encoder bf16' 30 encoder --dtype bfloat16
speed 'speed lif' 35 "${lif[@]}" --dtype float32
speed 'speed lif bf16' 35 "${lif[@]}" --dtype bfloat16
speed 'speed network' 60 "${network[@]}" --dtype float32 "${forms[@]}"
speed 'speed network bf16' 60 "${network[@]}" --dtype bfloat16 "${forms[@]}"
speed 'speed train' 45 train --model gac_ms_resnet18_cifar -T 6 --batch 128 "${graphs[@]}"
speed 'speed train small' 30 train "${graphs[@]}" cuda_graph
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
cp "$scratch"/training/*.csv "$scratch"/training/*.yaml "$folder/training" # without the weights

echo "gpu.sh: $SECONDS s; $summary"
exit "$failed"
