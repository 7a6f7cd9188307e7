"""What is chosen for a device where settings leave it open, and that rows agree with the choice."""

import csv
from pathlib import Path

import pytest
import torch

from gac_sj.training import hardware
from gac_sj.training.hardware import CHANNELS_LAST, resolve
from gac_sj.training.settings import Settings

pytestmark = pytest.mark.one_release

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SPEED = Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "speed.csv"


@pytest.fixture(params=[True, False], ids=["bfloat16", "no bfloat16"])
def has(request, monkeypatch):
    monkeypatch.setattr(hardware, "has_bfloat16", lambda device: request.param)
    return request.param


def test_auto_is_bfloat16_where_the_device_has_it(has):
    assert resolve(Settings(amp="auto"), CPU).amp == ("bf16" if has else "none")


@pytest.mark.parametrize("amp, asked_for", [("bf16", True), ("auto", False), ("none", False)])
def test_slow_bfloat16_on_a_cpu_is_reported_once(amp, asked_for, has, caplog):
    hardware._warn_of_slow_bfloat16.cache_clear()
    for settings in 2 * [Settings(amp=amp, channels_last=True)]:
        resolve(settings, CPU)
        resolve(settings, GPU)
    messages = [record.message for record in caplog.records]
    assert len(messages) == (asked_for and not has)
    assert all("bfloat16" in message and "--amp none" in message for message in messages)


@pytest.mark.parametrize("amp", ["none", "bf16", "fp16"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_what_is_given_stays(amp, channels_last, has):
    settings = Settings(amp=amp, channels_last=channels_last)
    assert settings.open == () and resolve(settings, CPU) is settings


def test_the_memory_format_follows_the_table():
    assert resolve(Settings(), CPU).channels_last and resolve(Settings(), GPU).channels_last
    assert resolve(Settings(), torch.device("xpu")).channels_last is False
    assert resolve(Settings(model="ma_snn"), CPU).channels_last is (("cpu", "ma_snn") in CHANNELS_LAST)


def test_a_run_that_was_begun_keeps_its_values(has):
    begun = Settings(amp="none" if has else "bf16", channels_last=False)
    assert resolve(Settings(amp="auto"), CPU, begun.__eq__) == begun


def test_older_records_are_of_runs_in_the_plain_format():
    older = {name: value for name, value in Settings().key().items() if name not in ("amp", "channels_last")}
    assert Settings.recorded(older) == Settings(channels_last=False)
    assert Settings.recorded(older).name() == Settings(channels_last=False, amp="none").name()


@pytest.mark.parametrize("device, kind", sorted(CHANNELS_LAST))
def test_rows_show_that_the_table_is_faster(device, kind):
    """For every set of rows of a network of that kind, on that kind of device, with and without the format."""
    medians: dict = {}
    with SPEED.open(newline="") as file:
        for row in csv.DictReader(file):
            is_training = row["benchmark"] == "network" and row["mode"] == "forward+backward"
            if is_training and kind in row["model"] and (device == "cuda") == row["device"].startswith("NVIDIA"):
                place = tuple(row[name] for name in ("model", "dtype", "T", "batch", "size", "device", "date"))
                medians.setdefault(place, {})[row["variant"]] = float(row["median_ms"])
    pairs = [each for each in medians.values() if {"ours", "channels_last"} <= each.keys()]
    assert pairs and all(each["channels_last"] < each["ours"] for each in pairs)
