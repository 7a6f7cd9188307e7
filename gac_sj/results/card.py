"""The model card of pretrained weights, made from what lies beside them: every number in it comes from there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gac_sj._utils.errors import UsageError
from gac_sj._utils.files import read_text
from gac_sj._utils.reading import parse_json
from gac_sj.checkpoint.pretrained import CONFIG
from gac_sj.results.load import load
from gac_sj.results.run import Run
from gac_sj.results.run_tables import run_tables
from gac_sj.results.table import MISSING, markdown_table
from gac_sj.training.settings import Settings

__all__ = ["CHECK", "ROWS", "card", "shipped_table"]

#: Files beside those of :mod:`gac_sj.checkpoint.pretrained`: the rows of all seeds, and what ``experiments/ship.py``
#: measured with the weights as they are loaded.
ROWS, CHECK = "results.csv", "check.json"
#: Settings that a recipe names even where they are the defaults.
_RECIPE = ("epochs", "batch_size", "opt", "lr", "momentum", "weight_decay", "amp", "decay_gate")
#: Settings that the card says elsewhere.
_ELSEWHERE = {"model", "T", "encoder", "form", "model_options", "dataset", "seed"}
_LIMITS = """\
- The network knows the classes of its training set and nothing else: it puts every image into one of them, and its
  probabilities are not calibrated.
- Images of another size than {size} pixels are resized to it, which hides most of a larger photograph.
- The accuracy is that of one seed on one test set; {others}.
- The energy is counted operations at the prices of 45 nm, without memory, and not measured on a chip.
- Rounding decides whether a potential meets a threshold exactly, so another precision than that of the training changes
  the accuracy; the table above has both.
- The network is not trained for another T (its temporal attention is resized), and another form needs other weights."""


def card(folder: Path) -> str:
    """The text of the card.

    Args:
        folder: of the weights, named NETWORK.TAG, with :data:`ROWS` and :data:`CHECK`.

    Raises:
        UsageError: a file is damaged, or the rows lack the run that the weights come from.
        OSError: a file cannot be read.
    """
    run, runs, config, check = _read(folder)
    height, width = config["pretrained_cfg"]["input_size"][1:]
    others = "the table shows how far seeds differ" if len(runs) > 1 else "how far seeds differ was not measured"
    return "\n".join(
        [
            _front(run),
            f"# {folder.name}\n",
            f"A spiking network with the encoder `{run.label}`, trained on {run.settings['dataset']}:\n",
            f"```python\nimport gac_sj\nimport timm\n\n"
            f'model = timm.create_model("{folder.name}", pretrained=True)\n```\n',
            markdown_table(["", ""], _facts(run, runs, config, check)),
            "\n## Recipe\n",
            "What differs from the defaults of `experiments/train.py`, and what matters most:\n",
            f"```yaml\n{yaml.safe_dump(_recipe(run), sort_keys=False).rstrip()}\n```\n",
            f"## Seeds\n\nRows: [{ROWS}]({ROWS}), one for each seed.\n",
            *(f"{each.markdown()}\n\n{each.markdown_note}\n" for each in run_tables(runs)[:2] if not each.is_empty),
            f"## Limits\n\n{_LIMITS.format(size=f'{height} x {width}', others=others)}\n",
        ]
    )


def shipped_table(folder: Path) -> str:
    """A table of the weights in a folder; "" if there are none.

    Args:
        folder: of folders as :func:`card` takes them.

    Raises:
        UsageError: see :func:`card`.
    """
    lines = []
    for path in sorted(folder.glob(f"*/{CHECK}")):
        run, _, _, check = _read(path.parent)
        complete = f"{run.analysed.energy_complete_pj / 1e6:.2f}" if run.analysed else MISSING
        lines.append(
            [
                f"`{path.parent.name}`",
                f"{run.measured.train_images:,}",
                f"{check['accuracy']:.2f}",
                f"{run.measured.accuracy_last:.2f} ({_precision(run)})",
                complete,
                f"{run.measured.parameters:,}",
            ]
        )
    head = [
        "weights",
        "trained on",
        "accuracy, float32 (%)",
        "in training (%)",
        "complete energy (µJ)",
        "parameters",
    ]
    return markdown_table(head, lines) if lines else ""


def _read(folder: Path) -> tuple[Run, list[Run], dict[str, Any], dict[str, Any]]:
    """The run of the weights, those of all seeds, the config and what was measured."""
    config, check = (parse_json(read_text(folder / name)) for name in (CONFIG, CHECK))
    runs = load(folder / ROWS).runs
    run = next((each for each in runs if each.seed == check["seed"]), None)
    if run is None:
        raise UsageError(f"{folder / ROWS} has no row of the seed {check['seed']}", "make the weights again")
    return run, runs, config, check


def _precision(run: Run) -> str:
    return "float32" if run.settings["amp"] == "none" else run.settings["amp"]


def _front(run: Run) -> str:
    """What the Hub reads."""
    about = {
        "library_name": "timm",
        "license": "apache-2.0",
        "pipeline_tag": "image-classification",
        "datasets": [run.settings["dataset"]],
        "tags": ["image-classification", "timm", "spiking-neural-network", "spikingjelly", "gac_sj"],
    }
    return f"---\n{yaml.safe_dump(about, sort_keys=False)}---\n"


def _facts(run: Run, runs: list[Run], config: Mapping[str, Any], check: Mapping[str, Any]) -> list[list[str]]:
    measured, found = run.measured, run.analysed
    order = sorted(runs, key=lambda each: each.seed)
    seeds = ", ".join(f"{each.seed}: {each.measured.accuracy_last:.2f} %" for each in order)
    arguments = ", ".join(f"{name}={value}" for name, value in config["model_args"].items())
    energy = "not measured"
    if found is not None:
        energy = (
            f"{found.energy_paper_pj / 1e6:.2f} µJ an image as GAC's authors count, "
            f"{found.energy_complete_pj / 1e6:.2f} µJ complete, of which the encoder takes "
            f"{found.energy_encoder_pj / 1e6:.2f} µJ"
        )
    images = f"{measured.train_images:,} training and {measured.test_images:,} test images"
    return [
        ["data", f"{run.settings['dataset']}: {images}"],
        ["network", f"{config['architecture']} ({arguments}), {measured.parameters:,} parameters"],
        [
            "accuracy",
            f"{check['accuracy']:.2f} % of {check['images']:,} test images, top-5 {check['top5']:.2f} % (float32, "
            "contiguous, as loaded)",
        ],
        ["last epoch", f"{measured.accuracy_last:.2f} %, in training ({_precision(run)})"],
        ["best epoch", f"{measured.accuracy_best:.2f} %, epoch {measured.best_epoch}, chosen by the test images"],
        ["seed", f"{run.seed}, whose last epoch is the median (of an even number the lower one) of {seeds}"],
        ["energy", energy],
        ["firing rate", f"{measured.firing_rate_mean:.3f} spikes per neuron and step, mean over layers"],
        ["code", f"commit {measured.commit}; {measured.versions}"],
        ["device", f"{measured.device}; {measured.date} UTC"],
        ["weights", f"SHA-256 `{config['sha256']}`"],
    ]  # fmt: skip


def _recipe(run: Run) -> dict[str, Any]:
    """The settings that decided about the training."""
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    return {
        name: value
        for name, value in run.settings.items()
        if name in defaults and name not in _ELSEWHERE
        if name in _RECIPE or (value not in (None, [], {}) and value != defaults[name])
    }
