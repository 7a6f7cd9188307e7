"""Figures: Grad-CAM and firing rates by step against values by hand, drawings that show their data, the command."""

import json
from dataclasses import replace
from unittest import mock

import figures as command
import matplotlib
import numpy as np
import pytest
import timm
import torch
from helpers.programs import refused
from helpers.rows import row, runs
from matplotlib.colors import rgb_to_hsv, to_rgb
from matplotlib.text import Text
from PIL import Image
from safetensors.torch import save_file
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import gac_sj
from gac_sj.analysis import figures, firing_rates
from gac_sj.analysis.grad_cam import grad_cam
from gac_sj.checkpoint.runs import build_model, load_network, read_weights
from gac_sj.results import Run, group, load
from gac_sj.results import figures as run_figures
from gac_sj.results.columns import columns_of
from gac_sj.results.figures import KINDS, line_styles
from gac_sj.results.run_tables import run_tables
from gac_sj.results.schema import NOT_ANALYSED, RUNS, Analysed, Measured, as_row, as_text
from gac_sj.results.store import Rows
from gac_sj.training.build import load_data
from gac_sj.training.settings import Settings


class TestFiringRatesByStep:
    @staticmethod
    def network(step_mode):
        """Fires where the current is 1, and keeps nothing."""
        return nn.Sequential(gac_sj.LIFNode(v_threshold=0.5, decay_input=False, step_mode=step_mode))

    def test_all_calls_count_in_step_mode_m(self):
        network = self.network("m")
        first = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])[..., None]  # 2 of 3, 0 of 3
        second = torch.tensor([[0.0], [1.0]])[..., None]  # 0 of 1, 1 of 1
        with firing_rates(network, by_step=True) as rates:
            for current in (first, second):
                network(current)
                functional.reset_net(network)
        assert rates == {"0": [2 / 4, 1 / 4]}
        assert not network[0]._forward_hooks

    def test_a_step_that_only_some_calls_reach_has_their_rate(self):
        network = self.network("m")
        with firing_rates(network, by_step=True) as rates:
            for current in (torch.ones(1, 3), torch.tensor([[0.0], [1.0], [0.0]])):
                network(current)
                functional.reset_net(network)
        assert rates == {"0": [3 / 4, 1.0, 0.0]}

    def test_a_call_is_a_step_in_step_mode_s(self):
        network = self.network("s")
        with firing_rates(network, by_step=True) as rates:
            for current in ([1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]):
                network(torch.tensor(current))
        assert rates == {"0": [3 / 4, 1 / 4]}

    def test_their_mean_is_the_rate(self):
        model = timm.create_model("gac_ms_resnet8_cifar", T=3, num_classes=2)
        counted = {}
        images = torch.randn(2, 3, 8, 8)
        model.lif.register_forward_hook(lambda module, inputs, output: counted.update(lif=output.mean((1, 2, 3, 4))))
        with torch.no_grad(), firing_rates(model) as rates, firing_rates(model, by_step=True) as steps:
            model(images)
        assert list(steps) == list(rates) and "encoder.neuron" in steps
        for name, values in steps.items():
            assert len(values) == 3 and np.mean(values) == pytest.approx(rates[name], abs=1e-12)
        assert steps["lif"] == pytest.approx(counted["lif"].tolist()) and max(steps["lif"]) > 0

    def test_a_neuron_that_is_not_called_is_left_out(self):
        network = self.network("m")
        with firing_rates(network, by_step=True) as rates:
            pass
        assert rates == {}


