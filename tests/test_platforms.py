"""Training where functions of Linux are missing: on macOS, and on Windows, whose workers also start anew."""

import io
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch.multiprocessing
from PIL import Image
from test_resume import RUN, finish, script, started, wait_for, whole_run
from test_training import CPU, SMALL, assert_same_run, digits

from gac_sj.data import DATASETS, load_datasets, train_transform
from gac_sj.data.augmentation import Augmentation
from gac_sj.data.samples import Samples
from gac_sj.training.engine import Training
from gac_sj.training.settings import Settings

pytestmark = pytest.mark.one_release

#: a program that runs train.py without what Windows lacks; its arguments are those of train.py
WINDOWS = """
import multiprocessing, os, signal, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "grp", "pwd", "resource", "termios"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules.pop(name, None)
for module, names in ((signal, "pthread_sigmask sigwait sigwaitinfo sigtimedwait pthread_kill SIGHUP SIGKILL alarm"),
                      (os, "fork setsid getpgid killpg getuid geteuid O_NONBLOCK O_NOFOLLOW mkfifo")):
    for name in names.split():
        delattr(module, name)

if __name__ == "__main__":
    import train
    sys.exit(train.main(sys.argv[1:]))
"""
PLUGIN = """
import gac_sj

@gac_sj.register_encoder("mine")
class Mine(gac_sj.GatedAttentionCoding):
    pass
"""


@pytest.mark.medium
@pytest.mark.parametrize("workers", [0, 1])
def test_training_without_what_windows_lacks(workers, tmp_path):
    """A worker starts anew there: nothing that it needs is known to the main process alone."""
    (tmp_path / "program.py").write_text(
        WINDOWS.replace("import train\n", "multiprocessing.set_start_method('spawn')\n    import train\n")
    )
    (tmp_path / "plugin.py").write_text(PLUGIN)
    experiments = Path(__file__).resolve().parent.parent / "experiments"
    places = os.pathsep.join([str(experiments), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, tmp_path / "program.py", "--import", tmp_path / "plugin.py", "--encoder", "mine",
               "--model", "ms_resnet8_cifar", "-T", "2", "--dataset", "digits", "--train-limit", "40", "--epochs", "1",
               "--batch-size", "20", "--workers", str(workers), "--device", "cpu", "--output", "run"]  # fmt: skip
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": places, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and done.stdout.startswith("run: test accuracy")
    assert (tmp_path / "run" / "result.csv").exists()


@pytest.mark.medium
@pytest.mark.parametrize("loader", ["training", "testing"])
def test_workers_that_start_anew_load_the_same(loader):
    settings = Settings(**SMALL | dict(loader="standard", workers=1, auto_augment="rand-m9-n2"))
    found = []
    for method in ("fork", "spawn"):
        training = Training(settings, digits("standard"), CPU)
        batches = training.loader if loader == "training" else training.test_loader
        batches.batches.loader.multiprocessing_context = multiprocessing.get_context(method)
        found.append([torch.cat([x.flatten(1), y[:, None]], 1) for x, y in batches])
    assert len(found[0]) > 1
    assert all(map(torch.equal, *found))


def test_data_sets_and_transforms_reach_workers_that_start_anew(tmp_path):
    for path in (tmp_path / split / label / "0.png" for split in ("train", "test") for label in "ab"):
        path.parent.mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(path)
    sets = [load_datasets("folder", tmp_path)]
    sets += [load_datasets(name) for name, info in DATASETS.items() if info.folder is None]
    assert len(sets) >= 4
    transforms = [
        train_transform(Augmentation(**changes), (32, 32), (0.5,) * 3)
        for changes in ({}, {"crop": "resize"}, {"crop": "none"}, {"color_jitter": 0.4}, {"auto_augment": "v0"},
                        {"auto_augment": "original-mstd0.5"}, {"auto_augment": "rand-m9-n2-mstd0.5-inc1"},
                        {"auto_augment": "augmix-m5-w4-d2"}, {"auto_augment": "3a"})
    ]  # fmt: skip
    transforms.append(train_transform(Augmentation(), (32, 32), (0.5,) * 2, frames=True))
    for each in sets:
        ForkingPickler(io.BytesIO()).dump([Samples(part, transform) for part in each for transform in transforms])


def without_sigwaitinfo(*arguments):
    del signal.sigwaitinfo
    script(*arguments)


def without_masks(*arguments):
    del signal.sigwaitinfo, signal.pthread_sigmask
    script(*arguments)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbed, with everything that Linux has."""
    return whole_run(tmp_path_factory.mktemp("whole") / "run", *RUN)


@pytest.mark.medium
@pytest.mark.parametrize(
    "target, number", [(without_sigwaitinfo, signal.SIGTERM), (without_masks, signal.SIGINT)], ids=["macOS", "Windows"]
)
def test_a_signal_to_the_whole_group_keeps_the_step(target, number, tmp_path, whole):
    folder = tmp_path / "run"
    with started(folder, *RUN, target=target) as process:
        wait_for(10, folder, process)
        os.killpg(process.pid, number)
        (code,), (said,) = finish(process)
    assert code == 128 + number
    assert "Traceback" not in said and re.search(rf"^train\.py: .*{number.name} in epoch ", said.splitlines()[-1])
    with started(folder, *RUN, target=target) as process:
        assert finish(process)[0] == [0]
    assert_same_run(folder, whole)
