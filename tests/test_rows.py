"""Rows in a CSV file, the columns that are declared for them, and their provenance."""

import csv
import multiprocessing
import re
import time
from dataclasses import dataclass
from importlib.metadata import version

import pytest
import torch

from gac_sj._utils import provenance as module
from gac_sj._utils.files import read_text
from gac_sj._utils.provenance import commit, device_name, versions
from gac_sj.results import store
from gac_sj.results.columns import Schema, as_row, column, columns_of, parse
from gac_sj.results.store import Rows, read_rows

pytestmark = pytest.mark.one_release


@dataclass(frozen=True, kw_only=True)
class Key:
    name: str = column("name of the run")
    rate: float = column("rate")


@dataclass(frozen=True, kw_only=True)
class Found:
    result: str = column("result", volatile=True)


SCHEMA = Schema("trials", columns_of(Key, key=True) + columns_of(Found))


def open_rows(folder):
    return Rows(folder / "results.csv", SCHEMA)


def names(folder):
    with open(folder / "results.csv", newline="") as file:
        return [row["name"] for row in csv.DictReader(file)]


def test_find(tmp_path):
    folder = tmp_path / "new" / "folder"
    rows = open_rows(folder)
    assert rows.find({"name": "a", "rate": 5e-4}) is None
    rows.add({"name": "a", "rate": 5e-4, "result": '{"x": 1, "y": "ä\n"}'})
    again = open_rows(folder)
    assert again.find({"name": "a", "rate": 5e-4})["result"] == '{"x": 1, "y": "ä\n"}'
    assert again.find({"name": "a", "rate": 5e-3}) is None and again.find({"name": "b", "rate": 5e-4}) is None