class Tiny(nn.Module):
    """Two channels per pixel, 1 and -2 times the image; step t sees (t + 1) times that; logits from their means."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.features = nn.Identity()
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -2.0]).view(2, 1, 1, 1))
            self.head.weight.copy_(torch.tensor([[3.0, 1.0], [-1.0, 2.0]]))

    def forward(self, images):
        current = self.conv(images)
        return self.head(self.features(torch.stack([current, 2 * current])).mean((-2, -1)))


class InPlace(Tiny):
    def forward(self, images):
        current = self.conv(images)
        return self.head(self.relu(self.features(torch.stack([current, 2 * current]))).mean((-2, -1)))


class LastStep(nn.Module):
    """Reads the last step alone: what the first one has to do with it goes through the membrane potential."""

    def __init__(self, node):
        super().__init__()
        self.features = nn.Identity()
        self.node = node

    def forward(self, images):
        return self.node(self.features(torch.stack([images, images])))[-1].mean((-2, -1))


class TestGradCAM:
    images = torch.tensor([[[[4.0, -4.0]]], [[[8.0, 0.0]]]])  # [2, 1, 1, 2]

    def test_by_hand(self):
        """Two steps, two pixels: a channel's weight is its part in the logit over 4, which is the same in all pixels.

        Class 0: (3 x - 2 x) / 4 with x = 4, -4 and 8, 0; twice that at the second step, 1.5 times over time.
        Class 1: (-x - 4 x) / 4.
        """
        maps = grad_cam(Tiny(), self.images, "features", [0, 0])
        assert maps.by_step.tolist() == [[[[1.0, 0.0]], [[2.0, 0.0]]], [[[2.0, 0.0]], [[4.0, 0.0]]]]
        assert maps.over_time.tolist() == [[[1.5, 0.0]], [[3.0, 0.0]]]
        maps = grad_cam(Tiny(), self.images, "features", torch.tensor([1, 1]))
        assert maps.by_step.tolist() == [[[[0.0, 5.0]], [[0.0, 0.0]]], [[[0.0, 10.0]], [[0.0, 0.0]]]]
        assert maps.over_time.tolist() == [[[0.0, 7.5]], [[0.0, 0.0]]] and maps.classes.tolist() == [1, 1]

    def test_what_speaks_against_counts_over_time(self):
        class Signs(Tiny):
            def forward(self, images):
                current = self.conv(images)
                return self.head(self.features(torch.stack([current, -2 * current])).mean((-2, -1)))

        maps = grad_cam(Signs(), self.images[:1], "features", [0])
        assert maps.by_step[:, 0, 0].tolist() == [[1.0, 0.0], [0.0, 2.0]]
        assert maps.over_time[0, 0].tolist() == [0.0, 0.5]

    def test_predicted_classes(self):
        """The means over pixels and steps are 0, so the first class, and 6 x (1, -2): logits 6 and -30."""
        assert grad_cam(Tiny(), self.images, "features").classes.tolist() == [0, 0]
        assert grad_cam(Tiny(), -self.images, "features").classes.tolist() == [0, 1]

    def test_a_layer_behind_may_work_in_place(self):
        """ReLU leaves x of 4 and 8, and -2 x of -4: class 0 has 3 x there, and 1 x 8 at the other pixel."""
        maps = grad_cam(InPlace(), self.images, "features", [0, 0])
        # channel 0 has gradient 3 / 4 at one pixel of two, and so has channel 1 of the first image with 1 / 4
        assert maps.by_step[0].tolist() == [[[(3 * 4 - 1 * 8) / 8, 0.0]], [[3 * 8 / 8, 0.0]]]

    @pytest.mark.parametrize("node", [gac_sj.LIFNode, neuron.LIFNode])
    def test_through_time(self, node):
        """Against torch's own gradient; SpikingJelly's node as well, which an older release cuts off in evaluation."""
        model = LastStep(node(step_mode="m")).eval()
        images = torch.rand(2, 3, 2, 2)
        features = torch.stack([images, images]).requires_grad_()
        model.node.train()
        score = model.node(features)[-1].mean((-2, -1))[:, 1].sum()
        (gradient,) = torch.autograd.grad(score, features)
        functional.reset_net(model)
        model.eval()
        maps = grad_cam(model, images, "features", [1, 1])
        weighted = (gradient.mean((-2, -1), keepdim=True) * features).sum(2)
        assert torch.equal(maps.by_step, weighted.relu()) and maps.by_step[0].max() > 0
        assert torch.equal(maps.over_time, weighted.mean(0).relu())

    def test_images_do_not_depend_on_each_other(self):
        model = timm.create_model("gac_ms_resnet8_cifar", T=2, num_classes=4)
        images = torch.randn(3, 3, 8, 8)
        maps = grad_cam(model, images, "stages.0")
        alone = grad_cam(model, images[1:2], "stages.0")
        assert maps.by_step.shape == (2, 3, 8, 8) and maps.by_step.max() > 0
        assert torch.allclose(maps.by_step[:, 1:2], alone.by_step, rtol=1e-4, atol=1e-9)

    def test_the_network_is_left_as_it_was(self):
        network = nn.Sequential(
            gac_sj.GatedAttentionCoding(2, 1, 4),
            layer.Conv2d(4, 4, 3),
            gac_sj.LIFNode(),
            layer.AdaptiveAvgPool2d(1),
            layer.Flatten(),
            layer.Linear(4, 2),
        )
        functional.set_step_mode(network, "m")
        network[0].eval()
        with torch.no_grad():
            network(torch.randn(3, 1, 6, 6))
        before, potential = {k: v.clone() for k, v in network.state_dict().items()}, network[2].v.clone()
        with torch.no_grad():
            first = grad_cam(network, torch.randn(2, 1, 6, 6), "1")
        assert first.by_step.shape == (2, 2, 4, 4) and not first.by_step.requires_grad
        assert [module.training for module in network] == [False, True, True, True, True, True]
        assert torch.equal(network[2].v, potential)
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
        assert all(weight.grad is None for weight in network.parameters())
        assert not any(module._forward_hooks for module in network.modules())

    def test_weights_that_are_frozen(self):
        maps = grad_cam(Tiny().requires_grad_(False), self.images, "features", [0, 0])
        assert maps.over_time.tolist() == [[[1.5, 0.0]], [[3.0, 0.0]]]

    @pytest.mark.parametrize(
        ("name", "classes", "words"),
        [
            ("feature", None, "'feature'.*features"),
            ("conv", None, r"'conv'.*\[2, 2, 1, 2\]"),
            ("relu", None, "'relu'.* 0 times"),
            ("features", [0, 2], "classes.*2"),
            ("features", [-1, 0], "classes.*-1"),
            ("features", [0], r"classes.*\[1\]"),
        ],
    )
    def test_refusals(self, name, classes, words):
        model = Tiny()
        with pytest.raises(ValueError, match=words):
            grad_cam(model, self.images, name, classes)
        assert model.training and not any(module._forward_hooks for module in model.modules())


def record(cls, **columns):
    """A part of a run in which only some columns matter."""
    empty = {column.name: {} if "dict" in str(column.hint) else [] if "list" in str(column.hint) else 1
             for column in columns_of(cls)}  # fmt: skip
    return cls(**empty | columns)


def run(T=2, **columns):
    """A run, as far as figures look at it."""
    measured = {name: columns.pop(name) for name in tuple(columns) if name.startswith("accuracy")}
    return Run({"T": T}, None, record(Measured, **measured), record(Analysed, **columns) if columns else None)


def images(figure):
    return [image for axes in figure.findobj(matplotlib.axes.Axes) for image in axes.images]


def arrays(figure):
    return [image.get_array() for image in images(figure)]


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def close(figure, expected):
    """Whether the figure has an image of these data."""
    return any(a.shape == np.shape(expected) and np.allclose(a, expected) for a in arrays(figure))


CURVES = {
    "gac": [run(accuracy_by_epoch={"2": 50.0, "10": 60.0}), run(accuracy_by_epoch={"2": 54.0, "10": 70.0})],
    "direct": [run(accuracy_by_epoch={"2": 40.0, "10": 44.0})],
}
OVER_T = {
    "gac": [run(T=T, accuracy_last=a) for T, a in ((4, 70.0), (2, 50.0), (2, 52.0), (4, 74.0))],
    "direct": [run(T=4, accuracy_last=60.0), run(T=6, accuracy_last=61.0)],
}
ENERGY = {
    "gac": [
        run(energy_paper_pj=2e5, energy_complete_pj=5e5, accuracy_last=70.0),
        run(energy_paper_pj=4e5, energy_complete_pj=7e5, accuracy_last=72.0),
    ],
    "direct": [run(energy_paper_pj=1e5, energy_complete_pj=3e5, accuracy_last=60.0)],
}
RATES = {
    "direct": [run(firing_rates_by_step={"lif": [0.5, 0.25]})],
    "gac": [
        run(firing_rates_by_step={"encoder.neuron": [0.1, 0.2], "lif": [0.3, 0.4]}),
        run(firing_rates_by_step={"encoder.neuron": [0.3, 0.4], "lif": [0.5, 0.0]}),
    ],
}
random = np.random.default_rng(0)
IMAGE, STEPS = random.random((8, 8, 3)), random.normal(size=(2, 2, 8, 8))
DRAWN = {
    "encoder_outputs": lambda: figures.encoder_outputs(IMAGE, {"direct": STEPS, "gac": STEPS**2}),
    "encoder": lambda: figures.encoder(IMAGE, {"spikes": STEPS > 0, "gate": STEPS, "gated": STEPS * (STEPS > 0)}),
    "gates": lambda: figures.gates(IMAGE, np.eye(4)[:2].reshape(2, 1, 2, 2), np.arange(2), np.ones((1, 2, 2))),
    "grad_cam": lambda: figures.grad_cam(IMAGE, np.eye(2), np.ones((2, 2, 2)), "a cat"),
    "firing_rates_by_step": lambda: run_figures.firing_rates_by_step(RATES),
    "accuracy_against_energy": lambda: run_figures.accuracy_against_energy(ENERGY),
    "accuracy_against_T": lambda: run_figures.accuracy_against_T(OVER_T),
    "learning_curves": lambda: run_figures.learning_curves(CURVES),
}  # fmt: skip


class TestMaps:
    def test_encoder_outputs(self):
        outputs = {"direct": random.normal(size=(2, 3, 4, 4)), "gac": random.random((2, 3, 4, 4))}
        outputs["gac"][:, 1] *= 10
        figure = figures.encoder_outputs(IMAGE, outputs)
        assert len(arrays(figure)) == 1 + 2 * 2 * 2 and close(figure, IMAGE)
        for output in outputs.values():
            assert all(close(figure, map_) for map_ in (*output.mean(1), *output[:, 1]))
        found = texts(figure)
        assert [found.count(text) for text in ("step 1", "step 2", "channel\nmean", "channel\n1")] == [2, 2, 2, 2]
        assert found.index("direct") < found.index("gac")
        # one scale for the steps of a row
        scales = {image.get_clim() for image in images(figure)}
        mean = outputs["direct"].mean(1)
        assert (mean.min(), mean.max()) in scales and len(scales) == 1 + 4

    @pytest.mark.medium
    def test_of_many_steps_eight_are_shown(self):
        output = random.random((16, 2, 4, 4))
        figure = figures.encoder_outputs(IMAGE, {"gac": output})
        assert len(arrays(figure)) == 1 + 2 * 8 and {"step 1", "step 16"} <= set(texts(figure))
        assert close(figure, output[15].mean(0)) and not close(figure, output[1].mean(0))

    def test_encoder(self):
        """Gated spikes have the colours of the gate; what is 0 has none."""
        spikes, gate = (random.random((3, 2, 4, 4)) > 0.5).astype(float), random.random((3, 2, 4, 4))
        spikes[:, 0] = 0
        figure = figures.encoder(IMAGE, {"spikes": spikes, "gate": gate, "gated spikes": spikes * gate})
        assert {"spikes", "gate", "gated spikes", "step 1", "step 3"} <= set(texts(figure))
        shown = [image for image in images(figure) if image.get_array().shape == (4, 4)]
        drawn = np.stack([np.ma.filled(image.get_array(), 0) for image in shown])
        assert np.allclose(drawn.reshape(3, 3, 4, 4), np.stack([spikes, gate, spikes * gate])[:, :, 1])
        scales = [image.get_clim() for image in shown]
        assert set(scales[:3]) == {(0, 1)} and set(scales[3:]) == {(gate[:, 1].min(), gate[:, 1].max())}

    def test_encoder_without_spikes(self):
        """A gated current has a scale of its own, and so has a current whose neuron stays silent."""
        current, gate = random.normal(size=(2, 1, 4, 4)), 1 + random.random((2, 1, 4, 4))
        for output in (current * gate, 0 * current):
            figure = figures.encoder(IMAGE, {"current": current, "gate": gate, "output": output})
            scales = [image.get_clim() for image in images(figure) if image.get_array().shape == (4, 4)]
            own = (output.min(), output.max()) if output.any() else (0, 1)
            assert scales[::2] == [(array.min(), array.max()) for array in (current, gate)] + [own]

    def test_gates(self):
        gate, spatial, temporal = random.random((3, 2, 4, 4)), random.normal(size=(2, 4, 4)), [1.0, -2.0, 0.5]
        figure = figures.gates(IMAGE, gate, temporal, spatial)
        assert len(arrays(figure)) == 1 + 1 + 3 and close(figure, spatial.mean(0))
        assert all(close(figure, map_) for map_ in gate.mean(1))
        (line,) = [line for axes in figure.findobj(matplotlib.axes.Axes) for line in axes.lines]
        assert line.get_xydata().tolist() == [[1, 1.0], [2, -2.0], [3, 0.5]]

    def test_gates_of_one_attention(self):
        gate = np.ones((2, 3, 1, 1))
        assert "spatial-channel attention" not in texts(figures.gates(IMAGE, gate, [1.0, 2.0], None))
        figure = figures.gates(IMAGE, gate, None, np.ones((2, 3, 4, 4)))
        assert "temporal attention" not in texts(figure) and close(figure, np.ones((4, 4)))

    def test_equal_gates_look_equal(self):
        """A scale of no width is widened, for all maps."""
        figure = figures.gates(IMAGE, np.ones((2, 3, 4, 4)), None, None)
        figure.draw_without_rendering()
        _, first, second = images(figure)
        assert first.get_clim() == second.get_clim()

    def test_grad_cam(self):
        over_time, by_step = random.random((2, 2)), 2 * random.random((2, 2, 2))
        by_step[1, 0, 0] = 4
        figure = figures.grad_cam(IMAGE, over_time, by_step, "cat (predicted)")
        assert "evidence for class cat (predicted)" in texts(figure)
        assert [text for text in texts(figure) if "step" in text] == ["all steps", "step 1", "step 2"]
        # each map by itself and over the image, in shares of the largest
        for map_ in (over_time, *by_step):
            assert sum(a.shape == (2, 2) and np.allclose(a, map_ / 4) for a in arrays(figure)) == 2
        assert len(arrays(figure)) == 1 + 3 * 3

    def test_grad_cam_that_finds_nothing(self):
        assert close(figures.grad_cam(IMAGE[..., 0], np.zeros((2, 2)), np.zeros((1, 2, 2)), "cat"), np.zeros((2, 2)))

    def test_firing_rates(self):
        figure = run_figures.firing_rates_by_step(RATES)
        direct, gac = arrays(figure)
        # means over seeds; the encoder's neuron is in front, and a layer that is not there is no 0
        assert np.allclose(gac, [[0.2, 0.3], [0.4, 0.2]])
        assert np.isnan(np.ma.filled(direct[0].astype(float), np.nan)).all() and direct[1].tolist() == [0.5, 0.25]
        panels = [axes for axes in figure.axes if axes.images]
        figure.draw_without_rendering()
        (bar,) = (axes.get_tightbbox() for axes in figure.axes if not axes.images)
        assert not any(bar.overlaps(axes.get_tightbbox()) for axes in panels)
        assert [axes.get_title() for axes in panels] == ["direct", "gac"]
        assert [label.get_text() for label in panels[0].get_yticklabels()] == ["encoder.neuron", "lif"]
        assert {axes.images[0].get_clim() for axes in panels} == {(0, 0.5)}
        assert {".50", ".25", ".20", ".30", ".40"} <= set(texts(figure))


@pytest.mark.one_release
class TestRows:
    @staticmethod
    def lines(axes):
        return {line.get_label(): line for line in axes.lines}

    @staticmethod
    def band(axes, at):
        """Lower and upper end at every x."""
        ends = {}
        for x, y in axes.collections[at].get_paths()[0].vertices:
            low, high = ends.get(x, (y, y))
            ends[x] = min(low, y), max(high, y)
        return ends

    def test_learning_curves(self):
        (axes,) = run_figures.learning_curves(CURVES).axes
        lines = self.lines(axes)
        assert lines["gac (n = 2)"].get_xydata().tolist() == [[2, 52.0], [10, 65.0]]
        assert lines["direct (n = 1)"].get_xydata().tolist() == [[2, 40.0], [10, 44.0]]
        assert self.band(axes, 0) == {2: (50.0, 54.0), 10: (60.0, 70.0)}

    def test_epochs_that_one_seed_lacks_are_left_out(self):
        rows = [run(accuracy_by_epoch={"1": 1.0, "2": 2.0, "10": 3.0}), run(accuracy_by_epoch={"2": 4.0, "10": 5.0})]
        (axes,) = run_figures.learning_curves({"gac": rows}).axes
        assert axes.lines[0].get_xydata().tolist() == [[2, 3.0], [10, 4.0]]

    def test_accuracy_against_T(self):
        (axes,) = run_figures.accuracy_against_T(OVER_T).axes
        lines = self.lines(axes)
        assert lines["gac"].get_xydata().tolist() == [[2, 51.0], [4, 72.0]]
        assert lines["direct"].get_xydata().tolist() == [[4, 60.0], [6, 61.0]]
        assert self.band(axes, 0) == {2: (50.0, 52.0), 4: (70.0, 74.0)} and list(axes.get_xticks()) == [2, 4, 6]

    @pytest.mark.parametrize(("scale", "unit"), [(1e-3, "pJ"), (1, "nJ"), (10, "µJ"), (1e4, "mJ")])
    def test_accuracy_against_energy(self, scale, unit):
        """One unit for both panels, in which the largest value is 1 at least."""
        columns = ("energy_paper_pj", "energy_complete_pj")
        scaled = {
            name: [
                run(accuracy_last=each.measured.accuracy_last, **{name: each.value(name) * scale for name in columns})
                for each in runs
            ]
            for name, runs in ENERGY.items()
        }
        paper, complete = run_figures.accuracy_against_energy(scaled).axes
        factor = {"pJ": 1, "nJ": 1e3, "µJ": 1e6, "mJ": 1e9}[unit] / scale
        for axes, seeds in ((paper, (2e5, 4e5)), (complete, (5e5, 7e5))):
            assert axes.get_xlabel() == f"energy per image ({unit})"
            mean, single = axes.lines[:2]
            assert mean.get_label() == "1  gac (n = 2)" and len(axes.lines) == 4
            assert [text.get_text() for text in axes.texts] == ["1", "2"]
            assert np.allclose(mean.get_xydata(), [[sum(seeds) / 2 / factor, 71.0]])
            assert np.allclose(single.get_xydata(), [[seeds[0] / factor, 70.0], [seeds[1] / factor, 72.0]])

    def test_the_scatter_has_the_means_of_the_tables(self):
        """Also where only some seeds are analysed: their mean energy, and the mean accuracy of all."""
        rows = runs(row("gac", 0, 70.0, analysed=2), row("gac", 1, 74.0), row("direct"))
        accuracy, energy, *_ = run_tables(rows)
        shown = KINDS["accuracy_against_energy"].select(rows)
        paper, complete = run_figures.accuracy_against_energy(group(shown)).axes
        for axes, column in ((paper, "paper (µJ)"), (complete, "complete (µJ)")):
            at = energy.head.index(column)
            assert axes.lines[0].get_xydata().tolist() == [[energy.lines[0][at].key, accuracy.lines[0][2].key]]
            assert len(axes.lines[1].get_xydata()) == 1 and len(axes.lines) == 2
        assert accuracy.lines[0][2].key == 72.0

    def test_forms_of_an_encoder_share_a_hue(self):
        names = ["gac", "gac:current", "direct", "gac:lite,gate=before", "direct (T=2)"]
        hues = {
            name: rgb_to_hsv(to_rgb(look["color"]))[0] for name, look in line_styles(dict.fromkeys(names, ())).items()
        }
        for name, hue in hues.items():
            assert (abs(hue - hues["gac"]) < 0.02) == name.startswith("gac")

    def test_encoders_look_different_and_everywhere_the_same(self):
        names = [*gac_sj.list_encoders(), *(f"gac:{form}" for form in gac_sj.encoders.FORMS)]
        (axes,) = run_figures.learning_curves(dict.fromkeys(names, CURVES["direct"])).axes
        styles = [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axes.lines]
        assert len({style[:2] for style in styles}) == len(names)
        few = dict.fromkeys(("direct", "gac"), CURVES["direct"])
        (axes,) = run_figures.learning_curves(few).axes
        for line in axes.lines:
            at = names.index(line.get_label().split()[0])
            assert (line.get_color(), line.get_marker(), line.get_linestyle()) == styles[at]


@pytest.mark.one_release
@pytest.mark.medium
class TestPrint:
    @pytest.mark.parametrize("name", DRAWN)
    def test_letters_and_width(self, name):
        figure = DRAWN[name]()
        assert min(text.get_fontsize() for text in figure.findobj(Text)) >= 8 and figure.get_figwidth() <= 6.5

    @pytest.mark.parametrize("count", [2, 9])
    @pytest.mark.parametrize("draw", [run_figures.learning_curves, run_figures.accuracy_against_energy])
    def test_the_legend_covers_nothing(self, count, draw):
        names = ["gac", "gac:reference,kernel_size=3", *gac_sj.list_encoders()][:count]
        both = replace(ENERGY["direct"][0], measured=CURVES["direct"][0].measured)
        figure = draw({name: [both] for name in names})
        figure.suptitle("a title")
        figure.draw_without_rendering()
        (legend,) = figure.legends
        box, page = legend.get_window_extent(), figure.bbox
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0
        assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)
        assert all(axes.get_tightbbox().y1 <= figure._suptitle.get_window_extent().y0 for axes in figure.axes)

    @pytest.mark.parametrize("name", DRAWN)
    def test_save(self, name, tmp_path):
        """Two files, the same bytes whenever and under whatever settings they are drawn."""
        written = figures.save(DRAWN[name](), tmp_path / "new" / "a.figure")
        assert [path.name for path in written] == ["a.figure.png", "a.figure.svg"]
        assert written[0].read_bytes().startswith(b"\x89PNG") and b"<svg" in written[1].read_bytes()
        assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.figure.png", "a.figure.svg"]
        with matplotlib.rc_context({"font.size": 20, "svg.hashsalt": None, "image.cmap": "jet", "axes.grid": True}):
            again = figures.save(DRAWN[name](), tmp_path / "again")
            assert matplotlib.rcParams["font.size"] == 20
        assert [path.read_bytes() for path in written] == [path.read_bytes() for path in again]

    def test_a_failure_leaves_what_was_there(self, tmp_path, monkeypatch):
        written = figures.save(DRAWN["learning_curves"](), tmp_path / "a")
        before = [path.read_bytes() for path in written]

        def fsync(file):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", fsync)
        with pytest.raises(OSError, match="No space left"):
            figures.save(DRAWN["accuracy_against_T"](), tmp_path / "a")
        assert [path.read_bytes() for path in written] == before


def write_rows(path, encoders=("gac", "direct"), seeds=2, analysed=True, data="images", **changes):
    """Rows as finished runs leave them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in encoders:
        for seed in range(seeds):
            options = {"model": "ms_resnet8_cifar", "dataset": "digits", "encoder": name, "epochs": 2, "T": 2}
            settings = Settings(**options | {"seed": seed} | changes)
            measured = record(Measured, accuracy_last=90.0 + seed, accuracy_by_epoch={"1": 50.0, "2": 90.0 + seed})
            found = NOT_ANALYSED
            if analysed:
                found = as_row(record(Analysed, firing_rates_by_step={"lif": [0.1] * settings.T}))
            Rows(path, RUNS).add(as_text(settings.key()) | {"data": data} | as_row(measured) | found)
    return path


