#!/usr/bin/env bash
# make test-install: the wheel and the source distribution in dist, each in a new environment with the newest and with the
# oldest supported releases of everything, outside the repository; then the benchmark of the README in a new clone of the
# last commit. The README's other command, make test, is what CI runs.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset PYTHONPATH
cd "$folder"

for constraints in constraints.txt constraints-floor.txt; do
    "${PYTHON:-python3}" -m venv environment
    for distribution in "$repository"/dist/*.whl "$repository"/dist/*.tar.gz; do
        echo "== ${distribution##*/}, $constraints"
        environment/bin/python -m pip install --quiet --constraint "$repository/$constraints" "$distribution"
        environment/bin/python -P "$repository/tests/helpers/installed.py"
        environment/bin/python -m gac_sj env
        environment/bin/gac-sj --help
        environment/bin/python -m pip uninstall --quiet --yes gac_sj
    done
    rm -rf environment
done

echo "== make benchmark in a new clone"
git clone --quiet "$repository" clone
make -C clone benchmark
