"""Image sets: digits, CIFAR through torchvision, image folders, class-balanced parts."""

import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from gac_sj.data import DATASETS, ImageSet, image_sets, load_image_sets


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


def fails(message, name, root=None, error=ValueError):
    """One sentence that contains ``message``."""
    with pytest.raises(error, match=message) as caught:
        load_image_sets(name, root)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


class TestDigits:
    def test_images(self):
        train, test = load_image_sets("digits")
        for part, size in ((train, 1437), (test, 360)):
            assert part.images.shape == (size, 1, 8, 8) and part.images.dtype == torch.uint8
            assert part.labels.shape == (size,) and part.labels.dtype == torch.int64
            assert part.classes == tuple("0123456789") and len(part) == size
            assert (part.images.min(), part.images.max()) == (0, 255)

    def test_the_parts_are_the_whole_and_keep_labels_with_images(self):
        digits = load_digits()
        whole = np.column_stack([np.round(digits.images.reshape(-1, 64) * 255 / 16), digits.target])
        parts = np.concatenate(
            [np.column_stack([part.images.flatten(1), part.labels]) for part in load_image_sets("digits")]
        )
        assert np.array_equal(parts[np.lexsort(parts.T)], whole[np.lexsort(whole.T)])

    def test_every_class_gives_a_fifth_to_the_test_set(self):
        train, test = (torch.bincount(part.labels, minlength=10) for part in load_image_sets("digits"))
        assert ((test - (train + test) / 5).abs() <= 1).all()

    def test_the_split_is_fixed(self):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - the global state is what must not matter
        first = load_image_sets("digits")
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002
        for ours, again in zip(first, load_image_sets("digits")):
            assert torch.equal(ours.images, again.images) and torch.equal(ours.labels, again.labels)

    def test_mean_and_deviation(self):
        pixels = load_image_sets("digits")[0].images.double() / 255
        (mean,), (std,) = DATASETS["digits"]
        assert pixels.mean().item() == pytest.approx(mean, abs=5e-4)
        assert pixels.std().item() == pytest.approx(std, abs=5e-4)


class TestImageFolder:
    def test_classes_and_sizes(self, folder):
        train, test = load_image_sets("folder", folder)
        assert train.classes == test.classes == ("ant", "cat", "dog")
        assert train.images.shape == (9, 3, 32, 32) and train.images.dtype == torch.uint8
        assert test.images.shape == (6, 3, 32, 32)
        assert train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert test.labels.tolist() == [0, 0, 1, 1, 2, 2]

    def test_pixels_are_those_of_the_file(self, folder):
        train, _ = load_image_sets("folder", folder)
        with Image.open(folder / "train" / "cat" / "2.png") as image:
            assert torch.equal(train.images[5], torch.from_numpy(np.array(image)).permute(2, 0, 1))

    def test_grey_becomes_rgb(self, folder):
        path = folder / "test" / "ant" / "0.png"
        write_image(path, mode="L")
        image = load_image_sets("folder", folder)[1].images[0]
        with Image.open(path) as grey:
            assert torch.equal(image, torch.from_numpy(np.array(grey)).expand(3, 32, 32))

    def test_other_sizes_are_scaled_and_cropped_at_the_centre(self, folder):
        path = folder / "train" / "ant" / "0.png"
        stripes = np.zeros((64, 128, 3), np.uint8)  # the centre, 32 of 64 columns when scaled, is white
        stripes[:, 32:96] = 255
        Image.fromarray(stripes).save(path)
        write_image(folder / "train" / "ant" / "1.png", (20, 17))
        train, _ = load_image_sets("folder", folder)
        assert train.images.shape == (9, 3, 32, 32)
        assert (train.images[0, :, :, 2:-2] == 255).all() and train.images[0].float().mean() > 240

    def test_image_size(self, folder):
        assert load_image_sets("folder", folder, image_size=16)[0].images.shape == (9, 3, 16, 16)

    @pytest.mark.parametrize("name", ["cifar10", "cifar100"])
    def test_cifar_as_an_image_folder(self, name, folder):
        assert load_image_sets(name, folder)[0].classes == ("ant", "cat", "dog")

    @pytest.mark.parametrize("name", ["folder", "cifar10"])
    @pytest.mark.parametrize("missing", ["train", "test"])
    def test_half_of_a_folder(self, name, missing, folder):
        (folder / missing).rename(folder.parent / "elsewhere")
        fails(f"images is not whole .*{missing}", name, folder)

    def test_a_split_without_classes(self, folder):
        (folder / "train").rename(folder.parent / "elsewhere")
        (folder / "train").mkdir()
        fails("images is not whole", "folder", folder)

    def test_an_empty_class(self, folder):
        (folder / "train" / "emu").mkdir()
        fails("images is not whole .*emu", "folder", folder)

    @pytest.mark.parametrize("split", ["train", "test"])
    def test_a_class_in_one_split_only(self, split, folder):
        write_image(folder / split / "emu" / "0.png")
        fails("only .*emu", "folder", folder)

    def test_a_truncated_image(self, folder):
        path = folder / "train" / "cat" / "1.png"
        path.write_bytes(path.read_bytes()[:1000])
        fails(f"{path} cannot be read", "folder", folder)

    def test_a_file_that_is_no_image(self, folder):
        path = folder / "train" / "cat" / "1.png"
        path.write_text("not found")
        fails(f"{path} cannot be read", "folder", folder)

    def test_an_empty_folder(self, tmp_path):
        fails("is not whole", "folder", tmp_path)

    def test_a_folder_that_does_not_exist(self, tmp_path):
        fails("nowhere is not whole", "folder", tmp_path / "nowhere")

    def test_a_file_in_place_of_the_folder(self, tmp_path):
        (tmp_path / "images").write_text("")
        fails("images is not whole", "folder", tmp_path / "images")

    def test_no_folder_given(self):
        fails("'folder' needs --data-dir", "folder")