@pytest.fixture
def unrendered(monkeypatch):
    """Figures are drawn and their files written, without the time that rendering takes."""

    def savefig(figure, file, **how):
        file.write(b"")

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", savefig)


def names(folder):
    """What was drawn, always as PNG and SVG."""
    files = {path.name for path in folder.iterdir()}
    drawn = {name.removesuffix(".png") for name in files if name.endswith(".png")}
    assert files == {f"{name}.{kind}" for name in drawn for kind in ("png", "svg")}
    return drawn


@pytest.mark.one_release
class TestRowsCommand:
    @pytest.mark.medium
    def test_everything_that_they_allow(self, tmp_path, capsys, unrendered):
        write_rows(tmp_path / "runs/a/results.csv")
        write_rows(tmp_path / "runs/b/results.csv", T=4)
        out = tmp_path / "out"
        assert command.main(["rows", str(tmp_path / "runs"), "--output", str(out)]) == 0
        kinds = ("learning_curves", "accuracy_against_energy", "firing_rates_by_step")
        assert names(out) == {"accuracy_against_T", *(f"{kind}-T={T}" for kind in kinds for T in (2, 4))}
        printed = capsys.readouterr().out
        assert f"{out / 'accuracy_against_T.png'} and {out / 'accuracy_against_T.svg'}\n" in printed
        assert "left out" not in printed

    def test_what_is_left_out_and_why(self, tmp_path, capsys, unrendered):
        path = write_rows(tmp_path / "results.csv", analysed=False)
        assert command.main(["rows", str(path), "--output", str(tmp_path / "out")]) == 0
        assert names(tmp_path / "out") == {"learning_curves"}
        printed = capsys.readouterr().out
        assert "accuracy_against_T is left out: all runs have T = 2.\n" in printed
        how = "(train.py --analyse makes it).\n"
        assert f"accuracy_against_energy is left out: no run has an analysis of their energy {how}" in printed
        assert f"firing_rates_by_step is left out: no run has an analysis of their firing rates {how}" in printed

    def test_rows_of_which_some_are_analysed(self, tmp_path, capsys, unrendered):
        path = write_rows(tmp_path / "results.csv", encoders=["gac"])
        write_rows(path, encoders=["direct"], analysed=False)
        assert command.main(["rows", str(path), "--output", str(tmp_path / "out")]) == 0
        assert "energy.svg; 2 runs do not have an analysis of their energy (" in capsys.readouterr().out

    def test_only_what_differs_in_the_encoder_alone_shares_a_figure(self, tmp_path):
        def grouped(**second):
            path = tmp_path / f"{len(list(tmp_path.iterdir()))}.csv"
            write_rows(path, seeds=1)
            write_rows(path, seeds=1, **second)
            sets = group(load(path).runs, over=("encoder", "seed"))
            return {title: {name: len(runs) for name, runs in group(found).items()} for title, found in sets.items()}

        assert grouped(seed=5) == {"": {"gac": 2, "direct": 2}}
        both = {"gac": 1, "direct": 1}
        assert grouped(lr=0.2, epochs=3) == {"epochs=2": both, "epochs=3": both}
        assert grouped(dataset="cifar10", data="others") == {"dataset=digits": both, "dataset=cifar10": both}
        assert grouped(data="others") == {"data=images": both, "data=others": both}
        assert grouped(encoders=["gac"], form="current") == {"": both | {"gac:current": 1}}
        # the same behind the encoder; what has one name all the same says its network
        assert grouped(encoders=["poisson"], model="gac_ms_resnet8_cifar") == {"": both | {"poisson": 1}}
        same = grouped(model="gac_ms_resnet8_cifar")[""]
        models = ("gac_ms_resnet8_cifar", "ms_resnet8_cifar")
        assert same == {f"{name} (model={model})": 1 for name in both for model in models}

    def test_refusals(self, tmp_path, capsys):
        out = ["--output", tmp_path / "out"]
        refused(capsys, command.main, ["rows", tmp_path / "nowhere", *out], "nowhere", "cannot be read")
        (tmp_path / "log.csv").write_text("epoch,top1\n1,90\n")
        refused(capsys, command.main, ["rows", tmp_path / "log.csv", *out], "unknown columns: epoch, top1")
        path = write_rows(tmp_path / "results.csv")
        refused(capsys, command.main, ["rows", path, "--output", path], "output", str(path), "cannot be written")
        (tmp_path / "damaged.csv").write_bytes(path.read_bytes()[:-30])
        refused(capsys, command.main, ["rows", tmp_path / "damaged.csv", *out], "damaged.csv is damaged")
        assert not (tmp_path / "out").exists()


