"""Files are written completely or not at all, where they should be, and reading never waits."""

import errno
import os
import resource
import subprocess
import sys
import time

import pytest

from gac_sj._utils.errors import UsageError
from gac_sj._utils.files import locked, read_bytes, read_text, require_file, safe_name, write_atomically

pytestmark = pytest.mark.one_release


def test_a_file_is_replaced_with_the_permissions_of_new_files(tmp_path):
    path = tmp_path / "rows.csv"
    before = os.umask(0o027)
    try:
        write_atomically(path, b"old")
        write_atomically(path, b"new")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["rows.csv"]


@pytest.mark.parametrize("target", ["existing", "missing"])
def test_a_symbolic_link_is_neither_followed_nor_replaced(tmp_path, target):
    (tmp_path / "existing").write_bytes(b"valuable")
    (tmp_path / "report.html").symlink_to(tmp_path / target)
    with pytest.raises(UsageError, match=r"report\.html is a symbolic link"):
        write_atomically(tmp_path / "report.html", b"page")
    assert (tmp_path / "report.html").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"existing", "report.html"}
    assert (tmp_path / "existing").read_bytes() == b"valuable"


def test_the_temporary_file_cannot_be_foreseen(tmp_path):
    (tmp_path / "valuable").write_bytes(b"valuable")
    (tmp_path / ".report.html.tmp").symlink_to(tmp_path / "valuable")
    write_atomically(tmp_path / "report.html", b"page")
    assert (tmp_path / "valuable").read_bytes() == b"valuable"
    assert (tmp_path / ".report.html.tmp").is_symlink()


def test_text_that_utf8_lacks_is_escaped(tmp_path):
    write_atomically(tmp_path / "page.md", "größe \udcff\r\n")
    assert (tmp_path / "page.md").read_bytes() == "größe \\udcff\r\n".encode()


def test_a_file_that_is_too_large_names_the_path_and_leaves_the_old_content(tmp_path):
    path = tmp_path / "rows.csv"
    write_atomically(path, b"old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError, match=r"rows\.csv") as caught:
            write_atomically(path, bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["rows.csv"]


def test_what_killed_writers_left_is_removed_later(tmp_path):
    old, new, other = (
        tmp_path / name for name in (".a.csv.01234567.tmp", ".a.csv.89abcdef.tmp", ".b.csv.01234567.tmp")
    )
    for path in (old, new, other):
        path.write_bytes(b"")
    for path in (old, other):
        os.utime(path, (time.time() - 7200,) * 2)
    write_atomically(tmp_path / "a.csv", b"")
    assert not old.exists()
    assert new.exists(), "its writer may be at work"
    assert other.exists()


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "args.yaml")
    for function in (read_bytes, require_file):
        with pytest.raises(OSError, match=r"Not a regular file.*args\.yaml"):
            function(tmp_path / "args.yaml")


def test_errors_name_the_file(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        for function in (read_bytes, require_file):
            with pytest.raises(OSError, match=path.name):
                function(path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"/file/rows\.csv"):
        write_atomically(tmp_path / "file" / "rows.csv", b"")
    (tmp_path / "latin.txt").write_bytes("Blüte".encode("latin-1"))
    with pytest.raises(UsageError, match=r"latin\.txt is not UTF-8 text \(byte 2\)"):
        read_text(tmp_path / "latin.txt")


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path):
    (tmp_path / "rows.csv").write_bytes("\ufeffname\r\n".encode())
    assert read_text(tmp_path / "rows.csv") == "name\r\n"


_HOLD = "import sys, pathlib\nfrom gac_sj._utils.files import locked\n" + (
    "with locked(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"
)


@pytest.mark.medium
def test_a_lock_ends_with_its_process_and_does_not_change_its_file(tmp_path):
    path = tmp_path / ".lock"
    path.write_bytes(b"content")
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError, match="Locked by another process"), locked(path, wait=False):
        pass
    holder.kill()
    holder.communicate()
    with locked(path, wait=False):
        assert path.read_bytes() == b"content"


def test_a_lock_is_no_way_to_another_file(tmp_path):
    (tmp_path / "valuable").write_bytes(b"valuable")
    (tmp_path / ".lock").symlink_to(tmp_path / "valuable")
    with pytest.raises(OSError, match=r"\.lock"), locked(tmp_path / ".lock"):
        pass
    assert (tmp_path / "valuable").read_bytes() == b"valuable"


def test_safe_names_stay_in_their_folder_and_are_different():
    kept = ["gac", "gac_form=lite,T=4", "x-1.5", "größe"]
    assert [safe_name(text) for text in kept] == kept
    odd = ["../../escaped", "a/b", "a_b", "a\0b", "", ".", "..", "x" * 500, "x" * 501, "ö" * 300, "\udcff", "\udcfe"]
    odd += [".hidden", "\N{BRAIN}" * 100, "ö" * 299 + "x"]
    names = [safe_name(text) for text in odd]
    assert len({*names, *kept}) == len(odd) + len(kept)
    for name in names:
        assert name.strip(".")
        assert not name.startswith(".")
        assert not {"/", "\0", "\\"} & set(name)
        assert len(name.encode()) < 140, "with the endings of temporary files too, file systems take 255 bytes"
