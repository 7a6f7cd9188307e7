"""Damaged files: whatever is in one, a program works, or ends with status 2 and one sentence. It never raises."""

import io
import json
import os
import random
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import report as report_script
import timm
import torch
import yaml
from helpers.rows import row as run_row
from helpers.rows import runs, write
from PIL import Image
from safetensors.torch import save

from gac_sj.checkpoint import reference_names, save_pretrained
from gac_sj.checkpoint.runs import build_model
from gac_sj.cli import main as command_line
from gac_sj.data import dataset_info
from gac_sj.results import Run
from gac_sj.training.folder import check_folder
from gac_sj.training.settings import Settings

pytestmark = [pytest.mark.one_release, pytest.mark.usefixtures("quick")]

SMALL = "gac_ms_resnet8_cifar"
#: In the place of a value, or as the value of a new key.
STRANGE = [
    None, True, -1, 0, 1.5, float("nan"), float("inf"), 10**30, "", "x", "\ud800", "hf-hub:me/net", [], [[]], [1, "x"],
    [0.5] * 5, {}, {"a": 1}, {"1": {"2": [3]}}, json.loads("[" * 200 + "]" * 200),
]  # fmt: skip
KEYS = ["pretrained", "pretrained_cfg", "checkpoint_path", "features_only", "url", "T", "label_names", "\0", "é"]
#: In the place of some bytes.
BYTES = [
    b"",
    b"\0",
    b"\xff\xfe",
    b"{",
    b"}" * 5,
    b'"',
    b"[" * 3000,
    b"\n",
    b",,,",
    b"&a [*a]",
    b"!!set {a}",
    b"2024-05-01",
]


def changed(value, rng):
    """A value with one change at a random place."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        value = value.copy()
        place = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        what = rng.random()
        if what < 0.7:
            value[place] = changed(value[place], rng)
        elif what < 0.85:
            del value[place]
        elif isinstance(value, dict):
            value[rng.choice(KEYS)] = rng.choice(STRANGE)
        return value
    return rng.choice(STRANGE)


def damaged(content, rng):
    """Bytes that are cut, or changed at a few places."""
    if rng.random() < 0.3:
        return content[: rng.randrange(len(content))]
    for _ in range(rng.choice((1, 1, 4))):
        start = rng.randrange(len(content))
        content = content[:start] + rng.choice(BYTES) + content[start + rng.randrange(4) :]
    return content


@pytest.fixture
def refuses_or_works(capsys):
    """Run a program: it works, or refuses in one sentence."""

    def run(main, *arguments):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's and torch's, about what is damaged
            status = main([str(argument) for argument in arguments])
        error = capsys.readouterr().err
        assert status == 0 or (status == 2 and re.fullmatch(r"[\w.-]+: .+\.\n", error)), (status, error)
        return status

    return run


def small():
    overlay = {"mean": (0.3,), "std": (0.4,), "input_size": (1, 8, 8)}
    return timm.create_model(SMALL, T=2, num_classes=3, in_chans=1, pretrained_cfg_overlay=overlay)


def image(kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder of weights, beside an image."""
    folder = tmp_path_factory.mktemp("attack")
    save_pretrained(small(), folder / "net", ["cat", "dog", "eel"])
    (folder / "image.png").write_bytes(image())
    return folder / "net"


def predict(refuses_or_works, weights):
    return refuses_or_works(command_line.main, "predict", weights.parent / "image.png", "--weights", weights)


@pytest.fixture
def restored(weights):
    """The files of the weights are put back."""
    before = {path: path.read_bytes() for path in weights.iterdir()}
    yield before
    for path, content in before.items():
        path.write_bytes(content)


def test_values_of_a_config(attacks, refuses_or_works, weights, restored):
    path = weights / "config.json"
    content = json.loads(path.read_text())
    found = []
    for seed in range(attacks):
        path.write_text(json.dumps(changed(content, random.Random(seed))))
        found.append(predict(refuses_or_works, weights))
    assert set(found) == {0, 2}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_bytes_of_a_folder(name, attacks, refuses_or_works, weights, restored):
    config = json.loads((weights / "config.json").read_text())
    (weights / "config.json").write_text(json.dumps(config | {"sha256": None}))
    content = (weights / name).read_bytes()
    # the header of the weights, and behind it
    for seed in range(attacks):
        rng = random.Random(seed)
        start = damaged(content[:20_000], rng)
        (weights / name).write_bytes(start + content[20_000:])
        predict(refuses_or_works, weights)


