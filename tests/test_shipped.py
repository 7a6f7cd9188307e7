"""The pretrained weights of the package: timm's names, what they pin, how runs become them, and what is there."""

import json
import re
import shutil
import warnings
from pathlib import Path

import pytest
import ship
import timm
import torch
from helpers.programs import refused, run
from helpers.registry import shipped_from
from helpers.rows import seeds, write
from PIL import Image
from safetensors.torch import save_file
from timm.models import resolve_model_input_args

import gac_sj
from gac_sj.checkpoint import load_pretrained, save_pretrained
from gac_sj.checkpoint.pretrained import CARD
from gac_sj.checkpoint.runs import build_model, data_info
from gac_sj.cli.main import main as command_line
from gac_sj.encoders import DEFAULT_FORM, FORMS
from gac_sj.models import shipped
from gac_sj.results.card import CHECK, card
from gac_sj.training.settings import Settings

pytestmark = pytest.mark.usefixtures("one_thread")

REPOSITORY = Path(__file__).resolve().parent.parent
NAME, OTHER = "gac_ms_resnet8_cifar", "ms_resnet8_cifar"
FORM = next(form for form in FORMS if form not in (DEFAULT_FORM, "reference"))
TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
ENTRIES = sorted(path.parent for path in shipped.FOLDER.glob("*/config.json"))


def make(folder, name=NAME, tag="cifar10_T2", **keywords):
    """A folder of random weights, as ship.py writes it without its card."""
    torch.manual_seed(len(tag))
    network = timm.create_model(name, **{"T": 2} | keywords).eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(layer.running_mean, std=0.1)
    names = TEN if network.num_classes == 10 else None
    save_pretrained(network, folder / f"{name}.{tag}", names)
    return network


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return folder, make(folder, form=FORM), make(folder, tag="cifar100_T2", num_classes=100, form=FORM)


@pytest.fixture
def weights(made):
    """Two sorts of weights for one network, in a form that is not the default, and none for the other ones."""
    with shipped_from(made[0]):
        yield made


@pytest.fixture
def changed(weights, tmp_path):
    """A copy of the weights, to be changed before ``shipped_from``."""
    shutil.copytree(weights[0], tmp_path / "weights")
    return tmp_path / "weights"


def images():
    return torch.randn(2, 3, 32, 32)


def test_timm_lists_and_loads_them(weights):
    _, ten, hundred = weights
    tags = [f"{NAME}.cifar10_T2", f"{NAME}.cifar100_T2"]
    assert timm.list_pretrained("*ms_resnet*") == sorted(tags) or timm.list_pretrained("*ms_resnet*") == tags
    x = images()
    for name, expected in ((NAME, ten), (tags[0], ten), (tags[1], hundred)):
        model = timm.create_model(name, pretrained=True).eval()
        assert (model.T, model.encoder.form, model.num_classes) == (2, FORM, expected.num_classes)
        assert torch.equal(model(x), expected(x))
    assert list(timm.create_model(NAME, pretrained=True).pretrained_cfg["label_names"]) == TEN
    with pytest.raises(RuntimeError, match="No pretrained weights exist for ms_resnet8_cifar"):
        timm.create_model(OTHER, pretrained=True)
    with pytest.raises(RuntimeError, match="Invalid pretrained tag"):
        timm.create_model(f"{NAME}.cifar10_T9", pretrained=True)


def test_an_untrained_network_is_not_that_of_weights(weights):
    model = timm.create_model(NAME)
    assert (model.T, model.encoder.form, model.num_classes) == (4, DEFAULT_FORM, 10)
    assert not {"label_names", "tag", "file"} & model.pretrained_cfg.keys()
    # a tag names a network, whose weights are another matter
    tagged = timm.create_model(f"{NAME}.cifar100_T2")
    assert (tagged.T, tagged.encoder.form, tagged.num_classes) == (2, FORM, 100)
    assert timm.create_model(f"{NAME}.cifar100_T2", T=3, form="reference").encoder.form == "reference"


