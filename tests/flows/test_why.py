"""Why a stage is made anew, by making the change: the right cause comes first."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.commands.why_command import why
from flows.execution import explain, fingerprint
from flows.execution.explain import Explaining
from flows.execution.runner import Runner
from flows.execution.source import ROOT, SourceTree
from flows.execution.validation import settled
from flows.stage_table.stages import plan
from params.base import BadInput
from params.load import compose
from params.schema import Params
from tasks.artefacts.digests import _digests
from tasks.artefacts.store import Store
from tasks.core.context import Context

MADE = ("problems", "model", "round-01/rollout")
REWARD = "def score(gold, answer):\n    return float(len(answer) > {bound})\n"
Why = Callable[..., dict[str, Any]]


def parameters(root: Path, *settings: str) -> Params:
    return compose(
        "nano",
        "sums",
        "grpo",
        [
            *("engine.name=transformers", "model.warm_start_steps=2", "rounds=1", "threads=1"),
            *("rollout.problems_per_round=2", "rollout.samples_per_problem=2"),
            "task.reward=mine_for_why:score",
            *(
                "problems.name=jsonl",
                f"problems.path={root / 'problems.jsonl'}",
                "task.train_count=4",
                "task.held_out_count=2",
            ),
            *settings,
        ],
    )


@pytest.fixture(scope="module")
def finished_part(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace with the first stages of a run, on a data file and a reward of one's own."""
    root = tmp_path_factory.mktemp("why")
    change = pytest.MonkeyPatch()  # the reward is a module that its worker imports too
    change.syspath_prepend(str(root))
    change.chdir(root)
    (root / "mine_for_why.py").write_text(REWARD.format(bound=1))
    rows = [{"question": f"{i} + 1 =", "answer": str(i + 1)} for i in range(8)]
    (root / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Context(scratch=root / "scratch") as context:
        context.scratch.mkdir()
        runner = Runner(root, "it", settled(parameters(root)), context)
        stages = plan(runner.params)
        for place in MADE:
            runner.settle(stages[place], runner.identify(stages[place]))
    yield root
    change.undo()


@pytest.fixture
def ask(
    finished_part: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Why]:
    """``ask(place, *settings)``: what ``ostinato why it/PLACE --json`` says."""
    monkeypatch.setenv("OSTINATO_HOME", str(finished_part))
    before = {path: path.read_bytes() for path in finished_part.glob("*.*") if path.is_file()}

    def asked(place: str, *settings: str) -> dict[str, Any]:
        why(f"it/{place}", settings, True)
        said: dict[str, Any] = json.loads(capsys.readouterr().out)
        return said

    yield asked
    for path, content in before.items():
        path.write_bytes(content)


def first(said: dict[str, Any]) -> tuple[str, str, str]:
    return said["state"], said["causes"][0]["kind"], said["causes"][0]["name"]


def test_what_is_there_is_in_the_cache_and_the_rest_was_never_made(ask: Why) -> None:
    assert all(ask(place)["state"] == "cached" for place in MADE)
    assert first(ask("round-01/update")) == ("to make", "new", "")


def test_a_parameter_is_named_with_both_values(ask: Why) -> None:
    said = ask("round-01/rollout", "rollout.temperature=0.7")
    assert said["causes"] == [
        {"kind": "parameter", "name": "rollout.temperature", "before": 1.0, "now": 0.7},
    ]
    assert ask("model", "rollout.temperature=0.7")["state"] == "cached"


def test_another_engine_comes_before_the_modules_that_come_with_it(ask: Why) -> None:
    said = ask("round-01/rollout", "engine.dtype=float8")
    assert first(said) == ("to make", "parameter", "engine.dtype")


def test_what_follows_a_change_says_which_input_is_made_first(ask: Why) -> None:
    assert first(ask("round-01/rollout", "model.warm_start_steps=3")) == (
        "to make",
        "parameter",
        "model.warm_start_steps",
    )
    said = ask("round-01/rollout", "task.held_out_count=3")
    told = {(cause["kind"], cause["name"], cause["now"]) for cause in said["causes"]}
    assert told == {("input", "problems", "to be made"), ("input", "model", "to be made")}


def test_a_reward_of_ones_own_that_was_edited(ask: Why, finished_part: Path) -> None:
    (finished_part / "mine_for_why.py").write_text(REWARD.format(bound=2))
    state, kind, name = first(ask("round-01/rollout"))
    assert (state, kind, Path(name).name) == ("to make", "file", "mine_for_why.py")


def test_a_data_file_with_its_old_size_and_time(ask: Why, finished_part: Path) -> None:
    data = finished_part / "problems.jsonl"
    times = data.stat()
    data.write_text(data.read_text().replace("7 + 1", "6 + 2"))
    os.utime(data, ns=(times.st_atime_ns, times.st_mtime_ns))
    _digests.clear()  # as another process would begin
    state, kind, name = first(ask("problems"))
    assert (state, kind, Path(name).name) == ("to make", "file", "problems.jsonl")


def test_a_library_of_another_version(ask: Why, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = fingerprint._version
    monkeypatch.setattr(
        fingerprint, "_version", lambda name: "9.9" if name == "transformers" else installed(name)
    )
    said = ask("model")
    assert first(said) == ("to make", "library", "transformers")
    assert said["causes"][0]["now"] == "9.9"


def test_a_module_that_was_edited_is_named(finished_part: Path, tmp_path: Path) -> None:
    for package in ("algorithms", "tasks"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    edited = tmp_path / "tasks" / "rollout" / "prompts.py"
    edited.write_text(edited.read_text() + "\nMORE = 1\n")
    with Context(scratch=tmp_path / "scratch") as context:
        runner = Runner(finished_part, "it", settled(parameters(finished_part)), context)
        explaining = Explaining(runner.store, plan(runner.params), SourceTree(tmp_path))
    said = explaining.stages["round-01/rollout"]
    assert [(cause.kind, cause.name) for cause in said.causes] == [("module", "tasks.rollout.prompts")]
    assert explaining.stages["problems"].state == "cached"


def test_a_damaged_artefact_says_which_file(ask: Why, finished_part: Path) -> None:
    ask("round-01/rollout")
    [table] = (finished_part / "artefacts").glob("rollout-*/rollouts.parquet")
    content = table.read_bytes()
    table.write_bytes(content[:-1] + b"x")
    said = ask("round-01/rollout")
    table.write_bytes(content)
    assert said["causes"][0]["kind"] == "damaged"
    assert "rollouts.parquet" in said["causes"][0]["name"]


def test_in_words(ask: Why, capsys: pytest.CaptureFixture[str]) -> None:
    why("it", ["rollout.temperature=0.7"], False)
    said = capsys.readouterr().out
    assert "it: 2 of 7 stages are in the cache" in said
    assert "round-01/rollout" in said
    assert "rollout.temperature: 1.0 → 0.7" in said
    why("it/round-01/rollout", ["rollout.temperature=0.7"], False)
    assert "parameter rollout.temperature: 1.0 → 0.7" in capsys.readouterr().out


def test_what_there_is_of_a_stage_is_read_once(finished_part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, asked = explain._made, list[str]()
    monkeypatch.setattr(explain, "_made", lambda store, stage: asked.append(stage) or made(store, stage))
    params = settled(parameters(finished_part, "rounds=3"))
    said = Explaining(Store(finished_part), plan(params)).stages
    assert sum(each.state == "to make" for each in said.values()) > len(asked)
    assert len(asked) == len(set(asked))


def test_a_run_on_what_another_has_made(
    finished_part: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OSTINATO_HOME", str(finished_part))
    taken = parameters(finished_part, "rollout.recorded=it")
    with Context(scratch=tmp_path / "scratch") as context:
        runner = Runner(finished_part, "on", settled(taken), context)
        stages = plan(runner.params)
        for place in MADE:
            runner.settle(stages[place], runner.identify(stages[place]))
    explaining = Explaining(runner.store, stages)
    assert [explaining.stages[place].state for place in MADE] == ["cached"] * 3
    other = Explaining(runner.store, plan(settled(parameters(finished_part, "rollout.recorded=on"))))
    (cause,) = other.stages["round-01/rollout"].causes
    assert (cause.kind, cause.name, cause.now) == ("parameter", "rollout.recorded", "on")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("that", "that"),
        ("it/round-1/rollout", "no stage 'round-1/rollout' in this run; did you mean 'round-01/rollout'"),
    ],
)
def test_what_is_not_there(ask: Why, text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        why(text, [], False)
