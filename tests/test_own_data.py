"""A user's data set, returned by a function in a file: through every program; what is refused; size and statistics."""

import contextlib
import hashlib
import io
import logging
import multiprocessing
import re
import sys
from dataclasses import replace
from pathlib import Path

import evaluate
import figures
import numpy as np
import pytest
import report
import robustness
import run_cifar
import torch
import train
import yaml
from helpers.files import contents, table
from helpers.programs import refused
from helpers.registry import forgotten_afterwards
from PIL import Image

from gac_sj._utils.errors import UsageError
from gac_sj.checkpoint import load_pretrained
from gac_sj.checkpoint.runs import data_info, read_label_names, read_weights, with_data
from gac_sj.cli.main import main as gac_sj_command
from gac_sj.data import load_datasets, statistics
from gac_sj.data.own_items import as_item
from gac_sj.training.build import load_data
from gac_sj.training.distributed import DistributedContext
from gac_sj.training.folder import run_key
from gac_sj.training.settings import Settings

pytestmark = [pytest.mark.one_release, pytest.mark.usefixtures("quick")]

CPU = DistributedContext(0, 1, torch.device("cpu"))
MINE = '''\
"""Data sets of a user."""
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset, random_split


class Pictures(Dataset):
    """PIL images with names of classes and labels, as torchvision's data sets have them."""
    classes = ["dark", "bright"]

    def __init__(self, count, first=0):
        self.first, self.targets = first, [item % 2 for item in range(count)]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, item):
        pixels = np.random.default_rng(self.first + item).integers(0, 128, (10, 12, 3)) + 127 * self.targets[item]
        return Image.fromarray(pixels.astype(np.uint8)), self.targets[item]


def pictures():
    return Pictures(40), Pictures(20, 100)


def tensors():
    """Floats without names or a list of labels, split at random."""
    numbers = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    images = (torch.rand(60, 1, 8, 8, generator=numbers) + labels.view(-1, 1, 1, 1)) / 3
    return random_split(TensorDataset(images, labels), [40, 20])


class Frames(Dataset):
    classes = ("left", "right")

    def __init__(self, count, T):
        self.labels, self.T = np.arange(count) % 2, T

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, item):
        frames = torch.zeros(self.T, 2, 12, 10, dtype=torch.uint8)
        frames[:, self.labels[item], item % 10] = 3
        return frames, self.labels[item]


def frames(data_dir=None, T=4):
    return Frames(24, T), Frames(12, T)
'''
TINY = ["--epochs", "1", "-T", "2", "--batch-size", "10", "--workers", "0", "--device", "cpu"]
QUICK = ["--images", "6", "--severities", "1", "--corruptions", "blur", "--device", "cpu"]


@contextlib.contextmanager
def forgotten():
    """No file of a user was run so far, as when a program starts."""
    before = [name for name in sys.modules if name.startswith("gac_sj_import_")]
    with forgotten_afterwards(), pytest.MonkeyPatch.context() as patch:
        for name in before:
            patch.delitem(sys.modules, name)
        try:
            yield
        finally:
            for name in [name for name in sys.modules if name.startswith("gac_sj_import_")]:
                del sys.modules[name]


@pytest.fixture(autouse=True)
def nothing_known():
    with forgotten():
        yield


def run(main, *arguments):
    """What a program prints."""
    with forgotten(), contextlib.redirect_stdout(io.StringIO()) as printed:
        status = main(list(map(str, arguments)))
    assert status == 0
    return printed.getvalue()


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "mine.py"
    path.write_text(MINE)
    return path


def write(path, text):
    path.write_text(text)
    return path


def settings_for(place, **changes):
    return Settings(**dict(dataset=str(place), model="gac_ms_resnet8_cifar", T=2, batch_size=10, workers=0) | changes)


def data_for(place, **changes):
    return load_data(settings_for(place, **changes))


