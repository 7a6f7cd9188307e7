"""The libraries of kernels on disk: what is loaded, what is built again, and who else may write."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from gac_sj.cli import environment
from gac_sj.ops import compiler, cpp
from gac_sj.ops.library_cache import cache_folder, library, why_not_loaded
from gac_sj.ops.source import PROBE, source

pytestmark = [pytest.mark.one_release, pytest.mark.usefixtures("fresh_ops")]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
KEY, OTHER, NOBODY = "5eed" * 8, "0dd5" * 8, 65534
CONTENT = bytes(range(256)) * 48


def build(content=CONTENT, key=KEY):
    """The library from the cache, or built now; and whether it was built."""
    built = []

    def write(path):
        path.write_bytes(content)
        built.append(path)

    path = library(key, write)
    assert path.read_bytes() == content
    return path, bool(built)


def kernels_line():
    (line,) = [line for line in environment.report().splitlines() if line.startswith("kernels in")]
    return line


def as_user(user, function):
    """The result of a function in a process of another user."""

    def run(queue):
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
        queue.put(function())

    processes = multiprocessing.get_context("fork")
    queue = processes.SimpleQueue()
    child = processes.Process(target=run, args=(queue,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    return queue.get()


def test_it_is_built_once():
    path, built = build()
    assert built and build() == (path, False)
    assert why_not_loaded(path) is None
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_only_the_user_can_write(monkeypatch):
    previous = os.umask(0)
    try:
        path, _ = build()
    finally:
        os.umask(previous)
    assert path.stat().st_mode & 0o77 == path.parent.stat().st_mode & 0o77 == 0


def test_cut_short_at_any_length_it_is_built_again():
    for length in [*range(0, len(CONTENT), len(CONTENT) // 48), len(CONTENT) - 1]:
        path, _ = build()
        os.truncate(path, length)
        assert build() == (path, True)


@pytest.mark.medium
def test_a_process_survives_libraries_that_are_cut_short(tmp_path):
    """The memory of a library that is shorter than it says cannot be read: the process would die of SIGBUS."""
    code = "import torch, gac_sj; print(gac_sj.LIFNode()(torch.full((4, 2), 9.0)).sum().item())"
    assert cpp.why_not() is None
    for path in (tmp_path / "cache").rglob("*.so"):
        os.truncate(path, 12288)
    assert "is damaged" in kernels_line() and "built again" in kernels_line()
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"GAC_SJ_OPS": "cpp"},
    )
    assert (done.returncode, done.stdout) == (0, "8.0\n"), done.stderr
    assert "built again" not in kernels_line()


def test_a_changed_byte_is_found():
    path, _ = build()
    changed = bytearray(CONTENT)
    changed[7000] ^= 1
    path.write_bytes(changed)
    assert build() == (path, True)


def test_another_valid_library_under_its_name_is_not_loaded():
    path, _ = build()
    other, _ = build(CONTENT[::-1], OTHER)
    path.write_bytes(other.read_bytes())
    assert build() == (path, True)


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: os.symlink(path, path)], ids=["fifo", "dir", "loop"]
)
def test_what_is_no_file_is_neither_read_nor_an_error(make):
    folder, _ = cache_folder()
    path = folder / f"{KEY}-{'0' * 64}.so"
    make(path)
    assert why_not_loaded(path)
    assert build()[1] and not build()[1]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda path: os.chown(path, NOBODY, 0), marks=as_root, id="owner"),
        pytest.param(lambda path: path.chmod(0o722), id="writable by others"),
    ],
)
class TestOthersCouldHaveWritten:
    def test_a_library_is_built_again(self, change, caplog):
        path, _ = build()
        change(path)
        reason = why_not_loaded(path)
        assert "other user" in reason or "another user" in reason
        assert reason in kernels_line()
        with caplog.at_level("INFO", "gac_sj"):
            assert build() == (path, True)
        assert f"{path} {reason}" in caplog.text
        assert reason not in kernels_line()

    def test_a_folder_is_replaced_by_one_of_the_process(self, change, tmp_path):
        folder, _ = cache_folder()
        change(folder)
        cache_folder.cache_clear()
        temporary, reason = cache_folder()
        assert temporary != folder and str(folder) in reason and "set XDG_CACHE_HOME" in reason
        assert str(temporary) in kernels_line() and reason in kernels_line()
        assert build()[0].parent == temporary and list(folder.iterdir()) == []
        assert cpp.why_not() is None


@as_root
@pytest.mark.parametrize("mode", [0o555, 0o000], ids=["read only", "not readable"])
def test_a_folder_of_root_that_is_not_writable_is_replaced(mode, monkeypatch):
    with tempfile.TemporaryDirectory() as home:  # pytest's own are not readable for others
        os.chmod(home, 0o755)
        monkeypatch.setenv("XDG_CACHE_HOME", home)
        folder, _ = cache_folder()
        folder.chmod(mode)
        cache_folder.cache_clear()
        temporary, reason = as_user(NOBODY, cache_folder)
    assert temporary != folder and str(folder) in reason and "Permission denied" in reason


def test_a_relative_folder_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert cache_folder() == (tmp_path / ".cache" / "gac_sj", None)
    assert not (tmp_path / "relative").exists()


def test_a_relative_home_is_that_of_the_start(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "home")
    monkeypatch.chdir(tmp_path)
    path, _ = build()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert path.is_absolute() and build() == (path, False)


def test_without_home_the_password_database_names_it(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda user: SimpleNamespace(pw_dir=str(tmp_path)))
    assert cache_folder() == (tmp_path / ".cache" / "gac_sj", None)


def test_without_any_home_a_folder_of_the_process_is_used(monkeypatch):
    def unknown(user):
        raise KeyError(user)

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    folder, reason = cache_folder()
    assert folder.is_dir() and "home directory" in reason


def test_names_that_are_not_utf8_are_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    environment.run(None)
    assert f"{tmp_path}/?/gac_sj" in capsys.readouterr().out


def test_the_compilers_version_is_part_of_the_name(tmp_path, monkeypatch):
    command = tmp_path / "c++"
    monkeypatch.setenv("CXX", str(command))
    for version in ("1.0", "2.0"):
        command.write_text(f'#!/bin/sh\ncase "$*" in --version) echo {version} ;; *) exec g++ "$@" ;; esac\n')
        command.chmod(0o755)
        compiler._examined.cache_clear()
        cpp.Module(source("lif", PROBE))
    assert len(list(cache_folder()[0].iterdir())) == 2


@pytest.mark.medium
def test_what_a_killed_compilation_left_is_removed(tmp_path):
    command = tmp_path / "c++"
    command.write_text('#!/bin/sh\ncase "$*" in *kernels.cpp*) echo $$ >"$0.pid"; exec sleep 60 ;; esac; exec g++ "$@"')
    command.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-c", "from gac_sj.ops import cpp; cpp.why_not()"], env=os.environ | {"CXX": str(command)}
    )
    pid, deadline = Path(f"{command}.pid"), time.monotonic() + 60
    while not (pid.exists() and pid.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    os.kill(int(pid.read_text()), signal.SIGKILL)
    (left,) = (tmp_path / "cache" / "gac_sj").iterdir()
    assert cpp.why_not() is None and left.exists()  # it may be that of another process, which still builds
    os.utime(left, (0, 0))
    cache_folder.cache_clear()
    cache_folder()
    assert not left.exists()
