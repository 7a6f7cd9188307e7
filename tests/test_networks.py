"""Every kind of network that ``--model`` takes, through every program: timm's, SpikingJelly's, a user's."""

import dataclasses
import hashlib
import json
from pathlib import Path

import evaluate
import figures
import pytest
import report
import robustness
import run_cifar
import torch
import train
from helpers.encoders import AVAILABLE, HAS_ATTENTION
from helpers.files import table
from helpers.programs import refused, run
from helpers.registry import forgotten_afterwards
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import sew_resnet
from torch import nn

from gac_sj.checkpoint import load_pretrained, pretrained
from gac_sj.checkpoint.runs import build_model
from gac_sj.cli.main import main as gac_sj_command
from gac_sj.data import dataset_info
from gac_sj.encoders import encoder_info, list_encoders
from gac_sj.models.attached import AttachedNetwork
from gac_sj.models.protocols import encoder_of, missing_parts
from gac_sj.models.spikingjelly import list_spikingjelly
from gac_sj.training.settings import Settings

pytestmark = pytest.mark.usefixtures("quick")

NET = '''\
"""Networks of a user."""
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from timm.models import register_model
from torch import nn

import gac_sj


def lif():
    return neuron.LIFNode(v_threshold=0.3, surrogate_function=surrogate.ATan(), detach_reset=True)


def plain(num_classes, in_chans, width=8):
    """A SpikingJelly network, whose stem becomes the encoder."""
    return nn.Sequential(
        layer.Conv2d(in_chans, width, 3, padding=1, bias=False), layer.BatchNorm2d(width), lif(),
        layer.Conv2d(width, width, 3, padding=1, bias=False), layer.BatchNorm2d(width), lif(),
        layer.AdaptiveAvgPool2d(1), layer.Flatten(), layer.Linear(width, num_classes),
    )


class Whole(nn.Module):
    """A network with everything that the programs need."""

    def __init__(self, encoder, num_classes):
        super().__init__()
        self.encoder = encoder
        self.neuron = gac_sj.LIFNode(surrogate_function=surrogate.ATan())
        self.head = nn.Linear(8, num_classes)

    def forward_sequence(self, x):
        functional.reset_net(self)
        return self.head(self.neuron(self.encoder(x)).mean((-2, -1)))

    def forward(self, x):
        return self.forward_sequence(x).mean(0)


def whole(encoder, num_classes):
    return Whole(encoder(channels=8), num_classes)


@register_model
def my_network(pretrained=False, T=4, encoder="direct", num_classes=10, in_chans=3, form=None, **options):
    options = {} if form is None else {"form": form}
    return Whole(gac_sj.create_encoder(encoder, T=T, in_channels=in_chans, channels=8, **options), num_classes)
'''
TINY = ["--dataset", "digits", "--train-limit", "130", "--epochs", "1", "-T", "2", "--seeds", "0", "--device", "cpu"]
SEW = "spikingjelly:sew_resnet18"
#: The value of --model for each kind, where FILE stands for the path of NET, and options of run_cifar.
KINDS = {
    "plain": ("FILE:plain", ["--model-options", "{width: 6}"]),
    "whole": ("FILE:whole", []),
    "timm": ("my_network", []),
    "spikingjelly": (SEW, ["--model-options", "{v_threshold: 0.3}"]),
}


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "net.py"
    path.write_text(NET)
    return path


#: the kinds that differ from the others in what our code reads, not in layers of SpikingJelly
ONCE = ("whole", "timm")


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.one_release] * (name in ONCE)) for name in KINDS]
)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def given(net, kind):
    """What a program needs to load weights."""
    return [] if kind == "spikingjelly" else ["--import", net]


@pytest.fixture(scope="module")
def finished(net, kind, given, tmp_path_factory):
    """The folder of a comparison."""
    folder = tmp_path_factory.mktemp(kind)
    model, options = KINDS[kind]
    imports = given if kind == "timm" else []
    arguments = [*TINY, "--model", model.replace("FILE", str(net)), *options, "--encoders", "gac", "poisson"]
    run(run_cifar.main, *imports, *arguments, "--output", folder)
    return folder


@pytest.fixture(scope="module")
def weights(finished):
    (path,) = finished.glob("runs/gac*/last.safetensors")
    return path


def settings(model, encoder="gac", dataset="digits", **options):
    return Settings(model=str(model), encoder=encoder, dataset=dataset, T=2, **options)


def build(model, encoder="gac", dataset="digits", **options):
    its = settings(model, encoder, dataset, **options)
    return build_model(its, dataset_info(dataset).for_network(its.model))


