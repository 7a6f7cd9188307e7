"""Rows of runs, robustness tests and timings as programs leave them, and the tables made of them."""

import csv
import json

from gac_sj.results import Run
from gac_sj.results.robustness import ROBUSTNESS, RobustnessTest
from gac_sj.results.run_tables import run_tables
from gac_sj.results.schema import ANALYSED_COLUMNS, MEASURED_COLUMNS, as_text
from gac_sj.results.speed import SPEED, Timing
from gac_sj.results.table import Table
from gac_sj.training.settings import Settings


def row(encoder="gac", seed=0, last=60.0, best=None, analysed=None, **changes):
    """A row as a finished run leaves it; ``analysed``: a number on which all its analysis depends."""
    settings = {"model": "ms_resnet8_cifar", "T": 2, "epochs": 3, "dataset": "digits"}
    columns = MEASURED_COLUMNS + ANALYSED_COLUMNS
    measured = {name: changes.pop(name) for name in tuple(changes) if name in columns}
    run = Settings(encoder=encoder, seed=seed, **settings | changes)
    found = as_text(run.key()) | {"data": "d4f8"} | dict.fromkeys(MEASURED_COLUMNS, "1")
    found |= dict.fromkeys(ANALYSED_COLUMNS, "") | {
        "accuracy_last": last, "accuracy_best": best or last, "accuracy_by_epoch": json.dumps({"1": 9.5, "3": last}),
        "train_accuracy_last": 70.0, "parameters": 85962, "train_images": 1437, "test_images": 360,
        "commit": "abc123", "device": "an abacus", "versions": "torch 9.9", "images_per_second": 100.0 + seed,
        "accuracy_by_steps": "[9.5]", "firing_rates": "{}",
    }  # fmt: skip
    if analysed is not None:
        found |= dict.fromkeys(ANALYSED_COLUMNS, 1) | {
            "analysed_images": 350, "energy_paper_pj": analysed * 1e6, "energy_complete_pj": analysed * 4e6,
            "energy_encoder_pj": analysed * 1e6, "dense_macs": 3_000_000, "effective_macs": analysed * 2e6,
            "effective_acs": analysed * 1e6, "non_spiking_layers": '["lif", "head"]', "silent": analysed / 10,
            "firing_rates_by_step": json.dumps({"lif": [analysed / 10, 0.5]}), "time_to_repeat": analysed,
            "energy_by_layer": json.dumps({
                "encoder.gau.temporal": [0, analysed * 1e6], "encoder.gau (gate)": [0, analysed * 5e5],
                "stages.0.0.attention.spatial.convolution": [0, analysed * 2.5e5], "lif": [analysed, analysed],
            }),
            "energy_profile": "", "energy_dense_pj": "", "energy_event_pj": "", "memory_by_layer": "",
            "time_to_first_spike": "nan", "readout_by_step": json.dumps([0.5, analysed / 10]),
            "information_by_step": "[1.0, 0.5]", "change_by_step": "[]",
        }  # fmt: skip
    return {name: str(value) for name, value in (found | measured).items()}


def seeds(encoder, lasts, first=0, **changes):
    return [row(encoder, seed, last, **changes) for seed, last in enumerate(lasts, first)]


def runs(*rows):
    return [Run.from_row(each) for each in rows]


def robustness_row(encoder, seed, corruption, severity, accuracy, **changes):
    """A row of robustness.py."""
    run = {name: text for name, text in row(encoder, seed).items() if name in ("form", "model", "model_options", "T")}
    found = {"weights": f"{encoder}{seed}", "settings": "s1", "data": "d4f8", "dataset": "digits", "epochs": 3}
    found |= run | {"encoder": encoder, "seed": seed, "corruption": corruption, "severity": severity, "images": 50}
    found |= {"batch_size": 100, "corruption_seed": 0, "pgd_steps": 10 if corruption == "pgd" else "", "strength": 0.1}
    found |= {"gradient": "surrogate" if corruption == "pgd" else "", "accuracy": accuracy, "seconds": 0.5}
    found |= {"commit": "abc123", "versions": "torch 9.9", "device": "an abacus", "date": "2026-01-01"}
    return {name: str((found | changes)[name]) for name in ROBUSTNESS.names}


def robustness_tests(*rows):
    return [RobustnessTest.from_row(each) for each in rows]


def speed_row(variant, speedup, mode="forward", **changes):
    found = {"benchmark": "encoder", "variant": variant, "mode": mode, "T": 6, "batch": 4, "size": 32, "channels": 64}
    found |= {"repeats": 30, "date": "2026-01-01", "median_ms": 30 / speedup, "low_ms": 1, "high_ms": 40}
    found |= {"speedup": speedup, "commit": "abc123", "versions": "torch 9.9", "device": "an abacus"}
    return {name: str((found | changes).get(name, "")) for name in SPEED.names}


def timings(*rows):
    return [Timing.from_row(each) for each in rows]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def tables(*rows):
    return run_tables(runs(*rows))


def cells(table: Table, encoder):
    """A line as {heading: text}, without the mark of times."""
    (line,) = (line for line in table.lines if line[0].text == encoder)
    return {name.removesuffix(" †"): cell.text for name, cell in zip(table.head, line, strict=True)}


#: Of two encoders and seeds: a corruption, clean images and an attack.
ROBUSTNESS_ROWS = [
    robustness_row(encoder, seed, corruption, severity, accuracy + shift - 10 * seed)
    for encoder, shift in (("gac", 0.0), ("direct", -5.0))
    for seed in (0, 1)
    for corruption, severity, accuracy in (
        ("blur", 1, 70.0), ("clean", 0, 80.0), ("blur", 5, 50.0), ("pgd", 1, 30.0), ("pgd", 5, 10.0),
    )
]  # fmt: skip

#: Of two measurements: once against repeated at two modes, ours against timm.
SPEED_ROWS = [
    speed_row("once", 3.0), speed_row("repeated", 1.0),
    speed_row("once", 3.546, "backward"), speed_row("repeated", 1.0, "backward"),
    speed_row("ours", 0.94, benchmark="loaders", T=0, device="a slide rule"),
    speed_row("timm", 1.0, benchmark="loaders", T=0, device="a slide rule"),
]  # fmt: skip
