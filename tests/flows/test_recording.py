"""A run that is started again and ends early: what its record said of it still holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flows.execution.earlier_run import keep_earlier
from flows.stage_table.stages import plan
from params.load import compose
from params.schema import Params
from tasks.artefacts.record import Record
from tasks.core.context import Context
from tests.flows.pretended import Pretending, run


def of(rounds: int = 2) -> Params:
    return compose("nano", "sums", "grpo", ["engine.name=transformers", f"rounds={rounds}"])


def begun(root: Path, params: Params, stages: int, salt: str = "") -> Record:
    """The record once a process has settled so many stages and was interrupted."""
    with Context(scratch=root / "scratch") as context:
        runner = Pretending(root, "it", params, context)
        runner.salt = salt
        nodes = list(plan(params))
        for node in nodes[:stages]:
            node = replace(node, stage=replace(node.stage, refuses=""))
            runner.settle(node, runner.identify(node))
        runner.stop(nodes[stages].place, "interrupted")
        return Record.read(runner.directory)


@pytest.mark.parametrize("rounds", [2, 3])
def test_a_finished_run_that_is_looked_at_again_stays_finished(tmp_path: Path, rounds: int) -> None:
    run(tmp_path, "it", of(), [0.5])
    before = Record.read(tmp_path / "runs" / "it")
    assert before.finished
    assert begun(tmp_path, of(rounds), 3) == before


def test_an_unfinished_one_keeps_its_steps_and_says_where_it_ended(tmp_path: Path) -> None:
    before = begun(tmp_path, of(), 5)
    after = begun(tmp_path, of(), 2)
    assert [step.place for step in after.steps] == [step.place for step in before.steps]
    assert len(after.steps) == 5
    assert after.stopped is not None
    assert after.stopped.place == list(plan(of()))[2].place


def test_what_differs_begins_the_record_anew(tmp_path: Path) -> None:
    whole = run(tmp_path, "it", of(), [0.5])
    first = whole.record.steps[0]
    for place in (whole.store.path(first.stage, first.fingerprint), whole.directory / first.place):
        (place / "metrics.json").write_text("[]")
    after = begun(tmp_path, of(), 2, salt="other")
    assert not after.finished
    assert [step.outcome for step in after.steps] == ["made", "cached"]


def test_a_record_that_cannot_be_read_is_kept_aside(tmp_path: Path) -> None:
    assert keep_earlier(tmp_path, "it", of()) is None
    directory = tmp_path / "runs" / "it"
    directory.mkdir(parents=True)
    assert keep_earlier(tmp_path, "it", of()) is None
    (directory / "run.json").write_text('{"name": "it", "newer": 1}')
    said = keep_earlier(tmp_path, "it", of())
    assert said is not None
    assert "run.json: not a run record" in said
    assert said.endswith("; what lies there is kept as it~1")
    assert (tmp_path / "runs" / "it~1" / "run.json").read_text() == '{"name": "it", "newer": 1}'
    assert not directory.exists()


def test_stages_that_are_none_of_the_run_are_forgotten_at_its_end(tmp_path: Path) -> None:
    run(tmp_path, "it", of(3), [0.5])
    run(tmp_path, "it", of(2), [0.5])
    record = Record.read(tmp_path / "runs" / "it")
    assert (record.finished, record.params["rounds"]) == (True, 2)
    assert {step.place for step in record.steps} == set(plan(of(2)).nodes)