@pytest.fixture(scope="module")
def compared(mine, tmp_path_factory):
    """Folders of comparisons on pictures (from disk) and on tensors (resident)."""
    folder = tmp_path_factory.mktemp("compared")
    for name, loader in (("pictures", "standard"), ("tensors", "resident")):
        given = ["--dataset", f"{mine}:{name}", "--loader", loader, "--crop-padding", 1, "--encoders", "direct"]
        run(run_cifar.main, *given, *TINY, "--seeds", 0, "--output", folder / name)
    return folder


@pytest.fixture(scope="module")
def framed(mine, tmp_path_factory):
    folder = tmp_path_factory.mktemp("framed") / "run"
    network = ["--model", "gac_ms_resnet8_cifar", "--crop-padding", 1]
    run(train.main, "--dataset", f"{mine}:frames", *network, *TINY, "--output", folder)
    return folder / "last.safetensors"


@pytest.mark.medium
class TestPrograms:
    @pytest.mark.parametrize("name", ["pictures", "tensors"])
    def test_rows_name_the_file_and_what_was_measured(self, name, compared, mine):
        (row,) = table(compared / name / "results.csv")
        digest = hashlib.sha256(mine.read_bytes()).hexdigest()[:12]
        assert (row["dataset"], row["dataset_source"]) == (f"mine.py:{name}", f"mine.py:{digest}")
        channels = 3 if name == "pictures" else 1
        assert all(len(row[each].split(",")) == channels for each in ("mean", "std"))
        assert (row["train_images"], row["test_images"]) == ("40", "20") and row["analysed_images"]

    def test_finished_runs_are_recognised(self, compared, mine, tmp_path):
        """Wherever the file lies now."""
        name = "tensors"
        before = contents(compared / name / "runs", times=True)
        (tmp_path / "mine.py").write_bytes(mine.read_bytes())
        given = ["--dataset", f"{tmp_path / 'mine.py'}:{name}", "--loader", "resident", "--crop-padding", 1]
        run(run_cifar.main, *given, "--encoders", "direct", *TINY, "--seeds", 0, "--output", compared / name)
        assert contents(compared / name / "runs", times=True) == before

    @pytest.mark.parametrize("name", ["pictures", "tensors"])
    def test_programs_that_load_a_run(self, name, compared, mine, tmp_path):
        (row,) = table(compared / name / "results.csv")
        (weights,) = (compared / name).rglob("last.safetensors")
        printed = run(evaluate.main, weights, "--import", mine, "--device", "cpu")
        assert f"top-1 {float(row['accuracy_last']):.2f} %" in printed
        assert ("bright" in printed) == (name == "pictures")
        run(robustness.main, compared / name, "--import", mine, *QUICK, "--output", tmp_path)
        tests = table(tmp_path / "robustness.csv")
        assert {test["dataset"] for test in tests} == {f"mine.py:{name}"} and len(tests) == 2
        given = ["--import", mine, "--device", "cpu", "--images", 6, "--output", tmp_path / "figures"]
        run(figures.main, "network", weights, *given)
        assert list((tmp_path / "figures").glob("grad_cam*.png"))

    def test_programs_that_read_rows(self, compared, tmp_path):
        run(report.main, compared, "--output", tmp_path / "report.html")
        assert "mine.py:pictures" in (tmp_path / "report.html").read_text()
        run(figures.main, "rows", compared / "pictures", "--output", tmp_path / "figures")
        assert list((tmp_path / "figures").glob("*.png"))

    def test_frames(self, framed, mine, tmp_path, capsys):
        (row,) = table(framed.parent / "result.csv")
        assert (row["mean"], row["std"], row["test_images"]) == ("0.0,0.0", "1.0,1.0", "12")
        printed = run(evaluate.main, framed, "--import", mine, "--device", "cpu")
        assert f"top-1 {float(row['accuracy_last']):.2f} %" in printed and "right" in printed
        given = ["--import", mine, "--device", "cpu", "--images", 6, "--output", tmp_path]
        run(figures.main, "network", framed, *given)
        assert (tmp_path / "firing_rates_by_step.png").exists()
        refused(capsys, robustness.main, [framed, "--import", mine, *QUICK, "--output", tmp_path / "out"], "frames")

    def test_weights_say_what_to_import_and_run_nothing(self, compared, mine, capsys, tmp_path, monkeypatch):
        (weights,) = (compared / "pictures").rglob("last.safetensors")
        monkeypatch.chdir(mine.parent)  # where a file of that name is
        for main, arguments in (
            (evaluate.main, [weights, "--device", "cpu"]),
            (robustness.main, [weights, *QUICK, "--output", tmp_path / "out"]),
            (figures.main, ["network", weights, "--output", tmp_path / "out"]),
        ):
            with forgotten():
                refused(capsys, main, arguments, "'mine.py:pictures'", "--import mine.py", folder=tmp_path)
        changed = write(tmp_path / "mine.py", MINE.replace("127 *", "126 *"))
        with forgotten():
            refused(capsys, evaluate.main, [weights, "--import", changed], "SHA-256", "mine.py")

    def test_predict_prints_the_names_of_classes(self, compared, tmp_path):
        """Without the file: weights say all that is needed."""
        Image.new("RGB", (12, 10), (250, 250, 250)).save(tmp_path / "white.png")
        (weights,) = (compared / "pictures").rglob("last.safetensors")
        said = run(gac_sj_command, "predict", tmp_path / "white.png", "--weights", weights)
        assert re.search(r"white\.png: (dark|bright)\n", said) and "dark" in said and "bright" in said
        run(gac_sj_command, "convert", weights, tmp_path / "net")
        assert list(load_pretrained(tmp_path / "net").pretrained_cfg["label_names"]) == ["dark", "bright"]
        settings, _ = read_weights(weights)
        mean = load_pretrained(weights).pretrained_cfg["mean"]
        assert tuple(mean) == tuple(map(float, settings.mean.split(",")))

    def test_a_finished_run_continues_for_more_epochs(self, framed, mine):
        """What is measured or chosen for the device counts as given."""
        given = ["--dataset", f"{mine}:frames", "--model", "gac_ms_resnet8_cifar", "--crop-padding", 1, *TINY]
        run(train.main, *given, "--epochs", 2, "--output", framed.parent)
        (row,) = table(framed.parent.with_name("run-epochs2") / "result.csv")
        assert row["epochs"] == "2" and row["continues"].startswith("1:") and row["mean"] == "0.0,0.0"

    def test_another_file_is_another_run(self, framed, mine, capsys, tmp_path):
        changed = write(tmp_path / "mine.py", MINE + "# a comment\n")
        given = ["--dataset", f"{changed}:frames", "--model", "gac_ms_resnet8_cifar", "--crop-padding", 1, *TINY]
        refused(capsys, train.main, [*given, "--output", framed.parent], "dataset_source", folder=framed.parent)


