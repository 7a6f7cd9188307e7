"""benchmarks/speed.py: wrong variants are not timed, rows say what was measured, the naive loop is the definition."""

import argparse
import copy
import csv
import re
from pathlib import Path

import pytest
import speed
import timm
import torch
from speeds import checking, counterparts, inference, lif, naive, network, rows, train
from speeds.checking import WrongResultError, distance, require_equal_as_timed, require_equal_exactly, wake
from speeds.measuring import Comparison, copying, multiplying
from speeds.memory import saved_bytes
from speeds.passes import MODES, Pass, Variant
from torch import nn

import gac_sj
from gac_sj import GatedAttentionCoding
from gac_sj._utils.errors import UsageError
from gac_sj.nn.presets import lif_preset
from gac_sj.ops.lif import reference
from gac_sj.results import load
from gac_sj.results.speed import speed_tables

pytestmark = pytest.mark.usefixtures("default_ops")

REPOSITORY = Path(__file__).resolve().parent.parent


SMALL = {
    "encoder": ["encoder", "-T", "2", "--batch", "1", "--size", "8", "--channels", "4"],
    "lif": ["lif", "-T", "3", "--elements", "5000"],
    "network": ["network", "--model", "gac_ms_resnet8_cifar", "-T", "2", "--batch", "2", "--size", "8"],
    "train": ["train", "-T", "2", "--batch", "2", "--size", "16"],
    "inference": ["inference", "--model", "gac_ms_resnet8_cifar", "-T", "2", "--batch", "2", "--size", "16"],
    "memory": ["memory", "--model", "gac_ms_resnet8_cifar", "-T", "2", "--batch", "2", "--size", "8"],
}
#: Those that time passes; train times a step, and both of the others have images per second.
OF_PASSES = ("encoder", "lif", "network", "memory")
TWO_POINT_OH = counterparts.why_no_network(timm.create_model("ms_resnet8_cifar")) is None
OF_NETWORK = ["ours", "ours_direct", *(["spikingjelly"] if TWO_POINT_OH else []), "naive"]


def run(*arguments, code=0):
    assert speed.main([*map(str, arguments), "--device", "cpu"]) == code


