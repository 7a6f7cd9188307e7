"""benchmarks/speed.py --against: pairs in turns, each side its own code, and no worktree left behind."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import speed
from speeds import against
from speeds.against import Checkout, measure_pairs, quantiles, ratio_lines

pytestmark = pytest.mark.one_release

REPOSITORY = Path(__file__).resolve().parent.parent

#: Stands for speed.py: writes one row as fast as possible, and logs which checkout ran it.
SPEED = """
import csv, os, subprocess, sys, time
from pathlib import Path
import gac_sj
with open(os.environ["LOG"], "a") as log:
    log.write(" ".join([Path.cwd().name, *sys.argv[1:-2]]) + "\\n")
if "seconds" in sys.argv:
    time.sleep(60)
describe = ["git", "-C", os.path.dirname(gac_sj.__file__), "describe", "--always", "--abbrev=12", "--dirty"]
commit = subprocess.run(describe, capture_output=True, text=True).stdout.strip()
row = dict(benchmark="lif", mode="forward", variant="ours", ops_path="cpp", T=2, median_ms=2.0, commit=commit)
with open(sys.argv[-1], "w", newline="") as file:
    writer = csv.DictWriter(file, row)
    writer.writeheader()
    writer.writerow(row)
    writer.writerow(row | {"variant": "naive"})
"""


def git(folder, *arguments):
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    return subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def commit(folder, **files):
    for name, text in files.items():
        (folder / "benchmarks" / f"{name}.py").write_text(text)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=a change")


def worktrees(folder):
    return git(folder, "worktree", "list").splitlines()


def fails(capsys, *arguments):
    assert speed.main(list(arguments)) == 2
    found = capsys.readouterr()
    assert not found.out and len(found.err.splitlines()) == 1
    return found.err


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with the stand-in, in which each call takes 2 ms."""
    folder = tmp_path / "here"
    for name in ("benchmarks", "gac_sj"):
        (folder / name).mkdir(parents=True)
    (folder / "gac_sj" / "__init__.py").touch()
    git(folder, "init", "--quiet")
    commit(folder, speed=SPEED)
    monkeypatch.setattr(against, "REPOSITORY", folder)
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    return folder


@pytest.fixture
def log(tmp_path):
    return lambda: (tmp_path / "log").read_text().splitlines()