class TestReading:
    @pytest.mark.parametrize("loader", ["standard", "resident"])
    def test_both_loaders_yield_the_same(self, mine, loader):
        settings = settings_for(f"{mine}:tensors", loader=loader, img_size=8)
        data = load_data(settings)
        assert data.size == (8, 8) and data.test.classes == ("0", "1", "2")
        model = _Statistics(data)
        images, labels = map(torch.cat, zip(*data.testing(settings, model, CPU)))
        originals = torch.stack([torch.tensor(data.test.pixels(item)) for item in range(len(data.test))]) / 255
        assert torch.allclose(images * data.info.std[0] + data.info.mean[0], originals, atol=1e-5)
        assert labels.tolist() == data.test.targets

    def test_the_split_and_the_key_are_those_of_every_start(self, mine):
        keys = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            with forgotten():
                settings = settings_for(f"{mine}:tensors")
                keys.append(run_key(settings, load_data(settings)))
        assert keys[0] == keys[1]

    def test_train_limit(self, mine):
        data = data_for(f"{mine}:pictures", train_limit=10)
        assert np.bincount(data.train.targets).tolist() == [5, 5] and len(data.test) == 20

    def test_images_of_all_accepted_forms_are_the_same(self, mine):
        pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5), np.uint8)
        forms = [Image.fromarray(pixels.transpose(1, 2, 0)), pixels, torch.from_numpy(pixels), pixels / 255]
        forms += [torch.from_numpy(pixels / 255), torch.from_numpy(pixels / 255).float()]
        for form in forms:
            assert np.array_equal(np.asarray(as_item(form)), pixels.transpose(1, 2, 0))
        grey = as_item(pixels[:1])
        assert grey.mode == "L" and np.array_equal(np.asarray(grey), pixels[0])
        frames = torch.ones(2, 5, 3, 4, dtype=torch.bfloat16, requires_grad=True)
        assert as_item(frames).dtype == np.float32 and as_item(frames).shape == (2, 5, 3, 4)

    def test_images_of_other_modes_become_those_of_the_first(self, tmp_path):
        path = write(
            tmp_path / "modes.py",
            "from PIL import Image\n"
            "def mixed():\n"
            "    items = [(Image.new(mode, (8, 8)), n % 2) for n, mode in enumerate(['RGB', 'L', 'P', 'RGBA'])]\n"
            "    return items, items\n",
        )
        train, _ = load_datasets(f"{path}:mixed")
        assert [image.mode for image, _ in train] == ["RGB"] * 4

    def test_the_folder_and_T_reach_the_function(self, tmp_path):
        path = write(
            tmp_path / "with_folder.py",
            MINE + "\n\ndef here(data_dir, T):\n    assert data_dir.name == 'folder'\n    return frames(T=T)\n",
        )
        with pytest.raises(UsageError, match=r"^data_dir must be given for 'with_folder.py:here'"):
            load_datasets(f"{path}:here", T=3)
        train, _ = load_datasets(f"{path}:here", tmp_path / "folder", T=3)
        assert train[0][0].shape == (3, 2, 12, 10) and train.info.size == (12, 10)

    @pytest.mark.slow
    def test_workers_that_start_anew_load_the_same(self, mine):
        settings = settings_for(f"{mine}:pictures", workers=1)
        data = load_data(settings)
        found = []
        for method in ("fork", "spawn"):
            loader = data.testing(settings, _Statistics(data), CPU)
            loader.batches.loader.multiprocessing_context = multiprocessing.get_context(method)
            found.append(torch.cat([images.flatten() for images, _ in loader]))
        assert torch.equal(*found)