@pytest.mark.medium
class TestPrograms:
    def test_run_cifar_leaves_complete_rows(self, finished, net, kind):
        rows = table(finished / "results.csv")
        assert [row["encoder"] for row in rows] == ["gac", "poisson"]
        assert {row["model"] for row in rows} == {KINDS[kind][0].replace("FILE", "net.py")}
        digest = hashlib.sha256(net.read_bytes()).hexdigest()[:12]
        source = "None" if kind == "spikingjelly" else f"net.py:{digest}"
        assert {row["model_source"] for row in rows} == {source}
        for row in rows:
            assert 0 < float(row["firing_rate_mean"]) < 1 and int(row["analysed_images"]) > 0
            assert float(row["energy_encoder_pj"]) > 0 and 0 <= float(row["accuracy_last"]) <= 100

    def test_finished_runs_are_recognised(self, finished, net, kind, given):
        model, options = KINDS[kind]
        before = table(finished / "results.csv")
        arguments = [*TINY, "--model", model.replace("FILE", str(net)), *options, "--encoders", "poisson"]
        run(run_cifar.main, *given, *arguments, "--output", finished)
        assert table(finished / "results.csv") == before

    def test_evaluate_gives_the_accuracy_of_the_row(self, weights, given, finished):
        printed = run(evaluate.main, weights, *given, "--device", "cpu")
        row = next(row for row in table(finished / "results.csv") if row["encoder"] == "gac")
        assert f"top-1 {float(row['accuracy_last']):.2f} %" in printed

    def test_evaluate_with_integer_weights(self, weights, given, kind, capsys):
        """Only SpikingJelly's network has convolutions behind its neurons."""
        arguments = [weights, *given, "--device", "cpu", "--quantized", "8"]
        if kind == "spikingjelly":
            assert "top-1" in run(evaluate.main, *arguments)
        else:
            with forgotten_afterwards():
                refused(capsys, evaluate.main, arguments, "No convolution or linear layer", "spikes")

    def test_robustness(self, finished, given, tmp_path):
        quick = ["--images", "20", "--severities", "5", "--corruptions", "blur", "fgsm", "dropped_steps"]
        run(robustness.main, *given, finished, *quick, "--device", "cpu", "--output", tmp_path)
        rows = table(tmp_path / "robustness.csv")
        assert len(rows) == 8 and {row["gradient"] for row in rows} == {"", "surrogate", "straight-through"}

    def test_figures_of_the_network_and_of_rows(self, weights, finished, given, tmp_path):
        run(figures.main, "network", weights, *given, "--images", "20", "--device", "cpu", "--output", tmp_path)
        names = {path.stem.partition("-")[0] for path in tmp_path.glob("*.png")}
        assert {"encoder_outputs", "gates", "grad_cam", "firing_rates_by_step"} <= names
        run(figures.main, "rows", finished, "--output", tmp_path / "rows")
        assert list((tmp_path / "rows").glob("*.png"))

    def test_report(self, finished, tmp_path):
        run(report.main, finished, "--output", tmp_path / "report.html")
        assert "poisson" in (tmp_path / "report.html").read_text()

    def test_train_and_the_command_line(self, weights, net, kind, given, tmp_path):
        model = KINDS[kind][0].replace("FILE", str(net))
        arguments = ["--model", model, "--encoder", "gac", "--dataset", "digits", "--train-limit", "64", "-T", "2"]
        assert "in the encoder" in run(train.main, *given, *arguments, "--device", "cpu", "--dry-run")
        assert "energy of one input" in run(gac_sj_command, "summary", weights, *given)
        if kind != "plain" or HAS_ATTENTION:  # torch.export cannot follow the neurons of SpikingJelly 0.0.0.0.14
            run(gac_sj_command, "export", weights, tmp_path / "network.pt2", *given)
            assert (tmp_path / "network.pt2").exists()


