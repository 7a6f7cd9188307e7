"""Folders of weights: timm and this package load the same network from them; damaged ones are refused."""

import json
import os
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
from gac_sj.checkpoint.runs import build_model, read_weights
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
def test_every_way_of_loading_gives_the_same_network(encoder, tmp_path, hub):
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
def test_every_keyword_is_saved(name, options, tmp_path):
    model = build(name, **options)
    save_pretrained(model, tmp_path / "net")
    loaded = load_pretrained(tmp_path / "net")
    assert repr(loaded) == repr(model)
    assert torch.equal(logits(loaded), logits(model))
    save_pretrained(loaded, tmp_path / "again")
    assert config(tmp_path / "again") == config(tmp_path / "net")


def test_config_records_defaults(tmp_path):
    save_pretrained(timm.create_model("gac_ms_resnet8_cifar"), tmp_path / "net")
    content = config(tmp_path / "net")
    assert content["architecture"] == "gac_ms_resnet8_cifar"
    assert (content["num_classes"], content["num_features"]) == (10, 64)
    assert content["model_args"] == {
        "T": 4, "encoder": "gac", "form": "low_threshold", "gate": "after", "in_chans": 3, "num_classes": 10,
        "global_pool": "avg",
    }  # fmt: skip
    assert content["pretrained_cfg"]["mean"] == [0.4914, 0.4822, 0.4465]


def test_entry_points_record_keywords_as_create_model_does(tmp_path):
    model = gac_sj.models.ms_resnet.gac_ms_resnet8_cifar(T=3, gain=1.5)
    save_pretrained(model, tmp_path / "net")
    assert config(tmp_path / "net")["model_args"]["gain"] == 1.5
    assert torch.equal(logits(load_pretrained(tmp_path / "net")), logits(model))


def test_timm_adapts_the_weights_to_another_task(tmp_path):
    """As it adapts its own: a new head, a first convolution for grey images."""
    model = build()
    save_pretrained(model, tmp_path / "net")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True, num_classes=7, in_chans=1)
    assert loaded.head.out_features == 7
    stem = model.encoder.stem[0].weight.sum(1, keepdim=True)
    assert torch.allclose(loaded.encoder.stem[0].weight, stem, atol=1e-6)
    assert torch.equal(loaded.stages[0][0].conv1.weight, model.stages[0][0].conv1.weight)


def test_new_head_memory_format_and_wrapper_are_handled(tmp_path):
    model = build()
    model.reset_classifier(7)
    model.to(memory_format=torch.channels_last)
    save_pretrained(torch.nn.DataParallel(model), tmp_path / "net")
    loaded = load_pretrained(tmp_path / "net")
    assert loaded.num_classes == 7
    assert torch.allclose(logits(loaded), logits(model), atol=1e-5)


def test_class_names_are_saved_and_checked(tmp_path):
    save_pretrained(build(), tmp_path / "net", ["cat", "dog", "eel"])
    loaded = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True)
    assert list(loaded.pretrained_cfg["label_names"]) == ["cat", "dog", "eel"]
    save_pretrained(loaded, tmp_path / "again")
    assert load_pretrained(tmp_path / "again").pretrained_cfg["label_names"] == ["cat", "dog", "eel"]
    with pytest.raises(ValueError, match=r"^label_names .*3 names.*2"):
        save_pretrained(build(), tmp_path / "third", ["cat", "dog"])
    with pytest.raises(ValueError, match=r"^label_names .*list of class names.*3"):
        save_pretrained(build(), tmp_path / "third", 3)
    assert not (tmp_path / "third").exists()


def test_class_names_may_be_an_array_of_numbers(tmp_path):
    save_pretrained(build(), tmp_path / "net", np.arange(3))
    assert load_pretrained(tmp_path / "net").pretrained_cfg["label_names"] == ["0", "1", "2"]


def test_network_that_timm_pushes_to_the_hub_is_the_same(hub):
    model = build(encoder="poisson", in_chans=1)
    push_to_hf_hub(model, "me/net")
    assert torch.equal(logits(timm.create_model("hf-hub:me/net", pretrained=True)), logits(model))
    assert torch.equal(logits(load_pretrained("hf-hub:me/net")), logits(model))  # timm writes no checksum


def test_missing_hub_repository_is_reported(hub):
    with pytest.raises(OSError, match=r"hf-hub:me/other .*\(404: me/other has no config\.json\).*check the name"):
        load_pretrained("hf-hub:me/other")


