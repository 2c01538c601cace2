"""An artefact is whole, absent, or known to be damaged."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from params.base import BadInput
from tasks.artefacts import digests
from tasks.artefacts.artefact import MANIFEST, Artefact, Damaged, replace_file
from tasks.artefacts.store import Store, publish
from tests.conftest import ROLES

FACTS = {
    "role": ROLES["rollout"],
    "round": 1,
    "seed": 0,
    "params": {"a": 1.5},
    "inputs": {},
    "code": {},
    "versions": {},
    "measured": {},
}


def fill(out: Path) -> dict[str, object]:
    (out / "deep").mkdir()
    (out / "table.bin").write_bytes(bytes(range(200)))
    (out / "deep" / "notes.json").write_text('{"x": 1}\n')
    return FACTS


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_what_is_made_is_found(store: Store) -> None:
    assert store.find("rollout", "f" * 64) is None
    made = store.make("rollout", "f" * 64, fill)
    found = store.find("rollout", "f" * 64)
    assert found is not None
    assert found.digest == made.digest
    assert found.json("deep/notes.json") == {"x": 1}
    with pytest.raises(Damaged, match="not part of this artefact"):
        found.file("manifest.json")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_of_any_file_is_noticed(store: Store, data: st.DataObject) -> None:
    artefact = store.make("rollout", "f" * 64, fill)
    name = data.draw(st.sampled_from([MANIFEST, *artefact.manifest.files]))
    path = artefact.path / name
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(content))
    with pytest.raises(Damaged, match=name):
        store.find("rollout", "f" * 64)


def test_large_files_hashed_side_by_side_are_the_same_artefact(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = store.make("rollout", "f" * 64, fill)
    monkeypatch.setattr(digests, "LARGE", 0)
    large = store.make("rollout", "e" * 64, fill)
    assert large.manifest.files == small.manifest.files
    large.check()
    (large.path / "deep" / "notes.json").write_text('{"x": 2}\n')
    with pytest.raises(Damaged, match=r"notes.json: its bytes do not match"):
        large.check()
    large.path.joinpath("table.bin").unlink()
    with pytest.raises(Damaged, match=r"table.bin: missing"):
        large.check()


def test_missing_and_foreign_files_are_noticed(store: Store) -> None:
    artefact = store.make("rollout", "f" * 64, fill)
    (artefact.path / "extra").write_text("")
    with pytest.raises(Damaged, match="extra: not part"):
        Artefact.open(artefact.path)
    (artefact.path / "extra").unlink()
    (artefact.path / "table.bin").unlink()
    with pytest.raises(Damaged, match=r"table\.bin: missing"):
        Artefact.open(artefact.path)


def test_a_stage_that_fails_leaves_nothing_and_harms_nothing(store: Store) -> None:
    good = store.make("update", "a" * 64, fill)

    def broken(out: Path) -> dict[str, object]:
        (out / "half.bin").write_bytes(b"half")
        raise RuntimeError("power cut")

    for fingerprint in ("a" * 64, "b" * 64):
        with pytest.raises(RuntimeError):
            store.make("update", fingerprint, broken)
    assert store.find("update", "b" * 64) is None
    still = store.find("update", "a" * 64)
    assert still is not None
    assert still.digest == good.digest
    assert not list((store.root / ".ostinato" / "building").iterdir())


def test_what_a_killed_process_left_half_built_is_swept(store: Store) -> None:
    left = store.root / ".ostinato" / "building" / f"update-x.{2**22 + 1}"
    left.mkdir(parents=True)
    store.make("update", "a" * 64, fill)
    assert not left.exists()


@pytest.mark.parametrize("old", ["", ".old"])
def test_what_another_machine_builds_is_left_alone(store: Store, old: str) -> None:
    """A process of another machine, which this one's list of processes does not know, holds its lock."""
    building = store.root / ".ostinato" / "building"
    theirs = building / f"update-x.{'0' * 24}{2**22 + 1}{old}"
    theirs.mkdir(parents=True)
    lock = building / f"update-x.{'0' * 24}{2**22 + 1}.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        store.make("update", "a" * 64, fill)
        assert theirs.exists()
    store.make("update", "b" * 64, fill)
    assert not list(building.iterdir())


def test_an_artefact_from_elsewhere_is_adopted_only_if_it_is_the_right_one(
    store: Store, tmp_path: Path
) -> None:
    made = store.make("update", "a" * 64, fill)
    place = tmp_path / "runs" / "demo" / "round-01" / "update"
    publish(made, place)
    other = Store(tmp_path / "other")
    assert other.adopt("update", "b" * 64, place) is None
    adopted = other.adopt("update", "a" * 64, place)
    assert adopted is not None
    assert adopted.digest == made.digest
    assert other.adopt("update", "a" * 64, tmp_path / "nowhere") is None


def test_publishing_mends_a_damaged_place(store: Store, tmp_path: Path) -> None:
    made = store.make("update", "a" * 64, fill)
    place = tmp_path / "runs" / "demo" / "update"
    publish(made, place)
    (place / "table.bin").unlink()
    publish(made, place)
    assert Artefact.open(place).digest == made.digest


def test_a_full_disk_is_said_before_anything_is_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(store.root)._replace(free=5 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(BadInput, match="5 MiB free; expected at least 256 to make rollout"):
        store.make("rollout", "f" * 64, fill)
    assert not list(store.root.iterdir())


def test_a_lock_is_held_by_one_and_says_by_whom(store: Store) -> None:
    with store.lock("run-demo"):
        busy = store.lock("run-demo", "run demo is busy")
        with pytest.raises(BadInput, match=rf"run demo is busy \(process {os.getpid()}\)"):
            busy.__enter__()
    with store.lock("run-demo", "run demo is busy"):
        pass


def test_whoever_only_looks_at_a_lock_keeps_nobody_from_it(store: Store) -> None:
    with store.lock("run-demo"):
        pass
    text = store.root / ".ostinato" / "locks" / "run-demo.lock"
    text.write_text("7")
    assert not store.held("run-demo")
    assert not store.held("run-other")
    assert (text.read_text(), len(list(text.parent.iterdir()))) == ("7", 1)
    has, seen = threading.Event(), threading.Event()

    def look() -> None:
        with store.lock("run-demo"):
            has.set()
            seen.wait(0.1)

    thread = threading.Thread(target=look)
    thread.start()
    assert has.wait(10)
    with store.lock("run-demo", "run demo is busy"):
        seen.set()
    thread.join()


def test_whoever_waits_for_a_lock_says_for_whom(store: Store) -> None:
    has, told, said = threading.Event(), threading.Event(), list[str]()

    def hold() -> None:
        with store.lock("update-x"):
            has.set()
            told.wait(10)

    def waits(process: str) -> None:
        said.append(process)
        told.set()

    thread = threading.Thread(target=hold)
    thread.start()
    assert has.wait(10)
    with store.lock("update-x", waits=waits, moment=0.01):
        thread.join()
    assert said == [str(os.getpid())]


def test_a_file_that_is_replaced_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, replace, order = os.fsync, os.replace, list[str]()
    monkeypatch.setattr(os, "fsync", lambda file: (order.append("sync"), sync(file)))
    monkeypatch.setattr(os, "replace", lambda old, new: (order.append("replace"), replace(old, new)))
    replace_file(tmp_path / "a", "text")
    assert (order, (tmp_path / "a").read_text()) == (["sync", "replace"], "text")
