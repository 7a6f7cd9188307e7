"""gac-sj: the output of every command, and how it refuses bad input."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf
from torch.nn.modules.batchnorm import _BatchNorm

import gac_sj
from gac_sj._compat import nir_exchange
from gac_sj.analysis import measure_energy
from gac_sj.analysis.inputs import draw_inputs
from gac_sj.checkpoint import load_pretrained, reference_names, save_pretrained
from gac_sj.cli import environment as env
from gac_sj.cli import main as command_line
from gac_sj.cli import predict
from gac_sj.ops.dispatch import why_not

pytestmark = pytest.mark.usefixtures("default_ops")

SMALL = "gac_ms_resnet8_cifar"


@pytest.fixture
def command(capsys):
    """Run gac-sj and return its output, after checking its exit status and that an error is one line."""

    def run(*arguments, status=0):
        found = command_line.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert found == status, printed.err
        if status:
            assert printed.err.startswith("gac-sj: ") and printed.err.count("\n") == 1
        return printed.err if status else printed.out

    return run


@torch.no_grad()
def trained(model, x):
    """Take the BatchNorm statistics of one batch, so that all layers fire."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = 1.0
    model(x)


@pytest.fixture
def weights(tmp_path):
    """A folder of weights: a network for grey images of 8x8 pixels and three named classes."""
    cfg = {"mean": (0.3,), "std": (0.4,), "input_size": (1, 8, 8)}
    model = timm.create_model(SMALL, T=3, num_classes=3, in_chans=1, pretrained_cfg_overlay=cfg)
    torch.nn.init.normal_(model.head.weight)
    trained(model, torch.randn(16, 1, 8, 8))
    save_pretrained(model, tmp_path / "net", ["cat", "dog", "eel"])
    return tmp_path / "net"


@pytest.fixture
def foreign(tmp_path):
    """A folder of weights of one of timm's own networks."""
    save_for_hf(timm.create_model("resnet10t", num_classes=3), tmp_path / "foreign", safe_serialization=True)
    return tmp_path / "foreign"


@pytest.fixture
def completion_script(command, tmp_path):
    path = tmp_path / "completion.bash"
    path.write_text(command("completion", "bash"))
    return path


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)).save(path)
    return path


class TestShell:
    def test_help_lists_the_commands(self, capsys):
        for arguments in (["--help"], *([name, "--help"] for name in command_line.COMMANDS)):
            with pytest.raises(SystemExit) as end:
                command_line.main(arguments)
            assert end.value.code == 0
            said = capsys.readouterr().out
            assert said.startswith("usage: gac-sj")
            if arguments == ["--help"]:
                assert all(name in said for name in command_line.COMMANDS)

    @pytest.mark.parametrize("arguments", [["fly"], ["summary"], ["models", "--fast"]])
    def test_wrong_usage_ends_with_status_2(self, arguments, capsys):
        with pytest.raises(SystemExit) as end:
            command_line.main(arguments)
        assert end.value.code == 2 and "usage: gac-sj" in capsys.readouterr().err

    def test_ctrl_c_ends_with_status_130(self, command, monkeypatch):
        monkeypatch.setattr(env, "report", mock.Mock(side_effect=KeyboardInterrupt))
        assert command("env", status=130) == "gac-sj: interrupted.\n"

    def test_programming_errors_are_not_hidden(self, monkeypatch):
        monkeypatch.setattr(env, "report", mock.Mock(side_effect=ZeroDivisionError))
        with pytest.raises(ZeroDivisionError):
            command_line.main(["env"])

    @pytest.mark.medium
    def test_closed_pipe_ends_quietly(self):
        """As a module; it imports nothing that only other commands need."""
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, "-X", "importtime", "-m", "gac_sj", "models", SMALL]
        result = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120)
        os.close(writing)
        assert result.returncode == 141
        lines = result.stderr.splitlines()
        assert all(line.startswith("import time:") for line in lines)
        imported = {line.split()[-1] for line in lines}
        assert "timm" in imported
        assert not {"pandas", "sklearn", "nir", "onnx", "onnxruntime"} & imported


def test_env_prints_the_report(command):
    assert command("env") == env.report() + "\n"


