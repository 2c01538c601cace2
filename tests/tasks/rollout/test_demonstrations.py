"""Demonstrations reach the methods that ask for them, as answers or as hints, and no prompt or judge else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from algorithms.contract import Recipe
from algorithms.uft import hint_share
from params.base import BadInput
from params.load import compose, presets
from params.schema import Params
from tasks.artefacts.artefact import Artefact, write_json
from tasks.artefacts.tables import PROBLEMS, ROLLOUTS, read_table, write_table
from tasks.engines.base import Response
from tasks.engines.in_process import InProcess
from tasks.evaluate.evaluate import evaluate
from tasks.policy.load import load_tokenizer
from tasks.rewards.base import Group, Verdict
from tasks.rollout.demonstrations import as_answers
from tasks.rollout.rollout import rollout
from tasks.rollout.undemonstrated import refuse_undemonstrated
from tasks.update.update import update
from tests.conftest import RunStage, as_artefact
from tests.tasks.rollout_rows import rollout_artefact

MARKER = "Zx"
TINY = (
    "engine.name=transformers",
    "rollout.problems_per_round=3",
    "rollout.samples_per_problem=2",
    "rollout.max_response_tokens=14",
    "rollout.refill_batches=0",
    "task.train_count=64",
    "distil=null",
    "task.held_out_count=2",
    "evaluate.samples_per_problem=2",
    "evaluate.pass_at=[1]",
    "evaluate.bootstrap_samples=10",
    "method.overlong_tokens=null",
)


def settings(method: str, *more: str) -> Params:
    return compose("nano", "sums", method, [*TINY, *more])


def problems_artefact(folder: Path, demonstrations: list[list[str] | None]) -> Artefact:
    """As many problems as lists, in both sets."""
    folder.mkdir()
    for name in ("train", "held_out"):
        rows = [
            {
                "problem_id": f"{name}{i}",
                "question": f"{i} + 1",
                "answer": str(i + 1),
                "level": 1,
                "source": "test",
                "demonstrations": shown,
            }
            for i, shown in enumerate(demonstrations)
        ]
        write_table(folder / f"{name}.parquet", pa.Table.from_pylist(rows, schema=PROBLEMS))
    count = sum(bool(shown) for shown in demonstrations)
    write_json(folder / "metrics.json", {"train": len(demonstrations), "demonstrated": count})
    return as_artefact(folder, "problems")


@pytest.fixture
def problems(tmp_path: Path) -> Artefact:
    return problems_artefact(
        tmp_path / "problems", [[f"{MARKER}{i}\n{MARKER}{i}", f"{MARKER}!"] for i in range(6)]
    )


@dataclass
class Seen:
    """What reached the engine and the judge."""

    prompts: list[list[int]] = field(default_factory=list)
    judged: list[str] = field(default_factory=list)
    tokens: list[tuple[int, ...]] = field(default_factory=list)
    """Of the answers that were judged."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    found = Seen()
    generate = InProcess.generate

    def watched(self: InProcess, requests: Any, *rest: Any) -> list[Response]:
        found.prompts += [list(request.prompt_ids) for request in requests]
        return generate(self, requests, *rest)

    def judge(self: object, group: Group, explain: bool) -> list[Verdict]:
        verdicts = []
        for answer in group.answers:
            found.judged += [repr(replace(group, answers=())), answer.said]
            found.tokens.append(tuple(answer.tokens))
            verdicts.append(Verdict(float(len(found.judged) % 4 == 0), None))
        return verdicts

    monkeypatch.setattr(InProcess, "generate", watched)
    monkeypatch.setattr("tasks.rewards.judge._Worker.judge", judge)
    return found


@pytest.fixture
def tokenizer(tiny_model: Artefact) -> Any:
    return load_tokenizer(tiny_model.path, settings("grpo"))


@pytest.fixture
def sample(run_stage: RunStage, tiny_model: Artefact, problems: Artefact) -> Callable[..., Artefact]:
    def run(params: Params, round: int = 1, stage: Any = rollout) -> Artefact:
        return run_stage(stage, params, round, model=tiny_model, problems=problems)

    return run


def hints(method: str) -> bool:
    part = Recipe.of(settings(method).method).replay
    return part is not None and part[0].hint is not None


