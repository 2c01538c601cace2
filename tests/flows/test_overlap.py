"""Stages that overlap: which may begin when, what they make, and what becomes of a failure beside another."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.execution.lane import Lane
from flows.execution.overlap import Share, overlaps
from flows.execution.schedule import Schedule
from flows.stage_table.stages import Node, plan
from params.base import BadInput
from params.load import compose
from params.schema import Params
from tasks.artefacts.record import Record
from tasks.artefacts.role import RESOURCES
from tasks.core.context import Context
from tasks.core.errors import StageFailure
from tasks.core.stage import Job
from tests.flows.conftest import NANO, Workspace, events, kill_tree

Refused = Callable[[list[str], str], None]
LAG = [*NANO, "--set", "rounds=4", "--set", "rollout.lag=1", "--set", "evaluate.every=1"]


def stub(place: str, resource: str, reads: list[str]) -> Node:
    stage = SimpleNamespace(resource=resource)
    return cast(
        Node, SimpleNamespace(place=place, stage=stage, inputs={f"i{n}": p for n, p in enumerate(reads)})
    )


@st.composite
def graphs(draw: st.DrawFn) -> list[Node]:
    """Stages that read of any earlier ones, and work with any of the resources."""
    nodes: list[Node] = []
    for number in range(draw(st.integers(1, 12))):
        reads = draw(st.lists(st.sampled_from(nodes), max_size=3)) if nodes else []
        resource = draw(st.sampled_from(sorted(set(RESOURCES.values()))))
        nodes.append(stub(f"s{number}", resource, [node.place for node in reads]))
    return nodes


@given(graphs(), st.randoms(use_true_random=False))
def test_every_stage_has_its_turn_whichever_ends_first(nodes: list[Node], chance: random.Random) -> None:
    schedule, begun, done = Schedule(nodes), dict[str, Node](), list[str]()
    for now in range(3 * len(nodes)):
        for turn in schedule.turns(float(now)):
            assert set(turn.node.inputs.values()) <= set(done)
            assert turn.ready <= now
            assert turn.node.place not in {*begun, *done}
            begun[turn.node.place] = turn.node
        resources = [node.stage.resource for node in begun.values()]
        assert len(resources) == len(set(resources))
        assert sorted(schedule.busy) == sorted(begun)
        if not begun:
            break
        ended = chance.choice(sorted(begun))
        del begun[ended]
        done.append(ended)
        schedule.end(ended, float(now))
    assert schedule.finished
    assert sorted(done) == sorted(node.place for node in nodes)


@given(st.integers(0, 3), st.integers(1, 3), st.integers(1, 6), st.randoms(use_true_random=False))
def test_the_graph_of_a_run_ends_in_any_order(
    lag: int, every: int, rounds: int, chance: random.Random
) -> None:
    given = [f"rollout.lag={lag}", f"evaluate.every={every}", f"rounds={rounds}", "threads=1"]
    schedule = Schedule(plan(compose("nano", "sums", "dyjr", given)))
    begun, beside = list[str](), False
    while not schedule.finished:
        begun += [turn.node.place for turn in schedule.turns(0.0)]
        rolls = [place for place in begun if place.endswith("/rollout")]
        beside = beside or bool(rolls and any(place.endswith("/update") for place in begun))
        schedule.end(begun.pop(chance.randrange(len(begun))), 0.0)
    assert lag > 0 or not beside


def test_at_a_lag_of_one_the_next_rollout_begins_beside_the_update() -> None:
    schedule = Schedule(plan(compose("nano", "sums", "grpo", ["rollout.lag=1", "rounds=3"])))
    order = list[set[str]]()
    while not schedule.finished:
        schedule.turns(0.0)
        order.append(set(schedule.busy))
        schedule.end(min(schedule.busy, key=lambda place: "update" in place), 0.0)
    assert {"round-01/update", "round-02/rollout"} in order
    assert not any({"round-01/update", "round-03/rollout"} <= together for together in order)


def test_what_had_the_resource_is_known() -> None:
    schedule = Schedule([stub("a", "engine", []), stub("b", "engine", []), stub("c", "trainer", [])])
    assert [(turn.node.place, turn.waited_for) for turn in schedule.turns(1.0)] == [("a", None), ("c", None)]
    schedule.end("a", 5.0)
    (turn,) = schedule.turns(6.0)
    assert (turn.node.place, turn.ready, turn.waited_for) == ("b", 1.0, "a")


def test_of_several_that_had_the_resource_the_longest_is_told() -> None:
    schedule = Schedule([stub(place, "engine", []) for place in "abcd"])
    for place, begins, ends in (("a", 0.0, 9.0), ("b", 9.0, 10.0), ("c", 10.0, 10.5)):
        assert [turn.node.place for turn in schedule.turns(begins)] == [place]
        schedule.end(place, ends)
    (turn,) = schedule.turns(10.5)
    assert (turn.node.place, turn.ready, turn.waited_for) == ("d", 0.0, "a")


def test_an_input_that_no_stage_makes_is_refused() -> None:
    with pytest.raises(ValueError, match="b reads a, which is no stage of the run"):
        Schedule([stub("b", "engine", ["a"])])


def of(*settings: str) -> Params:
    return compose("nano", "sums", "grpo", ["engine.name=transformers", *settings])


def test_a_run_overlaps_where_a_lag_lets_it() -> None:
    assert not overlaps(of())
    assert overlaps(of("rollout.lag=1"))
    assert not overlaps(of("rollout.lag=1", "rollout.overlap=false"))
    assert overlaps(of("rollout.lag=1", "rollout.shards=2"))


def test_on_a_gpu_it_does_where_the_engine_has_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.execution.overlap.sees_gpu", lambda: True)
    assert not overlaps(of("rollout.lag=1"))
    assert overlaps(of("rollout.lag=1", "engine.name=vllm", "engine.gpus=[1]"))
    assert overlaps(of("rollout.lag=1", "engine.name=server", "engine.servers=[http://127.0.0.1:1]"))
    with pytest.raises(
        BadInput, match=r"rollout\.overlap: the engine samples on the trainer's GPU; expected"
    ):
        overlaps(of("rollout.lag=1", "rollout.overlap=true"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["rollout.overlap=true"], "rollout.overlap: a round waits for the one before; expected rollout.lag"),
    ],
)
def test_what_cannot_overlap_is_refused(refused: Refused, settings: list[str], said: str) -> None:
    refused(["run", *NANO, *(part for each in settings for part in ("--set", each))], said)


OWN = """
import os
from flows.stage_table.stage_def import StageDef
from params.base import BadInput
from tasks.artefacts.role import Role
from tasks.core.errors import StageFailure