def test_unknown_name():
    fails("'mnist' does not exist", "mnist")


class TestCifar:
    """torchvision checks the files' MD5, so that a stand-in for its class plays the download."""

    @pytest.fixture
    def cifar(self, monkeypatch):
        class CIFAR10:
            present, error = True, None
            constructed: list = []

            def __init__(self, root, train=True, download=False):
                CIFAR10.constructed.append((Path(root), train, download))
                if download:
                    CIFAR10.timeout = socket.getdefaulttimeout()
                    if CIFAR10.error is not None:
                        raise CIFAR10.error
                    CIFAR10.present = True
                if not CIFAR10.present:
                    raise RuntimeError("Dataset not found or corrupted. You can use download=True to download it")
                count = 5 if train else 2
                self.data = np.random.default_rng(train).integers(0, 256, (count, 32, 32, 3), np.uint8)
                self.targets = list(range(count))
                self.classes = ["plane", "car", "bird", "cat", "deer"]

        monkeypatch.setattr(image_sets.datasets, "CIFAR10", CIFAR10)
        return CIFAR10

    def test_channels_come_first(self, cifar, tmp_path):
        train, test = load_image_sets("cifar10", tmp_path)
        assert train.images.shape == (5, 3, 32, 32) and test.images.shape == (2, 3, 32, 32)
        data = torch.from_numpy(cifar(tmp_path).data)
        assert torch.equal(train.images[:, 1], data[..., 1])
        assert train.labels.tolist() == [0, 1, 2, 3, 4] and train.classes[4] == "deer"

    def test_what_is_there_is_not_downloaded(self, cifar, tmp_path):
        load_image_sets("cifar10", tmp_path)
        assert cifar.constructed == [(tmp_path, True, False), (tmp_path, False, False)]

    def test_what_is_missing_is_downloaded(self, cifar, tmp_path):
        cifar.present = False
        train, test = load_image_sets("cifar10", tmp_path)
        assert cifar.constructed == [(tmp_path, True, False), (tmp_path, True, True), (tmp_path, False, False)]
        assert len(train) == 5 and len(test) == 2

    def test_a_silent_server_does_not_hang_the_download(self, cifar, tmp_path):
        cifar.present = False
        before = socket.getdefaulttimeout()
        load_image_sets("cifar10", tmp_path)
        assert cifar.timeout is not None and cifar.timeout <= 60
        assert socket.getdefaulttimeout() == before

    @pytest.mark.parametrize("error", [RuntimeError("no mirror"), OSError("no route to host"), EOFError("cut off")])
    def test_a_download_that_fails(self, error, cifar, tmp_path):
        cifar.present, cifar.error = False, error
        before = socket.getdefaulttimeout()
        fails(f"cifar10 is not whole in {tmp_path} .*{error}.*--data-dir", "cifar10", tmp_path, OSError)
        assert socket.getdefaulttimeout() == before


class TestBalanced:
    def image_set(self, counts):
        labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
        labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
        images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1)
        return ImageSet(images, labels, ("ant", "cat", "dog"))

    @pytest.mark.parametrize(
        "limit, expected", [(6, [2, 2, 2]), (7, [3, 2, 2]), (8, [3, 3, 2]), (2, [1, 1, 0]), (15, [5, 5, 5])]
    )
    def test_classes_differ_by_one_image_at_most(self, limit, expected):
        part = self.image_set([9, 5, 7]).balanced(limit)
        assert len(part) == len(part.images) == limit and part.classes == ("ant", "cat", "dog")
        assert torch.bincount(part.labels, minlength=3).tolist() == expected

    def test_images_keep_their_labels_and_are_not_repeated(self):
        whole = self.image_set([9, 5, 7])
        part = whole.balanced(10)
        numbers = part.images.flatten().long()
        assert torch.equal(part.labels, whole.labels[numbers])
        assert len(numbers.unique()) == 10

    def test_always_the_same_images(self):
        whole = self.image_set([9, 5, 7])
        torch.manual_seed(0)
        first = whole.balanced(10)
        torch.manual_seed(1)
        assert torch.equal(first.images, whole.balanced(10).images)

    def test_a_larger_part_contains_a_smaller_one(self):
        whole = self.image_set([9, 5, 7])
        small, large = (set(whole.balanced(limit).images.flatten().tolist()) for limit in (6, 11))
        assert small < large

    def test_too_few_images_of_a_class(self):
        with pytest.raises(ValueError, match=r"18 training images need 6 of the class 'cat', which has 5;.*fewer\.$"):
            self.image_set([9, 5, 7]).balanced(18)