class TestModels:
    @pytest.mark.medium
    def test_all_networks_are_listed(self, command):
        header, *lines = command("models").splitlines()
        rows = {line.split()[0]: line.split()[1:] for line in lines}
        assert header.split() == ["network", "parameters", "T", "classes", "input", "encoder"]
        assert rows[SMALL] == ["86,250", "4", "10", "3x32x32", "GatedAttentionCoding"]
        assert rows["ms_resnet104"][0] == "77,350,504"
        assert "resnet18" not in rows  # timm's own

    def test_patterns_select_networks(self, command):
        names = [line.split()[0] for line in command("models", "gac_ms_resnet8*").splitlines()[1:]]
        assert names == [SMALL]
        assert "'vgg*'" in command("models", "vgg*", status=2)


class TestSummary:
    def test_network_by_name(self, command):
        said = command("summary", SMALL, "-T", 2, "--num-classes", 7, "--images", 2)
        model = timm.create_model(SMALL, T=2, num_classes=7)
        parameters = sum(p.numel() for p in model.parameters())
        assert f"{SMALL}: {parameters:,} parameters" in said
        # by hand: 3x3 convolutions of widths 16, 16 / 16, 32 / 32, 64, two shortcuts, the head
        behind = 2 * 9 * 16 * 16 * 32**2
        behind += (9 * 16 * 32 + 9 * 32 * 32 + 16 * 32) * 16**2 + (9 * 32 * 64 + 9 * 64 * 64 + 32 * 64) * 8**2 + 64 * 7
        assert f"behind it {behind / 1e6:,.1f} million a step, 2 steps" in said
        assert "paper's convention" in said and "complete" in said
        assert "of 2 generated images (standard normal pixels), not of a data set; untrained" in said
        rates = {line.split()[0]: float(line.split()[-1]) for line in said.splitlines() if "[2, 2, " in line}
        assert {"encoder.neuron", "stages.0.0.lif1", "lif"} < set(rates) and all(
            0 < rate < 1 for rate in rates.values()
        )

    def test_network_with_weights(self, command, weights):
        model = load_pretrained(weights)
        energy = measure_energy(model, [draw_inputs(model, 4)[0]])
        said = command("summary", weights, "--layers")
        assert f"complete {energy.complete_pj / 1e6:,.2f} µJ" in said
        assert str(energy) in said and str(energy.memory) in said
        assert f"event-driven {energy.event_pj / 1e6:,.2f} µJ" in said
        assert "untrained" not in said

    def test_operator_paths_are_reported(self, command, monkeypatch):
        said = command("summary", SMALL, "--images", 1)
        if why_not("cpp", "lif", "cpu") is None:
            assert "gated_lif: fused, the encoder's neuron and gate in one kernel (path cpp)" in said
            assert "lif: fused, all steps in one kernel (path cpp), 4 neurons" in said
            assert "lif: fused, all steps in one kernel, BatchNorm included (path cpp+norm_lif), 3 neurons" in said
        monkeypatch.setenv("GAC_SJ_OPS", "torch")
        said = command("summary", SMALL, "--images", 1)
        assert "lif: not fused, the definition (path torch), 8 neurons" in said and "gated_lif" not in said

    def test_encoder_option_replaces_the_encoder(self, command):
        said = command("summary", SMALL, "--encoder", "latency", "--options", "{in_chans: 1}", "--images", 1)
        assert "(uniform in [0, 1])" in said and "encoder.neuron" not in said

    def test_two_channels_are_event_frames(self, command):
        """Their stem (3x3, 2 to 16 channels) runs at every step."""
        said = command("summary", SMALL, "-T", 2, "--encoder", "direct", "--options", "{in_chans: 2}", "--images", 1)
        assert f"encoder {2 * 9 * 2 * 16 * 32**2 / 1e6:,.1f} million" in said
        assert "1 generated sequences of event frames" in said

    def test_frame_size_is_an_option(self, command):
        options = "{img_size: 32, channels: [4, 4], hidden: 8}"
        said = command("summary", "ma_snn", "-T", 2, "--images", 1, "--options", options)
        assert "[2, 1, 4, 4, 4]" in said  # 32 x 32 pixels: sums of 4 x 4, then means of 2 x 2

    @pytest.mark.parametrize(
        "arguments,words",
        [
            (["nothing"], "'nothing' is neither a network nor"),
            (["resnet18"], "'resnet18' is neither a network .*gac-sj models"),
            ([SMALL, "--encoder", "rate"], "--encoder .*'rate'.*choose one of gac, direct"),
            ([SMALL, "--encoder", "latenc"], "--encoder .*'latenc'.*did you mean 'latency'"),
            ([SMALL, "--form", "best"], "--form .*'best'.*choose one of reference"),
            ([SMALL, "-T", "0"], " -T .*0"),
            ([SMALL, "--num-classes", "-1"], "--num-classes .*-1"),
            ([SMALL, "--options", "{colour: red}"], "colour"),
            ([SMALL, "--options", "{drop_rate: 3}"], "drop_rate .*at least 0 and less than 1.*3"),
            ([SMALL, "--options", "{features_only: true}"], "--options .*features_only.*leave it out"),
            ([SMALL, "--options", "{encoder: morse}"], "--options has encoder, .*give it there"),
            (
                [SMALL, "--options", "{images: 3}"],
                "built: images is a keyword of neither MSResNet nor .*'gac'.*drop_rate",
            ),
            ([SMALL, "--options", "{checkpoint_path: a.pth}"], "--options .*checkpoint_path.*for weights, pass"),
            ([SMALL, "--options", "red"], "--options .*YAML.*'red'"),
            ([SMALL, "--options", "{"], "--options .*YAML.*'{'"),
            ([SMALL, "--images", "0"], "--images .*0"),
            ([SMALL, "--import", "absent.py"], "--import .*'absent.py' does not exist"),
        ],
    )
    def test_bad_input_is_refused(self, command, arguments, words):
        assert re.search(words, command("summary", *arguments, status=2))

    def test_options_of_weights_are_refused(self, command, weights):
        assert "leave out T" in command("summary", weights, "-T", 2, status=2)

    def test_networks_of_timm_are_refused(self, command, foreign):
        assert "holds a ResNet, not a network of gac_sj" in command("summary", foreign, status=2)


