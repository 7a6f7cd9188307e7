"""Checkpoints and atomic files: whole or not there, read without executing code, the newest kept."""

import errno
import hashlib
import io
import logging
import os
import pickle
import threading
from functools import partial

import pytest
import torch

from gac_sj._utils.files import write_atomically
from gac_sj.training.checkpoints import Checkpoints

pytestmark = pytest.mark.one_release


def state(step):
    return {"weights": {"w": torch.full((300,), float(step))}, "position": [0, step], "history": [{"top1": ""}]}


def step_of(loaded):
    return None if loaded is None else loaded["position"][1]


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "deep" / "checkpoints", keep=2)


def names(checkpoints):
    return sorted(path.name for path in checkpoints.folder.iterdir())


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip_one_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def test_what_is_saved_is_loaded(checkpoints):
    assert checkpoints.load() is None
    checkpoints.save(0, 1, state(1))
    loaded = checkpoints.load()
    torch.testing.assert_close(loaded["weights"], state(1)["weights"], rtol=0, atol=0)
    assert loaded["position"] == [0, 1] and loaded["history"] == [{"top1": ""}]


@pytest.mark.parametrize("keep", [1, 3])
def test_the_newest_are_kept_and_nothing_else(checkpoints, keep):
    checkpoints.keep = keep
    for step in (8, 9, 10, 11):  # as text, 10 would come before 9
        checkpoints.save(step // 10, step, state(step))
        assert step_of(checkpoints.load()) == step
    assert [int(name[15:24]) for name in names(checkpoints)] == list(range(12 - keep, 12))


@pytest.mark.parametrize("damage", [truncate, flip_one_bit, empty])
def test_a_damaged_newest_one_is_named_and_the_one_before_is_used(checkpoints, damage, caplog):
    checkpoints.save(0, 1, state(1))
    path = checkpoints.save(0, 2, state(2))
    damage(path)
    with caplog.at_level(logging.WARNING):
        assert step_of(checkpoints.load()) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(path) in caplog.text


def test_pipes_and_folders_in_the_place_of_checkpoints_are_skipped(checkpoints, caplog):
    path = checkpoints.save(0, 1, state(1))
    pipe, folder = (path.with_name(path.name.replace("step000000001", f"step00000000{step}")) for step in (2, 3))
    os.mkfifo(pipe)
    folder.mkdir()
    with caplog.at_level(logging.WARNING):
        assert step_of(checkpoints.load()) == 1
    assert str(pipe) in caplog.text and str(folder) in caplog.text
    checkpoints.save(0, 2, state(2))
    assert step_of(checkpoints.load()) == 2
    assert folder.is_dir() and not pipe.exists()


def test_a_damaged_one_does_not_count_among_those_that_are_kept(checkpoints):
    checkpoints.save(0, 50, state(50))
    damaged = [checkpoints.save(0, step, state(step)) for step in (51, 52)]
    for path in damaged:
        flip_one_bit(path)
    assert checkpoints.load() is None  # all that are left
    checkpoints.save(0, 1, state(1))  # from scratch, so with a smaller step
    assert step_of(checkpoints.load()) == 1
    second = checkpoints.save(0, 2, state(2))
    flip_one_bit(second)
    assert step_of(checkpoints.load()) == 1
    assert not any(path.exists() for path in damaged)


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("write", [torch.save, partial(pickle.dump, protocol=2)])
def test_code_in_a_checkpoint_is_not_executed(checkpoints, write, tmp_path, caplog):
    checkpoints.save(0, 1, state(1))
    buffer = io.BytesIO()
    write({"weights": Bomb(tmp_path / "executed")}, buffer)
    checksum = hashlib.sha256(buffer.getvalue()).hexdigest()[:16]
    path = checkpoints.folder / f"epoch00000-step000000002-{checksum}.pt"
    path.write_bytes(buffer.getvalue())
    assert step_of(checkpoints.load()) == 1
    assert str(path) in caplog.text
    assert not (tmp_path / "executed").exists()
    pickle.loads(pickle.dumps(Bomb(tmp_path / "executed")))  # the bomb is one
    assert (tmp_path / "executed").exists()


def test_a_file_under_another_name_is_neither_read_nor_removed(checkpoints):
    path = checkpoints.save(0, 1, state(1))
    for name in ("epoch00000-step000000009.pt", "epoch9.pt", "notes.pt"):
        (checkpoints.folder / name).write_bytes(path.read_bytes())
    for step in (2, 3, 4):
        checkpoints.save(0, step, state(step))
    assert step_of(checkpoints.load()) == 4
    assert len(names(checkpoints)) == 2 + 3


def fail(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_while_writing_leaves_the_old_ones_and_no_part_of_the_new_one(checkpoints, call, monkeypatch):
    for step in (1, 2):
        checkpoints.save(0, step, state(step))
    before = names(checkpoints)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="No space left"):
            checkpoints.save(0, 3, state(3))
    assert names(checkpoints) == before
    assert step_of(checkpoints.load()) == 2
    checkpoints.save(0, 3, state(3))
    assert step_of(checkpoints.load()) == 3


def test_unfinished_files_of_a_kill_are_ignored_and_removed(checkpoints):
    whole = checkpoints.save(0, 1, state(1))
    left = checkpoints.folder / f".{whole.name.replace('step000000001', 'step000000002')}.0123abcd.tmp"
    left.write_bytes(whole.read_bytes()[:500])
    assert step_of(checkpoints.load()) == 1
    checkpoints.save(0, 3, state(3))
    assert not left.exists()
    assert step_of(checkpoints.load()) == 3


def test_a_reader_finds_the_old_content_or_the_new_one(tmp_path):
    contents = [bytes([letter]) * 300_000 for letter in (1, 2)]
    path = tmp_path / "file"
    write_atomically(path, contents[0])
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for content in contents:
                write_atomically(path, content)

    thread = threading.Thread(target=write)
    thread.start()
    found = [path.read_bytes() for _ in range(200)]
    stop.set()
    thread.join()
    assert set(found) <= set(contents)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
