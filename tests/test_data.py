"""Data sets: digits, CIFAR through torchvision, image folders, event cameras, generated images; balanced parts."""

import ast
import hashlib
import os
import pickle
import socket
import struct
import sys
import tarfile
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from helpers.files import contents
from PIL import Image
from sklearn.datasets import load_digits

from gac_sj._compat import datasets_module
from gac_sj.data import (
    DATASETS,
    CorruptImageError,
    DataSet,
    DatasetInfo,
    dataset_info,
    evaluation_loader,
    generate_images,
    load_datasets,
    read_images,
)
from gac_sj.data.image_files import read_image


def write_image(path: Path, size=(32, 32), mode="RGB", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Classes dog, ant and cat: 3 training images and 2 test images each."""
    root = tmp_path / "images"
    for split, count in (("train", 3), ("test", 2)):
        for label in ("dog", "ant", "cat"):
            for number in range(count):
                write_image(root / split / label / f"{number}.png", seed=number)
    return root


def fails(message, name, root=None, error=ValueError, **options):
    """One sentence that contains ``message``."""
    with pytest.raises(error, match=message) as caught:
        load_datasets(name, root, **options)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def labels(dataset):
    return [label for _, label in dataset]


class TestRecords:
    """What a data set is has one home."""

    def test_every_name_has_one_record(self):
        assert all(name == info.name and info.read is not None for name, info in DATASETS.items())
        assert (
            len({(info.kind, info.mean, info.std, info.classes, info.folder, info.read) for info in DATASETS.values()})
            > 5
        )
        for info in DATASETS.values():
            assert len(info.std) == info.channels == (2 if info.is_events else len(info.mean))
            assert info.default_folder is None or info.folder is not None

    @pytest.mark.parametrize("name", [name for name, info in DATASETS.items() if info.folder is None])
    def test_the_record_agrees_with_what_is_read(self, name):
        info = dataset_info(name)
        for part in load_datasets(name):
            item, _ = part[0]
            shape = item.shape[1:] if info.is_events else read_images(part.balanced(10), (8, 8))[0].shape[1:]
            assert shape[0] == info.channels == part.channels and part.info.classes == len(part.classes)
            assert info.classes in (None, len(part.classes))
            assert info.size in (None, tuple(shape[1:]))

    def test_a_network_fills_in_what_the_data_set_leaves_open(self):
        info = dataset_info("folder").for_network("gac_ms_resnet18", classes=3)
        assert (info.classes, info.shape) == (3, (3, 224, 224))
        assert dataset_info("folder").for_network("gac_ms_resnet18").classes == 1000
        assert dataset_info("digits").for_network("gac_ms_resnet18").shape == (1, 8, 8)
        with pytest.raises(LookupError, match="folder"):
            _ = dataset_info("folder").shape

    def test_nobody_else_knows_data_sets_by_name(self):
        root = Path(__file__).resolve().parent.parent
        paths = [path for place in ("gac_sj", "benchmarks", "experiments") for path in (root / place).rglob("*.py")]
        #: names that mean nothing else
        names = {name for name in DATASETS if "_" in name or name[-1].isdigit()}
        assert len(names) >= 5
        for path in paths:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            if path.relative_to(root).parts[0] == "gac_sj" and path.name != "registry.py":
                assert not names & constants(tree), path
            for node in ast.walk(tree):
                if isinstance(node, ast.Compare) and "dataset" in ast.unparse(node):
                    assert not DATASETS.keys() & constants(node), f"{path}: {ast.unparse(node)}"


def constants(tree):
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


class TestDigits:
    @pytest.mark.medium
    def test_images(self):
        for part, size in zip(load_datasets("digits"), (1437, 360)):
            assert part.classes == tuple("0123456789") and len(part) == size and part.channels == 1
            assert not part.is_events
            images, targets = read_images(part, (8, 8))
            assert images.shape == (size, 1, 8, 8) and images.dtype == torch.uint8
            assert targets.shape == (size,) and targets.dtype == torch.int64
            assert (images.min(), images.max()) == (0, 255)

    def test_the_parts_are_the_whole_and_keep_labels_with_images(self):
        digits = load_digits()
        whole = np.column_stack([np.round(digits.images.reshape(-1, 64) * 255 / 16), digits.target])
        parts = np.array(
            [[*np.asarray(image).ravel(), label] for part in load_datasets("digits") for image, label in part]
        )
        assert np.array_equal(parts[np.lexsort(parts.T)], whole[np.lexsort(whole.T)])

    def test_every_class_gives_a_fifth_to_the_test_set(self):
        train, test = (np.bincount(part.labels, minlength=10) for part in load_datasets("digits"))
        assert (abs(test - (train + test) / 5) <= 1).all()

    def test_the_split_is_fixed(self):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - the global state is what must not matter
        first = load_datasets("digits")
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002
        for ours, again in zip(first, load_datasets("digits")):
            assert np.array_equal(ours.source.data, again.source.data) and ours.labels == again.labels

    def test_mean_and_std(self):
        pixels = read_images(load_datasets("digits")[0], (8, 8))[0].double() / 255
        (mean,), (std,) = DATASETS["digits"].mean, DATASETS["digits"].std
        assert pixels.mean().item() == pytest.approx(mean, abs=5e-4)
        assert pixels.std().item() == pytest.approx(std, abs=5e-4)


class TestImageFolder:
    def test_classes_and_sizes(self, folder):
        train, test = load_datasets("folder", folder)
        assert train.classes == test.classes == ("ant", "cat", "dog") and train.channels == 3
        assert labels(train) == list(train.labels) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert labels(test) == list(test.labels) == [0, 0, 1, 1, 2, 2]

    @pytest.mark.parametrize("name", ["test", "val", "validation"])
    def test_the_test_images_may_lie_in(self, name, folder):
        (folder / "test").rename(folder / name)
        assert len(load_datasets("imagenet", folder)[1]) == 6

    def test_pixels_are_those_of_the_file(self, folder):
        train, _ = load_datasets("folder", folder)
        with Image.open(folder / "train" / "cat" / "2.png") as image:
            pixels = np.array(image)
        assert np.array_equal(np.asarray(train[5][0]), pixels)
        assert torch.equal(read_images(train, (32, 32))[0][5], torch.from_numpy(pixels).permute(2, 0, 1))

    def test_grey_becomes_rgb(self, folder):
        path = folder / "test" / "ant" / "0.png"
        write_image(path, mode="L")
        image = read_images(load_datasets("folder", folder)[1], (32, 32))[0][0]
        with Image.open(path) as grey:
            assert torch.equal(image, torch.from_numpy(np.array(grey)).expand(3, 32, 32))

    def test_other_sizes_are_scaled_and_cropped_at_the_centre(self, folder):
        path = folder / "train" / "ant" / "0.png"
        stripes = np.zeros((64, 128, 3), np.uint8)  # the centre, 32 of 64 columns when scaled, is white
        stripes[:, 32:96] = 255
        Image.fromarray(stripes).save(path)
        write_image(folder / "train" / "ant" / "1.png", (20, 17))
        images, _ = read_images(load_datasets("folder", folder)[0], (32, 32))
        assert images.shape == (9, 3, 32, 32)
        assert (images[0, :, :, 2:-2] == 255).all() and images[0].float().mean() > 240

    def test_image_size(self, folder):
        assert read_images(load_datasets("folder", folder)[0], (16, 16))[0].shape == (9, 3, 16, 16)

    def test_cifar_as_an_image_folder(self, folder):
        assert load_datasets("cifar10", folder)[0].classes == ("ant", "cat", "dog")

    @pytest.mark.parametrize("name", ["folder", "cifar10"])
    @pytest.mark.parametrize("missing", ["train", "test"])
    def test_half_of_a_folder(self, name, missing, folder):
        (folder / missing).rename(folder.parent / "elsewhere")
        fails(f"images is not complete .*{missing}", name, folder)

    def test_a_split_without_classes(self, folder):
        (folder / "train").rename(folder.parent / "elsewhere")
        (folder / "train").mkdir()
        fails("images is not complete", "folder", folder)

    def test_an_empty_class(self, folder):
        (folder / "train" / "emu").mkdir()
        fails("images is not complete .*emu", "folder", folder)

    @pytest.mark.parametrize("split", ["train", "test"])
    def test_a_class_in_one_split_only(self, split, folder):
        write_image(folder / split / "emu" / "0.png")
        fails("emu", "folder", folder)

    @pytest.mark.parametrize("content", [None, b"not found", b""], ids=["truncated", "text", "empty"])
    def test_an_unreadable_image(self, content, folder):
        path = folder / "train" / "cat" / "1.png"
        path.write_bytes(path.read_bytes()[:1000] if content is None else content)
        train, _ = load_datasets("folder", folder)
        for read in (lambda: train[4], lambda: read_images(train, (32, 32))):
            with pytest.raises(CorruptImageError, match=f"{path} cannot be read") as caught:
                read()
            said = str(caught.value)
            assert said.endswith(".") and "\n" not in said and " object at 0x" not in said

    def test_an_empty_folder(self, tmp_path):
        fails("is not complete", "folder", tmp_path)

    def test_a_folder_that_does_not_exist(self, tmp_path):
        fails("nowhere is not complete", "folder", tmp_path / "nowhere")

    def test_a_file_in_place_of_the_folder(self, tmp_path):
        (tmp_path / "images").write_text("")
        fails("images is not complete", "folder", tmp_path / "images")

    def test_hidden_files_and_folders_are_left_out(self, folder, caplog):
        before = load_datasets("folder", folder)
        assert not caplog.messages
        for place in ("train/.ipynb_checkpoints/0.png", "train/cat/.thumbs/0.png", "train/cat/._0.png"):
            write_image(folder / place)
        train, test = load_datasets("folder", folder)
        assert train.classes == test.classes == ("ant", "cat", "dog")
        assert train.files == before[0].files and train.fingerprint() == before[0].fingerprint()
        (said,) = caplog.messages
        assert f"Hidden files and folders in {folder / 'train'} are left out" in said and ".ipynb_checkpoints" in said

    def test_the_order_is_torchvisions(self, folder):
        """Rows of results depend on it."""
        for name in ("cat/b/0.png", "cat/b-c/0.png", "cat/a.png", "cat/B.PNG"):
            write_image(folder / "train" / name)
        (folder / "train" / "cat" / "note.txt").touch()
        theirs = torchvision.datasets.ImageFolder(folder / "train")
        train, _ = load_datasets("folder", folder)
        assert list(zip(train.files, train.labels)) == theirs.samples and len(train) == 13

    def test_links_to_folders_are_followed_but_not_around(self, folder):
        elsewhere = folder / "birds"
        write_image(elsewhere / "0.png")
        (folder / "train" / "cat" / "more").symlink_to(elsewhere)
        assert len(load_datasets("folder", folder)[0]) == 10
        for around in (folder / "train", folder / "train" / "cat", elsewhere):
            (elsewhere / "again").symlink_to(around)
            fails("cat/more/again is a link to a folder around it; remove the link", "folder", folder)
            (elsewhere / "again").unlink()

    def test_a_folder_that_cannot_be_read(self, folder, monkeypatch):
        """As root, every folder can be."""
        scan = os.scandir

        def refuse(path):
            if str(path).endswith("cat"):
                raise PermissionError(13, "Permission denied", str(path))
            return scan(path)

        monkeypatch.setattr(os, "scandir", refuse)
        with pytest.raises(PermissionError, match="cat"):
            load_datasets("folder", folder)

    @pytest.mark.parametrize(
        "make", [os.mkfifo, lambda path: path.symlink_to(path)], ids=["a pipe", "a link to itself"]
    )
    def test_what_is_no_file_is_a_corrupt_image(self, make, folder):
        path = folder / "train" / "cat" / "1.png"
        path.unlink()
        make(path)
        train, _ = load_datasets("folder", folder)
        assert len(train.fingerprint()) == 12
        with pytest.raises(CorruptImageError, match=f"{path} cannot be read"):
            train[4]
        for workers in (0, 1):
            loader = evaluation_loader(
                train, 9, (32, 32), (0.5,) * 3, (0.5,) * 3, torch.device("cpu"), workers, skip_corrupt=True
            )
            ((images, _),) = loader
            assert torch.equal(images[4], images[5]) and loader.corrupt == {4}

    @pytest.mark.parametrize("name", ["folder", "imagenet", "dvs128_gesture", "cifar10_dvs"])
    def test_no_folder_given(self, name):
        fails(f"^data_dir .*{name!r}", name)


#: 16-bit grey, and what of it becomes a byte.
DEEP = np.array([[0, 255, 256, 4095, 32768, 65279, 65280, 65535]] * 8, np.uint16)


def tiff(pixels, bits, photometric=1, format=1):
    """A TIFF file of one strip, which Pillow cannot write with 12 bits or with white as zero."""
    values = pixels.astype(np.uint16).ravel().tolist()
    data = pixels.tobytes()
    if bits == 12:
        data = b"".join((a << 12 | b).to_bytes(3, "big") for a, b in zip(values[::2], values[1::2]))
    height, width = pixels.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8 + 2 + 10 * 12 + 4, 277: 1, 278: height}
    tags |= {279: len(data), 339: format}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


class TestPixels:
    """What becomes of a file's pixels, in every mode that Pillow opens."""

    @pytest.mark.parametrize("mode", ["L", "RGB"])
    @pytest.mark.parametrize("kind", ["png", "tiff", "ppm"])
    def test_the_upper_eight_of_16_bits_are_kept(self, kind, mode, tmp_path):
        Image.fromarray(DEEP).save(tmp_path / f"deep.{kind}")
        pixels = np.asarray(read_image(tmp_path / f"deep.{kind}", mode))
        assert np.array_equal(pixels if mode == "L" else pixels[..., 1], DEEP >> 8)

    def test_tiff_with_12_bits_or_white_as_zero(self, tmp_path):
        (tmp_path / "a.tiff").write_bytes(tiff(DEEP >> 4, 12))
        assert np.array_equal(np.asarray(read_image(tmp_path / "a.tiff", "L")), DEEP >> 8)
        (tmp_path / "b.tiff").write_bytes(tiff(DEEP, 16, photometric=0))
        assert np.array_equal(np.asarray(read_image(tmp_path / "b.tiff", "L")), 255 - (DEEP >> 8))

    @pytest.mark.parametrize("loader", ["standard", "resident"])
    def test_every_loader_gets_them(self, loader, folder):
        path = folder / "train" / "ant" / "0.png"
        Image.fromarray(np.tile(DEEP, (4, 4))).save(path)
        train, _ = load_datasets("folder", folder)
        if loader == "resident":
            image = read_images(train, (32, 32))[0][0].float()
        else:
            batches = evaluation_loader(train, 9, (32, 32), (0.0,) * 3, (1.0,) * 3, torch.device("cpu"))
            image = next(iter(batches))[0][0] * 255
        assert torch.equal(
            image.round(), torch.from_numpy(np.tile(DEEP >> 8, (4, 4)).astype(np.float32)).expand(3, 32, 32)
        )

    @pytest.mark.parametrize(
        "pixels, words",
        [
            (tiff(np.ones((8, 8), np.float32), 32, format=3), "32-bit floats"),
            (tiff(np.ones((8, 8), np.int32), 32, format=2), "32-bit integers"),
            (tiff(np.ones((8, 8), np.int16), 16, format=2), "32-bit integers"),  # Pillow widens signed ones
        ],
        ids=["float", "32-bit", "signed"],
    )
    def test_pixels_without_a_range_are_refused(self, pixels, words, folder):
        path = folder / "train" / "ant" / "0.png"
        path.write_bytes(pixels)
        train, _ = load_datasets("folder", folder)
        for read in (lambda: train[0], lambda: read_images(train, (8, 8))):
            with pytest.raises(CorruptImageError, match=f"{path} .*{words}.*8 or 16 bits"):
                read()

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("source", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
    def test_other_modes_are_as_timm_reads_them(self, source, tmp_path):
        """Transparency is ignored."""
        colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 4), np.uint8))
        image = colours.convert("RGB").convert(source) if source in ("CMYK", "YCbCr") else colours.convert(source)
        kind = "tiff" if source in ("CMYK", "YCbCr") else "png"
        options = {"transparency": bytes(range(256))} if source == "P" else {}
        image.save(tmp_path / f"a.{kind}", **options)
        with Image.open(tmp_path / f"a.{kind}") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = [np.asarray(file.convert(mode)) for mode in ("L", "RGB")]
        for mode, pixels in zip(("L", "RGB"), expected):
            assert np.array_equal(np.asarray(read_image(tmp_path / f"a.{kind}", mode)), pixels)

    @pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tiff"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_is_applied(self, orientation, kind, tmp_path):
        upright = np.zeros((16, 32), np.uint8)
        upright[:8] = 200  # light above
        upright[:, :16] += 50  # and on the left
        #: how a camera stores it, by the definition of the tag: which of its sides row 0 and column 0 are
        rows_and_columns = {
            1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
            5: upright.T, 6: upright.T[::-1], 7: upright.T[::-1, ::-1], 8: upright.T[:, ::-1],
        }  # fmt: skip
        exif = Image.Exif()
        exif[274] = orientation
        options = {"quality": 95} if kind in ("jpg", "webp") else {}
        Image.fromarray(rows_and_columns[orientation]).save(tmp_path / f"a.{kind}", exif=exif, **options)
        for mode in ("L", "RGB"):
            pixels = np.asarray(read_image(tmp_path / f"a.{kind}", mode)).astype(int)
            assert pixels.shape[:2] == (16, 32)
            assert abs(pixels.reshape(16, 32, -1)[..., 0] - upright).max() < 30

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
    def test_damaged_exif_data_says_nothing(self, tmp_path):
        image = Image.fromarray(np.full((4, 8), 90, np.uint8))
        for number, exif in enumerate((b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"", b"Exif\0\0MM\0*")):
            image.save(tmp_path / f"{number}.jpg", exif=exif)
            assert read_image(tmp_path / f"{number}.jpg", "L").size == (8, 4)