class _Statistics:
    """Stands for a network, of which loaders ask the statistics."""

    def __init__(self, data):
        self.pretrained_cfg = {"mean": data.info.mean, "std": data.info.std, "crop_pct": 1.0}


class TestFingerprint:
    def of(self, tmp_path, text, name="pictures", folder="a"):
        (tmp_path / folder).mkdir(exist_ok=True)
        with forgotten():
            return data_for(f"{write(tmp_path / folder / 'mine.py', text)}:{name}").fingerprint()

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("(0, 128,", "(1, 128,"),
            ("Pictures(20, 100)", "Pictures(20, 101)"),
            ("Pictures(20, 100)", "Pictures(22, 100)"),
            ('"bright"', '"light"'),
            ("[item % 2 for", "[1 - item % 2 for"),
        ],
        ids=["pixels", "test", "number", "names", "labels"],
    )
    def test_content_changes_it(self, old, new, tmp_path):
        assert old in MINE
        assert self.of(tmp_path, MINE) != self.of(tmp_path, MINE.replace(old, new))

    def test_nothing_else_does(self, tmp_path):
        first = self.of(tmp_path, MINE)
        assert first == self.of(tmp_path, MINE + "# comment\n", folder="b")
        torch.manual_seed(7)
        arrays = MINE.replace(
            "return Image.fromarray(pixels.astype(np.uint8)),", "return pixels.transpose(2, 0, 1) / 255,"
        )
        assert first == self.of(tmp_path, arrays, folder="c")

    def test_a_large_one_is_sampled_evenly(self, tmp_path, monkeypatch):
        monkeypatch.setattr(statistics, "SAMPLE_BYTES", 0)
        assert statistics.evenly(range(50), 10) == list(range(50))
        assert statistics.evenly(range(1000), 10) == list(range(0, 1000, 10))
        monkeypatch.setattr(statistics, "SAMPLE_BYTES", 5000)
        assert len(statistics.evenly(range(1000), 10)) == 500


