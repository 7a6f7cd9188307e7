"""Folders of weights: what timm and we make of them, and what is said about damaged ones."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from helpers.encoders import AVAILABLE
from safetensors.torch import load_file, save_file
from timm.models import _hub, push_to_hf_hub
from torch.nn.modules.batchnorm import _BatchNorm

import gac_sj
from gac_sj.checkpoint import load_pretrained, save_pretrained
from gac_sj.checkpoint.runs import build_model
from gac_sj.data import dataset_info
from gac_sj.encoders import create_encoder
from gac_sj.training.settings import Settings


def build(name="gac_ms_resnet8_cifar", **options):
    """A network with the statistics of a batch, so that all layers fire."""
    model = timm.create_model(name, **{"T": 2, "num_classes": 3} | options)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for momentum in (1.0, 0.1):  # first as the batch is, then as new networks have it
        for norm in norms:
            norm.momentum = momentum
        with torch.no_grad():
            model(images(model, 8))
    return model.eval()


def images(model, count=2):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, model.encoder.in_channels, 8, 8, generator=generator)


@torch.no_grad()
def logits(model):
    torch.manual_seed(0)  # Poisson draws
    return model.eval().forward_sequence(images(model))


def config(folder):
    return json.loads((folder / "config.json").read_text())


def change(folder, **changes):
    (folder / "config.json").write_text(json.dumps(config(folder) | changes))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The Hub as a folder: repositories are folders in it."""

    class Api:
        def __init__(self, **options):
            pass

        def create_repo(self, repo_id, **options):
            return SimpleNamespace(repo_id=repo_id)

        def file_exists(self, **options):
            return False

        def upload_folder(self, repo_id, folder_path, **options):
            shutil.copytree(folder_path, tmp_path / "hub" / repo_id)

    def download(repo_id, filename, revision=None, cache_dir=None):
        path = tmp_path / "hub" / repo_id / filename
        if not path.exists():
            raise _hub.EntryNotFoundError(f"404: {repo_id} has no {filename}.\nin detail")
        return str(path)

    monkeypatch.setattr(_hub, "HfApi", Api)
    monkeypatch.setattr(_hub, "hf_hub_download", lambda repo_id, filename, **options: download(repo_id, filename))
    return tmp_path / "hub"


@pytest.mark.parametrize("encoder", AVAILABLE)
def test_every_way_gives_the_same_network(encoder, tmp_path, hub):
    model = build(encoder=encoder)
    expected = logits(model)
    assert not torch.equal(expected[:, 0], expected[:, 1])  # the images matter
    folder = hub / "me" / "net"
    save_pretrained(model, folder)
    weights = folder / "model.safetensors"
    ways = {
        "ours": load_pretrained(folder),
        "the file": load_pretrained(weights),
        "ours from the Hub": load_pretrained("hf-hub:me/net"),
        "local-dir": timm.create_model(f"local-dir:{folder}", pretrained=True),
        "hf-hub": timm.create_model("hf-hub:me/net", pretrained=True),
        "checkpoint_path": timm.create_model(
            "gac_ms_resnet8_cifar", T=2, num_classes=3, encoder=encoder, checkpoint_path=str(weights)
        ),
    }
    for name, loaded in ways.items():
        assert torch.equal(logits(loaded), expected), name
        for statistic in ("mean", "std"):
            assert tuple(loaded.pretrained_cfg[statistic]) == tuple(model.pretrained_cfg[statistic]), name
    assert set(model.pretrained_cfg["mean"]) == {0.0} or not model.encoder.needs_unit_range


