"""Another reward judges the answers that are there; where anything else differs, they are sampled anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from flows.commands.why_command import why
from flows.execution.runner import Runner
from flows.execution.validation import settled
from flows.stage_table.stages import plan
from params.base import BadInput
from params.load import compose
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import read_table
from tasks.core.context import Context
from tasks.engines import selection

PLACES = ("problems", "model", "round-00/evaluate", "round-01/rollout")
REWARD = "def score(gold, answer):\n    return float(answer.endswith('{last}'))\n"
SETTINGS = (
    *("engine.name=transformers", "model.warm_start_steps=30", "rounds=1", "threads=1"),
    *("rollout.problems_per_round=3", "rollout.samples_per_problem=4", "task.train_count=16"),
    *("task.held_out_count=4", "evaluate.bootstrap_samples=20", "rollout.max_response_tokens=12"),
)
Make = Callable[..., dict[str, Artefact]]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """``make(workspace, *settings, engine=True)``: the first stages; without an engine, one may not start."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_to_rescore.py").write_text(REWARD.format(last=1))
    started = selection.kept

    def made(workspace: str, *settings: str, engine: bool = True, more: str = "") -> dict[str, Artefact]:
        def kept(job: Any) -> Any:
            assert engine, "an engine was asked for"
            return started(job)

        monkeypatch.setattr(selection, "kept", kept)
        params = settled(compose("nano", "sums", "grpo", [*SETTINGS, *settings]))
        root = tmp_path / workspace
        with Context(scratch=root / "scratch") as context:
            context.scratch.mkdir(parents=True, exist_ok=True)
            runner, stages = Runner(root, "it", params, context), plan(params)
            for place in (*PLACES, *more.split()):
                runner.settle(stages[place], runner.identify(stages[place]))
        return dict(runner.done)

    return made


def test_another_reward_judges_the_answers_that_are_there(make: Make) -> None:
    before = make("here")
    after = make("here", "task.reward=similarity", engine=False)
    anew = make("elsewhere", "task.reward=similarity")
    for place in PLACES[2:]:
        assert after[place].digest == anew[place].digest != before[place].digest
        assert after[place].fingerprint == anew[place].fingerprint
        told = after[place].manifest.answers
        assert told is not None
        assert told.digest == before[place].digest
        assert anew[place].manifest.answers is None
    measured = after["round-01/rollout"].manifest.measured
    assert measured["reused_tokens"] == measured["sampled_tokens"] > 0
    assert measured["tokens_per_second"] == 0


def test_a_reward_of_ones_own_that_is_edited_judges_them_too(make: Make, tmp_path: Path) -> None:
    make("here", "task.reward=mine_to_rescore:score")
    (tmp_path / "mine_to_rescore.py").write_text(REWARD.format(last=2))
    after = make("here", "task.reward=mine_to_rescore:score", engine=False)
    assert after["round-01/rollout"].manifest.answers is not None


@pytest.mark.parametrize(
    "changed",
    [
        "rollout.temperature=0.9",
        *(pytest.param(each, marks=pytest.mark.long) for each in ("model.warm_start_steps=31", "seed=1")),
        pytest.param("engine.dtype=float8", marks=pytest.mark.long),
    ],
)
def test_whatever_changes_answers_has_them_sampled_anew(make: Make, changed: str) -> None:
    make("here")
    after = make("here", "task.reward=similarity", changed)
    assert all(artefact.manifest.answers is None for artefact in after.values())


def test_what_dynamic_sampling_had_dropped_is_sampled(make: Make) -> None:
    refilling = "rollout.refill_batches=2"
    make("here", refilling)
    after = make("here", refilling, "task.reward=similarity")
    anew = make("elsewhere", refilling, "task.reward=similarity")
    assert after["round-01/rollout"].digest == anew["round-01/rollout"].digest


def test_damaged_answers_are_not_judged(make: Make) -> None:
    table = make("here")["round-01/rollout"].path / "rollouts.parquet"
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    after = make("here", "task.reward=similarity")
    assert after["round-01/rollout"].manifest.answers is None
    assert after["round-00/evaluate"].manifest.answers is not None


def test_why_says_so_before_it_runs(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make("here")
    monkeypatch.setenv("OSTINATO_HOME", str(tmp_path / "here"))
    why("it/round-01/rollout", ["task.reward=similarity"], True)
    said = json.loads(capsys.readouterr().out)
    assert said["answers"] == made["round-01/rollout"].path.name
    assert said["causes"][0]["name"] == "task.reward.name"
    why("it/round-01/rollout", ["rollout.temperature=0.5"], True)
    assert json.loads(capsys.readouterr().out)["answers"] is None
    why("it", ["task.reward=similarity"], False)
    assert capsys.readouterr().out.count("its answers are there") == 2


def test_a_second_judge_audits_the_answers_without_an_engine(make: Make) -> None:
    audited = ("audit.reward=mine_to_rescore:score", "audit.examples=3")
    make("here")
    found = make("here", *audited, engine=False, more="round-01/audit")
    verdicts = read_table(found["round-01/audit"].file("verdicts.parquet")).to_pylist()
    answers = read_table(found["round-01/rollout"].file("rollouts.parquet"))
    assert [row["first"] for row in verdicts] == answers["reward"].to_pylist()
    tokenizer = AutoTokenizer.from_pretrained(found["model"].path)
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in answers["response_ids"].to_pylist()]
    assert [row["second"] for row in verdicts] == [float(text.strip().endswith("1")) for text in texts]
    told = found["round-01/audit"].json("metrics.json")
    apart = [row for row in verdicts if row["first"] != row["second"]]
    assert told["agreement"] == pytest.approx(1 - len(apart) / len(verdicts))
    assert told["first_only"] + told["second_only"] == pytest.approx(len(apart) / len(verdicts))
    shown = found["round-01/audit"].json("disagreements.json")
    assert [row["second"] for row in shown] == [row["second"] for row in apart][:3]
    assert set(texts) >= {row["response"] for row in shown}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["audit.reward=nobody"], "audit.reward"),
        (["audit.reward=math", "task.environment=guess"], "audit: expected null with task.environment"),
    ],
)
def test_a_second_judge_that_cannot_be(settings: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        settled(compose("nano", "sums", "grpo", settings))