def simple(images, labels="[0, 1] * 5", more=""):
    """A file whose function ``f`` returns ten items as both sets."""
    return (
        f"import numpy as np\nimport torch\nfrom PIL import Image\n\n\nclass Own(list):\n    pass\n\n\ndef f():\n"
        f"    own = Own(zip({images}, {labels}))\n    {more or 'pass'}\n    return own, own\n"
    )


WHITE = "[np.full((3, 8, 8), n * 20, np.uint8) for n in range(10)]"
#: what the file says, and what the sentence has
BAD = {
    "absent": (None, ["--dataset", "absent.py", "does not exist"]),
    "raises": ("def f():\n    raise OSError('no such disk.\\nreally')\n", ["f: it raises OSError (no such disk)"]),
    "file_raises": ("1 / 0\n", ["ZeroDivisionError"]),
    "syntax": ("def f(:\n", ["SyntaxError"]),
    "no_function": ("def g():\n    pass\n", ["'f'", "g"]),
    "not_a_function": ("f = 3\n", ["not a function"]),
    "parameters": ("def f(a):\n    pass\n", ["it raises TypeError", "'a'"]),
    "nothing": ("def f():\n    pass\n", ["returns a NoneType"]),
    "three": ("def f():\n    return [], [], []\n", ["returns 3 values"]),
    "dicts": ("def f():\n    return {}, {}\n", ["training set is a dict"]),
    "iterable": ("def f():\n    return iter([1]), iter([1])\n", ["training set is a list_iterator"]),
    "empty": ("def f():\n    return [], []\n", ["training set is empty"]),
    "no_labels": (f"import numpy as np\ndef f():\n    return {WHITE}, {WHITE}\n", ["item 0", "an image and its label"]),
    "tensors": ("import torch\ndef f():\n    return torch.rand(4, 3, 8, 8), torch.rand(4)\n", ["item 0", "Tensor"]),
    "float_labels": (simple(WHITE, "[0.0, 1.0] * 5"), ["item 0", "label 0.0", "not an integer"]),
    "bool_labels": (simple(WHITE, "[True, False] * 5"), ["label True", "not an integer"]),
    "one_hot": (simple(WHITE, "np.eye(2)[[0, 1] * 5]"), ["label", "not an integer"]),
    "text_labels": (simple(WHITE, "['cat', 'dog'] * 5"), ["label 'cat'", "integers from 0"]),
    "negative": (simple(WHITE, "[-1, 0] * 5"), ["item 0", "label -1", "below 0"]),
    "out_of_range": (simple(WHITE, "[0, 1, 2, 1, 0] * 2", "own.classes = ['a', 'b']"), ["item 2", "label 2", "0 to 1"]),
    "from_1": (simple(WHITE, "[1, 2] * 5"), ["'0'", "no item", "count labels from 0"]),
    "too_few_labels": (simple(WHITE, more="own.targets = [0, 1]"), ["10 items and 2 labels"]),
    "other_labels": (simple(WHITE, more="own.targets = [1, 0] * 5"), ["number 0", "label is 0", "says 1"]),
    "classes": (simple(WHITE, more="own.classes = 2"), ["classes", "2, not a list"]),
    "equal_names": (simple(WHITE, more="own.classes = ['a', 'a']"), ["names of their own"]),
    "channels_last": (simple("np.zeros((10, 8, 8, 3), np.uint8)"), ["item 0", "[8, 8, 3]", "[C, H, W]"]),
    "flat": (simple("np.zeros((10, 64))"), ["item 0", "[64]"]),
    "normalised": (simple("np.linspace(-2, 2, 1920).reshape(10, 3, 8, 8)"), ["item 0", "floats from -2", "[0, 1]"]),
    "nan": (simple("np.full((10, 3, 8, 8), np.nan)"), ["floats from nan"]),
    "integers": (simple("np.zeros((10, 3, 8, 8), int)"), ["int64", "uint8"]),
    "objects": (simple("[None] * 10"), ["NoneType"]),
    "pixels_of_32_bits": (simple("[Image.new('F', (8, 8))] * 10"), ["item 0", "32-bit"]),
    "no_pixels": (simple("np.zeros((10, 3, 0, 8), np.uint8)"), ["[3, 0, 8]"]),
    "mixed": (simple(f"[*{WHITE}[:9], np.zeros((2, 2, 8, 8))]"), ["number 9", "2 frames", "images of 3 channels"]),
    "other_T": (simple("np.ones((10, 3, 2, 8, 8))"), ["-T must be 3", "got 2"]),
    "constant": (simple("np.zeros((10, 3, 8, 8), np.uint8)"), ["--std", "channel 0", "the same in all pixels"]),
    "two_parts": (
        simple(WHITE).replace("return own, own", "return own, [(np.zeros((1, 8, 8)), n % 2) for n in range(4)]"),
        ["images of 3 channels", "images of 1 channel;"],
    ),
    "other_classes": (
        simple(WHITE, more="other = Own(own)\n    own.classes, other.classes = ['a', 'b'], ['b', 'a']").replace(
            "return own, own", "return own, other"
        ),
        ["other classes"],
    ),
}  # fmt: skip