def _row(name):
    role = Role(kind="measure", label=name)
    return StageDef(name, f"own_lane_stages:{name}", role, name, (), {}, ())

def fine(job):
    job.context.tell("counting", 1, 2, {"speed": 3.0})
    job.context.note("half of it")
    job.context.when_whole((job.out / "kept").unlink)
    (job.out / "kept").write_text("")
    return {"seconds": 0.5, "pid": os.getpid()}

def wrong(job):
    raise BadInput("task.train_count: 0; expected more")

def failing(job):
    raise StageFailure("the well is dry")

def short(job):
    raise MemoryError("asked to allocate 5 GiB")

def buggy(job):
    raise ZeroDivisionError("by zero")

ROWS = tuple(_row(name) for name in ("fine", "wrong", "failing", "short", "buggy"))
"""


@pytest.fixture
def lane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lane]:
    (tmp_path / "own_lane_stages.py").write_text(OWN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with contextlib.closing(Lane(tmp_path, tmp_path, tmp_path / "it.engine.log", Share(1))) as made:
        yield made


def make(lane: Lane, stage: str, out: Path, **more: Any) -> dict[str, float]:
    out.mkdir(exist_ok=True)
    params = of("stages=[own_lane_stages]")
    return lane.make(stage, params, Job(params, 1, {}, out, Context(out, **more)))


def test_a_lane_makes_stages_and_tells_what_they_tell(lane: Lane, tmp_path: Path) -> None:
    told, noted = list[Any](), list[str]()
    first = make(
        lane, "fine", tmp_path / "a", tell=lambda *progress: told.append(progress), note=noted.append
    )
    assert told == [("counting", 1, 2, {"speed": 3.0})]
    assert noted == ["half of it"]
    lane.whole()
    for stage, error, said in (
        ("wrong", BadInput, "task.train_count: 0; expected more"),
        ("failing", StageFailure, "the well is dry"),
        ("short", StageFailure, "short: out of memory"),
    ):
        with pytest.raises(error, match=said):
            make(lane, stage, tmp_path / "b")
    assert not (tmp_path / "a" / "kept").exists()
    assert make(lane, "fine", tmp_path / "c")["pid"] == first["pid"]  # what failed has not ended it
    with pytest.raises(StageFailure, match=r"round \d+: it\.engine: ended with exit code 1: ZeroDivis"):
        make(lane, "buggy", tmp_path / "d")
    assert "Traceback" in (tmp_path / "it.engine.log").read_text()


def digests(workspace: Workspace) -> dict[str, str]:
    steps = Record.read(workspace.root / "runs" / "it").steps
    return {step.place: step.digest for step in steps}


def forget(workspace: Workspace) -> None:
    """All but the base model and the problems."""
    shutil.rmtree(workspace.root / "runs" / "it", ignore_errors=True)
    for made in (workspace.root / "artefacts").iterdir():
        if not made.name.startswith(("model-", "problems-")):
            shutil.rmtree(made)


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.timeout(600)
def test_a_run_that_overlaps_makes_the_same_bytes_under_kills(prepared: Workspace) -> None:
    command = ["run", "--name", "it", "--json", *LAG]
    prepared.call(*command, "--set", "rollout.overlap=false")
    wanted = digests(prepared)
    forget(prepared)
    chance = random.Random(0)
    for stage in ("round-01/update", "round-03/rollout"):
        process = prepared.start(*command)
        assert process.stdout is not None
        for line in process.stdout:
            if any(e["event"] == "begin" and e["place"] == stage for e in events(line)):
                break
        with contextlib.suppress(Exception):
            process.wait(timeout=chance.random())
        kill_tree(process)
    said = events(prepared.call(*command).stdout)
    assert digests(prepared) == wanted
    forget(prepared)
    said = events(prepared.call(*command).stdout)
    assert digests(prepared) == wanted
    order = [(e["event"], e["place"]) for e in said if e["event"] in ("begin", "stage")]
    assert order.index(("begin", "round-02/rollout")) < order.index(("stage", "round-01/update"))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_stop_and_a_failure_are_told_once_what_is_beside_is_finished(prepared: Workspace) -> None:
    guard = "guards=[{figure: rollout.reward_mean, above: -1, then: stop}]"
    ended = prepared.call("run", "--name", "it", *LAG, "--set", guard, code=3)
    assert "round-01/rollout: " in ended.stderr.splitlines()[-1]
    record = Record.read(prepared.root / "runs" / "it")
    assert record.stopped is not None
    assert record.stopped.place == "round-01/rollout"
    prepared.call("run", "--name", "it", *LAG)
    assert Record.read(prepared.root / "runs" / "it").finished