def test_settings_in_weights(attacks, refuses_or_works, weights):
    settings = Settings(model=SMALL, dataset="digits", T=2, model_options={"gain": 1.5, "kernel_size": 3})
    tensors = build_model(settings, dataset_info("digits")).state_dict()
    path = weights.parent / "last.safetensors"
    found = []
    for seed in range(attacks):
        path.write_bytes(save(tensors, {"settings": json.dumps(changed(settings.key(), random.Random(seed)))}))
        found.append(refuses_or_works(command_line.main, "predict", path.with_name("image.png"), "--weights", path))
    assert set(found) == {0, 2}


def test_published_weights(attacks, refuses_or_works, tmp_path):
    model = timm.create_model(SMALL, T=2, num_classes=3, form="reference")
    state = {reference_names(name)[0]: value for name, value in model.state_dict().items()}
    path = tmp_path / "published.pth"
    given = ["--model", SMALL, "-T", 2, "--num-classes", 3]
    for seed in range(attacks):
        rng = random.Random(seed)
        buffer = io.BytesIO()
        torch.save(changed({"net": {f"_orig_mod.{name}": value for name, value in state.items()}}, rng), buffer)
        path.write_bytes(damaged(buffer.getvalue(), rng) if seed % 2 else buffer.getvalue())
        refuses_or_works(command_line.main, "convert", path, tmp_path / f"net{seed}", *given)


@pytest.mark.parametrize("of", ["values", "bytes"])
def test_yaml_of_a_run(of, attacks, tmp_path):
    settings = Settings(model=SMALL, dataset="digits", T=2, model_options={"gain": 1.5, "channels": [4, 4, 4]})
    content, path = yaml.safe_load(settings.dump()), tmp_path / "args.yaml"
    found = []
    for seed in range(attacks):
        rng = random.Random(seed)
        text = yaml.safe_dump(changed(content, rng)).encode(errors="surrogatepass")
        path.write_bytes(text if of == "values" else damaged(settings.dump().encode(), rng))
        try:
            found.append(check_folder(tmp_path, settings))
        except ValueError as error:
            assert str(error).endswith(".") and "\n" not in str(error)
            found.append("refused")
    assert "refused" in found


@pytest.mark.parametrize("of", ["values", "bytes"])
def test_rows(of, attacks, refuses_or_works, tmp_path):
    rows = [run_row(encoder, seed, 50.0 + seed, analysed=2) for encoder in ("gac", "direct") for seed in (0, 1)]
    lists = [name for name, text in rows[0].items() if text[:1] in ("[", "{")]
    assert len(runs(*rows)) == 4 and isinstance(Run.from_row(rows[0]), Run) and len(lists) > 5
    path = tmp_path / "results.csv"
    found = []
    for seed in range(attacks):
        rng = random.Random(seed)
        others = [dict(each) for each in rows]
        row, name = rng.choice(others), rng.choice(lists)
        row[name] = json.dumps(changed(json.loads(row[name]), rng)) if seed % 4 else "[" * rng.choice((1, 3000))
        write(path, others if of == "values" else rows)
        if of == "bytes":
            path.write_bytes(damaged(path.read_bytes(), rng))
        found.append(refuses_or_works(report_script.main, path))
    assert 2 in found


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "PPM", "WEBP"])
def test_images(kind, attacks, refuses_or_works, weights):
    exif = Image.Exif()
    exif[274] = 6
    content = image(kind, exif=exif) if kind in ("PNG", "JPEG", "TIFF", "WEBP") else image(kind)
    path = weights.parent / "damaged"
    for seed in range(attacks):
        path.write_bytes(damaged(content, random.Random(seed)) if seed else content)
        status = refuses_or_works(command_line.main, "predict", path, "--weights", weights)
        assert seed or status == 0