def test_an_unknown_name_gets_the_nearest_one():
    fails("^dataset .*'digit'.*moving_shapes.*did you mean 'digits'", "digit")


@pytest.mark.parametrize("name", ["digits", "synthetic", "moving_shapes"])
def test_a_folder_is_refused_where_none_is_needed(name, tmp_path):
    fails(f"^data_dir .*{name!r}.*{tmp_path}.*leave it out", name, tmp_path)


class TestCifar:
    """Five training and two test images, as torchvision stores them; it checks the MD5 of every file."""

    LAYOUTS = {
        "cifar10": ("cifar-10-batches-py", "labels", {"data_batch_1": 3, "data_batch_2": 2, "test_batch": 2}),
        "cifar100": ("cifar-100-python", "fine_labels", {"train": 5, "test": 2}),
    }

    @pytest.fixture(params=["cifar10", "cifar100"])
    def cifar(self, request, tmp_path, monkeypatch):
        """The data set's name, the folder of its files, and torchvision's class."""
        kind = getattr(torchvision.datasets, request.param.upper())
        base, key, counts = self.LAYOUTS[request.param]
        contents = {kind.meta["filename"]: {kind.meta["key"]: ["plane", "car", "bird", "cat", "deer"]}}
        first = 0
        for file, count in counts.items():
            pixels = np.random.default_rng(first).integers(0, 256, (count, 3 * 32 * 32), np.uint8)
            contents[file] = {"data": pixels, key: [label % 5 for label in range(first, first + count)]}
            first += count
        (tmp_path / base).mkdir()
        sums = {}
        for file, content in contents.items():
            (tmp_path / base / file).write_bytes(pickle.dumps(content))
            sums[file] = hashlib.md5(pickle.dumps(content)).hexdigest()
        *train, test = ([file, sums[file]] for file in counts)
        monkeypatch.setattr(kind, "train_list", train)
        monkeypatch.setattr(kind, "test_list", [test])
        monkeypatch.setattr(kind, "meta", kind.meta | {"md5": sums[kind.meta["filename"]]})
        monkeypatch.setattr(kind, "download", lambda self: pytest.fail("downloads what is there"))
        return request.param, tmp_path / base, kind

    def test_pixels_and_labels(self, cifar):
        name, folder, _ = cifar
        train, test = load_datasets(name, folder.parent)
        assert (len(train), len(test)) == (5, 2) and train.channels == 3
        assert train.classes == test.classes == ("plane", "car", "bird", "cat", "deer")
        file = next(iter(self.LAYOUTS[name][2]))
        stored = pickle.loads((folder / file).read_bytes())["data"][1].reshape(3, 32, 32)
        images, targets = read_images(train, (32, 32))
        assert np.array_equal(images[1], stored)
        assert targets.tolist() == list(train.labels) == [0, 1, 2, 3, 4]

    def damage(self, name, folder):
        """A download that broke off; what makes it whole again."""
        path = folder / next(iter(self.LAYOUTS[name][2]))
        content = path.read_bytes()
        path.write_bytes(content[:100])
        return lambda: path.write_bytes(content)

    def test_damaged_files_are_downloaded(self, cifar, monkeypatch):
        name, folder, kind = cifar
        repair, timeouts, before = self.damage(name, folder), [], socket.getdefaulttimeout()
        monkeypatch.setattr(kind, "download", lambda self: (timeouts.append(socket.getdefaulttimeout()), repair()))
        train, test = load_datasets(name, folder.parent)
        assert (len(train), len(test)) == (5, 2)
        # a silent server does not hang it
        assert len(timeouts) == 1 and timeouts[0] is not None and timeouts[0] <= 60
        assert socket.getdefaulttimeout() == before

    @pytest.mark.parametrize("error", [RuntimeError("no mirror"), OSError("no route to host"), EOFError("cut off")])
    def test_a_download_that_fails(self, error, cifar, monkeypatch):
        name, folder, kind = cifar
        self.damage(name, folder)

        def download(self):
            raise error

        monkeypatch.setattr(kind, "download", download)
        before = socket.getdefaulttimeout()
        fails(f"{name} is not complete in {folder.parent} .*{error}", name, folder.parent, OSError)
        assert socket.getdefaulttimeout() == before

    def test_not_downloading(self, cifar):
        name, folder, _ = cifar
        self.damage(name, folder)
        fails("is not complete", name, folder.parent, OSError, download=False)

    def test_the_archive_in_parts(self, cifar, tmp_path):
        name, folder, _ = cifar
        expected = [part.fingerprint() for part in load_datasets(name, folder.parent)]
        archives = tmp_path / "archives"
        archives.mkdir()
        with tarfile.open(tmp_path / "whole", "w:gz") as file:
            file.add(folder, folder.name)
        content = (tmp_path / "whole").read_bytes()
        for part, at in zip(("aa", "ab", "ac"), range(0, 3000, 1000)):
            place = archives / f"{folder.name.rpartition('-')[0]}-python.tar.gz.{part}"
            place.write_bytes(content[at:][: 1000 if part < "ac" else None])
        before = contents(archives)
        assert [part.fingerprint() for part in load_datasets(name, archives, download=False)] == expected
        assert contents(archives) == before
        place.unlink()
        fails("python.tar.gz is damaged or incomplete.*copy", name, archives, OSError, download=False)