def test_weights_of_other_classes_leave_the_name_without_a_tag(changed):
    shutil.rmtree(changed / f"{NAME}.cifar10_T2")
    with shipped_from(changed):
        assert timm.get_pretrained_cfg(NAME).num_classes == 10 and not timm.is_model_pretrained(NAME)
        assert timm.list_pretrained(f"{NAME}*") == [f"{NAME}.cifar100_T2"]
        assert timm.create_model(f"{NAME}.cifar100_T2", pretrained=True).num_classes == 100


def test_timms_scripts_and_fine_tuning_get_them(weights):
    _, ten, _ = weights
    found = timm.create_model(**resolve_model_input_args(NAME, {}, pretrained=True)).eval()
    assert torch.equal(found(x := images()), ten(x))
    adapted = timm.create_model(NAME, pretrained=True, num_classes=3, in_chans=1, drop_rate=0.1).eval()
    torch.testing.assert_close(adapted.encoder.stem[0].weight, ten.encoder.stem[0].weight.sum(1, keepdim=True))
    assert adapted(x[:, :1]).shape == (2, 3) and adapted.encoder.form == FORM
    features = timm.create_model(NAME, pretrained=True, features_only=True, out_indices=(0, 1)).eval()
    assert all(map(torch.equal, features(x), ten.forward_intermediates(x, (0, 1), intermediates_only=True)))


def test_what_was_loaded_is_saved_with_its_form_and_names(weights, tmp_path):
    _, ten, _ = weights
    save_pretrained(timm.create_model(NAME, pretrained=True).eval(), tmp_path / "net")
    again = load_pretrained(tmp_path / "net")
    assert torch.equal(again(x := images()), ten(x)) and again.pretrained_cfg["label_names"] == TEN


def test_another_T_is_resized_with_a_warning(weights):
    _, ten, _ = weights
    with pytest.warns(UserWarning, match=f"{NAME}.cifar10_T2 were trained with T=2; with T=4 .*resized.*model card"):
        model = timm.create_model(NAME, pretrained=True, T=4)
    expected = gac_sj.resize_time_steps(ten, 4).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        timm.create_model(NAME, pretrained=True, T=2, form=FORM, num_classes=3)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"form": "reference"}, f"form must be {FORM!r} for the weights {NAME}.cifar10_T2.*got 'reference'"),
        ({"gate": "before"}, "gate must be 'after'.*got 'before'"),
        ({"encoder": "direct"}, "encoder must be 'gac'.*got 'direct'"),
        ({"spike_driven": True}, "spike_driven must be False.*got True"),
        ({"kernel_size": 3}, "kernel_size must be left out.*got 3"),
    ],
)
def test_another_network_is_refused(weights, keywords, words):
    with pytest.raises(ValueError, match=words):
        timm.create_model(NAME, pretrained=True, **keywords)
    timm.create_model(NAME, **keywords)


def test_own_weights_under_a_name_are_not_the_packages(weights, tmp_path):
    """timm's way to load a file of one's own; nothing is pinned then."""
    other = timm.create_model(NAME, T=3)
    save_file(other.state_dict(), tmp_path / "mine.safetensors")
    overlay = {"file": str(tmp_path / "mine.safetensors")}
    model = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay, T=3)
    assert model.encoder.form == DEFAULT_FORM
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_damage_is_found(changed):
    path = changed / f"{NAME}.cifar10_T2" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with shipped_from(changed), pytest.raises(ValueError, match="checksum is wrong; install gac_sj again"):
        timm.create_model(NAME, pretrained=True)