PLAIN = [method for method in presets("methods") if not hints(method)]


@pytest.mark.parametrize("method", PLAIN)
def test_no_prompt_and_no_judge_sees_one_unless_the_method_asks(
    sample: Callable[..., Artefact], seen: Seen, tokenizer: Any, method: str
) -> None:
    made = sample(settings(method))
    sample(settings(method), stage=evaluate)
    texts = [tokenizer.decode(ids) for ids in seen.prompts]
    assert len(texts) == 3 * 2 + 6 * 2 + 6
    assert MARKER not in "".join([*texts, *seen.judged])
    table = read_table(made.file("rollouts.parquet"))
    assert table["hint_tokens"].null_count == len(table)
    assert "demonstrations" not in table.column_names


def test_a_method_with_hints_shows_them_before_its_answers_and_in_no_evaluation(
    sample: Callable[..., Artefact], seen: Seen, tokenizer: Any
) -> None:
    params = settings("uft", "method.replay.low=1.0", "method.replay.high=1.0")
    rows = read_table(sample(params).file("rollouts.parquet")).to_pylist()
    assert len(rows) == 6
    for row in rows:
        count, place = row["hint_tokens"], row["problem_id"][-1]
        hint = tokenizer.decode(row["prompt_ids"][-count:])
        assert hint in (f"{MARKER}{place}\n{MARKER}{place}", f"{MARKER}!")
        assert tokenizer.decode(row["prompt_ids"][:-count]).endswith("A: ")
    assert len({tuple(row["prompt_ids"]) for row in rows}) == 3
    assert all(answer.startswith(MARKER) for answer in seen.judged[1::2])
    assert sorted(seen.tokens) == sorted(tuple(row["response_ids"]) for row in rows)
    seen.prompts.clear()
    sample(params, stage=evaluate)
    assert MARKER not in "".join(tokenizer.decode(ids) for ids in seen.prompts)


def test_hints_are_parts_of_the_schedule_and_end(
    sample: Callable[..., Artefact], seen: Seen, tokenizer: Any
) -> None:
    params = settings("uft", "method.replay.hint_rounds=2")
    lengths = set()
    for round in range(1, 9):
        rows = read_table(sample(params, round).file("rollouts.parquet"))
        shown = rows["hint_tokens"].to_pylist()
        assert shown[::2] == shown[1::2]
        if hint_share(round - 1, steps=2) == 0.0:
            assert rows["hint_tokens"].null_count == 6
        lengths |= set(shown)
    assert lengths <= {None, 1, 2, 3, 4, 7}
    assert sample(params, 1).digest == sample(params, 1).digest


def test_a_hint_leaves_room_for_an_answer(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path, seen: Seen
) -> None:
    long = problems_artefact(tmp_path / "long", [["x" * 300]] * 6)
    params = settings("uft", "method.replay.low=1.0", "method.replay.high=1.0", "model.context=64")
    run_stage(rollout, params, model=tiny_model, problems=long)
    assert {len(prompt) for prompt in seen.prompts} == {64 - 14}


def test_demonstrations_as_answers(problems: Artefact, tokenizer: Any) -> None:
    table = read_table(problems.file("train.parquet"))
    found = as_answers(table, {"train1": [1, 2], "train4": [3]}, tokenizer, 4, 7).to_pylist()
    assert [row["problem_id"] for row in found] == ["train1", "train4"]
    for row in found:
        assert tokenizer.decode(row["response_ids"], skip_special_tokens=True) == f"{MARKER}!"
        assert row["response_ids"][-1] == tokenizer.eos_token_id
        assert (row["reward"], row["round"], row["behaviour_logp"]) == (1.0, 7, [0.0] * 4)
    assert len(as_answers(table, {"train1": [1, 2]}, tokenizer, 8, 7)) == 2
    assert not len(as_answers(table, {"train1": [1, 2]}, tokenizer, 3, 7))


