"""Augmentation: crop, flip and cutout of both loaders, timm's policies, erasing, MixUp and CutMix, frames of events."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import one_hot, pad

from gac_sj._utils.randomness import seeded
from gac_sj.data import (
    DATASETS,
    Augmentation,
    BatchAugmentation,
    DataSet,
    ResidentTrainingLoader,
    evaluation_loader,
    load_datasets,
    read_images,
    train_transform,
    training_loader,
)
from gac_sj.training.build import Data
from gac_sj.training.distributed import DistributedContext
from gac_sj.training.settings import Settings

pytestmark = pytest.mark.one_release

CPU = torch.device("cpu")
PLAIN = dict(crop="none", hflip=0.0)


@pytest.fixture(autouse=True)
def always_the_same_draws():
    with seeded("tests"):
        yield


class Pictures(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __getitem__(self, item):
        return Image.fromarray(self.images[item]), item


def pictures(count, side=12, value=None):
    """Noise, or all of one value; each image is its own class."""
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    if value is not None:
        images[:] = value
    return DataSet(Pictures(images), tuple(range(count)), tuple(map(str, range(count))), DATASETS["folder"])


def standard(dataset, how, size=(12, 12), mean=(0.0,) * 3, std=(1 / 255,) * 3, batch=50, seed=0, **options):
    transform = train_transform(how, size, mean)
    return training_loader(dataset, batch, transform, mean, std, CPU, seed, repeats=how.repeats, **options)


def resident(dataset, how, size=(12, 12), mean=(0.0,) * 3, std=(1 / 255,) * 3, batch=50, seed=0):
    return ResidentTrainingLoader(*read_images(dataset, size), batch, mean, std, CPU, how, seed)


def epoch(loader, number=0):
    """All images and labels; with the mean and deviation above, as bytes."""
    loader.set_epoch(number)
    images, labels = zip(*((images.clone(), labels) for images, labels in loader))
    return torch.cat(images), torch.cat(labels)


both = pytest.mark.parametrize("load", [standard, resident])


def chi_square(counts):
    expected = counts.sum() / counts.numel()
    return ((counts - expected) ** 2 / expected).sum().item()


class TestCropAndFlip:
    def find(self, loader, dataset, padding):
        """For every image of an epoch the crop (dy, dx) of its zero-padded original, and whether it is mirrored."""
        originals, _ = read_images(dataset, (12, 12))
        found = []
        for image, item in zip(*epoch(loader)):
            windows = pad(originals[item], [padding] * 4).unfold(1, 12, 1).unfold(2, 12, 1)
            windows = torch.stack([windows, windows.flip(-1)])  # [flip, C, dy, dx, H, W]
            hits = (windows == image[None, :, None, None]).all(-1).all(-1).all(1).nonzero()
            assert len(hits) == 1, "no crop of the padded image"
            found.append(hits[0])
        return torch.stack(found).roll(-1, 1)

    @pytest.mark.medium
    @both
    def test_every_crop_is_as_likely(self, load):
        dataset = pictures(1000)
        dy, dx, flip = self.find(load(dataset, Augmentation(crop_padding=2, hflip=0.3)), dataset, 2).unbind(1)
        # 24 degrees of freedom: above 51 in one of a thousand seeds
        assert chi_square(torch.bincount(5 * dy + dx, minlength=25).double()) < 51
        assert abs(flip.double().mean() - 0.3) < 4 * (0.3 * 0.7 / 1000) ** 0.5
        assert abs(np.corrcoef(flip, dx)[0, 1]) < 0.13 and abs(np.corrcoef(flip, dy)[0, 1]) < 0.13

    @both
    @pytest.mark.parametrize("flip", [0.0, 1.0])
    def test_without_padding(self, load, flip):
        dataset = pictures(50)
        for how in (Augmentation(crop_padding=0, hflip=flip), Augmentation(crop="none", hflip=flip)):
            assert self.find(load(dataset, how), dataset, 0).tolist() == [[0, 0, int(flip)]] * 50

    @both
    def test_visible_part_of_a_white_image(self, load):
        """With 2 pixels around it, the outermost row and column are there in three of five crops, the next in four."""
        images, _ = epoch(load(pictures(2000, value=255), Augmentation(crop_padding=2)))
        assert images.unique().tolist() == [0, 255]
        edge = torch.tensor([0.6, 0.8] + [1.0] * 8 + [0.8, 0.6])
        expected = edge[:, None] * edge
        error = (images.mean(0) / 255 - expected).abs()
        assert (error <= 5 * (expected * (1 - expected) / 2000).sqrt() + 1e-6).all()

    @pytest.mark.medium
    def test_both_loaders_have_the_same_statistics(self):
        """Mean and variance of every pixel of the digits, in bounds of 5 standard deviations."""
        dataset, how = load_datasets("digits")[0], Augmentation(crop_padding=1, hflip=0.5, cutout=2)
        place = dict(size=(8, 8), mean=(0.3053,), std=(0.376,))
        ours, theirs = (epoch(load(dataset, how, **place))[0].double() for load in (resident, standard))
        cut = BatchAugmentation(how, 10, (8, 8), CPU)
        theirs, _ = cut(theirs, torch.zeros(len(theirs), dtype=torch.long), 0)
        count = len(ours)
        assert count == len(theirs) == 1400
        spread = theirs.var(0)
        assert ((ours.mean(0) - theirs.mean(0)).abs() < 5 * (2 * spread / count).sqrt()).all()
        fourth = (theirs - theirs.mean(0)).pow(4).mean(0)
        assert ((ours.var(0) - spread).abs() < 5 * (2 * (fourth - spread**2) / count).sqrt()).all()

    def test_nothing_to_do(self):
        """Both loaders give the normalised images, bit by bit, in the same order."""
        dataset, how = pictures(100), Augmentation(**PLAIN)
        # CIFAR-10's: one of these deviations times 255 is another number in single precision
        mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
        for number in (0, 3):
            ours, theirs = (epoch(load(dataset, how, mean=mean, std=std), number) for load in (resident, standard))
            assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
        originals = read_images(dataset, (12, 12))[0][ours[1]].double() / 255
        expected = (originals - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        assert torch.allclose(ours[0].double(), expected, atol=1e-5)


class TestCutout:
    def cut(self, load, dataset, how, size):
        images, labels = epoch(load(dataset, how, size, mean=(0.3,) * 3, std=(0.2,) * 3))
        augment = BatchAugmentation(how, 10, size, CPU, cutout=load is standard)
        return augment(images, labels % 10, 0)[0]

    @pytest.mark.medium
    @both
    def test_a_square_of_mean_colour_inside_the_image(self, load):
        images = self.cut(load, pictures(1000, value=200), Augmentation(**PLAIN, cutout=5), (12, 12))
        gone = images == 0
        assert (gone.sum((1, 2, 3)) == 3 * 25).all()
        corners = []
        for mask in gone:
            rows, columns = (mask.any(0).any(1 - side).nonzero().flatten() for side in (0, 1))
            assert len(rows) == len(columns) == 5
            assert mask[:, rows[0] : rows[0] + 5, columns[0] : columns[0] + 5].all()
            corners.append(8 * rows[0] + columns[0])
        # 8 positions each way; 63 degrees of freedom: above 103 in one of a thousand seeds
        assert chi_square(torch.bincount(torch.stack(corners), minlength=64).double()) < 103
        assert (images[~gone] == images[~gone][0]).all() and images[~gone][0] != 0

    def test_not_again_after_the_resident_loader(self):
        augment = BatchAugmentation(Augmentation(cutout=5), 10, (12, 12), CPU, cutout=False)
        images = torch.ones(8, 3, 12, 12)
        assert torch.equal(augment(images.clone(), torch.arange(8), 0)[0], images) and not augment.is_random

    @pytest.mark.parametrize("cutout", [12, 13])
    def test_larger_than_the_image(self, cutout):
        for here in (True, False):
            with pytest.raises(ValueError, match=rf"^cutout .*12 x 16 .*{cutout}\.$"):
                BatchAugmentation(Augmentation(cutout=cutout), 10, (12, 16), CPU, cutout=here)


class TestErasing:
    @pytest.mark.parametrize("probability", [0.25, 1.0])
    @pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
    def test_probability_and_mode(self, probability, mode):
        how = Augmentation(random_erasing=probability, erasing_mode=mode)
        augment = BatchAugmentation(how, 10, (16, 16), CPU)
        assert augment.is_random
        images = torch.full((1000, 3, 16, 16), 7.0)
        images, _ = augment(images, torch.zeros(1000, dtype=torch.long), 0)
        erased = (images != 7).flatten(1).any(1)
        assert abs(erased.double().mean() - probability) <= 4 * (probability * (1 - probability) / 1000) ** 0.5
        values = [len(image[image != 7].unique()) for image in images[erased]]
        if mode == "const":
            assert images.unique().tolist() == [0, 7]
        elif mode == "rand":  # a colour
            assert set(values) == {3}
        else:
            assert all(count == (image != 7).sum() for count, image in zip(values, images[erased]))


class TestMixing:
    """Eight images, one of each class; image i is mixed with image 7 - i."""

    def mix(self, augment, number=0):
        """Which mixing a batch got, "none", "mixup" or "cutmix", and the images' own part."""
        images, labels = torch.rand(8, 3, 16, 16), torch.arange(8)
        mixed, soft = augment(images.clone(), labels, number)
        part = soft[0, 0].item()
        own, other = one_hot(labels, 8).float(), one_hot(labels.flip(0), 8).float()
        assert torch.allclose(soft, part * own + (1 - part) * other, atol=1e-6)
        assert torch.allclose(soft.sum(1), torch.ones(8))
        if torch.equal(mixed, images):
            assert part == pytest.approx(1, abs=1e-6)
            return "none", part
        if torch.allclose(mixed, part * images + (1 - part) * images.flip(0), atol=1e-6):
            return "mixup", part
        kept = (mixed == images).all(1)
        assert torch.equal(mixed, torch.where(kept[:, None], images, images.flip(0)))
        assert (kept == kept[0]).all() and kept[0].double().mean().item() == pytest.approx(part, abs=1e-6)
        rows, columns = ((~kept[0]).any(1 - side).sum() for side in (0, 1))
        assert rows * columns == (~kept[0]).sum()
        return "cutmix", part

    def epoch(self, count, number=0, **how):
        augment = BatchAugmentation(Augmentation(**how), 8, (16, 16), CPU)
        assert augment.is_random
        kinds, parts = zip(*(self.mix(augment, number) for _ in range(count)))
        return list(kinds), np.array(parts)

    def test_each_batch_draws_anew(self):
        kinds, parts = self.epoch(200, mixup=0.8, cutmix=1.0, mix_switch=0.3)
        assert kinds.count("mixup") + kinds.count("cutmix") >= 195
        assert abs(kinds.count("cutmix") / 200 - 0.3) < 4 * (0.3 * 0.7 / 200) ** 0.5
        mixup = parts[[kind == "mixup" for kind in kinds]]
        assert len(np.unique(mixup)) == len(mixup)
        assert len(np.unique(parts[[kind == "cutmix" for kind in kinds]])) > 20  # whole pixels

    @pytest.mark.medium
    def test_each_has_its_alpha(self):
        """The own part is Beta distributed: its variance is 1 / (8 alpha + 4)."""
        kinds, parts = self.epoch(600, mixup=0.2, cutmix=50.0)
        mixup = parts[[kind == "mixup" for kind in kinds]]
        assert mixup.var() == pytest.approx(1 / 5.6, rel=0.2) and mixup.mean() == pytest.approx(0.5, abs=0.1)
        # near one half of the area, less where the edge cuts it
        assert parts[[kind == "cutmix" for kind in kinds]].min() > 0.4

    @pytest.mark.parametrize("how, kind", [({"mixup": 1.0}, "mixup"), ({"cutmix": 1.0}, "cutmix")])
    def test_one_alone(self, how, kind):
        assert set(self.epoch(30, **how)[0]) <= {kind, "none"} and kind in self.epoch(30, **how)[0]

    @pytest.mark.parametrize("switch, kind", [(0.0, "mixup"), (1.0, "cutmix")])
    def test_switch(self, switch, kind):
        kinds, _ = self.epoch(30, mixup=1.0, cutmix=1.0, mix_switch=switch)
        assert set(kinds) <= {kind, "none"} and kind in kinds

    def test_probability(self):
        kinds, _ = self.epoch(300, mixup=1.0, mix_probability=0.3)
        assert abs(kinds.count("mixup") / 300 - 0.3) < 4 * (0.3 * 0.7 / 300) ** 0.5
        assert set(self.epoch(20, mixup=1.0, mix_probability=0.0)[0]) == {"none"}

    def test_off_after_some_epochs(self):
        for number in range(4):
            kinds, _ = self.epoch(10, number, mixup=1.0, mix_off_epoch=2)
            assert set(kinds) == ({"mixup"} if number < 2 else {"none"})
        assert set(self.epoch(10, 1000, mixup=1.0)[0]) == {"mixup"}

    def test_label_smoothing(self):
        labels, images = torch.tensor([1, 0, 3, 2]), torch.rand(4, 3, 16, 16)
        augment = BatchAugmentation(Augmentation(label_smoothing=0.2), 4, (16, 16), CPU)
        # 0.2 spread over four classes: 0.05 each, 0.8 more for the right one
        smooth = torch.tensor([[0.05, 0.85, 0.05, 0.05], [0.85, 0.05, 0.05, 0.05]])
        same, soft = augment(images.clone(), labels, 0)
        assert torch.equal(same, images) and torch.allclose(soft[:2], smooth) and not augment.is_random
        augment = BatchAugmentation(Augmentation(label_smoothing=0.2, mixup=1.0), 4, (16, 16), CPU)
        _, soft = augment(images.clone(), labels, 0)
        part = (soft[0, 1] - 0.05) / 0.8
        assert 0 < part < 1 and torch.allclose(soft.sum(1), torch.ones(4))
        # images 0 and 3 are mixed: classes 1 and 2
        assert torch.allclose(soft[0], torch.tensor([0.05, 0.05 + 0.8 * part, 0.05 + 0.8 * (1 - part), 0.05]))

    def test_labels_alone(self):
        _, soft = BatchAugmentation(Augmentation(), 5, (16, 16), CPU)(
            torch.rand(3, 3, 16, 16), torch.tensor([4, 0, 2]), 0
        )
        assert torch.equal(soft, one_hot(torch.tensor([4, 0, 2]), 5).float())

    @pytest.mark.parametrize("how", [{"mixup": 0.2}, {"cutmix": 1.0}])
    def test_odd_batches(self, how):
        with pytest.raises(ValueError, match=r"^batch_size .*even.* 63\.$"):
            Settings(batch_size=63, **how)
        Settings(batch_size=63)
        settings, (train, test) = Settings(batch_size=6, dataset="digits", **how), load_datasets("digits")
        with pytest.raises(ValueError, match=r"^batch_size .*even.* 3\.$"):
            Data(train, test, (8, 8)).training(settings, None, DistributedContext(0, 2, CPU))