class TestZippedImages:
    """An image folder in zip archives is what it is unpacked."""

    @pytest.fixture
    def zipped(self, folder, tmp_path):
        """Two archives, one of them in two parts, beside those of another data set; the folder that they hold."""
        archives = tmp_path / "archives"
        archives.mkdir()
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        for name, own in (("cifar10-0", files[::2]), ("cifar10-1", files[1::2]), ("cifar100-0", files)):
            with zipfile.ZipFile(archives / f"{name}.zip", "w") as file:
                for path in own:
                    file.write(path, f"top/{path.relative_to(folder)}")
        content = (archives / "cifar10-1.zip").read_bytes()
        (archives / "cifar10-1.zip").unlink()
        for part, half in (("000", content[:500]), ("001", content[500:])):
            (archives / f"cifar10-1.zip.{part}").write_bytes(half)
        return archives, folder

    @pytest.mark.parametrize("threads", [1, 2])
    def test_they_are_the_images_of_the_folder(self, zipped, threads, monkeypatch):
        archives, folder = zipped
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        monkeypatch.setattr("gac_sj.data.archives._CHUNK", 2)
        for ours, theirs in zip(load_datasets("cifar10", archives, download=False), load_datasets("cifar10", folder)):
            assert (ours.classes, ours.labels) == (theirs.classes, theirs.labels)
            assert torch.equal(read_images(ours, (8, 8))[0], read_images(theirs, (8, 8))[0])

    def test_what_is_missing_or_damaged_is_named(self, zipped):
        archives, _ = zipped
        (archives / "cifar10-1.zip.000").rename(archives / "elsewhere")
        fails("cifar10-1.zip.* is damaged or incomplete", "cifar10", archives, OSError)
        (archives / "cifar10-1.zip.001").unlink()
        with zipfile.ZipFile(archives / "cifar10-0.zip", "w") as file:
            file.writestr("train/ant/0.png", b"no image")
        fails("ant/0.png is damaged", "cifar10", archives, OSError)
        with zipfile.ZipFile(archives / "cifar10-0.zip", "w"):
            pass
        fails("cifar10 is not complete in the archives cifar10-0.zip in .*train/<class>", "cifar10", archives)


