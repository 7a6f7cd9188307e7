"""Draw figures of finished runs, as PNG and SVG: from their rows, or of the network that one of them has left.

    python experiments/figures.py rows runs/cifar10 --output figures
    python experiments/figures.py network runs/cifar10_gac_T4/seed0/last.safetensors --output figures

rows: learning curves, accuracy against T and against energy, firing rates by layer and step, if the rows have the data;
one figure for all runs that differ in nothing but encoder and seed. network: for one image what the encoder's gate
weighs, the gate and the output, the output below that of direct coding with the same stem, both attentions, and
Grad-CAM; firing rates on test images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from gac_sj._utils.errors import UsageError
from gac_sj._utils.files import safe_name
from gac_sj.analysis import figures, firing_rates
from gac_sj.analysis.grad_cam import default_layer, grad_cam
from gac_sj.checkpoint.runs import load_network, read_weights, with_data
from gac_sj.cli.predict import load_image
from gac_sj.cli.program import program
from gac_sj.encoders import BASELINE_ENCODER, create_encoder, encoder_label
from gac_sj.encoders.gac import BEFORE
from gac_sj.models.protocols import encoder_of
from gac_sj.results import Run, group, load
from gac_sj.results.figures import KINDS
from gac_sj.training.build import Data, load_data
from gac_sj.training.distributed import DistributedContext, distributed_context
from gac_sj.training.settings import Settings

#: A figure's name, the figure or None if it is left out, and a note.
Drawn = tuple[str, Figure | None, str]


def of_rows(runs: Sequence[Run]) -> Iterator[Drawn]:
    """Every figure that runs allow.

    Args:
        runs: of any settings.

    Raises:
        UsageError: there are none.
    """
    if not runs:
        raise UsageError("There are no rows of runs", "give the folder of a finished run or its file of rows")
    for name, kind in KINDS.items():
        over = {"seed", "T"} if kind.over_T else {"seed"}
        for title, found in group(runs, over | {"encoder"}).items():
            path = "-".join(filter(None, (name, title.replace(", ", ","))))
            used = kind.select(found)
            if not used:
                yield path, None, f"no run has {kind.lack}"
                continue
            settings = used[0].settings
            if kind.over_T and {run.settings["T"] for run in used} == {settings["T"]}:
                yield path, None, f"all runs have T = {settings['T']}"
                continue
            figure = kind.draw(group(used, over))
            limit = "" if settings["train_limit"] is None else f", {settings['train_limit']:,} training images"
            steps = "" if kind.over_T else f", T = {settings['T']}"
            about = f"{settings['dataset']}{limit}, {used[0].network}{steps}, {settings['epochs']} epochs"
            figures.set_heading(figure, about)
            lacking = sum(not kind.uses(run) for run in found)
            yield path, figure, f"{lacking} runs do not have {kind.lack}" if lacking else ""


@torch.no_grad()
def of_network(
    model: nn.Module,
    settings: Settings,
    data: Data,
    world: DistributedContext,
    image: int | Path,
    layer: str | None,
    count: int,
) -> Iterator[Drawn]:
    """Every figure of a trained network.

    Args:
        model: the network, on its device.
        settings: of its run.
        data: of its run.
        world: of the device.
        image: number of the test image that is shown, or an image file.
        layer: for Grad-CAM; None: :func:`gac_sj.analysis.grad_cam.default_layer`.
        count: test images that firing rates are measured on.

    Raises:
        UsageError: there is no such image, or it does not fit the network.
        ValueError: there is no such layer.
    """
    model.eval()
    if isinstance(image, Path):
        images, shown = load_image(image, model).to(world.device), image.name
    elif 0 <= image < len(data.test):
        single = replace(data, test=replace(data.test, index=(data.test.index[image],)))
        images, labels = next(iter(single.testing(settings, model, world)))
        shown = f"test image {image}, class {data.test.classes[int(labels[0])]}"
    else:
        raise UsageError(f"must be one of the test images 0 to {len(data.test) - 1}, got {image}", argument="image")
    layer = layer or default_layer(model, images)
    maps = grad_cam(model, images, layer)  # before anything is written, as it knows whether the layer exists
    label = encoder_label(settings.encoder, settings.form, settings.model_options)
    predicted = data.test.classes[int(maps.classes[0])]
    pixels = picture(images, model)

    def titled(figure: Figure, addition: str = "") -> Figure:
        about = f"{label} on {settings.dataset}: {shown}, predicted {predicted}"
        figures.set_heading(figure, about + addition)
        return figure

    encoder = encoder_of(model)
    sizes = {"T": settings.T, "in_channels": encoder.in_channels, "channels": encoder.channels}
    baseline = create_encoder(BASELINE_ENCODER, **sizes, stem=encoder.stem).eval()
    coders = {BASELINE_ENCODER: baseline} | {settings.encoder: encoder}
    outputs = {name: coder(images)[:, 0].cpu() for name, coder in coders.items()}
    yield "encoder_outputs", titled(figures.encoder_outputs(pixels, outputs)), ""

    attention = encoder.attention_maps(images)
    if attention is None:
        for name in ("encoder", "gates"):
            yield name, None, f"the encoder {label} has no gate"
    else:
        output, ungated = outputs[settings.encoder], outputs[BASELINE_ENCODER]
        if encoder.neuron is None:
            weighed, gated = "current", "= gated\ncurrent"
        elif getattr(encoder, "gate", None) == BEFORE:
            weighed, gated = "current", "→ LIF:\nspikes"
        else:
            weighed, gated = "spikes", "= gated\nspikes"
            fires = create_encoder(BASELINE_ENCODER, **sizes, stem=encoder.stem, neuron=encoder.neuron).eval()
            ungated = fires(images)[:, 0].cpu()
        stages = {
            f"{weighed} of\nthe stem": ungated,
            "\N{MULTIPLICATION SIGN} gate": attention.gate[:, 0].cpu().expand_as(output),
            gated: output,
        }
        yield "encoder", titled(figures.encoder(pixels, stages)), ""
        temporal = None if attention.temporal is None else attention.temporal[:, 0].flatten(1).cpu()
        spatial = None if attention.spatial_channel is None else attention.spatial_channel.select(-4, 0).cpu()
        yield "gates", titled(figures.gates(pixels, attention.gate[:, 0].cpu(), temporal, spatial)), ""

    cam = figures.grad_cam(pixels, maps.over_time[0].cpu(), maps.by_step[:, 0].cpu(), f"{predicted} (predicted)")
    yield f"grad_cam-{layer}", titled(cam, f"; Grad-CAM of {layer}"), ""

    sample = data.sample(count)
    with firing_rates(model, by_step=True) as rates:
        for images, _ in sample.testing(settings, model, world):
            model(images)
    figure = figures.firing_rates_by_step({label: rates})
    figures.set_heading(figure, f"{settings.dataset}, {len(sample.test)} test images")
    yield "firing_rates_by_step", figure, ""


def picture(images: Tensor, model: nn.Module) -> Tensor:
    """The first image as it is shown, ``[H, W]`` or ``[H, W, 3]``; the mean of frames and of other channels.

    Args:
        images: as the network receives them, ``[N, C, H, W]`` or ``[T, N, C, H, W]``.
        model: the network, whose ``pretrained_cfg`` has mean and std of the pixels.
    """
    mean, std = (torch.tensor(model.pretrained_cfg[name]).view(-1, 1, 1) for name in ("mean", "std"))
    pixels = images.select(-4, 0).cpu() * std + mean
    if pixels.dim() == 4:
        pixels = pixels.mean(0)
        pixels = pixels / pixels.max().clamp(min=1e-12)  # counts of events
    pixels = pixels.clamp(0, 1)
    return pixels.permute(1, 2, 0) if len(pixels) == 3 else pixels.mean(0)


def write(drawn: Iterator[Drawn], folder: Path) -> None:
    """Save figures as they come, and print which are written and which are left out.

    Args:
        drawn: the figures.
        folder: that gets them.

    Raises:
        UsageError: the folder cannot be written; see also what draws the figures.
    """
    for title, figure, note in drawn:
        name = safe_name(title)
        if figure is None:
            print(f"{name} is left out: {note}.")
            continue
        try:
            paths = figures.save(figure, folder / name)
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be written ({error})", "name another folder", argument="output"
            ) from error
        print(" and ".join(map(str, paths)) + (f"; {note}." if note else ""), flush=True)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "figures.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="source", required=True, metavar="rows|network")
    rows = kinds.add_parser("rows", help="figures of stored rows")
    rows.add_argument("places", nargs="+", type=Path, metavar="DIR_OR_CSV", help="folders of runs, or files of rows")
    network = kinds.add_parser("network", help="figures of a trained network")
    network.add_argument("weights", type=Path, help="last.safetensors or best.safetensors of a run")
    network.add_argument("--data-dir", help="folder of the data set (default: that of the run)")
    network.add_argument(
        "--image",
        type=lambda text: int(text) if text.removeprefix("-").isdecimal() else Path(text),
        default=0,
        metavar="N_OR_FILE",
        help="number of a test image, or an image file (default: 0)",
    )
    network.add_argument(
        "--layer", metavar="NAME", help="for Grad-CAM (default: the last neuron with an output of pixels, such as lif)"
    )
    network.add_argument("--images", type=int, default=500, metavar="N", help="for firing rates (default: 500)")
    network.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or auto (default)")
    for command in (rows, network):
        command.add_argument("--output", type=Path, required=True, metavar="DIR")
    return parser


@program(build_parser, interrupted="interrupted; the files that were written are complete.")
def main(args: argparse.Namespace) -> None:
    if args.source == "rows":
        write(of_rows(load(*args.places).runs), args.output)
        return
    settings, weights = read_weights(args.weights)
    changes = {"loader": "standard", "workers": 0}
    with distributed_context(args.device) as world:
        settings = replace(with_data(settings, args.weights, args.data_dir), **changes)
        data = load_data(settings)
        model = load_network(settings, weights, data.info).to(world.device)
        torch.manual_seed(settings.seed)  # for encoders that draw
        write(of_network(model, settings, data, world, args.image, args.layer, args.images), args.output)


if __name__ == "__main__":
    sys.exit(main())