@pytest.mark.parametrize(
    "name,options",
    [
        ("gac_ms_resnet8_cifar", {"gain": 1.5, "kernel_size": 3, "output": "current"}),
        ("gac_ms_resnet8_cifar", {"form": "reference", "drop_rate": 0.3}),
        ("ms_resnet8_cifar", {"spike_driven": True, "in_chans": 1}),
        ("ms_resnet8_cifar", {"form": "reference", "encoder": "direct_lif", "blocks": (2, 1, 1)}),
        ("att_ms_resnet8_cifar", {}),
    ],
)
def test_every_keyword_is_kept(name, options, tmp_path):
    model = build(name, **options)
    save_pretrained(model, tmp_path / "net")
    loaded = load_pretrained(tmp_path / "net")
    assert repr(loaded) == repr(model)
    assert torch.equal(logits(loaded), logits(model))
    save_pretrained(loaded, tmp_path / "again")
    assert config(tmp_path / "again") == config(tmp_path / "net")


def test_the_config_says_what_defaults_were(tmp_path):
    save_pretrained(timm.create_model("gac_ms_resnet8_cifar"), tmp_path / "net")
    content = config(tmp_path / "net")
    assert content["architecture"] == "gac_ms_resnet8_cifar"
    assert (content["num_classes"], content["num_features"]) == (10, 64)
    assert content["model_args"] == {
        "T": 4, "encoder": "gac", "form": "low_threshold", "in_chans": 3, "num_classes": 10,
    }  # fmt: skip
    assert content["pretrained_cfg"]["mean"] == [0.4914, 0.4822, 0.4465]


def test_an_entry_point_remembers_as_create_model_does(tmp_path):
    model = gac_sj.models.ms_resnet.gac_ms_resnet8_cifar(T=3, gain=1.5)
    save_pretrained(model, tmp_path / "net")
    assert config(tmp_path / "net")["model_args"]["gain"] == 1.5
    assert torch.equal(logits(load_pretrained(tmp_path / "net")), logits(model))


def test_timm_fits_it_to_another_task(tmp_path):
    """As timm's own weights: a new head, a first convolution for grey images."""
    model = build()
    save_pretrained(model, tmp_path / "net")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True, num_classes=7, in_chans=1)
    assert loaded.head.out_features == 7
    stem = model.encoder.stem[0].weight.sum(1, keepdim=True)
    assert torch.allclose(loaded.encoder.stem[0].weight, stem, atol=1e-6)
    assert torch.equal(loaded.stages[0][0].conv1.weight, model.stages[0][0].conv1.weight)


def test_another_head_another_memory_format_and_a_wrapper(tmp_path):
    model = build()
    model.reset_classifier(7)
    model.to(memory_format=torch.channels_last)
    save_pretrained(torch.nn.DataParallel(model), tmp_path / "net")
    loaded = load_pretrained(tmp_path / "net")
    assert loaded.num_classes == 7
    assert torch.allclose(logits(loaded), logits(model), atol=1e-5)


def test_names_of_classes(tmp_path):
    save_pretrained(build(), tmp_path / "net", ["cat", "dog", "eel"])
    loaded = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True)
    assert list(loaded.pretrained_cfg["label_names"]) == ["cat", "dog", "eel"]
    save_pretrained(loaded, tmp_path / "again")
    assert load_pretrained(tmp_path / "again").pretrained_cfg["label_names"] == ["cat", "dog", "eel"]
    with pytest.raises(ValueError, match="label_names has 2 names for 3 classes"):
        save_pretrained(build(), tmp_path / "third", ["cat", "dog"])
    with pytest.raises(ValueError, match="label_names is 3; it needs the names of the classes in a list"):
        save_pretrained(build(), tmp_path / "third", 3)
    assert not (tmp_path / "third").exists()


def test_names_that_are_numbers_of_an_array(tmp_path):
    save_pretrained(build(), tmp_path / "net", np.arange(3))
    assert load_pretrained(tmp_path / "net").pretrained_cfg["label_names"] == ["0", "1", "2"]


