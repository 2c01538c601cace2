"""What another state of the source made is taken over where a person says so, and its manifest says so."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.execution.runner import Runner
from flows.execution.validation import settled
from flows.execution.watch import Watch
from flows.stage_table.stages import plan
from params.load import compose
from tasks.artefacts.artefact import MANIFEST, Artefact
from tasks.artefacts.store import link_tree
from tasks.core.context import Context

PLACES = ("problems", "model")
SETTINGS = ("engine.name=transformers", "model.warm_start_steps=2", "threads=1")
EDITED = "tasks.prepare.model"
Make = Callable[..., tuple[dict[str, Artefact], list[str]]]


class Notes(Watch):
    """What was noted."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """``make(*settings, accept=())``: the first stages of a run; what is finished and what was noted."""

    def made(*settings: str, accept: tuple[str, ...] = ()) -> tuple[dict[str, Artefact], list[str]]:
        params = settled(compose("nano", "sums", "grpo", [*SETTINGS, *settings]))
        (tmp_path / "scratch").mkdir(exist_ok=True)
        with Context(scratch=tmp_path / "scratch") as context:
            runner, stages = Runner(tmp_path, "it", params, context, Notes(), "", accept), plan(params)
            for place in PLACES:
                runner.settle(stages[place], runner.identify(stages[place]))
            assert isinstance(runner.watch, Notes)
            return dict(runner.done), runner.watch.texts

    return made


def made_by_other_source(root: Path, artefact: Artefact) -> None:
    """Let it be as if the artefact had been made before one of its modules was edited."""
    manifest = artefact.manifest.model_copy(
        update={"fingerprint": "0" * 64, "code": {**artefact.manifest.code, EDITED: "what it was"}}
    )
    place = artefact.path.with_name(f"{manifest.stage}-{'0' * 20}")
    link_tree(artefact.path, place)
    (place / MANIFEST).unlink()
    (place / MANIFEST).write_bytes(manifest.to_bytes())
    shutil.rmtree(artefact.path)
    shutil.rmtree(root / "runs")


def test_it_is_taken_over_where_that_is_accepted_and_its_manifest_says_so(make: Make, tmp_path: Path) -> None:
    first = make()[0]["model"]
    assert EDITED in first.manifest.code
    made_by_other_source(tmp_path, first)
    found, notes = make(accept=("model",))
    assert found["model"].digest == first.digest
    assert found["model"].fingerprint == first.fingerprint
    assert found["model"].manifest.accepted == {EDITED: "what it was"}
    assert found["model"].manifest.code == first.manifest.code
    assert notes == [f"model: takes over model-{'0' * 20} in spite of changes in {EDITED}"]
    again, notes = make()  # from now on it is in the cache
    assert again["model"].manifest.accepted == {EDITED: "what it was"}
    assert not notes


@pytest.mark.parametrize(
    ("settings", "accept"), [((), ()), ((), ("problems",)), (("model.warm_start_steps=3",), ("all",))]
)
def test_otherwise_it_is_made_anew(
    make: Make, tmp_path: Path, settings: tuple[str, ...], accept: tuple[str, ...]
) -> None:
    made_by_other_source(tmp_path, make()[0]["model"])
    found, notes = make(*settings, accept=accept)
    assert found["model"].manifest.accepted == {}
    assert not notes


def test_a_stage_that_is_none(refused: Callable[[list[str], str], None]) -> None:
    refused(
        ["run", "--model", "nano", "--engine", "transformers", "--accept-code", "round-1/update"],
        "--accept-code round-1/update: no such stage in this run; did you mean",
    )