class TestSaving:
    def test_non_empty_folder_is_refused_and_left_alone(self, tmp_path):
        (tmp_path / "net").mkdir()
        (tmp_path / "net" / "note").write_text("mine")
        with pytest.raises(FileExistsError, match=r"net is not empty.*name a new folder"):
            save_pretrained(build(), tmp_path / "net")
        with pytest.raises(FileExistsError, match=r"note is not empty.*name a new folder"):
            save_pretrained(build(), tmp_path / "net" / "note")
        assert [path.name for path in tmp_path.rglob("*")] == ["net", "note"]

    def test_current_folder_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(FileExistsError, match=r"current folder.*name a new folder"):
            save_pretrained(build(), ".")

    def test_empty_folder_is_used(self, tmp_path):
        (tmp_path / "net").mkdir()
        save_pretrained(build(), tmp_path / "net")
        assert {path.name for path in (tmp_path / "net").iterdir()} == {"config.json", "model.safetensors"}

    def test_failure_leaves_nothing_behind(self, tmp_path, monkeypatch):
        def full(path, content):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match=r"net cannot be written \(No space.*choose another folder"):
            save_pretrained(build(), tmp_path / "net")
        assert not list(tmp_path.iterdir())

    def test_models_that_no_config_rebuilds_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"Linear .*timm.create_model"):
            save_pretrained(torch.nn.Linear(2, 2), tmp_path / "net")
        with pytest.raises(ValueError, match=r"MSResNet differs .*before it is folded"):
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
    def test_changes_without_tensors_are_refused(self, tmp_path, name, changed):
        model = build(name)
        changed(model)
        with pytest.raises(ValueError, match=r"MSResNet differs .*\(encoder.*save it before"):
            save_pretrained(model, tmp_path / "net")
        assert not list(tmp_path.iterdir())

    def test_unsaved_properties_are_not_changes(self, tmp_path):
        """Synchronised BatchNorms and half precision are not saved; the drop paths of timm's own networks are."""
        save_pretrained(gac_sj.convert_sync_batchnorm(build()).half(), tmp_path / "net")
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

    def refused(self, folder, words):
        with pytest.raises(ValueError, match=words) as caught:
            load_pretrained(folder)
        assert str(folder) in str(caught.value) and "\n" not in str(caught.value)

    def test_changed_byte_is_noticed(self, folder):
        content = bytearray((folder / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (folder / "model.safetensors").write_bytes(content)
        timm.create_model(f"local-dir:{folder}", pretrained=True)  # timm does not compare checksums
        self.refused(folder, "checksum.*download it again")

    @pytest.mark.parametrize("has_checksum", [True, False])
    def test_truncated_file_is_refused(self, folder, has_checksum):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:5000])
        if not has_checksum:
            change(folder, sha256=None)
        self.refused(folder, r"model\.safetensors is damaged.*download it again")

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
    def test_missing_file_is_named(self, folder, name):
        (folder / name).unlink()
        self.refused(folder, f"has no {name}.*pass a folder with")

    @pytest.mark.parametrize("text,words", [("{", "is damaged"), ("[]", "names no architecture"), ("\xff", "damaged")])
    def test_broken_config_is_refused(self, folder, text, words):
        (folder / "config.json").write_bytes(text.encode("latin-1"))
        self.refused(folder, words)

    @pytest.mark.parametrize(
        "changes,words",
        [
            ({"architecture": "gac_ms_resnet9"}, "Unknown model"),
            ({"architecture": "ms_resnet8_cifar", "model_args": {"num_classes": 3}}, "Unexpected key"),
            ({"architecture": "gac_ms_resnet18_cifar"}, "size mismatch"),
            ({"model_args": {"T": 3, "num_classes": 3}}, "size mismatch"),
            ({"model_args": {"T": 2, "num_classes": 4}}, "size mismatch"),
            ({"model_args": {"T": 2, "num_classes": 3, "colour": "red"}}, "colour"),
            ({"model_args": []}, "model_args, which must be a mapping"),
            ({"pretrained_cfg": None}, "does not hold the network"),
            ({"model_args": {"T": 2, "num_classes": 3, "pretrained": True}}, "pretrained in model_args, of timm"),
            ({"model_args": {"T": 2, "num_classes": 3, "features_only": True}}, "features_only in model_args"),
            ({"encoder_source": "mine.py:0123456789ab", "model_args": {"T": 2}}, "encoder_source, but no encoder"),
            ({"label_names": ["cat", "dog"]}, "2 label_names for 3 classes"),
        ],
    )
    def test_config_of_another_network_is_refused(self, folder, changes, words):
        change(folder, **changes)
        self.refused(folder, words)

    @pytest.mark.parametrize(
        "name,values",
        {
            "architecture": [3, ["resnet18"]],
            "sha256": [3],
            "encoder_source": [3, {}],
            "num_classes": ["3", -1, True, 2.0],
            "label_names": ["abc", 3, [1, 2, 3], [None] * 3, {"a": "b"}, {"0": 1}],
            "input_size": [8, [8, 8], [3, 8, 0], [3, 8, "8"], "388"],
            "interpolation": [3, "sharp", ["bilinear"], "random"],
            "crop_pct": ["1", 0, -1, [1.0], True],
            "crop_mode": [3, ["center"], "middle"],
            "mean": [0.5, "0.5", ["a"], [], [None], {"r": 0.5}],
            "std": [0.5, [0.0], [0.5, -1.0, 0.5], []],
        }.items(),
    )
    def test_values_of_another_type_are_named(self, folder, name, values):
        before = config(folder)
        inner = name in before["pretrained_cfg"]
        for value in values:
            changes = {"pretrained_cfg": before["pretrained_cfg"] | {name: value}} if inner else {name: value}
            change(folder, **changes)
            self.refused(folder, rf"config\.json has .* as {name}, which must be ")

    def test_names_of_some_classes_may_be_a_mapping(self, folder):
        """timm's form for label numbers with gaps."""
        change(folder, label_names={"0": "cat", "2": "eel"})
        assert load_pretrained(folder).pretrained_cfg["label_names"] == {"0": "cat", "2": "eel"}

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
    def test_pipe_is_refused_at_once(self, folder, name):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(OSError, match=f"Not a regular file.*{name}"):
            load_pretrained(folder)

    def test_missing_folder_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"nothing does not exist.*pass a folder of weights"):
            load_pretrained(tmp_path / "nothing")