def who_and_form(form):
    return [form if form != "float32" else "ours",
            *(who if form == "float32" else f"{who}+{form}" for who in ("spikingjelly", "naive"))]  # fmt: skip


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.medium
@pytest.mark.one_release
class TestCommands:
    @pytest.mark.parametrize("name", OF_PASSES)
    def test_rows(self, name, tmp_path, capsys):
        path = tmp_path / "speed.csv"
        run(*SMALL[name], "--repeats", 2, "--output", path)
        found, printed = read(path), capsys.readouterr().out
        modes = ["forward+backward"] if name == "memory" else MODES
        variants = OF_NETWORK if name in ("network", "memory") else ["ours", "spikingjelly", "naive"]
        assert [(row["mode"], row["variant"]) for row in found] == [(m, v) for m in modes for v in variants]
        assert printed.count(" x naive") == len(found)
        for row in found:
            assert row["benchmark"] == name and row["dtype"] == "float32" and row["repeats"] == "2"
            assert 0 < float(row["low_ms"]) <= float(row["median_ms"]) <= float(row["high_ms"])
            assert row["date"] and row["commit"] and "torch" in row["versions"] and "threads" in row["device"]
            assert row["ops_path"] in (("cpp", "torch") if row["variant"].startswith("ours") else ("torch",))
            assert row["peak_memory"] == ""  # a GPU's
            assert bool(row["bytes_per_s"] and row["copy_bytes_per_s"]) == (name == "lif")
            assert bool(row["flop_per_s"] and row["product_flop_per_s"]) == (name == "network")
            assert float(row["page_faults"]) >= 0
            assert bool(row["saved_bytes"]) == (name == "memory")
            naive = next(r for r in found if r["variant"] == "naive" and r["mode"] == row["mode"])
            expected = float(naive["median_ms"]) / float(row["median_ms"])
            assert float(row["speedup"]) == pytest.approx(expected, rel=0.05, abs=2e-3)

    def test_norm_and_neuron_in_both_layouts(self, tmp_path):
        path = tmp_path / "speed.csv"
        run("norm_lif", "-T", 2, "--batch", 2, "--size", 4, "--repeats", 1, "--output", path)
        found = {(row["variant"], row["ops_path"]) for row in read(path)}
        assert {(f"ours{form}", "cpp+norm_lif") for form in ("", "+channels_last")} <= found
        assert {("separate", "cpp"), ("separate+channels_last", "cpp"), ("naive", "torch")} <= found

    def test_the_traffic_of_the_neuron(self, tmp_path):
        path = tmp_path / "speed.csv"
        run(*SMALL["lif"], "--repeats", 1, "--dtype", "bfloat16", "--output", path)
        for row in read(path):
            moved = {"forward": 2, "forward+backward": 5}[row["mode"]] * 3 * 5000 * 2
            assert float(row["bytes_per_s"]) == pytest.approx(moved / float(row["median_ms"]) * 1000, rel=0.05)
            assert row["dtype"] == "bfloat16" and row["size"] == "5000"

    def test_what_is_kept(self, tmp_path):
        path = tmp_path / "speed.csv"
        run(*SMALL["memory"], "--repeats", 1, "--output", path)
        kept = {row["variant"]: int(row["saved_bytes"]) for row in read(path)}
        assert kept["ours"] < kept["naive"] and kept["ours_direct"] < kept["ours"]

    def test_all_of_them(self, tmp_path, monkeypatch):
        """In quick form, with what is given beside it; what the reports make of the rows."""
        for module in {*speed.BENCHMARKS.values()}:
            monkeypatch.setattr(module, "QUICK", module.QUICK | {"T": 1, "size": 8, "batch": 2, "elements": 999})
        path = tmp_path / "speed.csv"
        run("--quick", "--repeats", 1, "--output", path)
        found = load(path).speed
        assert list(dict.fromkeys(each.settings["benchmark"] for each in found)) == list(speed.ALL)
        assert {each.settings["T"] for each in found} == {1}
        encoder, neuron, with_norm, of_network, memory = tables = speed_tables(found)
        assert sum(len(table.lines) for table in tables) == len(found)
        assert all({len(line) for line in table.lines} == {len(table.head)} for table in tables)
        heads = [", ".join(table.head) for table in tables]
        assert all("times as fast as naive" in head and "as spikingjelly" in head for head in heads)
        only = {"of a copy (%)": [1, 2], "TFLOP/s": [3], "kept for backward (MB)": [4]}
        for title, places in only.items():
            assert [place for place, head in enumerate(heads) if title in head] == places
        assert not any("peak memory (MB)" in head for head in heads)
        assert "batch 2, 8x8 pixels, float32, 1 timings" in encoder.title and "999 elements" in neuron.title
        assert with_norm.title.startswith("norm_lif") and "gac_ms_resnet8_cifar, T = 1" in of_network.title
        assert memory.title.startswith("memory")

    def test_autocast(self, tmp_path):
        path = tmp_path / "speed.csv"
        run(*SMALL["network"], "--dtype", "bfloat16", "--modes", "forward", "--repeats", 1, "--output", path)
        assert [(row["variant"], row["dtype"]) for row in read(path)] == [(name, "bfloat16") for name in OF_NETWORK]

    def test_further_forms(self, tmp_path):
        """One folded for inference has no training; SpikingJelly's network gets the memory format too."""
        path = tmp_path / "speed.csv"
        forms = ["channels_last", "folded+channels_last"]
        run(*SMALL["network"], "--also", *forms, "--repeats", 1, "--output", path)
        found = {mode: [row["variant"] for row in read(path) if row["mode"] == mode] for mode in MODES}
        theirs = [f"{name}+channels_last" for name in OF_NETWORK if name == "spikingjelly"]
        forward, training = MODES
        assert found == {
            forward: [*OF_NETWORK, "channels_last", "channels_last+folded", *theirs],
            training: [*OF_NETWORK, "channels_last", *theirs],
        }

    def test_a_step_in_several_forms(self, tmp_path, capsys):
        """Beside each of ours those of SpikingJelly and of the published code in the same precision and format."""
        path = tmp_path / "speed.csv"
        run(*SMALL["train"], "--forms", "bfloat16+channels_last", "--repeats", 1, "--output", path)
        names = [*who_and_form("float32"), *who_and_form("bfloat16+channels_last")]
        found = {row["variant"]: row for row in read(path)}
        assert {*found} == {*names} and {row["mode"] for row in found.values()} == {"step"}
        for row in found.values():
            assert float(row["images_per_s"]) == pytest.approx(2000 / float(row["median_ms"]), rel=0.05)
            assert float(row["flop_per_s"]) > 0 and row["top1_agreement"] == ""
        rates = [found[name]["product_flop_per_s"] for name in ("ours", "naive", "bfloat16+channels_last")]
        assert rates[0] == rates[1] != rates[2]  # the machine's own product in the same type
        (table,) = speed_tables(load(path).speed)
        assert any("images/s" in name for name in table.head)
        ours, theirs = (found[name] for name in ("bfloat16+channels_last", "spikingjelly+bfloat16+channels_last"))
        ratio = float(theirs["median_ms"]) / float(ours["median_ms"])
        ratios = [*map(float, re.findall(r"([\d.]+) x spikingjelly", capsys.readouterr().out))]
        place = next(place for place, name in enumerate(table.head) if name.startswith("times as fast as spikingjelly"))
        (line,) = (line for line in table.lines if line[1].text == "bfloat16+channels_last")
        assert line[place].key == pytest.approx(ratio, rel=0.02)
        assert any(found == pytest.approx(ratio, rel=0.02) for found in ratios)

    def test_inference(self, tmp_path, monkeypatch):
        """Integer weights are those of gac_sj.quantize; what it refuses is left out."""

        def quantize(model, bits, images):
            assert not model.training and images.shape == (2, 3, 16, 16)
            if bits == 16:
                raise UsageError("must be a way to run")
            model.head.weight.data.mul_(-1)  # every class but the least likely
            return model

        monkeypatch.setattr(gac_sj, "quantize", quantize, raising=False)
        path = tmp_path / "speed.csv"
        run(*SMALL["inference"], "--forms", "channels_last", "--repeats", 1, "--output", path)
        found = {row["variant"]: row for row in read(path)}
        assert {*found} == {*who_and_form("float32"), *who_and_form("channels_last"), "int8"}
        assert float(found["ours"]["top1_agreement"]) == 100 and float(found["ours"]["logit_difference"]) == 0
        assert float(found["int8"]["logit_difference"]) > 0.1 and float(found["int8"]["top1_agreement"]) < 100
        assert float(found["channels_last"]["logit_difference"]) < 0.1 and found["int8"]["images_per_s"]
        (table,) = speed_tables(load(path).speed)
        assert {"top-1 as float32 (%)", "logits off by (%)"} <= {*table.head}

    def test_a_silent_network_is_not_timed(self, monkeypatch, capsys):
        monkeypatch.setattr(train, "wake", lambda model, images: None)  # hardly spikes at initialisation
        monkeypatch.setattr(inference, "_FIRING", (0.4, 0.5))
        run(*SMALL["inference"], code=2)
        assert "must fire at 40% to 50%" in capsys.readouterr().err

    def test_a_form_that_is_wrong(self, monkeypatch, capsys):
        monkeypatch.setattr(network.gac_sj, "fold_batch_norm", lambda model: copy.deepcopy(model).apply(
            lambda module: module.weight.data.mul_(1.1) if isinstance(module, nn.Linear) else None))  # fmt: skip
        run(*SMALL["network"], "--also", "folded", "--modes", "forward", code=2)
        assert "folded" in capsys.readouterr().err

    def test_a_path_that_is_asked_for(self, tmp_path, monkeypatch):
        monkeypatch.setenv("GAC_SJ_OPS", "torch")
        path = tmp_path / "speed.csv"
        run(*SMALL["encoder"], "--repeats", 1, "--output", path)
        assert {row["ops_path"] for row in read(path)} == {"torch"}

    def test_rows_of_older_versions(self, tmp_path):
        path = tmp_path / "speed.csv"
        path.write_text(
            "benchmark,variant,mode,T,batch,size,channels,repeats,date,median_ms,low_ms,high_ms,speedup,commit,versions,"
            "device\nencoder,once,forward,6,4,32,64,30,2026-01-01,6.4,6.3,6.6,1.000,abc,torch 9,abacus\n"
        )
        run(*SMALL["lif"], "--modes", "forward", "--repeats", 1, "--output", path)
        first, *others = read(path)
        assert first["variant"] == "once" and first["median_ms"] == "6.4" and first["dtype"] == ""
        assert len(others) == 3

    def test_loaders(self, tmp_path):
        from PIL import Image

        for split in ("train", "test"):
            for name in ("cat", "dog"):
                (tmp_path / split / name).mkdir(parents=True)
                for number in range(4):
                    Image.new("RGB", (8, 8), (number * 40, 0, 0)).save(tmp_path / split / name / f"{number}.png")
        path = tmp_path / "speed.csv"
        options = ["--images", 4, "--batch", 2, "--size", 8, "--workers", 0, "--repeats", 1, "--output", path]
        run("loaders", "--data-dir", tmp_path, *options)
        found = read(path)
        assert [row["variant"] for row in found] == ["timm", "standard", "resident"]
        assert [row["speedup"] for row in found if row["variant"] == "timm"] == ["1.000"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("form", "words"),
        [
            ("faster", "must be a form, got 'faster'; choose from channels_last,"),
            ("folded+spikes_as_bytes", "folded+spikes_as_bytes joins"),
            ("compile+spikes_as_bytes", "cannot be joined"),
        ],
    )
    def test_forms(self, form, words, capsys):
        with pytest.raises(SystemExit) as stopped:
            run(*SMALL["network"], "--also", form)
        assert stopped.value.code == 2
        assert words in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["encoder", "-T", "0"], "T must be a positive integer, got 0"),
            (["lif", "--elements", "-1"], "elements must be a positive integer, got -1"),
            (["network", "--repeats", "0"], "repeats must be a positive integer, got 0"),
            (["network", "--model", "resnet18"], "got 'resnet18'"),
            (["memory", "--model", "ms_resnet8_cifar"], "gac_ms_resnet8_cifar"),
            ([*SMALL["network"], "--also", "cuda_graph"], "cuda_graph"),
            (["train", "--forms", "cuda_graph"], "forms cannot contain cuda_graph on the device cpu"),
            (["inference", "--forms", "cuda_graph"], "forms cannot contain cuda_graph, a form of training"),
            (["train", "--model", "ms_resnet8_cifar"], "must be an MS-ResNet with GAC"),
            (["loaders", "--data-dir", "/nowhere"], "/nowhere"),
        ],
    )
    def test_bad_input(self, arguments, words, tmp_path, capsys):
        path = tmp_path / "speed.csv"
        run(*arguments, "--output", path, code=2)
        error = capsys.readouterr().err
        assert error.startswith("speed.py: ") and words in error and error.count("\n") == 1
        assert not path.exists()

    def test_a_device_that_is_not_there(self, capsys):
        assert speed.main(["lif", "--device", "abacus"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("speed.py: ") and "device must be" in error and "'abacus'" in error

    @pytest.mark.parametrize(
        "arguments",
        [["tempo"], ["lif", "--dtype", "float8"], ["train", "--forms", "float8"], ["lif", "--modes", "backward"]],
    )
    def test_unknown_words(self, arguments, capsys):
        with pytest.raises(SystemExit) as raised:
            speed.main(arguments)
        assert raised.value.code == 2 and "choose from" in capsys.readouterr().err

    def test_a_damaged_file_is_left_alone(self, tmp_path, capsys):
        path = tmp_path / "speed.csv"
        path.write_text("benchmark,mood\nencoder,calm\n")
        run(*SMALL["lif"], "--output", path, code=2)
        assert "unknown columns: mood" in capsys.readouterr().err
        assert path.read_text() == "benchmark,mood\nencoder,calm\n"

    def test_an_interrupt(self, monkeypatch):
        def interrupt(args):
            raise KeyboardInterrupt

        monkeypatch.setattr(lif, "compare", interrupt)
        assert speed.main(SMALL["lif"]) == 130

    @pytest.mark.parametrize("name", SMALL)
    def test_a_wrong_variant_is_not_timed(self, name, tmp_path, monkeypatch, capsys):
        """A loop that leaks a thousandth less."""
        build = naive.NaiveLIF.__init__

        def leak_less(self, node):
            build(self, node)
            self.decay *= 1.001

        monkeypatch.setattr(naive.NaiveLIF, "__init__", leak_less)
        monkeypatch.setattr(rows, "measure", lambda *arguments: pytest.fail("it was timed"))
        path = tmp_path / "speed.csv"
        run(*SMALL[name], "--output", path, code=2)
        assert "difference" in capsys.readouterr().err
        assert not path.exists() or read(path) == []

    def test_a_wrong_gradient_is_not_timed(self, tmp_path, monkeypatch):
        monkeypatch.setattr(naive._TriangleStep, "backward", staticmethod(lambda ctx, grad: grad))
        args = argparse.Namespace(T=3, elements=500, dtype="float32", device=torch.device("cpu"), modes=[MODES[0]])
        assert len(lif.compare(args)) == 1  # inference has none
        args.modes = [MODES[1]]
        with pytest.raises(WrongResultError, match="naive"):
            lif.compare(args)

    @pytest.mark.skipif(not TWO_POINT_OH, reason="this SpikingJelly has no MSResNet")
    def test_a_wrong_network_of_spikingjelly(self, monkeypatch, capsys):
        keywords = counterparts._keywords
        monkeypatch.setattr(counterparts, "_keywords", lambda node: keywords(node) | {"v_threshold": 1.01})
        run(*SMALL["network"], "--modes", "forward", code=2)
        assert "spikingjelly" in capsys.readouterr().err


class TestChecking:
    def test_distance_by_hand(self):
        expected = [[torch.tensor([3.0, 4.0])], [torch.tensor([1000.0]), torch.tensor([0.0])]]
        assert distance(expected, expected) == 0
        assert distance([[torch.tensor([3.0, 4.5])], expected[1]], expected) == pytest.approx(0.1)
        # the second gradient is held to a thousandth of the norm of both
        assert distance([expected[0], [torch.tensor([1000.0]), torch.tensor([0.25])]], expected) == pytest.approx(0.25)
        assert distance([[torch.tensor([3.0, float("nan")])], expected[1]], expected) == float("inf")
        assert distance([[torch.tensor([[3.0, 4.0]])], expected[1]], expected) == float("inf")

    def test_exactly(self):
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        other = copy.deepcopy(layer)
        x, grad = torch.randn(4, 3), torch.randn(4, 2)
        require_equal_exactly({"other": Variant(other)}, Variant(layer), x, grad)
        with torch.no_grad():
            other.weight[0, 0] += 1e-6
        with pytest.raises(WrongResultError, match="other"):
            require_equal_exactly({"other": Variant(other)}, Variant(layer), x, grad)
        assert layer.weight.dtype == torch.float32

    def test_a_rounding_may_spoil_one_draw_but_not_all(self):
        naive = Variant(nn.Identity())

        class Sometimes(nn.Module):
            calls, wrong = 0, 2

            def forward(self, x):
                self.calls += 1
                return x * (2 if self.calls <= self.wrong else 1)

        inputs = [(torch.randn(5), None) for _ in range(3)]
        require_equal_as_timed({"lucky": Variant(Sometimes())}, naive, inputs)
        never = Sometimes()
        never.wrong = 3
        with pytest.raises(WrongResultError, match="never"):
            require_equal_as_timed({"never": Variant(never)}, naive, inputs)

    def test_the_environment_comes_back(self, monkeypatch):
        monkeypatch.setenv("GAC_SJ_OPS", "cpp")
        with checking.the_definition():
            assert checking.os.environ["GAC_SJ_OPS"] == "torch"
        assert checking.os.environ["GAC_SJ_OPS"] == "cpp"


class TestNaive:
    """In float64 the package takes its definition."""

    @pytest.mark.parametrize("name", ["cifar", "imagenet"])
    def test_neuron(self, name):
        torch.manual_seed(0)
        node = lif_preset(name)
        x = torch.randn(5, 3, 40, dtype=torch.float64, requires_grad=True)
        grad = torch.randn_like(x)
        (found,) = torch.autograd.grad(naive.NaiveLIF(node)(x), x, grad)
        spikes, _, _ = reference.lif(x, node.dynamics, node.surrogate_function)
        (expected,) = torch.autograd.grad(spikes, x, grad)
        assert torch.equal(naive.NaiveLIF(node)(x), spikes) and 0 < spikes.mean() < 1
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("changes", [{"decay_input": True}, {"v_reset": None}, {"v_reset": 0.1}])
    def test_other_neurons(self, changes):
        with pytest.raises(ValueError, match="presets cifar or imagenet"):
            naive.NaiveLIF(lif_preset("cifar", **changes))

    @pytest.mark.parametrize("options", [{}, {"depth": 1, "kernel_size": 3}, {"gain": 1.0, "neuron": "imagenet"}])
    def test_encoder(self, options):
        torch.manual_seed(0)
        encoder = GatedAttentionCoding(3, 2, 4, **options)
        x, grad = torch.randn(2, 2, 7, 6), torch.randn(3, 2, 4, 7, 6)
        wake(encoder, x)
        others = [naive.NaiveEncoder(encoder)]
        if "neuron" not in options:  # SpikingJelly 0.0.0.0.14 has no rectangle
            others.append(counterparts.SpikingJellyEncoder(encoder))
        expected = Variant(encoder).exactly(x, grad).results()
        assert expected[0][0].any() and all(tensor.any() for tensor in expected[1])
        for other in others:
            assert distance(Variant(other).exactly(x, grad).results(), expected) < 1e-12

    @pytest.mark.parametrize("name", ["gac_ms_resnet8_cifar", "ms_resnet8_cifar"])
    def test_network(self, name):
        torch.manual_seed(0)
        model = timm.create_model(name, T=2)
        images, grad = torch.randn(2, 3, 8, 8), torch.randn(2, 10)
        wake(model, images)
        loop = naive.naive_network(model)
        assert not any(type(module) is type(model.lif) for module in loop.modules())
        for backward in (None, grad):
            found, expected = (Variant(each).exactly(images, backward).results() for each in (loop, model))
            assert distance(found, expected) < 1e-12


class TestNetwork:
    def test_awake(self):
        """Every neuron of the evaluated network fires, which at initialisation none may."""
        torch.manual_seed(0)
        model = timm.create_model("gac_ms_resnet34", T=2)
        images = torch.randn(2, 3, 32, 32)
        wake(model, images)
        rates = []
        for module in model.stages.modules():
            if isinstance(module, type(model.lif)):
                module.register_forward_hook(lambda module, inputs, spikes: rates.append(spikes.mean().item()))
        model.eval()(images)
        assert len(rates) == 32 and min(rates) > 0

    @pytest.mark.medium
    @pytest.mark.skipif(not TWO_POINT_OH, reason="this SpikingJelly has no MSResNet")
    @pytest.mark.parametrize("name", ["ms_resnet18_cifar", "ms_resnet18"])
    def test_spikingjelly_builds_the_same_network(self, name):
        torch.manual_seed(0)
        model = timm.create_model(name, T=2)
        images = torch.randn(1, 3, 32, 32)
        wake(model, images)
        theirs = counterparts.spikingjelly_network(model).double().eval()
        expected = model.double().eval()(images.double())
        assert theirs.module.stem[0].stride == model.encoder.stem[0].stride
        torch.testing.assert_close(theirs(images.double()), expected, rtol=1e-10, atol=1e-10)

    def test_who_is_left_out_is_said(self, monkeypatch, capsys):
        monkeypatch.setattr(network, "why_no_network", lambda model: "it is away")
        run(*SMALL["network"], "--modes", "forward", "--repeats", 1)
        printed = capsys.readouterr().out
        assert "spikingjelly is left out: it is away." in printed and "x spikingjelly" not in printed

    def test_operations_by_hand(self):
        """At T = 2 the stem of direct coding runs once for ours and twice for the loop."""
        args = argparse.Namespace(model="gac_ms_resnet8_cifar", T=2, batch=8, size=8, dtype="float32")
        args.device = torch.device("cpu")
        networks = network.Networks(args)
        flops = networks.flops("forward")
        stem = 2 * 3 * 16 * 9 * 64 * 8  # per multiply-accumulate two; 64 pixels, 8 images
        gate = 2 * 2 * 16 * 16 * 16 * 64 * 8
        # the loop also runs both attention convolutions twice, and temporal attention has a few operations more
        assert flops["naive"] - flops["ours"] == pytest.approx(stem + gate, rel=1e-5)
        assert flops["ours"] - flops["ours_direct"] == pytest.approx(gate, rel=1e-3)


class TestMemory:
    def test_by_hand(self):
        layer = nn.Sequential(nn.Linear(8, 4), nn.Sigmoid())
        x = torch.randn(16, 8)
        # the result of the sigmoid; input and weights were there before, and the product is gone
        assert saved_bytes(Pass(layer, x, torch.randn(16, 4))) == 4 * 16 * 4
        assert layer[0].weight.grad is None

    def test_views_of_the_input_are_nothing_new(self):
        class Product(nn.Module):
            def forward(self, x):
                return (x[:2] * x[2:4]).exp()

        x = torch.randn(10, requires_grad=True)
        assert saved_bytes(Pass(Product(), x, torch.ones(2))) == 4 * 2  # the result of exp

    def test_states_of_the_pass_before_do_not_count(self):
        run = Pass(nn.Sequential(nn.Linear(8, 8), lif_preset("cifar")), torch.randn(4, 2, 8), torch.randn(4, 2, 8))
        # current and spikes of four steps, and the last potential
        assert saved_bytes(run) == saved_bytes(run) == 4 * (2 * 4 * 2 * 8 + 2 * 8)


class TestMeasuring:
    def test_in_turns_with_the_limits(self, capsys):
        order = []
        runs = {name: lambda name=name: order.append(name) for name in ("ours", "naive")}
        limits = {"copy_bytes_per_s": (lambda: order.append("copy"), 1e6)}
        comparison = Comparison("forward", runs, limits=limits, traffic=2000)
        shared = {"benchmark": "lif", "repeats": 3}
        found = list(rows.report(comparison, shared, torch.device("cpu")))
        assert order == ["ours", "naive", "copy"] * 5
        assert [row["variant"] for row in found] == ["ours", "naive"] and found[1]["speedup"] == "1.000"
        assert "of a copy" in capsys.readouterr().out

    def test_amounts(self):
        _, moved = copying(torch.zeros(100))
        assert moved == 800
        _, operations = multiplying(torch.device("cpu"), torch.float32)
        assert operations == 2 * 1024**3
        assert torch.get_float32_matmul_precision() == "highest"