class TestSingleImages:
    def many(self, how, image, size=(24, 24), count=40):
        transform = train_transform(how, size, (0.5,) * len(image.getbands()))
        return torch.stack([transform(image) for _ in range(count)])

    def picture(self, width=24, height=24):
        return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))

    @pytest.mark.parametrize("crop", ["pad", "resize", "none"])
    @pytest.mark.parametrize("width, height", [(24, 24), (50, 31), (11, 17)])
    def test_always_the_size_of_the_network(self, crop, width, height):
        images = self.many(Augmentation(crop=crop), self.picture(width, height), count=5)
        assert images.shape == (5, 3, 24, 24) and images.dtype == torch.uint8

    def test_crop_scale(self):
        """How much of a gradient from left to right is seen."""
        gradient = Image.fromarray(np.tile(np.linspace(0, 255, 96, dtype=np.uint8), (96, 1)))
        for scale, least, most in ((1.0, 200, 256), (0.5, 120, 256), (0.08, 40, 150)):
            images = self.many(Augmentation(crop="resize", crop_scale=scale), gradient, count=100).int()
            smallest = (images.flatten(1).max(1).values - images.flatten(1).min(1).values).min().item()
            assert least < smallest < most

    def test_interpolation(self):
        dataset, image = pictures(4, 30), self.picture(30, 30)
        trained, tested = [], []
        for name in ("bilinear", "bicubic"):
            trained.append(self.many(Augmentation(**PLAIN, interpolation=name), image, count=1))
            loader = evaluation_loader(dataset, 4, (24, 24), (0.0,) * 3, (1.0,) * 3, CPU, interpolation=name)
            tested.append(next(iter(loader))[0])
        assert not torch.equal(*trained) and not torch.equal(*tested)

    def test_color_jitter(self):
        grey = Image.new("RGB", (24, 24), (100, 100, 100))
        levels = self.many(Augmentation(**PLAIN, color_jitter=0.4), grey).flatten(1)
        assert (levels == levels[:, :1]).all() and len(levels[:, 0].unique()) > 10
        assert levels.min() >= 60 - 1 and levels.max() <= 140 + 1  # brightness times 0.6 to 1.4

    @pytest.mark.parametrize("policy", ["rand-m9-n2-mstd0.5-inc1", "original", "v0", "3a", "augmix-m3"])
    @pytest.mark.parametrize("mode", ["RGB", "L"])
    def test_policies(self, policy, mode):
        image = self.picture().convert(mode)
        images = self.many(Augmentation(**PLAIN, auto_augment=policy), image)
        assert images.shape == (40, len(mode), 24, 24) and images.dtype == torch.uint8
        assert len(images.flatten(1).unique(dim=0)) > 5

    @pytest.mark.medium
    @pytest.mark.parametrize("policy", ["rand-m10-n15-inc1", "rand-m9-n15-mstd0.5-inc1", "v0"])
    def test_the_largest_magnitude(self, policy):
        """timm asks Pillow to keep 0 bits of the pixels, which Pillow 13 refuses: one of 10,000 images of a recipe."""
        self.many(Augmentation(**PLAIN, auto_augment=policy), self.picture(), count=300)

    @pytest.mark.parametrize("policy", ["rand-q9", "unknown", "rand-m9-n1.5", "augmix-z3"])
    def test_unknown_policies(self, policy):
        with pytest.raises(ValueError, match=f"^auto_augment .*'{policy}'") as caught:
            train_transform(Augmentation(auto_augment=policy), (24, 24), (0.5,) * 3)
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)

    @pytest.mark.parametrize("how", [{"crop": "resize"}, {"color_jitter": 0.1}, {"auto_augment": "original"}])
    def test_resident_loader_refuses_other_augmentations(self, how):
        with pytest.raises(ValueError, match=r"^loader .*'resident'.*; use loader=standard\.$"):
            Settings(loader="resident", **how)

    @pytest.mark.parametrize(
        "how", [{}, {"crop": "none"}, {"crop": "resize", "color_jitter": 0.4}, {"auto_augment": "rand-m9-mstd0.5-inc1"}]
    )
    def test_transforms_can_be_sent_to_processes(self, how):
        """Where workers are not forked, as with Python 3.14."""
        transform = train_transform(Augmentation(**how), (24, 24), (0.5,) * 3)
        image = self.picture(40, 30)
        with seeded(1):
            expected = transform(image)
        with seeded(1):
            assert torch.equal(pickle.loads(pickle.dumps(transform))(image), expected)