@pytest.mark.all_parameters
class TestSpikingJelly:
    @pytest.mark.medium
    @pytest.mark.parametrize("encoder", AVAILABLE)
    def test_every_encoder_stands_in_front(self, encoder):
        model = build(SEW, encoder)
        assert type(encoder_of(model)) is encoder_info(encoder).cls
        images = torch.rand(3, 1, 8, 8)
        steps = model.train().forward_sequence(images)
        assert steps.shape == (2, 3, 10) and torch.allclose(
            model.eval()(images), model.forward_sequence(images).mean(0)
        )
        steps.sum().backward()
        expected = (0.0,) if encoder_info(encoder).needs_unit_range else dataset_info("digits").mean
        assert model.pretrained_cfg["mean"] == expected

    def test_direct_coding_leaves_the_network_as_it_is(self):
        torch.manual_seed(1)
        model = build(SEW, "direct", "cifar10").eval()
        torch.manual_seed(1)
        node = dict(spiking_neuron=neuron.LIFNode, surrogate_function=surrogate.ATan(), detach_reset=True)
        from spikingjelly.activation_based.model.sew_resnet import sew_resnet18

        bare = sew_resnet18(num_classes=10, cnf="ADD", **node).eval()
        functional.set_step_mode(bare, "m")
        images = torch.rand(2, 3, 32, 32)
        torch.testing.assert_close(model.forward_sequence(images), bare(images.expand(2, *images.shape)))

    @pytest.mark.slow
    @pytest.mark.parametrize("name", list_spikingjelly())
    def test_every_model_is_built_for_cifar_or_says_why_not(self, name):
        try:
            with torch.device("meta"):
                model = build(name, "gac", "cifar10")
        except ValueError as error:
            assert str(error).startswith("model cannot be") and "\n" not in str(error)
            assert any(word in name for word in ("MNIST", "DVS", "dvs"))
        else:
            assert not missing_parts(model) and model.attached.encoder == "gac"

    def test_an_average_over_time_is_left_to_the_caller(self):
        class Averaging(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = layer.Conv2d(3, 4, 3, padding=1)
                self.lif = neuron.LIFNode(v_threshold=0.1)
                self.head = nn.Linear(4, 5)

            def forward(self, x):
                return self.head(self.lif(self.conv(x)).mean((-2, -1)).mean(0))

        model = AttachedNetwork(Averaging(), 3, 3, "poisson").eval()
        images = torch.rand(2, 3, 8, 8)
        torch.manual_seed(0)
        steps = model.forward_sequence(images)
        torch.manual_seed(0)
        assert steps.shape == (3, 2, 5) and steps.std(0).any()
        torch.testing.assert_close(model(images), steps.mean(0))

    def test_options_are_the_builders_the_neurons_or_the_encoders(self):
        options = {"zero_init_residual": True, "v_threshold": 0.5, "kernel_size": 3, "neuron": "IFNode"}
        with torch.device("meta"):
            model = build(SEW, "gac", model_options={**options, "cnf": "IAND"})
        node = next(module for module in model.modules() if isinstance(module, neuron.IFNode))
        assert node.v_threshold == 0.5 and model.network.layer1[0].cnf == "IAND"
        assert encoder_of(model).kernel_size == 3

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"wheels": 4}, ["wheels", "sew_resnet18", "'gac'"]),
            ({"neuron": "LIF"}, ["neuron", "'LIF'", "'LIFNode'"]),
            ({"pretrained": True}, ["model_options", "pretrained"]),
            ({"cnf": "SUB"}, ["NotImplementedError"]),
            ({"width_per_group": 32}, ["base_width"]),
        ],
    )
    def test_other_options_are_refused(self, options, words):
        with pytest.raises(ValueError) as caught, torch.device("meta"):
            build(SEW, model_options=options)
        assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("encoder", ["direct", "gac"])
def test_the_narrow_sew_network(encoder):
    """Three blocks of SpikingJelly's behind each encoder; spikes add up in a block, so all its inputs are integers."""
    file = Path(__file__).resolve().parent.parent / "experiments/networks/sew.py"
    with forgotten_afterwards():
        model = build(f"{file}:narrow", encoder, "cifar10").eval()
    inputs = []
    blocks = [module for module in model.modules() if isinstance(module, sew_resnet.BasicBlock)]
    blocks[1].register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert inputs[0].shape == (2, 2, 16, 32, 32)
    if encoder == "direct":
        assert set(inputs[0].unique().tolist()) <= {0, 1, 2}