class TestGenerated:
    @pytest.mark.medium
    def test_images_are_fixed_and_differ(self):
        first, again = (
            torch.cat(
                [
                    read_images(part, (8, 8))[0]
                    for part in generate_images(replace(dataset_info("synthetic"), size=(8, 8)))
                ]
            )
            for _ in range(2)
        )
        assert torch.equal(first, again) and first.shape == (256 + 64, 3, 8, 8)
        assert len(first.flatten(1).unique(dim=0)) == len(first)

    def test_every_class_is_there(self):
        info = DatasetInfo("grey", mean=(0.5,), std=(0.5,), classes=300, size=(16, 16))
        train, test = generate_images(info)
        for part in (train, test):
            assert set(part.labels) == set(range(300)) and len(part.classes) == 300
        image, label = test[7]
        assert image.size == (16, 16) and image.mode == "L" and label == 7 and test.channels == 1

    def test_reading_draws_nothing(self):
        state = torch.get_rng_state()
        load_datasets("synthetic")[0][3]
        assert torch.equal(torch.get_rng_state(), state)


class Numbers(torch.utils.data.Dataset):
    """Items that are their number."""

    def __init__(self, targets):
        self.targets = targets

    def __getitem__(self, item):
        return item, self.targets[item]


class TestBalanced:
    def dataset(self, counts):
        targets = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], counts)).tolist()
        return DataSet(Numbers(targets), tuple(targets), ("ant", "cat", "dog"), DATASETS["folder"])

    def items(self, dataset):
        return [dataset[place][0] for place in range(len(dataset))]

    @pytest.mark.parametrize(
        "limit, expected", [(6, [2, 2, 2]), (7, [3, 2, 2]), (8, [3, 3, 2]), (2, [1, 1, 0]), (15, [5, 5, 5])]
    )
    def test_classes_differ_by_one_image_at_most(self, limit, expected):
        part = self.dataset([9, 5, 7]).balanced(limit)
        assert len(part) == limit and part.classes == ("ant", "cat", "dog")
        assert [labels(part).count(label) for label in range(3)] == expected

    def test_images_keep_their_labels_and_are_not_repeated(self):
        whole = self.dataset([9, 5, 7])
        part = whole.balanced(10)
        assert labels(part) == [whole.labels[item] for item in self.items(part)]
        assert len(set(self.items(part))) == 10

    def test_always_the_same_images(self):
        whole = self.dataset([9, 5, 7])
        first = whole.balanced(10)
        np.random.seed(1)  # noqa: NPY002 - the global state is what must not matter
        assert self.items(first) == self.items(whole.balanced(10))

    def test_a_larger_part_contains_a_smaller_one(self):
        whole = self.dataset([9, 5, 7])
        assert set(self.items(whole.balanced(6))) < set(self.items(whole.balanced(11)))

    def test_a_part_of_a_part(self):
        whole = self.dataset([9, 5, 7])
        assert self.items(whole.balanced(11).balanced(6)) == self.items(whole.balanced(6))

    def test_too_few_images_of_a_class(self):
        for whole in (self.dataset([9, 5, 7]), self.dataset([9, 9, 9]).balanced(16)):
            with pytest.raises(ValueError, match=r"18 .* 6 .*'cat', .* 5;.*fewer\.$"):
                whole.balanced(18)


