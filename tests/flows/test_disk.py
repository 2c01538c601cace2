"""What takes the disk, and collecting what nothing names: nothing that is needed goes, whatever there is."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.commands.disk_commands import du, gc
from flows.execution.disk import collect, freed, garbage, uses
from params.base import BadInput
from tasks.artefacts.artefact import Artefact, Source
from tasks.artefacts.record import Record, Step
from tasks.artefacts.role import Role
from tasks.artefacts.store import Store, publish

ROLE = Role(kind="sample", label="x", time_of="sampling")
KINDS = ("rollout", "update", "verdicts", "part")


def made(store: Store, stage: str, number: int, inputs: list[Artefact], size: int = 100) -> Artefact:
    """An artefact of its own content, made of others."""
    sources = {
        f"in{place}": Source(stage=each.manifest.stage, fingerprint=each.fingerprint, digest=each.digest)
        for place, each in enumerate(inputs)
    }

    def fill(out: Path) -> dict[str, Any]:
        (out / "data.bin").write_bytes(number.to_bytes(4, "big") * (size // 4))
        facts = {
            "role": ROLE,
            "round": 1,
            "seed": 0,
            "params": {},
            "code": {},
            "versions": {},
            "measured": {},
        }
        return {**facts, "inputs": sources}

    return store.make(stage, f"{number:064d}", fill)


def recorded(
    store: Store, name: str, artefacts: list[Artefact], finished: bool = True, shown: bool = True
) -> Path:
    """A run whose steps are these artefacts; ``shown``: they also lie in its directory."""
    steps = []
    for place, each in enumerate(artefacts, start=1):
        where = f"round-{place:02d}/{each.manifest.stage}"
        if shown:
            publish(each, store.root / "runs" / name / where)
        facts = {"place": where, "stage": each.manifest.stage, "role": ROLE, "round": place}
        made = {"fingerprint": each.fingerprint, "digest": each.digest, "outcome": "made", "seconds": 1.0}
        steps.append(Step(**facts, **made))  # type: ignore[arg-type]
    record = Record(
        name=name, command=f"ostinato run --name {name}", params={}, started="", finished=finished
    )
    record.steps = steps
    record.write(store.root / "runs" / name)
    return store.root / "runs" / name


def needed_by_hand(chosen: list[Artefact], store: Store) -> set[str]:
    """A slow, obvious closure."""
    names = {each.path.name for each in chosen}
    while True:
        more = set(names)
        for name in names:
            for source in Artefact.open(store.artefacts / name).manifest.inputs.values():
                more.add(f"{source.stage}-{source.fingerprint[:20]}")
        if more == names:
            return names
        names = more


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_nothing_that_is_needed_goes_and_a_second_time_frees_nothing(data: st.DataObject) -> None:
    root = Path(tempfile.mkdtemp())
    store, artefacts = Store(root), list[Artefact]()
    for number in range(data.draw(st.integers(1, 8))):
        inputs = data.draw(st.lists(st.sampled_from(artefacts), max_size=2)) if artefacts else []
        artefacts.append(made(store, data.draw(st.sampled_from(KINDS)), number, inputs))
    named: list[Artefact] = []
    finished = True
    for run in range(data.draw(st.integers(0, 3))):
        steps = data.draw(st.lists(st.sampled_from(artefacts), max_size=3, unique_by=lambda a: a.fingerprint))
        ended = data.draw(st.booleans())
        recorded(store, f"run{run}", steps, ended, shown=data.draw(st.booleans()))
        named += steps
        finished &= ended
    compared = data.draw(st.lists(st.sampled_from(artefacts), max_size=2, unique_by=lambda a: a.fingerprint))
    if compared:
        comparison = made(store, "comparison", 99, compared)
        shutil.copytree(comparison.path, root / "comparisons" / "c")
        shutil.rmtree(comparison.path)
        named += compared
    needed = needed_by_hand(named, store)
    found = garbage(store)
    promised, before = freed(found), used(root)
    collect(store, found)
    assert before - used(root) == promised
    left = {path.name for path in store.artefacts.iterdir()}
    for name in left:
        Artefact.open(store.artefacts / name)  # whole
    lasting = {a.path.name for a in artefacts if a.manifest.stage == "verdicts"}
    begun = set() if finished else {a.path.name for a in artefacts if a.manifest.stage == "part"}
    assert left == needed | lasting | begun
    assert garbage(store) == []
    shutil.rmtree(root)


def used(root: Path) -> int:
    stats = [path.stat() for path in root.rglob("*") if path.is_file()]
    return sum({stat.st_ino: stat.st_size for stat in stats}.values())


def test_a_dropped_run_takes_only_its_own_along(tmp_path: Path) -> None:
    store = Store(tmp_path)
    shared, own = made(store, "model", 1, [], 4000), made(store, "update", 2, [], 8000)
    recorded(store, "old", [shared, own])
    recorded(store, "new", [shared])
    [first, second] = uses(store)
    records = sum((tmp_path / "runs" / "old" / name).stat().st_size for name in ("run.json", "steps.jsonl"))
    assert (first.name, first.stages) == ("old", {"update": size(own), "model": size(shared), "": records})
    assert first.alone == first.bytes - size(shared)
    assert second.alone == second.bytes - size(shared)
    found = garbage(store, ["old"])
    assert [each.path.name for each in found] == ["old", own.path.name]
    assert freed(found) == first.alone
    collect(store, found)
    assert {path.name for path in store.artefacts.iterdir()} == {shared.path.name}
    assert not (tmp_path / "runs" / "old").exists()


def size(artefact: Artefact) -> int:
    return sum(path.stat().st_size for path in artefact.path.iterdir())


def test_what_a_killed_collection_leaves_is_swept_by_the_next_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    gone = made(store, "rollout", 1, [])

    def killed(path: Path, **_: Any) -> None:
        if path.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            store.discard(gone.path)
    assert not gone.path.exists()
    aside, lock = sorted((tmp_path / ".ostinato" / "building").iterdir())
    assert lock.name == f"{aside.name}.lock"
    made(store, "rollout", 2, [])
    assert list((tmp_path / ".ostinato" / "building").iterdir()) == []


def test_said_first_and_done_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OSTINATO_HOME", str(tmp_path))
    store = Store(tmp_path)
    kept, loose = made(store, "model", 1, []), made(store, "update", 2, [])
    recorded(store, "it", [kept])
    gc()
    said = capsys.readouterr().out
    assert f"artefacts/{loose.path.name}" in said
    assert "1 artefact that runs, comparisons or judges need stays; --yes does it" in said
    assert loose.path.exists()
    gc(yes=True, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["done"], [each["why"] for each in told["gone"]]) == (True, ["no run or comparison names it"])
    assert not loose.path.exists()
    gc()
    assert "nothing can go" in capsys.readouterr().out
    du(as_json=True)
    assert json.loads(capsys.readouterr().out)["uses"][0]["name"] == "it"
    du()
    assert "in all, each file once" in capsys.readouterr().out


def test_what_cannot_be_collected_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSTINATO_HOME", str(tmp_path))
    store = Store(tmp_path)
    directory = recorded(store, "it", [made(store, "model", 1, [])])
    with store.lock("run-it"), pytest.raises(BadInput, match="run it: a process is at it"):
        gc()
    with pytest.raises(BadInput, match="--drop its: no such run; did you mean 'it'"):
        gc(drop=["its"])
    (tmp_path / "dvc.yaml").write_text("stages:\n  model:\n    outs: [runs/it/model]\n")
    with pytest.raises(BadInput, match=r"--drop it: .*names it"):
        gc(drop=["it"])
    (directory / "run.json").write_text("{}")
    with pytest.raises(BadInput, match="not a run record"):
        gc()


@pytest.mark.parametrize("name", ["new", "it-round-01-update"])
def test_nothing_is_collected_while_a_process_is_at_a_run_without_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A run that has just begun, one that is being pulled, and a stage that DVC makes."""
    monkeypatch.setenv("OSTINATO_HOME", str(tmp_path))
    store = Store(tmp_path)
    loose = made(store, "model", 1, [])
    with (
        store.lock(f"run-{name}"),
        store.lock(f"rollout-{name}"),
        pytest.raises(BadInput, match=f"run {name}: a process is at it"),
    ):
        gc(yes=True)
    assert loose.path.exists()
    gc(yes=True)
    assert not loose.path.exists()


def test_artefacts_that_dvc_brought_into_a_run_keep_their_history(tmp_path: Path) -> None:
    store = Store(tmp_path)
    source = made(store, "rollout", 1, [])
    brought = made(store, "update", 2, [source])
    directory = recorded(store, "it", [])
    publish(brought, directory / "round-01" / "update")
    assert garbage(store) == []