class TestConvert:
    @pytest.fixture
    def published(self, tmp_path):
        """A small network, and a file of its weights under the published names."""
        model = timm.create_model(SMALL, T=3, num_classes=4, form="reference")
        state = {reference_names(name)[0]: value for name, value in model.state_dict().items()}
        torch.save({"state_dict": state, "epoch": 3}, tmp_path / "published.pth")
        return model, tmp_path / "published.pth"

    def test_published_file_is_converted(self, command, published, tmp_path):
        model, path = published
        (tmp_path / "names").write_text("a\nb\nc\nd\n")
        given = ["--model", SMALL, "-T", 3, "--num-classes", 4, "--dataset", "cifar100", "--labels", tmp_path / "names"]
        said = command("convert", path, tmp_path / "net", *given)
        assert f"timm.create_model('local-dir:{tmp_path / 'net'}', pretrained=True)" in said
        assert f"{SMALL}, {sum(p.numel() for p in model.parameters()):,} parameters, T = 3, 4 classes" in said
        loaded = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True).eval()
        x = torch.randn(2, 3, 16, 16)
        assert torch.equal(loaded(x), model.eval()(x))
        assert loaded.encoder.form == "reference"
        assert tuple(loaded.pretrained_cfg["mean"]) == (0.5071, 0.4867, 0.4408)
        assert loaded.pretrained_cfg["label_names"] == ["a", "b", "c", "d"]

    def test_published_att_ms_resnet_is_converted(self, command, tmp_path):
        options = dict(channels=[8, 8, 8, 8], stem_channels=8)
        model = timm.create_model("att_ms_resnet18", form="reference", num_classes=4, **options)
        state = {reference_names(name)[-1]: value for name, value in model.state_dict().items()}
        state = {name: value[..., None, None, None] if ".ca." in name else value for name, value in state.items()}
        torch.save(state, tmp_path / "published.pth")
        given = ["--model", "att_ms_resnet18", "--num-classes", 4, "--options", str(options)]
        command("convert", tmp_path / "published.pth", tmp_path / "net", *given)
        loaded = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True).eval()
        x = torch.randn(2, 3, 64, 64)
        assert torch.equal(loaded(x), model.eval()(x))

    @pytest.mark.parametrize(
        "given,words",
        [
            ([], "name it with --model"),
            (["--model", "vgg"], f"--model .*'vgg'.*choose one of .*{SMALL}"),
            (["--model", SMALL, "-T", 3], "does not fit.*create the model"),
            (["--model", SMALL, "-T", 3, "--num-classes", 4, "--form", "current"], "form='reference'"),
            (["--model", SMALL, "-T", 3, "--num-classes", 4, "--dataset", "mnist"], "--dataset .*'mnist'.*cifar100"),
            (["--model", SMALL, "-T", 3, "--num-classes", 4, "--dataset", "digits"], "--dataset .*'digits'.*cifar100"),
            (["--model", SMALL, "-T", 3, "--num-classes", 4, "--labels", "nothing"], "--labels .*nothing .*text file"),
        ],
    )
    def test_bad_input_writes_nothing(self, command, published, tmp_path, given, words):
        assert re.search(words, command("convert", published[1], tmp_path / "net", *given, status=2))
        assert not (tmp_path / "net").exists()

    def test_unreadable_files_are_refused(self, command, published, tmp_path):
        given = ["--model", SMALL, "-T", 3, "--num-classes", 4]
        assert "nothing.pth does not exist" in command("convert", "nothing.pth", tmp_path / "net", *given, status=2)
        published[1].write_bytes(published[1].read_bytes()[:999])
        assert "truncated" in command("convert", published[1], tmp_path / "net", *given, status=2)
        for name in ("nothing.pth", "nothing", "no.safetensors"):
            assert f"{name} does not exist" in command("convert", name, tmp_path / "net", status=2)
        given = ["-T", 2, "--model", SMALL, "--dataset", "digits"]
        (tmp_path / "run").mkdir()
        said = command("convert", tmp_path / "run", tmp_path / "net", *given, status=2)
        assert "leave out T, model, dataset" in said

    def test_labels_replace_the_class_names_of_a_folder(self, command, weights, tmp_path):
        (tmp_path / "names").write_text("Katze\nHund\nAal\n")
        command("convert", weights, tmp_path / "again", "--labels", tmp_path / "names")
        before, after = load_pretrained(weights), load_pretrained(tmp_path / "again")
        assert after.pretrained_cfg["label_names"] == ["Katze", "Hund", "Aal"]
        assert torch.equal(after.head.weight, before.head.weight)
        assert "Not a directory" in command("convert", weights, tmp_path / "names" / "net", status=2)