class TestItems:
    def test_iteration_ends(self):
        """An item beyond the last is no corrupt image."""
        for dataset in (load_datasets("digits")[1], load_datasets("digits")[1].balanced(20)):
            assert len(list(dataset)) == len(dataset)
            with pytest.raises(IndexError):
                dataset[len(dataset)]

    def test_a_set_can_be_sent_to_a_process(self, folder):
        """Where workers are not forked."""
        for dataset in (load_datasets("digits")[0].balanced(10), *load_datasets("folder", folder)):
            again = pickle.loads(pickle.dumps(dataset))
            assert labels(again) == labels(dataset) and again[3][0].tobytes() == dataset[3][0].tobytes()


class TestFingerprint:
    @pytest.mark.parametrize(
        "name, expected", [("digits", "531ad2cf37185ef691eaf917"), ("moving_shapes", "6920846037e9f42aac7dbdba")]
    )
    def test_rows_keep_their_key(self, name, expected):
        """The column ``data`` of the checked-in rows."""
        assert "".join(part.fingerprint() for part in load_datasets(name)) == expected

    def test_of_pixels_and_limit(self):
        train, test = load_datasets("digits")
        changed = load_datasets("digits")[0]
        changed.source.data[700, 3, 3] ^= 1
        prints = [part.fingerprint() for part in (train, test, changed, train.balanced(100), train.balanced(110))]
        assert len(set(prints)) == 5 and {len(text) for text in prints} == {12}
        assert load_datasets("digits")[0].fingerprint() == prints[0]

    def test_of_labels_and_classes(self):
        train, _ = load_datasets("digits")
        relabelled = replace(train, labels=(train.labels[1], train.labels[0], *train.labels[2:]))
        renamed = replace(train, classes=("zero", *train.classes[1:]))
        assert len({part.fingerprint() for part in (train, relabelled, renamed)}) == 3

    def test_of_files(self, folder):
        def fingerprint():
            return load_datasets("folder", folder)[0].fingerprint()

        prints = [fingerprint()]
        elsewhere = folder.rename(folder.parent / "moved")  # where it lies does not matter
        assert load_datasets("folder", elsewhere)[0].fingerprint() == prints[0]
        elsewhere.rename(folder)
        path = folder / "train" / "cat" / "1.png"
        path.rename(path.with_name("1b.png"))
        prints.append(fingerprint())
        path.with_name("1b.png").rename(path)
        write_image(path, (31, 33))
        prints.append(fingerprint())
        write_image(folder / "train" / "cat" / "3.png")
        prints.append(fingerprint())
        assert len(set(prints)) == 4