class TestRuns:
    @pytest.mark.parametrize("dataset,channels,size", [("digits", 1, 8), ("cifar100", 3, 32), ("cifar10_dvs", 2, 128)])
    def test_weights_of_a_run_are_loaded(self, tmp_path, dataset, channels, size):
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

    @pytest.mark.parametrize(
        "changes,words",
        [
            ({"model_options": {"pretrained": True}}, "model_options must be keywords of the network.*pretrained"),
            ({"model_options": {"colour": 1}}, "model_options .*colour is a keyword of neither MSResNet nor .*'gac'"),
            ({"model": "hf-hub:me/net"}, "model must be a network of gac_sj"),
            ({"T": "2"}, "T must be an integer"),
            ({"speed": 1}, "speed"),
        ],
    )
    def test_settings_of_weights_are_checked(self, tmp_path, changes, words):
        settings = json.dumps(Settings(model="gac_ms_resnet8_cifar").key() | changes)
        save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", {"settings": settings})
        with pytest.raises(ValueError, match=words):
            load_pretrained(tmp_path / "x.safetensors")

    def test_weights_do_not_decide_where_is_read_and_written(self, tmp_path):
        settings = Settings(model="gac_ms_resnet8_cifar", dataset="digits")
        places = {"data_dir": "/", "output": "/", "wandb": "spy", "device": "cuda:7", "workers": 99}
        save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", {"settings": json.dumps(settings.key() | places)})
        assert read_weights(tmp_path / "x.safetensors")[0] == settings

    def test_pipe_is_refused_at_once(self, tmp_path):
        os.mkfifo(tmp_path / "last.safetensors")
        with pytest.raises(ValueError, match=r"last\.safetensors .*Not a regular file"):
            read_weights(tmp_path / "last.safetensors")

    def test_other_safetensors_are_refused(self, tmp_path):
        save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
        with pytest.raises(ValueError, match=r"x\.safetensors .*weights of a run"):
            load_pretrained(tmp_path / "x.safetensors")
        settings = Settings(model="gac_ms_resnet8_cifar")
        save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", {"settings": json.dumps(settings.key())})
        with pytest.raises(ValueError, match=r"weights .*fit .*gac_ms_resnet8_cifar"):
            load_pretrained(tmp_path / "x.safetensors")


def test_file_has_the_names_and_values_of_the_state_dict(tmp_path):
    model = build()
    save_pretrained(model, tmp_path / "net")
    written = load_file(tmp_path / "net" / "model.safetensors")
    assert written.keys() == model.state_dict().keys()
    assert all(torch.equal(written[name], value) for name, value in model.state_dict().items())