@pytest.mark.medium
class TestNetworkCommand:
    @pytest.fixture(scope="class")
    def weights(self, tmp_path_factory):
        """Files as runs leave them, of networks that were not trained: encoder or options -> file."""
        folder = tmp_path_factory.mktemp("weights")
        base = dict(model="ms_resnet8_cifar", dataset="digits", T=2, loader="resident")
        data = load_data(Settings(**base))

        def write(name, **changes):
            settings = Settings(**base | changes)
            torch.manual_seed(0)
            tensors = {key: value.contiguous() for key, value in build_model(settings, data.info).state_dict().items()}
            save_file(tensors, folder / name, {"settings": json.dumps(settings.key())})
            return folder / name

        return write

    @staticmethod
    def drawn(path, out, *arguments):
        assert command.main(["network", str(path), "--images", "20", "--output", str(out), *arguments]) == 0
        return names(out)

    def test_gac(self, weights, tmp_path):
        """The arrays that are drawn are those of the network."""
        names = figures.__all__
        drawings = {name: getattr(figures, name) for name in names}
        with mock.patch.multiple(figures, **{name: mock.Mock(wraps=draw) for name, draw in drawings.items()}):
            drawn = self.drawn(weights("gac", encoder="gac"), tmp_path / "out", "--image", "3", "--layer", "stages.1")
            given = {name: getattr(figures, name).call_args and getattr(figures, name).call_args.args for name in names}
        assert drawn == {"encoder_outputs", "encoder", "gates", "grad_cam-stages.1", "firing_rates_by_step"}
        image, outputs = given["encoder_outputs"]
        settings = Settings(model="ms_resnet8_cifar", dataset="digits", T=2, encoder="gac")
        data = load_data(settings)
        pixels = torch.tensor(np.asarray(data.test[3][0])) / 255
        assert torch.allclose(image, pixels, atol=1e-6)
        model = load_network(settings, read_weights(weights("gac", encoder="gac"))[1], data.info).eval()
        mean, std = model.pretrained_cfg["mean"][0], model.pretrained_cfg["std"][0]
        images = ((pixels - mean) / std)[None, None]
        with torch.no_grad():
            features = model.encoder.stem(images)
            assert list(outputs) == ["direct", "gac"]
            assert torch.allclose(outputs["direct"], features.expand(2, -1, -1, -1), atol=1e-5)
            assert torch.allclose(outputs["gac"], model.encoder(images)[:, 0], atol=1e-5)
            _, gate, temporal, spatial = given["gates"]
            assert torch.allclose(gate, model.encoder.gau(features)[:, 0], atol=1e-5)
            expected = 2 * torch.sigmoid(temporal.view(-1, 1, 1, 1) * spatial)
            assert torch.allclose(gate, expected, atol=1e-6)
            spikes, shown, gated = given["encoder"][1].values()
            assert set(spikes.unique().tolist()) == {0, 1} and torch.equal(shown, gate)
            assert torch.allclose(gated, spikes * gate, atol=1e-5)
        _, over_time, by_step, target = given["grad_cam"]
        maps = grad_cam(model, images, "stages.1")
        assert target == f"{maps.classes[0]} (predicted)"
        assert torch.allclose(over_time, maps.over_time[0], atol=1e-6)
        assert torch.allclose(by_step, maps.by_step[:, 0], atol=1e-6)
        assert {len(steps) for steps in given["firing_rates_by_step"][0]["gac"].values()} == {2}

    def test_a_gate_of_one_attention(self, weights, tmp_path, unrendered):
        for attention in ("temporal", "spatial"):
            path = weights(attention, encoder="gac", model_options={"attention": attention})
            assert {"encoder", "gates"} <= self.drawn(path, tmp_path / attention)

    @pytest.mark.parametrize(
        ("options", "labels"),
        [
            ({"gate": "before"}, ("current of\nthe stem", "→ LIF:\nspikes")),
            ({"output": "current"}, ("current of\nthe stem", "= gated\ncurrent")),
        ],
    )
    def test_what_a_gate_weighs(self, weights, tmp_path, unrendered, options, labels):
        path = weights("gate", encoder="gac", model_options=options)
        with mock.patch.object(figures, "encoder", wraps=figures.encoder) as draw:
            self.drawn(path, tmp_path / "out")
        (first, _, last), (current, gate, output) = zip(*draw.call_args.args[1].items())
        assert (first, last) == labels and torch.equal(current[0], current[1])
        expected = current * gate
        if last.endswith("spikes"):
            expected = gac_sj.lif_preset("cifar", v_threshold=0.5)(expected)
        assert torch.allclose(output, expected, atol=1e-5)

    def test_an_image_file(self, weights, tmp_path, capsys, unrendered):
        path, out = weights("direct", encoder="direct"), tmp_path / "out"
        Image.new("L", (50, 40), 102).save(tmp_path / "grey.png")
        with mock.patch.object(figures, "encoder_outputs", wraps=figures.encoder_outputs) as draw:
            self.drawn(path, out, "--image", str(tmp_path / "grey.png"))
        assert torch.allclose(draw.call_args.args[0], torch.full((8, 8), 0.4))
        refused(capsys, command.main, ["network", path, "--image", "no.png", "--output", out], "no.png does not exist")

    @pytest.mark.parametrize("encoder", ["direct", "direct_lif", "poisson"])
    def test_encoders_without_a_gate(self, weights, tmp_path, capsys, encoder, unrendered):
        kinds = {"encoder_outputs", "grad_cam-lif", "firing_rates_by_step"}
        assert self.drawn(weights(encoder, encoder=encoder), tmp_path / "out") == kinds
        printed = capsys.readouterr().out
        assert all(
            f"{name} is left out: the encoder {encoder} has no gate.\n" in printed for name in ("encoder", "gates")
        )

    def test_refusals(self, weights, tmp_path, capsys):
        out = tmp_path / "out"
        path = weights("direct", encoder="direct")
        refused(capsys, command.main, ["network", path, "--image", 360, "--output", out], "image", "360", "0 to 359")
        refused(capsys, command.main, ["network", path, "--image", -1, "--output", out], "image", "-1")
        refused(capsys, command.main, ["network", path, "--layer", "stage", "--output", out], "'stage'", "stages")
        refused(
            capsys, command.main, ["network", path, "--layer", "head", "--output", out], "'head'", "[T, N, C, h, w]"
        )
        refused(capsys, command.main, ["network", tmp_path / "none", "--output", out], "none", "weights of a run")
        settings, tensors = read_weights(path)
        other = json.dumps(settings.key() | {"model": "ms_resnet18_cifar"})
        save_file(tensors, tmp_path / "other", {"settings": other})
        refused(
            capsys, command.main, ["network", tmp_path / "other", "--output", out], "do not fit", "ms_resnet18_cifar"
        )
        assert not out.exists()
        out.write_text("a file")
        refused(capsys, command.main, ["network", path, "--output", out], "output", "cannot be written")

    def test_an_interrupt(self, weights, tmp_path, capsys, monkeypatch):
        def interrupt(*arguments):
            raise KeyboardInterrupt

        monkeypatch.setattr(command, "load_data", interrupt)
        path = weights("direct", encoder="direct")
        assert command.main(["network", str(path), "--output", str(tmp_path / "out")]) == 130
        assert "interrupted" in capsys.readouterr().err

    def test_pictures(self, weights):
        """Pixels as they were before the normalisation; frames of events as their mean count."""
        model = nn.Module()
        model.pretrained_cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.25)}
        pixels = torch.rand(1, 3, 4, 4)
        mean, std = (torch.tensor(model.pretrained_cfg[name]).view(-1, 1, 1) for name in ("mean", "std"))
        assert torch.allclose(command.picture((pixels - mean) / std, model), pixels[0].permute(1, 2, 0), atol=1e-6)
        model.pretrained_cfg = {"mean": (0.0, 0.0), "std": (1.0, 1.0)}
        frames = torch.zeros(2, 1, 2, 4, 4)
        frames[0, 0, :, 0, 0], frames[1, 0, :, 1, 1] = 6.0, 3.0
        shown = command.picture(frames, model)
        assert shown.shape == (4, 4) and (shown[0, 0], shown[1, 1], shown[2, 2]) == (1.0, 0.5, 0.0)