class TestFrames:
    def many(self, how, frames, count=60):
        transform = pickle.loads(pickle.dumps(train_transform(how, frames.shape[-2:], (0.0, 0.0), frames=True)))
        return torch.stack([transform(frames) for _ in range(count)])

    def test_all_steps_alike(self):
        """Counts beyond a byte stay; both polarities and all steps move and mirror together."""
        counts = np.random.default_rng(0).integers(0, 1000, (1, 2, 20, 20))
        frames = np.tile(counts, (4, 1, 1, 1)).astype(np.float64)
        original = torch.from_numpy(counts[0])
        augmented = self.many(Augmentation(crop_padding=3), frames)
        assert augmented.shape == (60, 4, 2, 20, 20) and augmented.dtype == torch.float32
        seen = set()
        windows = pad(original, [3] * 4).unfold(1, 20, 1).unfold(2, 20, 1)
        windows = torch.stack([windows, windows.flip(-1)])
        for sample in augmented:
            assert (sample == sample[0]).all()
            hits = (windows == sample[0][None, :, None, None]).all(-1).all(-1).all(1).nonzero()
            assert len(hits) == 1
            seen.add(tuple(hits[0].tolist()))
        assert len(seen) > 30 and {flip for flip, _, _ in seen} == {0, 1}

    def test_unchanged(self):
        frames = np.random.default_rng(0).integers(0, 1000, (4, 2, 20, 20))
        assert (self.many(Augmentation(**PLAIN), frames) == torch.from_numpy(frames)).all()

    @pytest.mark.parametrize(
        "how",
        [
            {"crop": "resize"},
            {"auto_augment": "original"},
            {"color_jitter": 0.1},
            {"mixup": 0.1},
            {"cutmix": 0.1},
            {"random_erasing": 0.1},
            {"cutout": 4},
        ],
        ids=lambda how: next(iter(how)),
    )
    def test_augmentations_for_images_only_are_refused(self, how):
        with pytest.raises(ValueError, match=f"^{next(iter(how))} .*event frames"):
            train_transform(Augmentation(**how), (32, 32), (0.0, 0.0), frames=True)
