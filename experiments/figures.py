"""Draw figures of finished runs, as PNG and SVG: from their rows, or of the network that one of them has left.

    python experiments/figures.py rows runs/cifar10 --output figures
    python experiments/figures.py network runs/cifar10_gac_T4/seed0/last.safetensors --data-dir DIR --output figures

rows: learning curves, accuracy against T and against energy, firing rates by layer and step; as far as the rows have
them, and one figure for all runs that differ in nothing but encoder and seed. network: for one test image the encoder's
output below that of direct coding with the same stem, its gate, and Grad-CAM; firing rates on test images.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from gac_sj import DirectCoding, GatedAttentionCoding
from gac_sj.analysis import figures, firing_rates
from gac_sj.analysis.grad_cam import grad_cam
from gac_sj.checkpoint.runs import load_network, read_weights
from gac_sj.results.schema import as_text
from gac_sj.results.sets import SHARED, Row, group, label, read_rows, result_files
from gac_sj.training.build import Data, load_data
from gac_sj.training.distributed import DistributedContext, distributed_context
from gac_sj.training.settings import Settings

#: What the encoders of one figure may differ in.
ENCODER = ("encoder", "form", "model_options")
#: Settings that name a figure first, where there are several of a kind.
TELLING = ("dataset", "model", "T", "epochs")
Groups = dict[str, list[Row]]
#: A figure's name, the figure or None where it is left out, and what is to be said about it.
Drawn = tuple[str, Figure | None, str]


@dataclass(frozen=True)
class Kind:
    """A figure of rows: which of them it can use and what the others lack; ``over_T``: it needs several T."""

    draw: Callable[[Groups], Figure]
    uses: Callable[[Row], bool] = lambda row: True
    lack: str = ""
    over_T: bool = False


KINDS = {
    "learning_curves": Kind(
        figures.learning_curves, lambda row: len(json.loads(row["accuracy_by_epoch"])) > 1, "tests at several epochs"
    ),
    "accuracy_against_T": Kind(figures.accuracy_against_T, over_T=True),
    "accuracy_against_energy": Kind(
        figures.accuracy_against_energy, lambda row: row["energy_paper_pj"] != "", "an analysis of their energy"
    ),
    "firing_rates_by_step": Kind(
        figures.firing_rates_by_step, lambda row: row["firing_rates_by_step"] != "", "an analysis of their firing rates"
    ),
}


def of_rows(rows: list[Row]) -> Iterator[Drawn]:
    """Every figure that rows allow.

    Raises:
        ValueError: there is no row, or there are two results of the same settings and seed.
    """
    sets = group(rows)
    if not sets:
        raise ValueError("There are no rows of results; give the folder of a finished run or its file of rows.")
    for kind, how in KINDS.items():
        for suffix, groups in comparable(sets, how.over_T).items():
            name = "-".join(filter(None, (kind, suffix)))
            used = {key: kept for key, runs in groups.items() if (kept := [row for row in runs if how.uses(row)])}
            if not used:
                yield name, None, f"no run has {how.lack}"
                continue
            first = next(iter(used.values()))[0]
            if how.over_T and {row["T"] for runs in used.values() for row in runs} == {first["T"]}:
                yield name, None, f"all runs have T = {first['T']}"
                continue
            figure = how.draw(used)
            limit = "" if first["train_limit"] == "None" else f", {int(first['train_limit']):,} training images"
            steps = "" if how.over_T else f", T = {first['T']}"
            title = f"{first['dataset']}{limit}, {network_name(first)}{steps}, {first['epochs']} epochs"
            figure.suptitle(title, fontsize=9)
            lacking = sum(map(len, groups.values())) - sum(map(len, used.values()))
            yield name, figure, f"{lacking} runs do not have {how.lack}" if lacking else ""


def comparable(sets: list[list[Row]], over_T: bool) -> dict[str, Groups]:
    """Sets whose encoders may stand in one figure, by the settings that tell figures apart; their runs by encoder."""
    fixed = [name for name in SHARED if name not in ENCODER and not (over_T and name == "T")]
    fixed.sort(key=lambda name: TELLING.index(name) if name in TELLING else len(TELLING))
    shared = [{name: runs[0][name] for name in fixed} | {"model": network_name(runs[0])} for runs in sets]

    def values(names: list[str]) -> list[tuple[str, ...]]:
        return [tuple(settings[name] for name in names) for settings in shared]

    told: list[str] = []
    for name in fixed:
        if len(set(values([*told, name]))) > len(set(values(told))):
            told.append(name)
    found: dict[str, Groups] = {}
    for runs, key in zip(sets, values(told)):
        groups = found.setdefault(",".join(f"{name}={value}" for name, value in zip(told, key)), {})
        name = label(runs[0])
        if name in groups and groups[name][0]["model"] != runs[0]["model"]:  # ImageNet's differ in initialisation
            name += f" in {runs[0]['model']}"
        groups.setdefault(name, []).extend(runs)
    return found


def network_name(row: Row) -> str:
    """The network behind the encoder; "gac_" only says which encoder is the default."""
    return row["model"].removeprefix("gac_")


@torch.no_grad()
def of_network(
    model: nn.Module, settings: Settings, data: Data, world: DistributedContext, number: int, layer: str, count: int
) -> Iterator[Drawn]:
    """Every figure of a trained network: test image ``number``, Grad-CAM of ``layer``, rates on ``count`` images.

    Raises:
        ValueError: no such image or layer.
    """
    model.eval()
    if not 0 <= number < len(data.test):
        raise ValueError(f"--image is {number}, and the test set has the images 0 to {len(data.test) - 1}; choose one.")
    single = replace(data, test=replace(data.test, index=(data.test.index[number],)))
    images, labels = next(iter(single.testing(settings, model, world)))
    maps = grad_cam(model, images, layer)  # before anything is written, as it knows whether the layer exists
    name, image = label(as_text(settings.key())), picture(images, model)
    truth, predicted = (data.test.classes[int(which)] for which in (labels[0], maps.classes[0]))

    def titled(figure: Figure, addition: str = "") -> Figure:
        about = f"{name} on {settings.dataset}: test image {number}, class {truth}, predicted {predicted}"
        figure.suptitle(about + addition, fontsize=9)
        return figure

    encoder = model.encoder
    coders = {name: encoder}
    if not (isinstance(encoder, DirectCoding) and encoder.neuron is None):
        direct = DirectCoding(settings.T, encoder.in_channels, encoder.channels, stem=encoder.stem).eval()
        coders = {"direct": direct} | coders
    outputs = {key: coder(images)[:, 0].cpu() for key, coder in coders.items()}
    yield "encoder_outputs", titled(figures.encoder_outputs(image, outputs)), ""

    if isinstance(encoder, GatedAttentionCoding):
        features, gau = encoder.features(images), encoder.gau
        gate = encoder.over_time(gau(features))[:, 0].cpu()
        temporal = gau.temporal and gau.temporal(features)[:, 0].flatten().cpu()
        spatial = gau.spatial_channel and gau.spatial_channel(features).select(-4, 0).cpu()
        yield "gates", titled(figures.gates(image, gate, temporal, spatial)), ""
    else:
        yield "gates", None, f"the encoder {name} has no gate"

    cam = figures.grad_cam(image, maps.over_time[0].cpu(), maps.by_step[:, 0].cpu())
    yield f"grad_cam-{layer}", titled(cam, f"; Grad-CAM of {layer}"), ""

    sample = data.sample(count)
    with firing_rates(model, by_step=True) as rates:
        for images, _ in sample.testing(settings, model, world):
            model(images)
    figure = figures.firing_rates_by_step({name: [{"firing_rates_by_step": json.dumps(rates)}]})
    figure.suptitle(f"{settings.dataset}, {len(sample.test)} test images", fontsize=9)
    yield "firing_rates_by_step", figure, ""


def picture(images: Tensor, model: nn.Module) -> Tensor:
    """The first image as it is shown, ``[H, W]`` or ``[H, W, 3]``; of frames and of other channels their mean."""
    mean, std = (torch.tensor(model.pretrained_cfg[name]).view(-1, 1, 1) for name in ("mean", "std"))
    pixels = images.select(-4, 0).cpu() * std + mean
    if pixels.dim() == 4:
        pixels = pixels.mean(0)
        pixels = pixels / pixels.max().clamp(min=1e-12)  # counts of events
    pixels = pixels.clamp(0, 1)
    return pixels.permute(1, 2, 0) if len(pixels) == 3 else pixels.mean(0)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="source", required=True, metavar="rows|network")
    rows = kinds.add_parser("rows", help="figures of stored rows")
    rows.add_argument("places", nargs="+", type=Path, metavar="DIR_OR_CSV", help="folders of runs, or files of rows")
    network = kinds.add_parser("network", help="figures of a trained network")
    network.add_argument("weights", type=Path, help="last.safetensors or best.safetensors of a run")
    network.add_argument("--data-dir", help="folder of the data set")
    network.add_argument("--image", type=int, default=0, metavar="N", help="number of the test image (default: 0)")
    network.add_argument("--layer", default="lif", metavar="NAME", help="for Grad-CAM (default: the last neuron, lif)")
    network.add_argument("--images", type=int, default=500, metavar="N", help="for firing rates (default: 500)")
    network.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or auto (default)")
    for command in (rows, network):
        command.add_argument("--output", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(arguments)
    try:
        if args.source == "rows":
            write(of_rows(read_rows([file for place in args.places for file in result_files(place)])), args.output)
            return 0
        settings, weights = read_weights(args.weights)
        changes = {"data_dir": args.data_dir, "loader": "standard", "workers": 0}
        with distributed_context(args.device) as world:
            settings = Settings(**vars(settings) | changes)
            data = load_data(settings)
            model = load_network(settings, weights, data.info).to(world.device)
            torch.manual_seed(settings.seed)  # for encoders that draw
            write(of_network(model, settings, data, world, args.image, args.layer, args.images), args.output)
    except (ValueError, OSError) as error:
        print(f"figures.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("figures.py: interrupted; what is written is whole.", file=sys.stderr)
        return 130
    return 0


def write(drawn: Iterator[Drawn], folder: Path) -> None:
    """Save figures as they come, and say which are there and which are not.

    Raises:
        ValueError: the folder cannot be written; see also what draws them.
    """
    for name, figure, note in drawn:
        if figure is None:
            print(f"{name} is left out: {note}.")
            continue
        try:
            paths = figures.save(figure, folder / name)
        except OSError as error:
            raise ValueError(f"--output {folder} cannot be written ({error}); name another folder.") from error
        print(" and ".join(map(str, paths)) + (f"; {note}." if note else ""), flush=True)


if __name__ == "__main__":
    sys.exit(main())
