"""The memory that a process keeps, measured by the pages that it gets from the system."""

import mmap
import os
import platform
import subprocess
import sys

import pytest

import gac_sj
from gac_sj._utils import memory
from gac_sj._utils.errors import UsageError
from gac_sj._utils.memory import allocator
from gac_sj.cli.main import main

pytestmark = [
    pytest.mark.one_release,
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings"),
]

STEPS = """
import resource, torch, gac_sj
from gac_sj._utils.memory import allocator, release_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for megabytes in (48, 96) * 3:
        torch.ones(megabytes << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) >> 8

print(faults(), allocator(), sep="|")
gac_sj.keep_memory(), faults()
print(faults(), allocator(), sep="|")
before = resident()
release_memory()
print(before - resident())
"""


@pytest.mark.medium
def test_freed_memory_is_kept_once_asked_for_and_can_be_released(monkeypatch):
    for name in ("LD_PRELOAD", "GLIBC_TUNABLES", *memory._SETTINGS):
        monkeypatch.delenv(name, raising=False)
    said = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True).stdout
    (at_first, default), (kept, keeping), (released,) = (line.split("|") for line in said.splitlines())
    assert "default settings" in default  # the import has set nothing
    assert int(kept) < int(at_first) / 4 and "keeps freed memory" in keeping  # pages of 4 KiB, or huge ones
    assert int(released) > 80


def test_the_settings_of_a_user_stay(monkeypatch):
    monkeypatch.setattr(memory, "_kept", False)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "100000")
    assert "set by MALLOC_TRIM_THRESHOLD_" in gac_sj.keep_memory()
    assert not memory._kept


def test_names_of_loaded_files_need_not_be_utf_8(tmp_path):
    path = os.fsencode(tmp_path) + b"/library\xff.so"
    with open(path, "wb") as file:
        file.write(bytes(4096))
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        assert allocator().startswith("glibc")


def test_another_allocator_stays(monkeypatch):
    monkeypatch.setattr(memory, "_kept", False)
    monkeypatch.setattr(memory, "_library", lambda: "libjemalloc.so.2")
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so.2")
    assert gac_sj.keep_memory() == "libjemalloc.so.2"
    assert not memory._kept


def test_an_allocator_that_was_not_loaded_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("LD_PRELOAD", "libother.so /nowhere/libtcmalloc.so.4")
    with pytest.raises(UsageError, match=r"/nowhere/libtcmalloc\.so\.4.*was not loaded"):
        gac_sj.keep_memory()
    assert main(["models"]) == 2
    assert "unset LD_PRELOAD" in capsys.readouterr().err


def test_programs_keep_memory(monkeypatch, capsys):
    called = []
    monkeypatch.setattr("gac_sj.cli.program.keep_memory", lambda: called.append(1))
    assert main(["models"]) == 0
    assert called