def test_what_timm_pushes_to_the_hub_is_the_same_network(hub):
    model = build(encoder="poisson", in_chans=1)
    push_to_hf_hub(model, "me/net")
    assert torch.equal(logits(timm.create_model("hf-hub:me/net", pretrained=True)), logits(model))
    assert torch.equal(logits(load_pretrained("hf-hub:me/net")), logits(model))  # timm writes no checksum


def test_what_the_hub_does_not_have(hub):
    with pytest.raises(OSError, match=r"hf-hub:me/other cannot be had .*\(404: me/other has no config\.json\)"):
        load_pretrained("hf-hub:me/other")


class TestSaving:
    def test_a_folder_that_holds_something_is_left_alone(self, tmp_path):
        (tmp_path / "net").mkdir()
        (tmp_path / "net" / "note").write_text("mine")
        with pytest.raises(FileExistsError, match="exists and holds something"):
            save_pretrained(build(), tmp_path / "net")
        with pytest.raises(FileExistsError, match="exists"):
            save_pretrained(build(), tmp_path / "net" / "note")
        assert [path.name for path in tmp_path.rglob("*")] == ["net", "note"]

    def test_the_current_folder_is_not_replaced(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(FileExistsError, match="where you are"):
            save_pretrained(build(), ".")

    def test_an_empty_folder_is_taken(self, tmp_path):
        (tmp_path / "net").mkdir()
        save_pretrained(build(), tmp_path / "net")
        assert {path.name for path in (tmp_path / "net").iterdir()} == {"config.json", "model.safetensors"}

    def test_a_failure_leaves_nothing(self, tmp_path, monkeypatch):
        def full(path, content):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match=r"net cannot be written \(No space"):
            save_pretrained(build(), tmp_path / "net")
        assert not list(tmp_path.iterdir())

    def test_what_no_config_rebuilds_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="Linear that timm did not create"):
            save_pretrained(torch.nn.Linear(2, 2), tmp_path / "net")
        with pytest.raises(ValueError, match="not the network that its keywords build"):
            save_pretrained(gac_sj.fold_batch_norm(build()), tmp_path / "net")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        "name,changed",
        [
            ("gac_ms_resnet8_cifar", lambda model: setattr(model.encoder, "neuron", None)),
            ("gac_ms_resnet8_cifar", lambda model: setattr(model.encoder.neuron, "v_threshold", 3.0)),
            ("gac_ms_resnet8_cifar", lambda model: setattr(model.encoder.gau, "gain", 0.5)),
            (
                "ms_resnet8_cifar",
                lambda model: setattr(model, "encoder", create_encoder("direct_lif", T=2, channels=16)),
            ),
        ],
        ids=["no neuron", "threshold", "gain", "encoder"],
    )
    def test_a_change_without_tensors_is_refused(self, tmp_path, name, changed):
        model = build(name)
        changed(model)
        with pytest.raises(ValueError, match=r"not the network that its keywords build \(encoder"):
            save_pretrained(model, tmp_path / "net")
        assert not list(tmp_path.iterdir())

    def test_what_is_not_kept_is_no_change(self, tmp_path):
        """Synchronised BatchNorms, half precision; of timm's own networks dropped paths are kept."""
        save_pretrained(torch.nn.SyncBatchNorm.convert_sync_batchnorm(build()).half(), tmp_path / "net")
        loaded = load_pretrained(tmp_path / "net")
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
        convnext = timm.create_model("test_convnext", drop_path_rate=0.1)
        save_pretrained(convnext, tmp_path / "convnext")
        assert repr(load_pretrained(tmp_path / "convnext")) == repr(convnext)