class TestArguments:
    def test_too_few_pairs(self, capsys):
        assert "pairs must be at least 15, got 14" in fails(capsys, "lif", "--against", "HEAD", "--pairs", "14")
        assert "at least 2, got 1" in fails(capsys, "lif", "--against", "HEAD", "--pairs", "1", "--quick")

    def test_pairs_alone(self, capsys):
        assert "--against" in fails(capsys, "lif", "--pairs", "20")

    def test_output(self, capsys):
        assert "output cannot be used with --against" in fails(
            capsys, "lif", "--against", "HEAD", "--output", "rows.csv"
        )

    @pytest.mark.parametrize("name", ["memory", "loaders", "all"])
    def test_sub_command_without_a_variant_to_compare(self, name):
        with pytest.raises(SystemExit, match="2"):
            speed.build_parser().parse_args([name, "--against", "HEAD"])

    def test_unknown_revision(self, repository, capsys):
        assert "'nonsense'" in fails(capsys, "lif", "--against", "nonsense")
        assert len(worktrees(repository)) == 1

    def test_uncommitted_changes(self, repository, capsys):
        (repository / "benchmarks" / "speed.py").write_text("")
        assert "commit or stash" in fails(capsys, "lif", "--against", "HEAD")

    def test_folder_without_git(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(against, "REPOSITORY", tmp_path)
        assert "clone" in fails(capsys, "lif", "--against", "HEAD")

    def test_git_is_not_installed(self, repository, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("PATH", str(tmp_path))
        assert "install it" in fails(capsys, "lif", "--against", "HEAD")


class TestPairs:
    def test_quantiles(self):
        assert quantiles([float(value) for value in range(101)]) == (5, 25, 50, 75, 95)
        assert quantiles([1.0, 2.0]) == pytest.approx((1.05, 1.25, 1.5, 1.75, 1.95))

    def test_order_alternates_after_a_warm_up(self):
        calls = []

        class Recorded(Checkout):
            def measure(self, arguments):
                calls.append(self.name)
                return {("forward", "ours"): {"call": len(calls)}}

        here, there = (Recorded(name, Path(name), name) for name in "AB")
        measured = measure_pairs(here, there, [], 3)
        assert "".join(calls) == "BA" + "AB" + "BA" + "AB"
        numbers = [[rows["forward", "ours"]["call"] for rows in pair] for pair in measured]
        assert numbers == [[3, 4], [6, 5], [7, 8]]

    def test_ratios_are_those_of_pairs(self):
        """A machine that becomes slower does not change them."""

        def rows(milliseconds, variant="ours"):
            row = {"benchmark": "lif", "T": "2", "ops_path": "cpp", "median_ms": milliseconds}
            return {("forward", name): row for name in (variant, "naive", "spikingjelly")}

        drift = [1.0, 2.0, 4.0, 8.0, 16.0]
        settings, ratio = ratio_lines([(rows(3 * factor), rows(2 * factor)) for factor in drift])
        assert settings == "T 2"
        assert "takes 1.500 times" in ratio and ratio.count("1.500") == 5 and "12.000 / 8.000 ms" in ratio
        _, here, there = ratio_lines([(rows(1, "new"), rows(1, "old"))] * 2)
        assert here.endswith("only here") and there.endswith("only there")


class TestProcesses:
    def test_each_side_runs_its_own_code(self, repository, log, capsys):
        commit(repository, speed=SPEED.replace("median_ms=2.0", "median_ms=3.0"))
        before = git(repository, "rev-parse", "--short=12", "HEAD~1").strip()
        arguments = ["lif", "-T", "2", "--against=HEAD~1", "--modes", "forward", "--pairs", "2", "--quick"]
        assert speed.main(arguments) == 0
        assert (
            log() == [f"{name} lif -T 2 --modes forward --quick" for name in [before, "here", "here", before] * 2][:6]
        )
        head, settings, ratio = capsys.readouterr().out.splitlines()
        assert f"HEAD~1 ({before}), 2 pairs" in head and settings == "T 2" and "takes 1.500 times" in ratio
        assert len(worktrees(repository)) == 1

    def test_wrong_package(self, repository, capsys):
        """A worktree that imports the gac_sj of this checkout would show no difference."""
        commit(
            repository, speed=SPEED.replace("import gac_sj", f"sys.path.insert(0, {str(repository)!r})\nimport gac_sj")
        )
        commit(repository, speed=SPEED)
        assert "commit" in fails(capsys, "lif", "--against", "HEAD~1", "--quick")
        assert len(worktrees(repository)) == 1

    @pytest.mark.parametrize("change", ["T=4", "variant='theirs'"])
    def test_other_settings(self, change, repository, capsys):
        name = change.split("=")[0]
        commit(repository, speed=SPEED.replace({"T": "T=2", "variant": 'variant="ours"'}[name], change))
        assert name in fails(capsys, "lif", "--against", "HEAD~1", "--quick")

    def test_failing_process(self, repository, capsys):
        commit(repository, speed="import sys; sys.exit('a warning\\nspeed.py: T is 0')")
        assert "this checkout failed: speed.py: T is 0" in fails(capsys, "lif", "--against", "HEAD~1", "--quick")
        assert len(worktrees(repository)) == 1

    @pytest.mark.medium
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_interrupted(self, number, repository, tmp_path):
        script = (
            "import sys; from pathlib import Path; import speed; from speeds import against\n"
            "against.REPOSITORY = Path(sys.argv[1])\n"
            "sys.exit(speed.main(['lif', '--against', 'HEAD', '--quick']))\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(repository)], cwd=REPOSITORY / "benchmarks", stderr=subprocess.PIPE
        )
        while not (tmp_path / "log").exists():
            assert process.poll() is None
            time.sleep(0.05)
        assert len(worktrees(repository)) == 2
        process.send_signal(number)
        _, error = process.communicate(timeout=30)
        assert process.returncode == 128 + number and error.decode() == "speed.py: interrupted.\n"
        assert len(worktrees(repository)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "settings", "variant"),
    [
        (["lif", "-T", "2", "--elements", "1000", "--modes", "forward"], "dtype float32, T 2, size 1000", "ours"),
        (["train", "-T", "2", "--size", "8", "--forms", "channels_last"], "T 2, batch 8, size 8", "channels_last"),
    ],
    ids=["lif", "train"],
)
def test_real_program(arguments, settings, variant, tmp_path, monkeypatch, capsys):
    """The rows of the programs themselves hold what the comparison needs."""
    generated = shutil.ignore_patterns("__pycache__", "*.csv", "*.png", "*.svg", "*.html")
    for name in ("gac_sj", "benchmarks"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=generated)
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    monkeypatch.setattr(against, "REPOSITORY", tmp_path)
    assert speed.main([*arguments, "--against", "HEAD", "--quick", "--repeats", "2", "--device", "cpu"]) == 0
    _, said, ratio = capsys.readouterr().out.splitlines()
    assert f"{settings}, repeats 2" in said and variant in ratio
    assert len(worktrees(tmp_path)) == 1