@pytest.mark.medium
class TestExport:
    def test_format_of_a_file_without_ending(self, command, weights, tmp_path):
        path = tmp_path / "a"
        assert f"{path}: program" in command("export", weights, path, "--format", "program")
        x = torch.randn(4, 1, 8, 8)
        with torch.no_grad():
            assert torch.equal(torch.export.load(path).module()(x), load_pretrained(weights)(x))

    def test_nir_exports_the_backbone(self, command, weights, tmp_path):
        if find_spec("spikingjelly.activation_based.nir_exchange") is None:
            assert "2.0.0" in command("export", weights, tmp_path / "a.nir", "--no-spikes-only", status=2)
            return
        for package in ("nir", "nirtorch"):
            pytest.importorskip(package, reason="needs the extra nir")
        command("export", weights, tmp_path / "a.nir", "--no-spikes-only")
        model, x = load_pretrained(weights).eval(), torch.randn(4, 1, 8, 8)
        with torch.no_grad():
            logits, _ = nir_exchange().import_from_nir(tmp_path / "a.nir", step_mode="m")(model.encoder(x))
            torch.testing.assert_close(logits.mean(0), model(x), rtol=1e-4, atol=1e-4)
        said = command("export", weights, tmp_path / "b.nir", status=2)
        assert "--spikes-only " in said and "--options '{spike_driven: true}'" in said and "--no-spikes-only" in said

    def test_options_belong_to_one_format(self, command, weights, tmp_path):
        said = command("export", weights, tmp_path / "a.onnx", "--tolerance", -1, status=2)
        assert "--tolerance " in said and "-1" in said
        said = command("export", weights, tmp_path / "a.pt2", "--tolerance", 0.5, "--spikes-only", status=2)
        assert "program" in said and "--spikes-only, --tolerance" in said

    def test_bad_input(self, command, weights, tmp_path, monkeypatch):
        assert "a.txt has no known ending" in command("export", weights, tmp_path / "a.txt", status=2)
        said = command("export", weights, tmp_path / "a", "--format", "tflite", status=2)
        assert "'tflite'" in said and "onnx, program, nir" in said
        assert "neither" in command("export", "nothing", tmp_path / "a.onnx", status=2)
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        assert "gac_sj[onnx]" in command("export", weights, tmp_path / "a.onnx", status=2)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["pt2", "onnx", "nir"])
def test_exported_files_compute_the_same(command, tmp_path, ending):
    model = timm.create_model(SMALL, T=2, form="reference", spike_driven=True)
    x = torch.randn(3, 3, 32, 32)
    trained(model, x)
    save_pretrained(model.eval(), tmp_path / "net")
    path = tmp_path / f"a.{ending}"
    if ending == "nir" and find_spec("spikingjelly.activation_based.nir_exchange") is None:
        assert "2.0.0" in command("export", tmp_path / "net", path, status=2)
        return
    for package in {"onnx": ("onnx", "onnxscript", "onnxruntime"), "nir": ("nir", "nirtorch")}.get(ending, ()):
        pytest.importorskip(package, reason=f"needs the extra {ending}")
    command("export", tmp_path / "net", path)
    with torch.no_grad():
        if ending == "pt2":
            found = torch.export.load(path).module()(x)
        elif ending == "onnx":
            session = import_module("onnxruntime").InferenceSession(path)
            found = torch.from_numpy(session.run(None, {"images": x.numpy()})[0])
        else:
            read = nir_exchange().import_from_nir(path, step_mode="m")
            found = read(model.encoder(x))[0].mean(0)
        assert torch.allclose(found, model(x), atol=1e-4)