class TestDamage:
    @pytest.fixture
    def folder(self, tmp_path):
        save_pretrained(build(), tmp_path / "net")
        return tmp_path / "net"

    def says(self, folder, words):
        with pytest.raises(ValueError, match=words) as caught:
            load_pretrained(folder)
        assert str(folder) in str(caught.value) and "\n" not in str(caught.value)

    def test_a_changed_byte(self, folder):
        content = bytearray((folder / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (folder / "model.safetensors").write_bytes(content)
        timm.create_model(f"local-dir:{folder}", pretrained=True)  # does not look
        self.says(folder, "its checksum is wrong")

    @pytest.mark.parametrize("has_checksum", [True, False])
    def test_a_truncated_file(self, folder, has_checksum):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:5000])
        if not has_checksum:
            change(folder, sha256=None)
        self.says(folder, r"model\.safetensors is damaged")

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
    def test_a_missing_file(self, folder, name):
        (folder / name).unlink()
        self.says(folder, f"has no {name}")

    @pytest.mark.parametrize("text,words", [("{", "is damaged"), ("[]", "names no architecture"), ("\xff", "damaged")])
    def test_a_broken_config(self, folder, text, words):
        (folder / "config.json").write_bytes(text.encode("latin-1"))
        self.says(folder, words)

    @pytest.mark.parametrize(
        "changes,words",
        [
            ({"architecture": "gac_ms_resnet9"}, "Unknown model"),
            ({"architecture": "ms_resnet8_cifar", "model_args": {"num_classes": 3}}, "Unexpected key"),
            ({"architecture": "gac_ms_resnet18_cifar"}, "size mismatch"),
            ({"model_args": {"T": 3, "num_classes": 3}}, "size mismatch"),
            ({"model_args": {"T": 2, "num_classes": 4}}, "size mismatch"),
            ({"model_args": {"T": 2, "num_classes": 3, "colour": "red"}}, "colour"),
            ({"model_args": []}, "does not hold the network"),
            ({"pretrained_cfg": None}, "does not hold the network"),
        ],
    )
    def test_another_architecture(self, folder, changes, words):
        change(folder, **changes)
        self.says(folder, words)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"nothing does not exist"):
            load_pretrained(tmp_path / "nothing")


class TestRuns:
    @pytest.mark.parametrize("dataset,channels,size", [("digits", 1, 8), ("cifar100", 3, 32), ("cifar10_dvs", 2, 128)])
    def test_the_weights_of_a_run(self, tmp_path, dataset, channels, size):
        settings = Settings(
            model="gac_ms_resnet8_cifar", dataset=dataset, T=2, model_options={"gain": 1.5}, interpolation="bicubic"
        )
        model = build_model(settings, dataset_info(dataset).for_network(settings.model, classes=3)).eval()
        assert model.pretrained_cfg["input_size"] == (channels, size, size)
        save_file(model.state_dict(), tmp_path / "last.safetensors", {"settings": json.dumps(settings.key())})
        loaded = load_pretrained(tmp_path / "last.safetensors")
        assert torch.equal(logits(loaded), logits(model))
        for name in ("mean", "std", "input_size", "num_classes"):
            assert loaded.pretrained_cfg[name] == model.pretrained_cfg[name]
        assert loaded.pretrained_cfg["interpolation"] == "bicubic"
        save_pretrained(loaded, tmp_path / "net")
        assert torch.equal(logits(load_pretrained(tmp_path / "net")), logits(model))

    def test_a_file_of_something_else(self, tmp_path):
        save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
        with pytest.raises(ValueError, match=r"x\.safetensors .*weights of a run"):
            load_pretrained(tmp_path / "x.safetensors")
        settings = Settings(model="gac_ms_resnet8_cifar")
        save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", {"settings": json.dumps(settings.key())})
        with pytest.raises(ValueError, match=r"weights .*fit .*gac_ms_resnet8_cifar"):
            load_pretrained(tmp_path / "x.safetensors")


def test_the_file_holds_the_weights_under_their_names(tmp_path):
    model = build()
    save_pretrained(model, tmp_path / "net")
    written = load_file(tmp_path / "net" / "model.safetensors")
    assert written.keys() == model.state_dict().keys()
    assert all(torch.equal(written[name], value) for name, value in model.state_dict().items())