def test_a_run_that_is_there_is_not_added_again(tmp_path):
    first, second = open_rows(tmp_path), open_rows(tmp_path)
    first.add({"name": "a", "rate": 1, "result": 1})
    second.add({"name": "a", "rate": 1, "result": 2})
    assert names(tmp_path) == ["a"] and second.find({"name": "a", "rate": 1})["result"] == "1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,result\na,1\n", ["lacks columns: rate"]),
        ("name,rate,result,mood\na,1,1,1\n", ["unknown columns: mood"]),
        ("name,speed,result\na,1,1\n", ["unknown columns: speed", "lacks columns: rate"]),
        ("notes\n", ["unknown columns: notes", "lacks columns: name, rate, result"]),
        ("", ["empty"]),
    ],
)
def test_a_file_of_other_columns_stays_untouched(text, words, tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        open_rows(tmp_path)
    assert all(word in str(error.value) for word in (*words, "move it away")), error.value
    assert path.read_text() == text


@pytest.mark.parametrize("text", [b"a,1\n", b"a,1,1,1\n", b"\xff", b'a,1,"cut off\n', b'a,1,"b"c\n'])
def test_a_damaged_file_stays_untouched(text, tmp_path):
    path, text = tmp_path / "results.csv", b"name,rate,result\n" + text
    path.write_bytes(text)
    with pytest.raises(ValueError, match=f"{path} is (damaged|not UTF-8)"):
        open_rows(tmp_path)
    assert path.read_bytes() == text


@dataclass(frozen=True, kw_only=True)
class Later(Found):
    steps: list[int] | None = column("added later", absent=None)
    share: float = column("added later", absent=0.5)
    word: str = column("added later", absent="none")


LATER = Schema("trials", columns_of(Key, key=True) + columns_of(Later))


def test_a_column_that_was_added_later_has_its_declared_value(tmp_path):
    """In any order of columns; order and values are put right when a row is added."""
    path = tmp_path / "results.csv"
    path.write_text("result,rate,name\n1,5,a\n")
    (row,) = read_rows(path, LATER)
    assert list(row) == list(LATER.names) and LATER.volatile == ("result",)
    assert parse(row, LATER.columns) == {
        "name": "a", "rate": 5.0, "result": "1", "steps": None, "share": 0.5, "word": "none",
    }  # fmt: skip
    rows = Rows(path, LATER)
    rows.add({"name": "b", "rate": 6} | as_row(Later(result="2", steps=[1, 2], share=0.25, word="x")))
    assert path.read_text() == 'name,rate,result,steps,share,word\na,5,1,,0.5,none\nb,6,2,"[1, 2]",0.25,x\n'
    assert parse(read_rows(path, LATER)[1], LATER.columns)["steps"] == [1, 2]


def test_a_producer_fills_every_column():
    with pytest.raises(TypeError, match="share"):
        Later(result="2", steps=None, word="x")


def test_a_file_that_is_damaged_meanwhile_stays_untouched(tmp_path):
    rows = open_rows(tmp_path)
    (tmp_path / "results.csv").write_text("mine")
    with pytest.raises(ValueError, match="unknown columns: mine"):
        rows.add({"name": "a", "rate": 1, "result": 1})
    assert (tmp_path / "results.csv").read_text() == "mine"


def test_two_open_tables_keep_the_rows_of_both(tmp_path):
    first, second = open_rows(tmp_path), open_rows(tmp_path)
    first.add({"name": "a", "rate": 1, "result": 1})
    second.add({"name": "b", "rate": 1, "result": 2})
    first.add({"name": "c", "rate": 1, "result": 3})
    assert names(tmp_path) == ["a", "b", "c"]
    assert first.find({"name": "b", "rate": 1})["result"] == "2"


def add_forty(folder, name):
    rows = open_rows(folder)
    for rate in range(40):
        rows.add({"name": name, "rate": rate, "result": 0})


def counting(monkeypatch):
    """The sizes of the files that are read from now on."""
    sizes = []

    def counted(path):
        text = read_text(path)
        sizes.append(len(text))
        return text

    monkeypatch.setattr(store, "read_text", counted)
    return sizes


def test_a_file_is_read_again_only_after_another_has_written_it(tmp_path, monkeypatch):
    rows, other = open_rows(tmp_path), open_rows(tmp_path)
    rows.add({"name": "a", "rate": 1, "result": 1})
    sizes = counting(monkeypatch)
    for rate in range(2, 20):
        assert rows.find({"name": "a", "rate": rate}) is None
        rows.add({"name": "a", "rate": rate, "result": 1})
        rows.replace({"name": "a", "rate": rate, "result": 2})
    assert sizes == []
    other.add({"name": "b", "rate": 1, "result": 3})
    assert len(sizes) == 1
    assert rows.find({"name": "b", "rate": 1})["result"] == "3"
    assert rows.find({"name": "a", "rate": 19})["result"] == "2"
    assert len(sizes) == 2
    (tmp_path / "results.csv").unlink()
    assert rows.find({"name": "b", "rate": 1}) is None
    rows.replace({"name": "c", "rate": 1, "result": 1})
    assert names(tmp_path) == ["c"]


@pytest.mark.medium
def test_one_more_row_of_many_takes_no_time_for_each(tmp_path):
    """100,000 rows: two minutes if every one of them were parsed and written for each new one."""
    path = tmp_path / "results.csv"
    text = "".join(f'name {number},{number},"[{number}, ""x"",\n1]"\n' for number in range(100_000))
    path.write_text(f"name,rate,result\n{text}")
    rows = open_rows(tmp_path)
    started = time.monotonic()
    for number in range(10):
        assert rows.find({"name": "name 99999", "rate": 99999})["result"] == '[99999, "x",\n1]'
        rows.add({"name": "new", "rate": number, "result": "1"})
    assert time.monotonic() - started < 5
    assert path.read_text() == f"name,rate,result\n{text}" + "".join(f"new,{number},1\n" for number in range(10))


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_the_rows_of_an_editor_stay_what_they_are(end, tmp_path):
    path = tmp_path / "results.csv"
    path.write_bytes(f'name,rate,result\r\na,1,"x\r\ny"\r\n\r\nb,1,2{end}'.encode())
    rows = open_rows(tmp_path)
    rows.add({"name": "c", "rate": 1, "result": 3})
    assert [row["result"] for row in read_rows(path, SCHEMA)] == ["x\r\ny", "2", "3"]
    assert open_rows(tmp_path).find({"name": "b", "rate": 1})["result"] == "2"


def test_the_first_of_two_rows_of_one_key_is_found_and_both_stay(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("name,rate,result\na,1,first\na,1,second\n")
    rows = open_rows(tmp_path)
    assert rows.find({"name": "a", "rate": 1})["result"] == "first"
    rows.add({"name": "b", "rate": 1, "result": 2})
    assert names(tmp_path) == ["a", "a", "b"]


def test_a_key_that_utf8_lacks_is_found_again(tmp_path):
    run = {"name": "encoder_\udcff.py", "rate": 1}
    open_rows(tmp_path).add(run | {"result": 1})
    rows = open_rows(tmp_path)
    assert rows.find(run)["result"] == "1"
    rows.add(run | {"result": 2})
    assert names(tmp_path) == ["encoder_\\udcff.py"]


def test_a_file_that_is_a_link_is_refused_before_any_work(tmp_path):
    (tmp_path / "valuable.csv").write_text("name,rate,result\n")
    (tmp_path / "results.csv").symlink_to("valuable.csv")
    with pytest.raises(ValueError, match=r"results\.csv is a symbolic link"):
        open_rows(tmp_path)
    assert (tmp_path / "valuable.csv").read_text() == "name,rate,result\n"


def test_two_processes_keep_the_rows_of_both(tmp_path):
    context = multiprocessing.get_context("fork")  # others would import torch again
    processes = [context.Process(target=add_forty, args=(tmp_path, name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(names(tmp_path)) == ["a"] * 40 + ["b"] * 40


def test_a_full_disk_keeps_what_is_there(tmp_path, monkeypatch):
    rows = open_rows(tmp_path)
    rows.add({"name": "a", "rate": 1, "result": 1})
    before = (tmp_path / "results.csv").read_bytes()

    def fsync(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        rows.add({"name": "b", "rate": 1, "result": 2})
    assert (tmp_path / "results.csv").read_bytes() == before


def test_commit(tmp_path, monkeypatch):
    assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?|unknown", commit())
    monkeypatch.setattr(module, "_REPOSITORY", tmp_path)
    assert commit() == "unknown"


def test_versions_and_device():
    assert f"torch {version('torch')}; " in versions() and "spikingjelly " in versions()
    assert device_name(torch.device("cpu")).endswith(f", {torch.get_num_threads()} threads")
