#!/usr/bin/env bash
# The record run: record.py with this repository's package, whether it is installed or not.
set -u

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
"$python" -c 'import torch' 2>/dev/null || {
    echo "record.sh: PYTHON must be an interpreter with PyTorch, got $python; use PYTHON=... experiments/record.sh." >&2
    exit 2
}
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "$python" "$root/experiments/record.py" "$@"