class TestLoading:
    def test_the_number_of_classes_of_an_image_folder_is_that_of_the_weights(self):
        its = settings(SEW, "direct", "folder")
        with torch.device("meta"):
            model = build_model(its, dataclasses.replace(dataset_info("folder"), size=(32, 32), classes=3))
        assert pretrained._classes(its, model.state_dict()) == 3

    @pytest.mark.medium
    def test_commands_take_networks_by_name(self, net):
        images = ["--num-classes", "3", "--options", "{img_size: 8, in_chans: 1}"]
        assert "in the encoder" in run(gac_sj_command, "summary", f"{net}:plain", "--encoder", "gac", *images)

    @pytest.mark.medium
    def test_weights_load_as_a_network(self, weights, given):
        with forgotten_afterwards():
            if given:
                from gac_sj.encoders import import_plugins

                import_plugins([str(given[1])])
            model = load_pretrained(weights)
        assert missing_parts(model) == [] and model(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.fixture
def other(net, tmp_path):
    """A function that writes a file of networks with other text."""

    def write(old="", new=""):
        path = tmp_path / "net.py"
        path.write_text(NET.replace(old, new) if old else new)
        return path

    return write


@pytest.mark.usefixtures("clean_registry")
class TestRefusals:
    """Status 2, one sentence, nothing written."""

    def refuse(self, capsys, tmp_path, model, *words, imports=()):
        output = tmp_path / "out"
        arguments = [*imports, *TINY, "--model", model, "--encoders", "gac", "--output", output]
        with forgotten_afterwards():
            error = refused(capsys, run_cifar.main, arguments, *words)
        assert not output.exists() or not list(output.glob("runs/*"))
        return error

    @pytest.mark.medium
    def test_weights_of_a_file_that_is_not_given_or_changed(self, weights, kind, other, capsys, tmp_path):
        if kind == "spikingjelly":
            pytest.skip("it has no file")
        with forgotten_afterwards():
            refused(capsys, evaluate.main, [weights, "--device", "cpu"], "net.py", "--import net.py", folder=tmp_path)
            assert not (tmp_path / "out").exists()
        changed = other("width=8", "width=9")
        with forgotten_afterwards():
            arguments = ["--import", changed, weights, "--device", "cpu"]
            refused(capsys, evaluate.main, arguments, "net.py", "SHA-256", folder=tmp_path)

    def test_files_that_do_not_exist_or_raise(self, other, capsys, tmp_path):
        self.refuse(capsys, tmp_path, "absent.py:plain", "--model", "'absent.py'", "does not exist")
        self.refuse(capsys, tmp_path, f"{other()}:plain", "--model", "does not define")
        self.refuse(capsys, tmp_path, f"{other(new='raise RuntimeError(5)')}:plain", "--model", "RuntimeError")

    def test_a_function_that_is_not_there(self, net, capsys, tmp_path):
        self.refuse(capsys, tmp_path, f"{net}:plan", "--model", "'plan'", "did you mean 'plain'")

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ("return 5", ["returns a int"]),
            ("raise KeyError('it broke')", ["KeyError", "it broke"]),
            ("return nn.Sequential(layer.Conv2d(1, 4, 3))", ["no spiking neurons"]),
            ("return nn.Sequential(lif(), layer.Linear(4, 4))", ["no convolution"]),
            ("return plain(7, in_chans)", ["7 classes", "10"]),
            ("return Whole(encoder(channels=4), num_classes)", ["cannot run on images of 1 x 8 x 8"]),
            (
                "return Whole(gac_sj.create_encoder('poisson', T=2, in_channels=1, channels=8), num_classes)",
                ["PoissonCoding", "'gac'"],
            ),
            ("return nn.Sequential(encoder(channels=4), lif())", ["forward_sequence"]),
        ],
        ids=["number", "raises", "no neurons", "no stem", "classes", "shape", "encoder", "incomplete"],
    )
    def test_functions_that_return_something_else(self, body, words, other, capsys, tmp_path):
        path = other(new=f"{NET}\n\ndef bad(encoder, num_classes, in_chans):\n    {body}\n")
        self.refuse(capsys, tmp_path, f"{path}:bad", "--model", "bad", *words)

    def test_networks_that_are_not_there(self, capsys, tmp_path):
        self.refuse(
            capsys, tmp_path, "spikingjelly:sew_resnet81", "--model", "did you mean 'spikingjelly:sew_resnet18'"
        )
        self.refuse(capsys, tmp_path, "my_network", "--model", "'my_network'", "FILE.py:FUNCTION")
        self.refuse(capsys, tmp_path, "resnet18", "--model", "'resnet18'")
        if "spikingjelly:spikformer_s" not in list_spikingjelly():
            self.refuse(capsys, tmp_path, "spikingjelly:spikformer_s", "--model", "release 2.0.0")

    def test_images_that_do_not_fit(self, capsys, tmp_path):
        self.refuse(capsys, tmp_path, "spikingjelly:spiking_vgg11_bn", "--model", "cannot run on images of 1 x 8 x 8")

    def test_a_network_registered_with_timm_that_lacks_something(self, other, capsys, tmp_path):
        path = other("return Whole(gac_sj", "return plain(num_classes, in_chans)\n    return Whole(gac_sj")
        self.refuse(capsys, tmp_path, "my_network", "forward_sequence", "an encoder", imports=["--import", path])

    def test_settings_that_a_network_lacks(self, net, capsys, tmp_path):
        arguments = ["--model", f"{net}:plain", "--dataset", "digits", "--train-limit", "64", "--grad-checkpointing"]
        with forgotten_afterwards():
            refused(capsys, train.main, [*arguments, "--device", "cpu", "--dry-run"], "--grad-checkpointing", "net.py")


def test_settings_name_the_file_without_its_folder(net):
    with forgotten_afterwards():
        first = settings(f"{net}:plain")
        assert first.model == "net.py:plain" and first.model_source.startswith("net.py:")
        assert Settings(**json.loads(json.dumps(first.key()))) == first
        assert list_encoders()