def test_large_weights_are_on_the_hub(changed, weights, monkeypatch):
    """The folder names them, and their checksum; it has no file of weights itself."""
    folder = changed / f"{NAME}.cifar10_T2"
    (folder / "model.safetensors").rename(changed / "there.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["hf_hub_id"] = "me/net@v1"
    (folder / "config.json").write_text(json.dumps(config))
    asked = []
    monkeypatch.setattr(shipped, "download_from_hf", lambda *at: asked.append(at) or changed / "there.safetensors")
    with shipped_from(changed):
        assert f"{NAME}.cifar10_T2" in timm.list_pretrained("gac*")
        assert torch.equal(timm.create_model(NAME, pretrained=True).eval()(x := images()), weights[1](x))
        assert asked == [("me/net@v1", "model.safetensors")]
        (changed / "there.safetensors").write_bytes(b"another")
        with pytest.raises(ValueError, match="checksum is wrong"):
            timm.create_model(NAME, pretrained=True)
        monkeypatch.setattr(shipped, "download_from_hf", lambda *at: 1 / 0)
        with pytest.raises(OSError, match=r"cannot be downloaded from hf-hub:me/net@v1 .*check the network"):
            timm.create_model(NAME, pretrained=True)


def test_predict_names_the_likeliest_classes(weights, tmp_path):
    Image.new("RGB", (40, 30), (200, 120, 40)).save(tmp_path / "cat.png")
    printed = run(command_line, "predict", tmp_path / "cat.png", "--model", NAME, "--pretrained")
    assert sum(name in TEN for name in re.findall(r"^  (\w+) ", printed, re.MULTILINE)) == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", NAME], ["--pretrained is needed with --model"]),
        (["--weights", "DIR", "--pretrained"], ["--model is needed with --pretrained"]),
        (
            ["--model", OTHER, "--pretrained"],
            [f"--model must be a network with pretrained weights, got '{OTHER}'", NAME],
        ),
        (["--model", "resnet18", "--pretrained"], ["--model must be a network with pretrained weights"]),
    ],
)
def test_predict_refuses_names_without_weights(weights, arguments, words, capsys):
    refused(capsys, command_line, ["predict", "cat.png", *arguments], *words)


class TestShip:
    """From finished runs to a folder of weights."""

    @pytest.fixture
    def finished(self, tmp_path):
        """The rows and weights of three seeds on digits; they have trained for nothing."""
        folder, lasts = tmp_path / "runs", (50.0, 70.0, 60.0)
        shared = {"model": OTHER, "T": 2, "epochs": 1, "dataset": "digits", "loader": "resident"}
        rows = seeds("gac", lasts, analysed=2.0, form=FORM, **shared) + seeds("direct", (65.0,), **shared)
        write(folder / "results.csv", rows)
        for seed, encoder, form in ((0, "gac", FORM), (1, "gac", FORM), (2, "gac", FORM), (0, "direct", None)):
            settings = Settings(encoder=encoder, form=form, seed=seed, **shared)
            torch.manual_seed(seed)
            model = build_model(settings, data_info(settings))
            place = folder / "runs" / f"{encoder}{seed}"
            place.mkdir(parents=True)
            names = {"label_names": list("0123456789")}
            save_file(model.state_dict(), place / "last.safetensors", {"settings": json.dumps(settings.key() | names)})
        return folder

    @pytest.mark.medium
    def test_the_median_run_becomes_pretrained_weights(self, finished, tmp_path, capsys):
        output = tmp_path / "weights"
        printed = run(ship.main, f"{finished}:gac:{FORM}", "--output", output, "--device", "cpu")
        folder = output / f"{NAME}.digits_T2"
        assert printed.startswith(f"{folder}: seed 2, ") and not list(output.glob(".*"))
        with shipped_from(output):
            model = timm.create_model(f"{NAME}.digits_T2", pretrained=True).eval()
        assert (model.encoder.form, model.T, model.num_classes, model.encoder.in_channels) == (FORM, 2, 10, 1)
        trained = load_pretrained(finished / "runs" / "gac2" / "last.safetensors")
        assert torch.equal(model(x := torch.randn(2, 1, 8, 8)), trained(x))
        self.check_is_measured(folder, model)
        text = (folder / CARD).read_text(encoding="utf-8")
        expected = ["last epoch | 60.00 %", "0: 50.00 %, 1: 70.00 %, 2: 60.00 %", "8.00 µJ complete", "abc123", "n = 3"]
        assert not [words for words in expected if words not in text]
        # made of the files beside it
        (folder / CARD).write_text("by hand")
        run(ship.main, "--cards", "--output", output)
        assert (folder / CARD).read_text(encoding="utf-8") == text == card(folder)
        refused(capsys, ship.main, [f"{finished}:gac:{FORM}", "--output", output], "exists", folder=output)

    def check_is_measured(self, folder, model):
        check = json.loads((folder / CHECK).read_text())
        assert check["images"] == 360
        torch.testing.assert_close(torch.tensor(check["logits"]), model(ship.patterns(model)), atol=1e-3, rtol=0)

    @pytest.mark.parametrize(
        ("change", "arguments", "words"),
        [
            (lambda folder: None, ["{runs}"], ["mixes several settings", ":ENCODER"]),
            (lambda folder: None, ["{runs}:latency"], ["no rows of 'latency'"]),
            (lambda folder: None, [], ["RUNS or --cards"]),
            (
                lambda folder: shutil.rmtree(folder / "runs" / "gac2"),
                [f"{{runs}}:gac:{FORM}"],
                ["no last.safetensors", "seed 2"],
            ),
            (
                lambda folder: write(folder / "results.csv", seeds("direct_lif", (60.0,))),
                ["{runs}"],
                ["direct_lif", "no name in timm's registry"],
            ),
        ],
    )
    def test_runs_that_cannot_be_shipped(self, change, arguments, words, finished, tmp_path, capsys):
        change(finished)
        arguments = [each.format(runs=finished) for each in arguments]
        refused(capsys, ship.main, [*arguments, "--output", tmp_path / "weights"], *words)
        assert not list((tmp_path / "weights").glob("*"))

    def test_large_weights_do_not_go_into_the_package(self, finished, capsys, monkeypatch):
        monkeypatch.setattr(ship, "LARGEST", 1000)
        refused(capsys, ship.main, [f"{finished}:direct"], "--output", "bytes", "push", folder=shipped.FOLDER)