@pytest.mark.parametrize("method", ["luffy", "uft", "echorl-luffy", "echorl-uft"])
def test_an_update_learns_from_what_was_asked_for(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact, seen: Seen, method: str
) -> None:
    whole = ("method.replay.low=1.0", "method.replay.high=1.0") if "uft" in method else ()
    params = settings(method, *whole)
    sampled = run_stage(rollout, params, model=tiny_model, problems=problems)
    given = {"model": tiny_model, "rollout": sampled}
    first = run_stage(update, params, **given, problems=problems)
    said = first.json("metrics.json")
    assert said["replayed"] == 3
    assert said["responses"] == 6
    name = "uft.nll" if "uft" in method else "luffy.weight"
    assert said[name] > 0.0
    assert first.digest == run_stage(update, params, **given, problems=problems).digest


def test_a_round_whose_demonstrations_are_all_too_long_learns_without(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path, seen: Seen
) -> None:
    """Refused is what has none of a length in any round."""
    params = settings("luffy", "rollout.problems_per_round=2")
    for name, short, fits in (("some", "x", True), ("none", "x" * 20, False)):
        shown = problems_artefact(tmp_path / name, [["x" * 20], [short], ["x" * 30], None])
        sampled = run_stage(rollout, params, model=tiny_model, problems=shown)
        table = read_table(sampled.file("rollouts.parquet"))
        long = rollout_artefact(
            tmp_path / f"{name} sampled",
            [{**row, "problem_id": f"train{2 * (row['group'] % 2)}"} for row in table.to_pylist()],
        )
        given = {"model": tiny_model, "rollout": long, "problems": shown}
        if fits:
            assert run_stage(update, params, **given).json("metrics.json")["replayed"] == 0
        else:
            with pytest.raises(BadInput, match="the shortest of 3 demonstrations has 21 tokens"):
                run_stage(update, params, **given)


def test_luffys_groups_are_joint_and_their_demonstrations_outside_the_objective(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact, tmp_path: Path
) -> None:
    """A group that is all wrong learns from its demonstration alone, whose advantage is 1 - 1 / (n + 1)."""
    rows = read_table(
        run_stage(rollout, settings("luffy"), model=tiny_model, problems=problems).file("rollouts.parquet")
    )
    wrong = [{**row, "reward": 0.0} for row in rows.select(ROLLOUTS.names).to_pylist()]
    right = [{**row, "reward": 1.0} for row in wrong]
    said = {}
    for name, made in (("wrong", wrong), ("right", right)):
        sampled = rollout_artefact(tmp_path / name, made)
        params = settings("luffy", "method.terms=[]")
        said[name] = run_stage(update, params, model=tiny_model, rollout=sampled, problems=problems).json(
            "metrics.json"
        )
    assert said["wrong"]["constant_groups"] == 0.0
    assert said["wrong"]["steps"] == 1
    assert said["right"]["constant_groups"] == 1.0
    assert said["right"]["steps"] == 0


def test_a_run_whose_problems_have_none_is_refused_before_it_samples(tmp_path: Path) -> None:
    bare = problems_artefact(tmp_path / "bare", [None, []])
    refuse_undemonstrated(bare, settings("grpo"))
    for method, more, wanted in (("luffy", (), "method.replay luffy"), ("grpo", ("sft.epochs=1",), "sft")):
        with pytest.raises(BadInput, match=f"none of the 2 training problems .* which {wanted} asks for"):
            refuse_undemonstrated(bare, settings(method, *more))
    refuse_undemonstrated(problems_artefact(tmp_path / "one", [None, ["x"]]), settings("uft"))


def test_a_problem_without_one_goes_without(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path, seen: Seen
) -> None:
    some = problems_artefact(tmp_path / "some", [["x"] if i % 2 else None for i in range(6)])
    params = settings(
        "uft", "method.replay.low=1.0", "method.replay.high=1.0", "rollout.problems_per_round=6"
    )
    table = read_table(run_stage(rollout, params, model=tiny_model, problems=some).file("rollouts.parquet"))
    assert {row["problem_id"] for row in table.to_pylist() if row["hint_tokens"]} == {
        "train1",
        "train3",
        "train5",
    }
    joined = run_stage(
        update,
        settings("luffy", "rollout.problems_per_round=6"),
        model=tiny_model,
        rollout=rollout_artefact(tmp_path / "luffy", table.to_pylist()),
        problems=some,
    )
    assert joined.json("metrics.json")["replayed"] == 3
    assert torch.isfinite(torch.tensor(joined.json("metrics.json")["loss"]))