def write_events(path: Path, count: int, seed: int):
    """``count`` events, 300 of them at one pixel: more than a byte holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    place = np.where(np.arange(count) < 300, 5, rng.integers(0, 128, (2, count)))
    np.savez(
        path, t=np.arange(count) ** 2, x=place[0], y=place[1], p=np.where(np.arange(count) < 300, 1, place.sum(0) % 2)
    )


class TestEvents:
    """Recordings as SpikingJelly has them after unpacking: ``events_np/.../*.npz`` with t, x, y and p."""

    @pytest.fixture
    def gesture(self, tmp_path):
        for split, count in (("train", 3), ("test", 1)):
            for label in (0, 1):
                for number in range(count):
                    file = f"{split}/{label}/user0{number}_led_{number}.npz"
                    write_events(tmp_path / "events_np" / file, 1201 + number, seed=10 * label + number)
        return tmp_path

    @pytest.fixture
    def cifar(self, tmp_path):
        for label, count in (("bird", 10), ("cat", 30)):
            for number in range(count):
                write_events(tmp_path / "events_np" / label / f"cifar10_{label}_{number}.npz", 320, seed=number)
        return tmp_path

    @pytest.mark.medium
    def test_gesture(self, gesture):
        train, test = load_datasets("dvs128_gesture", gesture, T=4)
        assert train.is_events and train.channels == 2 and train.classes == test.classes == ("0", "1")
        assert labels(train) == list(train.labels) == [0, 0, 0, 1, 1, 1] and labels(test) == [0, 1]
        for number, (frames, _) in enumerate(train):
            events = 1201 + number % 3
            assert frames.shape == (4, 2, 128, 128)
            # equally many events a frame; what is left over goes to the last
            assert frames.sum((1, 2, 3)).tolist() == [300, 300, 300, events - 900]
            assert frames[0, 1, 5, 5] == 300

    def test_the_number_of_frames(self, gesture):
        assert load_datasets("dvs128_gesture", gesture, T=6)[1][0][0].shape == (6, 2, 128, 128)

    def test_the_first_tenth_of_cifar10_dvs_is_the_test_set(self, cifar):
        """As in SpikingJelly's CIFAR10DVSTEBNSplit, which counts: 2 comes before 10."""
        train, test = load_datasets("cifar10_dvs", cifar, T=4)

        def names(part):
            return [Path(part.files[place]).stem for place in part.index]

        assert sorted(names(test)) == sorted(["cifar10_bird_0", "cifar10_cat_0", "cifar10_cat_1", "cifar10_cat_2"])
        assert len(train) == 36 and not set(names(train)) & set(names(test))
        assert labels(test) == [("bird", "cat").index(name.split("_")[1]) for name in names(test)]

    def test_an_unreadable_recording(self, gesture):
        train, _ = load_datasets("dvs128_gesture", gesture, T=4)
        path = Path(train.files[4])
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(CorruptImageError, match=f"{path} cannot be read"):
            train[4]

    def test_not_for_the_resident_loader(self, gesture):
        with pytest.raises(ValueError, match=r"^loader .*dvs128_gesture.*use loader=standard\.$"):
            read_images(load_datasets("dvs128_gesture", gesture, T=4)[0], (32, 32))

    def test_a_folder_without_recordings(self, tmp_path):
        fails(f"cannot prepare dvs128_gesture in {tmp_path} ", "dvs128_gesture", tmp_path, OSError)


class TestTorchaudio:
    """SpikingJelly 2.0.0 imports it for speech, and it refuses releases of torch that it was not built for."""

    @pytest.fixture
    def refusing(self, tmp_path, monkeypatch):
        (tmp_path / "torchaudio").mkdir()
        (tmp_path / "torchaudio" / "__init__.py").write_text("raise RuntimeError('built for another torch')")
        monkeypatch.syspath_prepend(tmp_path)
        for name in list(sys.modules):
            if name.split(".")[0] == "torchaudio" or name.startswith("spikingjelly.datasets"):
                monkeypatch.delitem(sys.modules, name)

    @pytest.mark.parametrize("name", ["DVS128Gesture", "CIFAR10DVS"])
    def test_event_sets_are_read_without_it(self, name, refusing):
        module = datasets_module({"DVS128Gesture": "dvs128_gesture", "CIFAR10DVS": "cifar10_dvs"}[name])
        assert getattr(module, name).__module__ == module.__name__
        assert "torchaudio" not in sys.modules

    def test_a_module_that_is_not_there(self, refusing):
        with pytest.raises(ModuleNotFoundError, match="nothing"):
            datasets_module("nothing")
        assert "torchaudio" not in sys.modules
