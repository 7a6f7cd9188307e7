"""A quick run of speed.py beside its checked-in rows: what became slower is reported, and fails nothing."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from helpers.ratios import falls, read

from gac_sj.training.hardware import has_bfloat16

pytestmark = pytest.mark.one_release

REPOSITORY = Path(__file__).resolve().parent.parent
RECORDED = REPOSITORY / "benchmarks" / "results" / "speed.csv"
needs_bfloat16 = pytest.mark.skipif(
    not has_bfloat16(torch.device("cpu")), reason="minutes on a CPU without instructions for bfloat16"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["encoder", "--repeats", "5"],
        ["lif", "--repeats", "5"],
        ["lif", "--dtype", "bfloat16", "--repeats", "5"],
        ["train", "--repeats", "3", "--forms", "float32"],
        pytest.param(["train", "--repeats", "3", "--forms", "bfloat16+channels_last"], marks=needs_bfloat16),
    ],
    ids=" ".join,
)
def test_ratios_are_those_of_the_rows(arguments, tmp_path):
    """Neighbours on the machine change ratios too, so a fall of more than 20 % is a warning that a person reads."""
    output = tmp_path / "speed.csv"
    script = REPOSITORY / "benchmarks" / "speed.py"
    subprocess.run([sys.executable, script, *arguments, "--device", "cpu", "--output", output], check=True)
    found, recorded = read(output), read(RECORDED)
    assert found
    for fall in falls(found, recorded):
        warnings.warn(fall, stacklevel=1)


def test_a_fall_by_hand():
    base = {"benchmark": "lif", "variant": "ours", "mode": "forward", "commit": "abc", "speedup": "5.0"}
    recorded = [
        base | {"date": "2026-01-02", "device": "abacus"},
        base | {"date": "2026-01-03", "device": "sliderule", "speedup": "9.0"},
        base | {"date": "2026-01-04", "device": "NVIDIA H200", "speedup": "90.0"},
    ]

    def measured(speedup, **changes):
        return [base | {"device": "abacus", "speedup": speedup} | changes]

    assert not [*falls(measured("4.1"), recorded)] and not [*falls(measured("1.0", T="9"), recorded)]
    (fall,) = falls(measured("3.9"), recorded)
    assert "ours is 3.9 times" in fall and "was 5.0 times (commit abc, abacus)" in fall
    assert ["was 9.0" in fall for fall in falls(measured("7.0", device="another"), recorded)] == [True]