#: Runs in a process of its own, because an audit hook stays. It tries every key with every place of a file of weights,
#: and prints which of them opened the bait or an address.
REACH = """
import json, sys
from pathlib import Path
import timm, torch
from safetensors.torch import save
from gac_sj.checkpoint.runs import build_model
from gac_sj.cli.main import main
from gac_sj.data import dataset_info
from gac_sj.training.settings import Settings

weights = Path(sys.argv[1])
image, bait, run = (weights.parent / name for name in ("image.png", "bait.pth", "bait_last.safetensors"))
url, small, large = "http://127.0.0.1:9/bait.pth", "gac_ms_resnet8_cifar", "gac_ms_resnet18_cifar"
torch.save({}, bait)
settings = Settings(model=small, dataset="digits", T=2)
tensors = build_model(settings, dataset_info("digits")).state_dict()
config = json.loads((weights / "config.json").read_text())
reached = []

def watch(event, arguments):
    if event == "open" and "bait" in str(arguments[0]) and str(run) != str(arguments[0]):
        reached.append("file")
    elif event.startswith("os.") and any("bait" in str(each) and str(run) != str(each) for each in arguments):
        reached.append(event)
    elif event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system"):
        reached.append(event)

sys.addaudithook(watch)

def attempt(label, function, *arguments, **keywords):
    reached.clear()
    try:
        status = function(*arguments, **keywords)
    except Exception:
        status = 1
    if reached or status not in (0, 2):
        print("REACHED", label, status, sorted(set(reached)))

source = {"url": url, "file": str(bait), "hf_hub_id": "me/bait", "architecture": small}
attempt("control file", timm.create_model, small, checkpoint_path=str(bait))
# the large one ships no weights, whose file timm would take
attempt("control address", timm.create_model, large, pretrained=True, pretrained_cfg_overlay={"url": url})
values = {
    "pretrained": True, "pretrained_cfg": source, "pretrained_cfg_overlay": source, "checkpoint_path": str(bait),
    "cache_dir": str(bait / "cache"), "pruned": True, "url": url, "file": str(bait), "hf_hub_id": "me/bait",
    "hf_hub_filename": "bait", "source": "hf-hub", "custom_load": True, "state_dict": {"a": 1}, "base": str(bait),
    "architecture": "hf-hub:me/bait", "model": f"local-dir:{bait}", "encoder": str(bait), "encoder_source": f"{bait}:1",
    "data_dir": str(bait), "output": str(bait), "wandb": "bait", "stem": str(bait), "neuron": str(bait), "init": url,
    "model_cfg": source, "feature_cfg": source, "backbone": url, "imports": [str(bait)], "dataset": str(bait),
    "license": url, "origin_url": url, "features_only": True, "encoder_options": {"url": url}, "form": str(bait),
}
for name, value in values.items():
    for place in ("config", "pretrained_cfg", "model_args"):
        changed = json.loads(json.dumps(config))
        (changed if place == "config" else changed[place])[name] = value
        (weights / "config.json").write_text(json.dumps(changed))
        attempt(f"{place} {name}", main, ["predict", str(image), "--weights", str(weights)])
    for place in ("settings", "model_options"):
        changed = json.loads(json.dumps(settings.key()))
        (changed if place == "settings" else changed[place])[name] = value
        run.write_bytes(save(tensors, {"settings": json.dumps(changed)}))
        attempt(f"{place} {name}", main, ["predict", str(image), "--weights", str(run)])
for dataset, source in ((f"{bait}.py:f", None), (f"{bait.name}.py:f", f"{bait.name}.py:0123456789ab")):
    changed = settings.key() | {"dataset": dataset, "dataset_source": source, "mean": "0.5", "std": "0.5"}
    run.write_bytes(save(tensors, {"settings": json.dumps(changed)}))
    attempt(f"{dataset} {source}", main, ["predict", str(image), "--weights", str(run)])
(weights / "config.json").write_text(json.dumps(config))
"""


@pytest.mark.medium
def test_weights_open_no_other_file_and_no_address(weights):
    command = [sys.executable, "-W", "ignore", "-c", REACH, weights]
    # without the kernels, whose compiler is a process that is started
    environment = os.environ | {"TORCH_HOME": str(weights.parent / "torch"), "GAC_SJ_OPS": "torch"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = [line for line in done.stdout.splitlines() if line.startswith("REACHED")]
    # the hook sees what timm opens on request; nothing else is opened
    assert len(found) == 2 and "'file'" in found[0] and "'socket.connect'" in found[1], found
