"""The record of a run: appended step by step, readable at any moment of a run that may be killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from params.base import BadInput
from tasks.artefacts.record import STEPS, Record, Step
from tests.conftest import ROLES


def step(place: str, digest: str = "d", elapsed: float = 0.0) -> Step:
    stage = place.rpartition("/")[2]
    return Step(
        place=place,
        stage=stage,
        role=ROLES[stage],
        round=int(place[6:8]) if "/" in place else 0,
        fingerprint="f",
        digest=digest,
        outcome="made",
        seconds=1.0,
        elapsed=elapsed,
    )


@pytest.fixture
def record(tmp_path: Path) -> Record:
    made = Record(name="it", command="ostinato run", params={"seed": 1}, started="2026-01-01")
    made.write(tmp_path)
    return made


def test_a_step_is_added_to_what_stands_there(record: Record, tmp_path: Path) -> None:
    places = ["problems", "model", "round-01/rollout", "round-01/update"]
    for number, place in enumerate(places):
        before = (tmp_path / STEPS).read_bytes()
        record.append(tmp_path, step(place, elapsed=number))
        assert (tmp_path / STEPS).read_bytes().startswith(before)
    read = Record.read(tmp_path)
    assert [each.place for each in read.steps] == places
    assert read.steps == record.steps
    assert read.seconds == 3.0
    assert [each.place for each in read.policies()] == ["round-01/update"]


def test_the_last_step_of_a_place_counts(record: Record, tmp_path: Path) -> None:
    for digest in ("old", "new"):
        record.append(tmp_path, step("round-01/rollout", digest))
    assert [each.digest for each in Record.read(tmp_path).steps] == ["new"]


def test_a_torn_last_line_is_a_step_that_was_not_done(record: Record, tmp_path: Path) -> None:
    for place in ("problems", "model"):
        record.append(tmp_path, step(place))
    whole = (tmp_path / STEPS).read_bytes()
    for size in range(len(whole) - 1, whole.index(b"\n"), -1):
        (tmp_path / STEPS).write_bytes(whole[:size])
        assert [each.place for each in Record.read(tmp_path).steps] == ["problems"]


def test_what_is_no_step_is_told_in_one_line(record: Record, tmp_path: Path) -> None:
    (tmp_path / STEPS).write_text('{"place": "model"}\n')
    with pytest.raises(BadInput, match=r"steps\.jsonl: not a run record"):
        Record.read(tmp_path)
    (tmp_path / STEPS).unlink()
    with pytest.raises(BadInput, match=r"steps\.jsonl: no such run"):
        Record.read(tmp_path)