class TestRefusals:
    """Status 2, one sentence, and the folder of the run does not come about."""

    GIVEN = ["--model", "gac_ms_resnet8_cifar", "-T", "2", "--batch-size", "4", "--workers", "0", "--epochs", "1"]

    def refused(self, capsys, place, *words, given=()):
        arguments = ["--dataset", place, *self.GIVEN, "--device", "cpu", *given, "--output", "out"]
        with forgotten():
            return refused(capsys, train.main, arguments, *words, folder=Path())

    @pytest.mark.parametrize(("text", "words"), BAD.values(), ids=BAD)
    def test_files(self, text, words, capsys, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.dont_write_bytecode", True)
        if text is not None:
            write(tmp_path / "bad.py", text)
        self.refused(capsys, "absent.py:f" if text is None else "bad.py:f", *words)

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            (["--mean", "0.5,0.5"], ["--mean", "3 numbers", "got 2"]),
            (["--std", "0.5"], ["--std", "3 numbers", "got 1"]),
            (["--mean", "red"], ["--mean", "'red'", "auto"]),
            (["--std", "0,1,1"], ["--std", "positive"]),
            (["--img-size", "0"], ["--img-size", "'0'", "64x96"]),
            (["--data-dir", "here"], ["--data-dir", "no parameter data_dir", "here"]),
        ],
    )
    def test_options(self, given, words, mine, capsys, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        self.refused(capsys, f"{mine}:pictures", *words, given=given)

    def test_random_items(self, capsys, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.dont_write_bytecode", True)
        random = MINE.replace("np.random.default_rng(self.first + item)", "np.random")
        write(tmp_path / "random_items.py", random.replace(".integers(", ".randint("))
        self.refused(capsys, "random_items.py:pictures", "item 0", "differs between two reads")

    @pytest.mark.parametrize("name", ["digits.py", "mine.py", "a:b", "digit"])
    def test_other_names(self, name, capsys, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        self.refused(capsys, name, "--dataset", repr(name), "digits", "FILE.py:FUNCTION")

    def test_images_of_several_sizes_are_for_the_standard_loader(self, capsys, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.dont_write_bytecode", True)
        path = write(tmp_path / "sizes.py", simple("[np.full((3, 8, 8 + n), n * 20, np.uint8) for n in range(10)]"))
        words = ["--loader", "8 x 8", "9 x 8", "number 1", "standard"]
        self.refused(capsys, f"{path}:f", *words, given=["--loader", "resident"])
        assert data_for(f"{path}:f").train[3][0].size == (11, 8)
        assert data_for(f"{path}:f", loader="resident", img_size=8).images[0][0].shape == (10, 3, 8, 8)

    def test_frames_of_several_sizes(self, capsys, tmp_path, monkeypatch):
        """They are read one by one, so the run may have begun."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.dont_write_bytecode", True)
        path = write(tmp_path / "sizes.py", simple("[np.ones((2, 2, 8, 8 + n // 5)) for n in range(10)]"))
        arguments = ["--dataset", f"{path}:f", *self.GIVEN, "--device", "cpu", "--output", "out"]
        refused(capsys, train.main, arguments, "cannot be read", "2 x 8 x 9", "2 x 8 x 8")

    @pytest.mark.parametrize("source", [None, "mine.py:0123456789ab"])
    def test_records_run_no_file(self, source, mine):
        record = {"dataset": f"{mine}:pictures", "dataset_source": source}
        with pytest.raises(UsageError, match="without the digest of its file"):
            Settings.recorded(record)


class TestSizeAndStatistics:
    def test_auto_is_measured_on_the_training_images(self):
        data = load_data(Settings(model="gac_ms_resnet8_cifar", dataset="digits", mean="auto", train_limit=100))
        pixels = np.stack([np.asarray(data.train[item][0]) for item in range(100)]) / 255
        assert data.info.mean == (round(pixels.mean(), 4),) and data.info.std == (round(pixels.std(), 4),)
        assert data.test.info.mean == data.info.mean
        settings = data.resolved(Settings(model="gac_ms_resnet8_cifar", dataset="digits", mean="auto"))
        assert settings.key()["mean"] == str(round(pixels.mean(), 4)) and settings.std == str(data.info.std[0])

    def test_auto_of_channels_and_frames(self, mine):
        data = data_for(f"{mine}:pictures", img_size=24)
        pixels = np.stack([np.asarray(data.train[item][0]) for item in range(40)]) / 255
        assert data.info.mean == tuple(np.round(pixels.mean((0, 1, 2)), 4))
        assert data.info.std == tuple(np.round(pixels.std((0, 1, 2)), 4))
        data = data_for(f"{mine}:frames", mean="auto")
        frames = np.stack([data.train[item][0] for item in range(24)])
        assert data.info.mean == tuple(np.round(frames.mean((0, 1, 3, 4), dtype=float), 4))
        assert data.info.std == tuple(np.round(frames.std((0, 1, 3, 4), dtype=float), 4))

    def test_given_ones_go_over_the_record_and_over_auto(self, mine):
        data = load_data(Settings(model="gac_ms_resnet8_cifar", dataset="digits", mean=0.25))
        assert data.info.mean == (0.25,) and data.info.std == load_datasets("digits")[0].info.std
        data = data_for(f"{mine}:pictures", mean=[0.5, 0.5, 0.5], std="0.25, 0.25,0.25")
        assert (data.info.mean, data.info.std) == ((0.5,) * 3, (0.25,) * 3)
        assert data.statistics == {"mean": "0.5,0.5,0.5", "std": "0.25,0.25,0.25"}

    def test_auto_and_its_numbers_are_one_run(self, mine):
        auto = settings_for(f"{mine}:pictures")
        data = load_data(auto)
        given = replace(auto, **data.statistics)
        assert run_key(auto, data) == run_key(given, load_data(given))

    def test_old_keys_stay(self):
        assert Settings().name() == Settings(img_size=None, mean=None, std=None).name()
        names = {"img_size", "mean", "std", "dataset_source"}
        assert {name: value for name, value in Settings().key().items() if name in names} == dict.fromkeys(names)

    @pytest.mark.parametrize(("given", "size"), [(16, (16, 16)), ("16x24", (16, 24)), ([16, 24], (16, 24))])
    @pytest.mark.parametrize("loader", ["standard", "resident"])
    def test_size(self, given, size, loader):
        settings = Settings(
            model="gac_ms_resnet8_cifar", dataset="digits", img_size=given, loader=loader, train_limit=20, batch_size=10
        )
        data = load_data(settings)
        assert data.size == data.info.size == data_info(settings).size == size
        for batches in (
            data.testing(settings, _Statistics(data), CPU),
            data.training(settings, _Statistics(data), CPU),
        ):
            images, _ = next(iter(batches))
            assert images.shape[1:] == (1, *size)

    def test_size_and_statistics_of_frames(self, mine):
        settings = settings_for(f"{mine}:frames", img_size="24x20", mean="1,1", std="2,2", crop="none", hflip=0)
        data = load_data(settings)
        for batches in (
            data.testing(settings, _Statistics(data), CPU),
            data.training(settings, _Statistics(data), CPU),
        ):
            frames, _ = next(iter(batches))
            assert frames.shape == (2, 10, 2, 24, 20)
            assert frames.min() == -0.5 and 0.625 <= frames.max() <= 1  # counts of 0 and 3, interpolated
            assert frames.mean() == pytest.approx((3 / 20 - 1) / 2, abs=0.02)

    def test_networks_for_any_size_get_images_as_they_are(self, mine):
        data = data_for(f"{mine}:pictures", model="spikingjelly:sew_resnet18", encoder="direct")
        assert data.size == data.info.size == (10, 12)

    def test_resizing_is_mentioned_once(self, mine, caplog):
        caplog.set_level(logging.INFO)
        data_for(f"{mine}:pictures")
        (message,) = (each for each in caplog.messages if "stretched" in each)
        assert "10 x 12 pixels" in message and "32 x 32" in message and "img_size=10x12" in message
        caplog.clear()
        data_for(f"{mine}:pictures", img_size="10x12")
        data_for(f"{mine}:frames")
        assert not [each for each in caplog.messages if "stretched" in each or "shrunk" in each]


class TestFolderOfARun:
    @pytest.fixture
    def weights(self, tmp_path):
        """Of a run on images, whose args.yaml names their folder."""
        images = tmp_path / "images"
        for path in (images / split / label / "0.png" for split in ("train", "test") for label in ("ant", "bee")):
            path.parent.mkdir(parents=True)
            Image.new("RGB", (8, 8), (9 * len(path.parts), 0, 0)).save(path)
        given = ["--dataset", "folder", "--data-dir", images, "--model", "gac_ms_resnet8_cifar", "--img-size", "8"]
        given += ["--crop-padding", "1", *TINY, "--batch-size", "2", "--output", tmp_path / "run"]
        run(train.main, *given)
        return tmp_path / "run" / "last.safetensors"

    @pytest.mark.medium
    def test_programs_find_it(self, weights, tmp_path, capsys):
        assert "ant" in run(evaluate.main, weights, "--device", "cpu")
        run(robustness.main, weights, *QUICK, "--output", tmp_path / "robustness")
        run(figures.main, "network", weights, "--images", 2, "--device", "cpu", "--output", tmp_path / "figures")
        assert read_label_names(weights) == ["ant", "bee"]
        (tmp_path / "images").rename(tmp_path / "moved")
        assert "bee" in run(evaluate.main, weights, "--data-dir", tmp_path / "moved", "--device", "cpu")
        refused(capsys, evaluate.main, [weights, "--device", "cpu"], "--data-dir must be given for 'folder'")

    @pytest.mark.parametrize("content", [None, b"\xff\xfe", b"[", b"dataset: folder", b"data_dir: 3\ndataset: folder"])
    def test_a_useless_args_yaml_gives_the_sentence_without_one(self, content, tmp_path, capsys):
        settings = Settings(dataset="folder", model="gac_ms_resnet8_cifar")
        if content is not None:
            (tmp_path / "args.yaml").write_bytes(content)
        found = with_data(settings, tmp_path / "last.safetensors", None)
        assert found == settings
        with pytest.raises(UsageError, match=r"^data_dir must be given for 'folder'"):
            load_data(found)

    def test_a_given_folder_goes_over_it(self, tmp_path):
        settings = Settings(dataset="folder", model="gac_ms_resnet8_cifar")
        (tmp_path / "args.yaml").write_text(yaml.safe_dump({"dataset": "folder", "data_dir": str(tmp_path)}))
        weights = tmp_path / "last.safetensors"
        assert with_data(settings, weights, None).data_dir == str(tmp_path)
        assert with_data(settings, weights, "other").data_dir == "other"
        other = replace(settings, dataset="imagenet")
        assert with_data(other, weights, None).data_dir is None
