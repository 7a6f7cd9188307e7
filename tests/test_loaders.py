"""Loaders: what a batch holds is a function of seed, epoch and position; evaluation; corrupt images; normalisation."""

import itertools
import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

from gac_sj._utils.errors import UsageError
from gac_sj.checkpoint.runs import build_model
from gac_sj.data import (
    DATASETS,
    Augmentation,
    CorruptImageError,
    DataSet,
    ResidentEvaluationLoader,
    ResidentTrainingLoader,
    evaluation_loader,
    load_datasets,
    read_images,
    train_transform,
    training_loader,
)
from gac_sj.training.build import load_data
from gac_sj.training.distributed import DistributedContext
from gac_sj.training.settings import Settings

pytestmark = pytest.mark.one_release

CPU = torch.device("cpu")
SIZE, MEAN, STD = (12, 12), (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
RECIPES = {
    "pad": Augmentation(cutout=3),
    "policy": Augmentation(auto_augment="rand-m9-n2-mstd0.5-inc1", crop="none"),
    "jitter": Augmentation(crop="resize", color_jitter=0.4),
    "repeats": Augmentation(repeats=3),
}


class Pictures(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __getitem__(self, item):
        return Image.fromarray(self.images[item]), item


def pictures(count=44, alike=False):
    """Noise; each image is its own class, so that labels are items."""
    images = np.random.default_rng(0).integers(0, 256, (count, *SIZE, 3), np.uint8)
    if alike:
        images[:] = images[0]
    return DataSet(Pictures(images), tuple(range(count)), tuple(map(str, range(count))), DATASETS["folder"])


def standard(how=RECIPES["pad"], dataset=None, batch=8, seed=5, **options):
    dataset = dataset or pictures()
    transform = train_transform(how, SIZE, MEAN)
    return training_loader(dataset, batch, transform, MEAN, STD, CPU, seed, repeats=how.repeats, **options)


def resident(how=RECIPES["pad"], dataset=None, batch=8, seed=5, **options):
    images = read_images(dataset or pictures(), SIZE)
    return ResidentTrainingLoader(*images, batch, MEAN, STD, CPU, how, seed, **options)


LOADERS = [
    pytest.param(load, how, id=f"{load.__name__}-{name}")
    for load, names in ((standard, RECIPES), (resident, ("pad", "repeats")))
    for name, how in RECIPES.items()
    if name in names
]
both = pytest.mark.parametrize("load", [standard, resident])


def batches(loader, epoch=0, start=0):
    loader.set_epoch(epoch, start)
    return [(images.clone(), labels.clone()) for images, labels in loader]


def same(ours, theirs):
    return len(ours) == len(theirs) and all(
        torch.equal(mine, other) for pair in zip(ours, theirs) for mine, other in zip(*pair)
    )


def joined(loaded):
    images, labels = zip(*loaded)
    return torch.cat(images), torch.cat(labels)


def by_item(epoch):
    """What became of each item, repetitions in turn."""
    items = {}
    for image, label in zip(*epoch):
        items.setdefault(label.item(), []).append(image)
    return items


class TestReproducible:
    @pytest.mark.medium
    @pytest.mark.parametrize("name", RECIPES)
    def test_any_number_of_workers(self, name):
        """Workers stay between epochs, and an epoch that is left does not show in the next."""
        expected = [batches(standard(RECIPES[name]), epoch) for epoch in range(2)]
        for workers in (1, 2):
            loader = standard(RECIPES[name], workers=workers)
            assert same(batches(loader, 0), expected[0])
            loader.set_epoch(1)
            next(iter(loader))
            assert same(batches(loader, 1, start=2), expected[1][2:])

    @pytest.mark.parametrize("load, how", LOADERS)
    def test_a_start_inside_the_epoch(self, load, how):
        loader = load(how)
        whole = batches(loader, 3)
        assert len(whole) == len(loader) == 5
        for start in range(6):
            assert same(batches(loader, 3, start), whole[start:])
            assert same(batches(load(how), 3, start), whole[start:])
        assert len(loader) == 5

    @pytest.mark.medium
    @pytest.mark.parametrize("load, how", LOADERS)
    def test_epochs_and_seeds_differ(self, load, how):
        """Among them seed 5 in epoch 1 and seed 6 in epoch 0: in the order, and in what is done to the same image."""

        def runs(dataset):
            return [joined(batches(load(how, dataset, seed=seed), epoch)) for seed in (5, 6) for epoch in (0, 1, 2)]

        for (_, one), (_, other) in itertools.combinations(runs(pictures()), 2):
            assert (one == other).double().mean() < 0.3, "the same order"
        for (one, _), (other, _) in itertools.combinations(runs(pictures(alike=True)), 2):
            assert (one == other).flatten(1).all(1).double().mean() < 0.3, "the same augmentation by position"
        for one, other in itertools.combinations(map(by_item, runs(pictures())), 2):
            same = [torch.equal(one[item][0], other[item][0]) for item in one.keys() & other.keys()]
            assert np.mean(same) < 0.3, "the same augmentation by item"

    def state(self):
        return repr(random.getstate()), repr(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002

    @pytest.mark.parametrize("load, how", LOADERS)
    def test_global_generators(self, load, how):
        """They neither change, so that a resumed network draws as before, nor matter."""
        loader, before = load(how), self.state()
        first = batches(loader, 1)
        assert self.state() == before
        loader.set_epoch(1)
        for _ in loader:
            assert self.state() == before
        random.seed(77)
        np.random.seed(77)  # noqa: NPY002
        torch.manual_seed(77)
        assert same(batches(loader, 1), first)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_global_generators_with_workers_and_in_evaluation(self, workers):
        before = self.state()
        loader = standard(workers=workers)
        for number in range(2):
            batches(loader, number)
            assert self.state() == before
        loader = evaluation_loader(pictures(), 8, SIZE, MEAN, STD, CPU, workers=workers)
        for _ in range(2):
            list(loader)
            assert self.state() == before

    @pytest.mark.parametrize("load, how", LOADERS)
    @pytest.mark.parametrize("world_size", [2, 3])
    def test_processes_share_the_batches_of_one(self, load, how, world_size):
        """In every batch the same samples, bit by bit, whatever the number of processes."""

        def samples(parts):
            images, labels = joined(parts)
            return sorted((label.item(), image.numpy().tobytes()) for image, label in zip(images, labels))

        one = batches(load(how, batch=4 * world_size), 2)
        many = [batches(load(how, batch=4, rank=rank, world_size=world_size), 2) for rank in range(world_size)]
        assert {len(part) for part in many} == {len(one)}
        for whole, *parts in zip(one, *many):
            assert samples([whole]) == samples(parts)


class TestEpoch:
    @both
    @pytest.mark.parametrize("world_size", [1, 2, 3])
    def test_no_item_twice_and_whole_batches_only(self, load, world_size):
        """44 images in batches of 12 over all processes: 36 are seen, others in the next epoch."""
        left = []
        for epoch in range(4):
            seen = []
            for rank in range(world_size):
                loader = load(batch=12 // world_size, rank=rank, world_size=world_size)
                loaded = batches(loader, epoch)
                assert len(loaded) == len(loader) == 3
                assert {len(images) for images, _ in loaded} == {12 // world_size}
                seen += joined(loaded)[1].tolist()
            assert len(seen) == len(set(seen)) == 36
            left.append(frozenset(range(44)) - set(seen))
        assert len(set(left)) == 4

    @both
    def test_labels_stay_with_their_images(self, load):
        images, labels = joined(batches(load(Augmentation(crop="none", hflip=0.0))))
        originals, _ = read_images(pictures(), SIZE)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        assert torch.equal((images * std + mean).mul(255).round().byte(), originals[labels])

    @both
    @pytest.mark.parametrize("world_size", [1, 2])
    def test_repeated_augmentation(self, load, world_size):
        """Every image three times, differently; an epoch has no more images than the set."""
        parts = [batches(load(RECIPES["repeats"], rank=r, world_size=world_size)) for r in range(world_size)]
        items = by_item(joined([batch for part in parts for batch in part]))
        counts = sorted(len(images) for images in items.values())
        total = 44 // (8 * world_size) * 8 * world_size
        assert sum(counts) == total and counts[1:] == [3] * (len(counts) - 1)
        repeated = [images for images in items.values() if len(images) == 3]
        alike = [torch.equal(one, other) for one, *others in repeated for other in others]
        assert np.mean(alike) < 0.1
        if world_size == 2:  # no process has all repetitions of an image
            assert all(len(images) < 3 for part in parts for images in by_item(joined(part)).values())

    @both
    @pytest.mark.parametrize("repeats", [0, 3])
    def test_the_length_does_not_depend_on_the_processes(self, load, repeats):
        """So that a checkpoint can be continued by another number of them."""
        how = Augmentation(repeats=repeats)
        for count, length in ((43, 1), (300, 7)):  # one image is left over, or some for each number of processes
            dataset = pictures(count)
            lengths = [len(load(how, dataset, 42 // n, rank=n - 1, world_size=n)) for n in (1, 2, 3)]
            assert lengths == [length] * 3
        for n in (1, 2, 3):
            with pytest.raises(UsageError, match=r"^batch_size .* 41, got 42"):
                load(how, pictures(41), 42 // n, rank=n - 1, world_size=n)

    @both
    @pytest.mark.parametrize("world_size", [1, 3])
    def test_fewer_images_than_a_batch(self, load, world_size):
        with pytest.raises(ValueError, match=r"^batch_size .* 44, got 45; .*\.$"):
            load(batch=45 // world_size, world_size=world_size)
        assert len(load(batch=44)) == 1


@pytest.fixture
def as_rank(monkeypatch):
    """timm asks torch.distributed for the process."""

    def pretend(rank, world_size):
        monkeypatch.setattr(dist, "get_rank", lambda: rank)
        monkeypatch.setattr(dist, "get_world_size", lambda: world_size)
        return dict(rank=rank, world_size=world_size)

    return pretend


class TestEvaluation:
    def original(self, dataset):
        images, labels = read_images(dataset, SIZE)
        mean, std = (torch.tensor([255 * value for value in values]).view(3, 1, 1) for values in (MEAN, STD))
        return (images.float() - mean) / std, labels

    def load(self, kind, dataset, workers=0, **place):
        if kind == "resident":
            return ResidentEvaluationLoader(*read_images(dataset, SIZE), 8, MEAN, STD, CPU, **place)
        return evaluation_loader(dataset, 8, SIZE, MEAN, STD, CPU, workers=workers, **place)

    @pytest.mark.parametrize("kind, workers", [("standard", 0), ("standard", 2), ("resident", 0)])
    def test_every_image_once_in_order_and_unchanged(self, kind, workers):
        dataset = pictures(21)
        images, labels = self.original(dataset)
        loader = self.load(kind, dataset, workers)
        for _ in range(2):
            loaded = list(loader)
            assert [len(part) for _, part in loaded] == [8, 8, 5] and len(loader) == 3
            assert torch.equal(joined(loaded)[0], images) and torch.equal(joined(loaded)[1], labels)

    @pytest.mark.parametrize("kind", ["standard", "resident"])
    @pytest.mark.parametrize("count, world_size", [(21, 2), (16, 2), (22, 3)])
    def test_processes_share_the_images(self, kind, count, world_size, as_rank):
        """Together every image once, though all of them have as many batches as the first."""
        dataset = pictures(count)
        images, labels = self.original(dataset)
        for rank in range(world_size):
            loader = self.load(kind, dataset, **as_rank(rank, world_size))
            loaded = list(loader)
            assert all(len(part) for _, part in loaded)
            ours = joined(loaded)
            assert torch.equal(ours[0], images[rank::world_size]) and torch.equal(ours[1], labels[rank::world_size])

    def test_crop_fraction(self):
        """Half of the side: the image is enlarged to twice the size, and the centre is cut out."""
        stripes = np.zeros((1, *SIZE, 3), np.uint8)
        stripes[:, :, 3:9] = 255
        dataset = DataSet(Pictures(stripes), (0,), ("0",), DATASETS["folder"])
        for fraction, white in ((1.0, 6), (0.5, 12)):
            ((images, _),) = evaluation_loader(dataset, 8, SIZE, (0.0,) * 3, (1.0,) * 3, CPU, crop_fraction=fraction)
            assert images.shape == (1, 3, *SIZE) and (images[0, 0, 0] > 0.5).sum() == white


class Recordings(torch.utils.data.Dataset):
    def __init__(self, frames):
        self.frames = frames

    def __getitem__(self, item):
        return self.frames[item], item


class TestEvents:
    """Counts of events stay what they are, and time comes first."""

    frames = np.random.default_rng(0).integers(0, 1000, (21, 3, 2, 16, 16)).astype(np.float64)
    dataset = DataSet(Recordings(frames), tuple(range(21)), tuple(map(str, range(21))), DATASETS["moving_shapes"])

    @pytest.mark.parametrize("workers", [0, 2])
    def test_training(self, workers):
        how = Augmentation(crop="none", hflip=0.0)
        transform = train_transform(how, (16, 16), (0.0, 0.0), frames=True)
        loader = training_loader(self.dataset, 4, transform, (0.0,) * 2, (1.0,) * 2, CPU, workers=workers)
        loaded = batches(loader, 1)
        assert len(loaded) == 5 and len({label for _, labels in loaded for label in labels.tolist()}) == 20
        for frames, labels in loaded:
            assert frames.shape == (3, 4, 2, 16, 16) and frames.dtype == torch.float32
            assert np.array_equal(frames.transpose(0, 1), self.frames[labels])
        assert same(batches(loader, 1, start=3), loaded[3:])

    @pytest.mark.parametrize("world_size", [1, 2, 4])
    def test_evaluation(self, world_size):
        for rank in range(world_size):
            loader = evaluation_loader(
                self.dataset, 4, (16, 16), (0.0,) * 2, (1.0,) * 2, CPU, rank=rank, world_size=world_size
            )
            parts, labels = zip(*loader)
            assert torch.cat(labels).tolist() == list(range(rank, 21, world_size))
            assert np.array_equal(torch.cat(parts, 1).transpose(0, 1), self.frames[rank::world_size])
            assert torch.cat(parts, 1).dtype == torch.float32


@pytest.mark.medium
class TestCorrupt:
    """Ten images of a folder, of which the second cannot be read."""

    @pytest.fixture
    def folder(self, tmp_path):
        for split in ("train", "test"):
            (tmp_path / split / "ant").mkdir(parents=True)
            for number in range(10):
                pixels = np.full((*SIZE, 3), 20 * number, np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / "ant" / f"{number}.png")
            self.damage(tmp_path / split / "ant" / "1.png")
        return tmp_path

    def damage(self, path: Path):
        path.write_bytes(path.read_bytes()[:40])

    def loaders(self, folder, **options):
        train, test = load_datasets("folder", folder)
        plain = Augmentation(crop="none", hflip=0.0)
        yield standard(plain, train, batch=5, **options)
        yield evaluation_loader(test, 5, SIZE, MEAN, STD, CPU, **options)

    def read(self, loader):
        if hasattr(loader, "set_epoch"):
            loader.set_epoch(0)
        images, _ = joined(loader)
        pixels = (images[:, 0, 0, 0] * STD[0] + MEAN[0]) * 255
        return sorted(pixels.round().int().tolist())

    def message(self, loader):
        """What reading raises, which must be one sentence."""
        try:
            self.read(loader)
        except CorruptImageError as error:
            text = str(error)
            while error is not None:  # torch's errors of workers hold themselves, and with them the workers
                error.__traceback__, error = None, error.__context__
        else:
            pytest.fail("nothing was raised")
        assert text.endswith(".") and "\n" not in text and "Traceback" not in text and "Caught" not in text
        return text

    @pytest.mark.parametrize("workers", [0, 2])
    def test_the_message_names_the_file(self, workers, folder):
        for loader, split in zip(self.loaders(folder, workers=workers), ("train", "test")):
            path = folder / split / "ant" / "1.png"
            assert self.message(loader).startswith(f"The image {path} ")
            assert len(loader.corrupt) == 1

    @pytest.mark.parametrize("workers", [0, 2])
    def test_the_next_one_is_taken(self, workers, folder, caplog):
        expected = sorted([0, 40, *range(40, 200, 20)])
        for loader in self.loaders(folder, workers=workers, skip_corrupt=True):
            assert not loader.corrupt
            caplog.clear()
            for _ in range(2):
                assert self.read(loader) == expected
                assert len(loader.corrupt) == 1
            if not workers:  # theirs go to their own stream
                (record,) = caplog.records
                assert record.levelno == logging.WARNING and "1.png" in record.getMessage()

    @pytest.mark.parametrize("workers", [0, 2])
    def test_none_can_be_read(self, workers, folder):
        for path in folder.glob("*/*/*.png"):
            self.damage(path)
        for loader in self.loaders(folder, workers=workers, skip_corrupt=True):
            assert self.message(loader).startswith("No image ")

    def test_other_errors_stay(self, folder):
        """A defect of a transform is no corrupt image."""

        def transform(image):
            raise RuntimeError("a defect")

        train, _ = load_datasets("folder", folder)
        loader = training_loader(train, 5, transform, MEAN, STD, CPU, skip_corrupt=True)
        loader.samples.read(1)
        assert len(loader.corrupt) == 1
        with pytest.raises(RuntimeError, match="a defect"):
            batches(loader)


@pytest.mark.medium
class TestNormalisation:
    """Batches are what the network's ``pretrained_cfg`` asks for: it follows the data set, or the encoder."""

    def loaders(self, **settings):
        settings = Settings(T=1, batch_size=16, workers=0, crop="none", hflip=0.0, **settings)
        data = load_data(settings)
        model, world = build_model(settings, data.info), DistributedContext(0, 1, CPU)
        training = data.training(settings, model, world)
        training.set_epoch(0)
        return data, training, data.testing(settings, model, world)

    @pytest.mark.parametrize("loader", ["standard", "resident"])
    @pytest.mark.parametrize("encoder", ["gac", "direct", "poisson"])
    def test_digits(self, loader, encoder):
        data, training, testing = self.loaders(
            model="gac_ms_resnet8_cifar" if encoder == "gac" else "ms_resnet8_cifar",
            encoder=encoder,
            dataset="digits",
            loader=loader,
        )
        info = DATASETS["digits"]
        (mean,), (std,) = (info.mean, info.std) if encoder != "poisson" else ((0.0,), (1.0,))
        raw = read_images(data.test, (8, 8))[0].double() / 255
        tested, _ = joined(testing)
        assert tested.shape == (360, 1, 8, 8)
        assert torch.allclose(tested.double(), (raw - mean) / std, atol=1e-5)
        trained, _ = joined(training)
        assert trained.min() == pytest.approx(-mean / std) and trained.max() == pytest.approx((1 - mean) / std)
        assert trained.shape[1:] == (1, 8, 8)
        if encoder != "poisson":
            assert trained.mean().item() == pytest.approx(0, abs=0.02)
            assert trained.std().item() == pytest.approx(1, abs=0.02)

    @pytest.mark.parametrize("encoder", ["gac", "poisson"])
    def test_colours(self, encoder):
        """Each channel has its own mean and deviation: those of ImageNet here."""
        data, training, testing = self.loaders(
            model="gac_ms_resnet8_cifar" if encoder == "gac" else "ms_resnet8_cifar",
            encoder=encoder,
            dataset="synthetic",
        )
        info = DATASETS["synthetic"]
        mean, std = (info.mean, info.std) if encoder == "gac" else ((0.0,) * 3, (1.0,) * 3)
        mean, std = (torch.tensor(values, dtype=torch.double).view(3, 1, 1) for values in (mean, std))
        images, _ = joined(testing)
        raw = read_images(data.test, (32, 32))[0].double() / 255
        assert torch.allclose(images.double(), (raw - mean) / std, atol=1e-5)
        restored = joined(training)[0].double() * std + mean
        assert restored.min() >= -1e-6 and restored.max() <= 1 + 1e-6

    @pytest.mark.parametrize("model", ["gac_ms_resnet18", "ms_resnet34"])
    def test_imagenet(self, model, tmp_path):
        """Images of all shapes come out in the network's size, in training and test."""
        for split in ("train", "val"):
            for number, (width, height) in enumerate([(300, 200), (230, 340), (50, 40), (224, 224)]):
                path = tmp_path / split / ("ant", "cat")[number % 2] / f"{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (width, height), (255, 0, 51)).save(path, quality=100)
        settings = Settings(
            model=model, dataset="imagenet", data_dir=str(tmp_path), T=1, batch_size=4, workers=0, crop="resize"
        )
        data, world = load_data(settings), DistributedContext(0, 1, CPU)
        network = build_model(settings, data.info)
        training = data.training(settings, network, world)
        training.set_epoch(0)
        for images, labels in (*training, *data.testing(settings, network, world)):
            assert images.shape == (4, 3, 224, 224) and sorted(labels.tolist()) == [0, 0, 1, 1]
            info = DATASETS["imagenet"]
            colours = [(value - mean) / std for value, mean, std in zip((1, 0, 0.2), info.mean, info.std)]
            assert torch.allclose(images, torch.tensor(colours).view(3, 1, 1).expand_as(images), atol=0.05)