class TestPredict:
    def test_evidence_equals_hand_computed_values(self):
        """Means of the first steps: (0, 0), then (0, ln 3): 1 / (1 + 3)."""
        steps = torch.tensor([[0.0, 0.0], [0.0, 2 * np.log(3)]])
        assert predict.evidence(steps).tolist() == [[0.5, 0.5], [pytest.approx(0.25), pytest.approx(0.75)]]

    def test_each_image_gets_a_table(self, command, weights, picture):
        said = command("predict", picture, picture, "--weights", weights)
        assert said[: len(said) // 2] == said[len(said) // 2 :]
        title, header, *rows = said[: len(said) // 2].splitlines()
        pixels = (torch.from_numpy(np.asarray(Image.open(picture))) / 255 - 0.3) / 0.4
        with torch.no_grad():
            steps = load_pretrained(weights).forward_sequence(pixels[None, None])[:, 0]
        expected = [steps[:t].mean(0).softmax(0) for t in (1, 2, 3)]
        names = ["cat", "dog", "eel"]
        best = expected[-1].argsort(descending=True).tolist()
        assert title == f"{picture}: {names[best[0]]}"
        assert header.split() == ["class", "t=1", "t=2", "t=3"]
        assert [row.split()[0] for row in rows] == [names[label] for label in best]
        for row, label in zip(rows, best):
            percent = [100 * p[label].item() for p in expected]
            assert [float(word) for word in row.split()[1:]] == pytest.approx(percent, abs=0.051)
        assert rows[0].split()[1] != rows[0].split()[2]

    def test_integer_weights(self, command, weights, picture):
        """Those of 16 bits give the percentages of floats here, up to the last digit."""
        floats, integers = (
            command("predict", picture, "--weights", weights, *more) for more in ((), ("--quantized", "16"))
        )
        assert integers.splitlines()[:2] == floats.splitlines()[:2]
        found, expected = (sorted(said.splitlines()[2:]) for said in (integers, floats))
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.split()[0] == theirs.split()[0]
            assert [float(word) for word in ours.split()[1:]] == pytest.approx(
                [float(word) for word in theirs.split()[1:]], abs=5
            )

    def test_images_are_resized_and_classes_numbered(self, command, tmp_path):
        """A grey image of another size, for a network of colour images; five of ten classes."""
        save_pretrained(timm.create_model(SMALL, T=2, encoder="poisson"), tmp_path / "net")
        Image.new("L", (50, 40), 90).save(tmp_path / "grey.jpg")
        said = command("predict", tmp_path / "grey.jpg", "--weights", tmp_path / "net" / "model.safetensors")
        rows = said.splitlines()[2:]
        assert len(rows) == 5 and {row.split()[0] for row in rows} < set("0123456789")
        # Poisson draws the same spikes
        assert command("predict", tmp_path / "grey.jpg", "--weights", tmp_path / "net") == said

    def test_photographs_are_upright_and_16_bits_are_scaled(self, command, weights, tmp_path):
        plain, turned, deep = (tmp_path / f"{name}.png" for name in ("plain", "turned", "deep"))
        pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
        exif = Image.Exif()
        exif[274] = 6  # stored with its left side on top
        Image.fromarray(pixels).save(plain)
        Image.fromarray(np.ascontiguousarray(np.rot90(pixels))).save(turned, exif=exif)
        Image.fromarray(pixels.astype(np.uint16) * 256 + 255).save(deep)
        said = [command("predict", path, "--weights", weights).partition("\n")[2] for path in (plain, turned, deep)]
        assert said[0] == said[1] == said[2]

    def test_bad_images_are_refused(self, command, weights, picture, tmp_path, capsys):
        assert "no.png does not exist" in command("predict", "no.png", "--weights", weights, status=2)
        (tmp_path / "broken.png").write_bytes(picture.read_bytes()[:60])
        assert "broken.png cannot be read" in command(
            "predict", tmp_path / "broken.png", "--weights", weights, status=2
        )
        os.mkfifo(tmp_path / "pipe.png")
        assert "Not a regular file" in command("predict", tmp_path / "pipe.png", "--weights", weights, status=2)
        Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "float.tiff")
        assert "32-bit floats" in command("predict", tmp_path / "float.tiff", "--weights", weights, status=2)
        assert command_line.main(["predict", str(picture), "no.png", "--weights", str(weights)]) == 2
        assert f"{picture}: " in capsys.readouterr().out  # images before it are classified

    def test_bad_weights_are_refused(self, command, weights, picture, foreign, tmp_path):
        assert "not a network of gac_sj" in command("predict", picture, "--weights", foreign, status=2)
        assert "nothing does not exist" in command("predict", picture, "--weights", tmp_path / "nothing", status=2)
        assert "has no config.json" in command("predict", picture, "--weights", tmp_path, status=2)
        assert "weights of a run" in command("predict", picture, "--weights", picture, status=2)
        save_pretrained(timm.create_model(SMALL, in_chans=2), tmp_path / "events")
        assert "2 channels" in command("predict", picture, "--weights", tmp_path / "events", status=2)
        (weights / "model.safetensors").write_bytes(b"")
        assert "checksum is wrong" in command("predict", picture, "--weights", weights, status=2)


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit):
        command_line.main(["--version"])
    assert capsys.readouterr().out == f"gac_sj {gac_sj.__version__}\n"


