"""Claims of folders: one owner, also where locks do not reach from one machine to another."""

import json
import multiprocessing
import os
import threading
import time

import pytest
from helpers.files import contents
from test_training import CPU, SMALL, assert_same_run, at_step, digits, run

from gac_sj._utils import claims
from gac_sj._utils.claims import DEAD_AFTER, FolderInUseError, check_claim, claimed, file_system_time
from gac_sj.training.engine import Training
from gac_sj.training.folder import hold_folder
from gac_sj.training.progress import Position, position_of
from gac_sj.training.settings import Settings

pytestmark = [pytest.mark.one_release, pytest.mark.usefixtures("quick")]


def later(seconds):
    """A clock that is ahead of the file system's."""
    return lambda folder: file_system_time(folder) + seconds


def dead_claim(folder, machine="dead", number=1):
    """What a process that was killed left."""
    content = {"token": "0" * 16, "host": machine, "process": 7, "machine": machine}
    (folder / f"claim-{number}.json").write_text(json.dumps(content))


class TestOwner:
    def test_claim_names_its_owner_and_is_removed(self, tmp_path):
        with claimed(tmp_path):
            (path,) = tmp_path.iterdir()
            content = json.loads(path.read_text())
            assert path.name == "claim-1.json" and content["process"] == os.getpid() and content["host"]
        assert not list(tmp_path.iterdir())

    def test_living_claim_of_another_machine_refuses(self, tmp_path):
        with claimed(tmp_path, machine="a"):
            before = contents(tmp_path)
            for clock in (later(0), later(DEAD_AFTER - 60)):
                with pytest.raises(FolderInUseError, match=f"in use by process {os.getpid()} on "):
                    claims.Claim(tmp_path, "claim", "b", clock)
            assert contents(tmp_path) == before

    def test_claim_of_the_same_machine_is_dead(self, tmp_path):
        """Its lock is free, so that its process has ended."""
        dead_claim(tmp_path, claims.machine_id())
        with claimed(tmp_path):
            assert [path.name for path in tmp_path.iterdir()] == ["claim-2.json"]

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"token": 1'])
    def test_damaged_claim_dies_after_ten_minutes(self, content, tmp_path):
        (tmp_path / "claim-3.json").write_bytes(content)
        with pytest.raises(FolderInUseError):
            claims.Claim(tmp_path, "claim", "a", later(DEAD_AFTER - 60))
        with claimed(tmp_path, machine="a", clock=later(DEAD_AFTER + 1)):
            assert [path.name for path in tmp_path.iterdir()] == ["claim-4.json"]

    def test_waiting_for_the_owner(self, tmp_path):
        taken, order = threading.Event(), []

        def owner():
            with claimed(tmp_path, machine="a"):
                taken.set()
                time.sleep(0.2)
                order.append("a")

        thread = threading.Thread(target=owner)
        thread.start()
        taken.wait()
        with claimed(tmp_path, machine="b", wait=True):
            order.append("b")
        thread.join()
        assert order == ["a", "b"]


class TestTakenOver:
    @pytest.fixture
    def two(self, tmp_path):
        """The claims of an owner that did not beat for ten minutes, and of the one who has taken it over."""
        with (
            claimed(tmp_path, machine="a") as old,
            claimed(tmp_path, machine="b", clock=later(DEAD_AFTER + 1)) as new,
        ):
            yield old, new

    def test_old_owner_is_told(self, two):
        old, new = two
        new.check()
        with pytest.raises(FolderInUseError, match="was taken over by process"):
            old.check()

    def test_late_beat_does_not_bring_it_back(self, two):
        old, new = two
        before = contents(new.folder)
        with pytest.raises(FileNotFoundError):
            old.beat()
        old.path.write_bytes(new.path.read_bytes())  # the number is used again
        old.beat()
        old.path.unlink()
        assert contents(new.folder) == before

    def test_old_owner_leaves_the_new_claim_alone(self, tmp_path):
        with claimed(tmp_path, machine="a") as old:
            old.path.unlink()
            with claimed(tmp_path, machine="b") as new:
                assert new.path == old.path
                old.release()
                new.check()


def take(folder, machine, start, results, ended):
    """One of several takers, each on a machine of its own: it holds what it gets until all have tried."""
    start.wait()
    try:
        with claimed(folder, machine=machine, clock=lambda folder: file_system_time(folder)) as claim:
            ended.wait()
            claim.check()
            results.put(machine)
    except FolderInUseError:
        ended.wait()
        results.put(None)