@pytest.mark.floor
@pytest.mark.parametrize("folder", ENTRIES, ids=lambda folder: folder.name)
class TestWhatShips:
    """The weights that are in the package; none of these tests runs without any."""

    def test_it_computes_what_it_did(self, folder):
        """On generated images; a spike more or less is rounding."""
        model = timm.create_model(folder.name, pretrained=True).eval()
        expected = torch.tensor(json.loads((folder / CHECK).read_text())["logits"])
        with torch.no_grad():
            logits = model(ship.patterns(model))
        assert (logits - expected).abs().mean() < 0.02
        sure = expected.topk(2).values.diff().abs().squeeze(1) > 0.2
        assert torch.equal(logits.argmax(1)[sure], expected.argmax(1)[sure])

    def test_its_card_is_what_its_rows_say(self, folder):
        assert (folder / CARD).read_text(encoding="utf-8") == card(folder)

    def test_it_is_small(self, folder):
        file = folder / "model.safetensors"
        assert (
            file.stat().st_size < ship.LARGEST if file.exists() else "hf_hub_id" in (folder / "config.json").read_text()
        )


def test_the_photograph_is_small_and_its_source_is_named():
    folder = REPOSITORY / "experiments" / "tutorials" / "images"
    (photo,) = folder.glob("*.png")
    source = (folder / "README.md").read_text(encoding="utf-8")
    assert photo.stat().st_size < 50_000
    assert all(words in source for words in (photo.name, "CC0", "Stefan van der Walt"))


def test_the_readme_prints_what_predict_prints():
    """Once there are weights; the photograph is in the repository."""
    command = f"gac-sj predict experiments/tutorials/images/cat.png --model {NAME} --pretrained"
    shown = re.findall(rf"{re.escape(command)}\n```\n+```text\n(.*?)```", read_me(), re.DOTALL)
    assert len(shown) == timm.is_model_pretrained(NAME)
    if shown:
        printed = run(command_line, *command.replace("experiments", f"{REPOSITORY}/experiments").split()[1:])
        lines = printed.replace(f"{REPOSITORY}/", "").splitlines()
        assert [line.split()[0] for line in lines] == [line.split()[0] for line in shown[0].splitlines()]
        numbers = [torch.tensor([float(n) for n in re.findall(r"\d+\.\d", text)]) for text in (printed, shown[0])]
        assert (numbers[0] - numbers[1]).abs().max() < 2.0


def read_me():
    return (REPOSITORY / "README.md").read_text(encoding="utf-8")