def test_without_a_command_it_shows_the_first_steps(command):
    steps = [shlex.split(line) for line in command().splitlines() if line.startswith("    ")]
    assert len(steps) == 5
    for program, *words in steps:
        if program == "python":
            import_module(Path(words[0]).stem).build_parser().parse_args(words[1:])
        else:
            assert program == "gac-sj"
            command_line._parser().parse_args(words)


@pytest.mark.skipif(os.name == "nt" or shutil.which("bash") is None, reason="needs bash and its paths")
@pytest.mark.parametrize(
    "words, expected, missing",
    [
        ("gac-sj s", ["summary"], "env"),
        ("gac-sj predict --q", ["--quantized"], "--model"),
        ("gac-sj predict --quantized ", ["8", "16"], "4"),
        ("gac-sj summary gac_ms_resnet8", ["gac_ms_resnet8_cifar"], "ms_resnet8_cifar"),
        ("gac-sj summary ms_resnet18_cifar --encoder ", gac_sj.list_encoders(), "ms_resnet18_cifar"),
        ("gac-sj summary ms_resnet18_cifar --encoder gac --form l", ["lite"], "reference"),
        ("gac-sj convert wei", ["weights"], "ms_resnet18_cifar"),
        ("gac-sj predict --weights wei", ["weights"], "--quantized"),
    ],
)
def test_bash_completes(words, expected, missing, completion_script, tmp_path):
    """What pressing TAB at the end of a line offers; where the script has nothing, bash offers files."""
    (tmp_path / "weights").touch()
    line = words.split(" ")
    function = r"""
    source "$1"; shift
    spec=$(complete -p gac-sj); [[ $spec =~ -F\ ([^ ]+) ]]
    compopt() { :; }
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); ${BASH_REMATCH[1]}
    if ((${#COMPREPLY[@]} == 0)) && [[ $spec == *-o\ *default* ]]; then COMPREPLY=($(compgen -f -- "${@: -1}")); fi
    printf '%s\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(["bash", "-c", function, "bash", completion_script, *line],
                          cwd=tmp_path, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0 and done.stderr == ""
    assert set(expected) <= set(done.stdout.split()) and missing not in done.stdout.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh", "fish"])
def test_a_script_completes_what_an_imported_file_registers(shell, command, tmp_path, clean_registry):
    (tmp_path / "plugin.py").write_text(
        'import gac_sj\n@gac_sj.register_encoder("plugged_in")\nclass Mine(gac_sj.Encoder):\n    pass\n'
    )
    assert "plugged_in" in command("completion", shell, "--import", tmp_path / "plugin.py")