def test_one_of_several_takers_wins(tmp_path):
    """Of processes that no lock keeps apart, with no claim, with a dead one, and with damaged ones."""
    forks, takers = multiprocessing.get_context("fork"), 4
    for number in range(24):
        folder = tmp_path / str(number)
        folder.mkdir()
        for place in range(1, number % 3 + 1):
            dead_claim(folder, number=place)
            os.utime(folder / f"claim-{place}.json", (1, 1))
        start, ended, results = forks.Barrier(takers), forks.Barrier(takers), forks.Queue()
        processes = [forks.Process(target=take, args=(folder, str(i), start, results, ended)) for i in range(takers)]
        for process in processes:
            process.start()
        won = [results.get(timeout=60) for _ in processes]
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0] * takers
        assert sum(each is not None for each in won) == 1, won
        assert not list(folder.iterdir())


def hold(folder, held):
    with hold_folder(folder, CPU):
        held.set()
        time.sleep(60)


def test_folder_of_a_killed_process_is_free_at_once(tmp_path):
    forks = multiprocessing.get_context("fork")
    held = forks.Event()
    process = forks.Process(target=hold, args=(tmp_path, held))
    process.start()
    assert held.wait(60)
    with pytest.raises(FolderInUseError), hold_folder(tmp_path, CPU):
        pass
    process.kill()
    process.join()
    assert position_of(tmp_path) is None and (tmp_path / "claim-1.json").exists()
    with hold_folder(tmp_path, CPU):
        assert [path.name for path in tmp_path.glob("claim-*")] == ["claim-2.json"]


class TestBeats:
    def test_beat_shows_the_note(self, tmp_path):
        with claimed(tmp_path) as claim:
            claims.set_note(tmp_path, lambda: [1, "two"])
            os.utime(claim.path, (1, 1))
            claim.beat()
            assert claims.note_of(tmp_path) == [1, "two"] and claim.path.stat().st_mtime > 1e9

    def test_beats_come_by_themselves_and_end_with_the_claim(self, tmp_path, monkeypatch):
        monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
        beats = threading.Event()
        with pytest.raises(ZeroDivisionError), claimed(tmp_path):
            claims.set_note(tmp_path, beats.set)
            assert beats.wait(10)
            raise ZeroDivisionError
        assert "claim" not in {thread.name for thread in threading.enumerate()}
        assert not list(tmp_path.iterdir())

    def test_a_file_server_that_is_gone_for_a_while(self, tmp_path, monkeypatch):
        monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
        with claimed(tmp_path) as claim:
            hidden = claim.path.rename(tmp_path / "hidden")
            time.sleep(0.05)
            hidden.rename(claim.path)
            beats = threading.Event()
            claims.set_note(tmp_path, beats.set)
            assert beats.wait(10)
            claim.check()


@pytest.mark.medium
class TestRun:
    def test_beats_do_not_disturb_training(self, tmp_path, monkeypatch):
        monkeypatch.setattr(claims, "BEAT_SECONDS", 0.005)
        changes = dict(ema=0.9, random_erasing=0.5, model_options={"drop_rate": 0.2})
        run(tmp_path / "alone", **changes)
        with hold_folder(tmp_path / "held", CPU):
            run(tmp_path / "held", **changes)
        assert_same_run(tmp_path / "held", tmp_path / "alone")

    def test_position_of_a_run(self, tmp_path, monkeypatch):
        monkeypatch.setattr(claims, "BEAT_SECONDS", 3600)
        folder = tmp_path / "run"
        training = Training(Settings(**SMALL), digits(), CPU, folder)
        seen = []

        def look():
            claims._held[folder.absolute(), "claim"].beat()
            seen.append(position_of(folder))

        at_step(training, 6, look)
        assert position_of(folder) is None
        with hold_folder(folder, CPU):
            training.run()
        assert seen == [Position(epoch=1, epochs=2, batch=2, batches=4, what="epoch")]  # with the running batch
        assert seen[0].fraction == 0.75 and position_of(folder) is None

    def test_run_that_was_taken_over_writes_nothing_more(self, tmp_path):
        folder, before = tmp_path / "run", {}
        training = Training(Settings(**SMALL), digits(), CPU, folder)

        def take_over():
            dead_claim(folder, "another", number=2)
            before.update(contents(folder, times=True))

        at_step(training, 6, take_over)
        with hold_folder(folder, CPU), pytest.raises(FolderInUseError, match="process 7 on another"):
            training.run()
        after = contents(folder, times=True)
        events = {path for path in after if path.parent.name == "tensorboard"}
        assert {path: after.get(path) for path in before if path not in events} == {
            path: content for path, content in before.items() if path not in events and path.name != "claim-1.json"
        } | {path: None for path in before if path.name == "claim-1.json"}
        with pytest.raises(FolderInUseError, match="in use by process 7 on another"), hold_folder(folder, CPU):
            pass

    def test_folder_that_is_not_claimed_is_not_checked(self, tmp_path):
        dead_claim(tmp_path)
        check_claim(tmp_path)
