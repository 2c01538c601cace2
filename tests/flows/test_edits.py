"""Source that is edited while a run goes on: no artefact is made of one text under the name of another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.execution.runner import Runner
from flows.stage_table.stages import plan
from params.load import compose
from tasks.core.context import Context
from tasks.core.errors import StageFailure

ROWS = """
from pathlib import Path
from flows.stage_table.stage_def import StageDef
from tasks.artefacts.role import Role


def early(job):
    return {{}}


def row(name, function):
    role = Role(kind="measure", label=name, time_of="evaluation")
    reads, more = ("seed",), dict(inputs={{}}, libraries=(), once=True)
    return StageDef(name=name, function=function, role=role, summary=name, reads=reads, **more)


ROWS = (row("early", "{module}:early"), row("late", "{module}_late:late"))
"""
LATE = """
from pathlib import Path


def late(job):
    (job.out / "said").write_text("{said}")
    for text in {writes}:
        Path(__file__).write_text(text)
    return {{}}
"""
Begin = Callable[..., tuple[Runner, Callable[[str], str]]]


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """``begin(module, writes)``: a run of two stages of one's own, and what makes one and hands what it said;
    the second lies in a module of its own, which replaces its file by the texts that it ``writes``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with Context(scratch=tmp_path / "scratch") as context:

        def begun(module: str, *writes: str) -> tuple[Runner, Callable[[str], str]]:
            (tmp_path / f"{module}.py").write_text(ROWS.format(module=module))
            (tmp_path / f"{module}_late.py").write_text(LATE.format(said="old", writes=list(writes)))
            stages = plan(compose("nano", "sums", "grpo", ["engine.name=transformers", f"stages=[{module}]"]))
            runner = Runner(tmp_path, "it", stages.params, context)

            def make(place: str) -> str:
                made = runner.settle(stages[place], runner.identify(stages[place]))
                return (made.path / "said").read_text() if place == "late" else ""

            return runner, make

        yield begun


def test_a_stage_whose_module_was_edited_before_it_ran_is_not_made(begin: Begin, tmp_path: Path) -> None:
    _, make = begin("edited_before")
    make("early")
    (tmp_path / "edited_before_late.py").write_text(LATE.format(said="new", writes=[]))
    with pytest.raises(StageFailure, match="late: edited_before_late was edited while the run went on; the "):
        make("late")
    assert not list((tmp_path / "artefacts").glob("late-*"))


def test_nor_is_one_whose_module_was_edited_meanwhile(begin: Begin, tmp_path: Path) -> None:
    _, make = begin("edited_meanwhile", "ELSE = 1\n")
    with pytest.raises(StageFailure, match="late: edited_meanwhile_late was edited while the run went on"):
        make("late")
    assert not list((tmp_path / "artefacts").glob("late-*"))


def test_words_for_people_may_be_edited_at_any_time(begin: Begin, tmp_path: Path) -> None:
    _, make = begin("edited_words")
    make("early")
    late = tmp_path / "edited_words_late.py"
    late.write_text(f"# a remark\n{late.read_text()}")
    assert make("late") == "old"


def test_a_reward_of_ones_own_counts_as_it_was_when_the_run_began(begin: Begin, tmp_path: Path) -> None:
    mine = tmp_path / "edited_reward.py"
    mine.write_text("def score(gold, answer):\n    return 0.0\n")
    params = compose("nano", "sums", "grpo", ["engine.name=transformers", "task.reward=edited_reward:score"])
    with Context(scratch=tmp_path / "other") as context:
        runner, rollout = Runner(tmp_path, "it", params, context), plan(params)["round-01/rollout"]
        runner.lasting(plan(params)["model"])
        mine.write_text("def score(gold, answer):\n    return 1.0\n")
        facts = runner.lasting(rollout)
        with pytest.raises(StageFailure, match=r"round-01/rollout: edited_reward\.py was edited"):
            runner.edits.check(rollout.place, facts)
