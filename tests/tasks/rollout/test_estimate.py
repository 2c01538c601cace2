"""A curriculum: pass rates of the base model, which problems are asked by them, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from flows.execution.fingerprint import fingerprint
from flows.execution.validation import settled
from flows.stage_table.stages import plan
from params.base import BadInput
from params.load import compose
from params.schema import Params
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import read_table, write_table
from tasks.prepare.problems import problems as make_problems
from tasks.rollout.estimate import RATES, TABLE, estimate
from tasks.rollout.rollout import rollout
from tests.conftest import RunStage, as_artefact


def parameters(*more: str) -> Params:
    small = [
        *("curriculum={samples_per_problem: 4}", "task.train_count=12", "task.held_out_count=2"),
        *("rollout.problems_per_round=2", "rollout.samples_per_problem=2", "rollout.max_response_tokens=4"),
        *("engine.name=transformers", "task.reward=similarity", *more),
    ]
    return compose("nano", "sums", "grpo", small)


@pytest.fixture
def problems(run_stage: RunStage) -> Artefact:
    return run_stage(make_problems, parameters())


def rates(problems: Artefact, folder: Path, right: list[int | None]) -> Artefact:
    """A table of so many right answers of four to each training problem; None: none could be judged."""
    folder.mkdir()
    names = read_table(problems.file("train.parquet"))["problem_id"].to_pylist()
    rows = [
        {"problem_id": name, "judged": 0 if count is None else 4, "right": count or 0}
        for name, count in zip(names, right, strict=True)
    ]
    write_table(folder / TABLE, pa.Table.from_pylist(rows, schema=RATES))
    return as_artefact(folder, "estimate")


def asked(run_stage: RunStage, params: Params, rounds: int, **inputs: Artefact) -> list[list[str]]:
    found = []
    for round in range(1, rounds + 1):
        table = read_table(run_stage(rollout, params, round=round, **inputs).file("rollouts.parquet"))
        found.append(list(dict.fromkeys(table["problem_id"].to_pylist())))
    return found


def test_a_rate_for_each_training_problem(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact
) -> None:
    made = run_stage(estimate, parameters(), round=0, model=tiny_model, problems=problems)
    table = read_table(made.file(TABLE))
    assert table["problem_id"] == read_table(problems.file("train.parquet"))["problem_id"]
    assert set(table["judged"].to_pylist()) == {4}
    assert made.json("metrics.json")["problems"] == 12
    again = run_stage(estimate, parameters(), round=0, model=tiny_model, problems=problems)
    assert read_table(again.file(TABLE)) == table


def test_only_problems_in_the_range_are_asked_and_the_easy_ones_first(
    run_stage: RunStage, tiny_model: Artefact, problems: Artefact, tmp_path: Path
) -> None:
    right: list[int | None] = [0, 4, 1, 2, 3, 1, 2, 3, 0, 4, None, 4]
    inputs = {"model": tiny_model, "problems": problems, "estimate": rates(problems, tmp_path / "e", right)}
    names = read_table(problems.file("train.parquet"))["problem_id"].to_pylist()
    number = dict(zip(names, right, strict=True))
    for order in ("random", "easy_first"):
        params = parameters(f"curriculum.order={order}")
        found = asked(run_stage, params, 3, **inputs)
        assert sorted(number[name] or 0 for each in found for name in each) == [1, 1, 2, 2, 3, 3]
        if order == "easy_first":
            assert [[number[name] for name in each] for each in found] == [[3, 3], [2, 2], [1, 1]]
        assert asked(run_stage, params, 3, **inputs) == found
    hard = asked(run_stage, parameters("curriculum.below=0.3"), 1, **inputs)
    assert [number[name] for name in hard[0]] == [1, 1]
    with pytest.raises(BadInput, match=r"curriculum: 0 of 12 training problems have a pass rate above 0\.8"):
        asked(run_stage, parameters("curriculum.above=0.8"), 1, **inputs)


def test_another_range_or_order_estimates_nothing_again() -> None:
    def identities(params: Params) -> dict[str, str]:
        return {name: fingerprint(row, 0, params, {}) for name, row in plan(params).table.items()}

    usual = identities(parameters())
    other = identities(parameters("curriculum.below=0.9", "curriculum.order=easy_first"))
    assert {name for name in usual if usual[name] != other[name]} == {"rollout"}
    assert "estimate" not in plan(parameters("curriculum=null")).nodes
    assert plan(parameters())["round-01/rollout"].inputs["estimate"] == "estimate"
    for wrong in ("curriculum.above=1", "curriculum={abov: 0.1}"):
        with pytest.raises(BadInput, match="curriculum"):
            parameters(wrong)


def by_gold(gold: str, answer: str) -> float:
    """Right always, never or at times, by the problem."""
    return float((True, False, len(answer.encode()) % 2)[int(gold) % 3])


def all_or_none(gold: str, answer: str) -> float:
    """Right always or never, by the problem."""
    return float(int(gold) % 4 >= 2)


FOLLOWING = [
    *("curriculum.latest_rounds=3", f"task.reward={__name__}:by_gold"),
    *("rollout.samples_per_problem=4", "task.on_long_prompt=drop"),
]
Follow = Callable[..., list[Artefact]]


@pytest.fixture
def follow(run_stage: RunStage, tiny_model: Artefact, problems: Artefact, tmp_path: Path) -> Follow:
    """The rollouts of a curriculum that follows the policy, from a base model that has half of all right."""
    base = rates(problems, tmp_path / "half", [2] * 12)

    def run(rounds: int, *more: str) -> list[Artefact]:
        made: list[Artefact | None] = [None]
        given = {"model": tiny_model, "problems": problems, "estimate": base}
        for round in range(1, rounds + 1):
            settings = parameters(*FOLLOWING, *more)
            made.append(run_stage(rollout, settings, round=round, **given, rollout=made[-1]))
        return [each for each in made if each]

    return run


def solved(made: Artefact) -> dict[str, float]:
    answers = read_table(made.file("rollouts.parquet"))
    means = answers.group_by("problem_id").aggregate([("reward", "mean")]).to_pylist()
    return {row["problem_id"]: row["reward_mean"] for row in means}


@pytest.mark.parametrize("order", ["random", "easy_first"])
def test_a_curriculum_follows_the_policys_latest_answers(follow: Follow, order: str) -> None:
    made = follow(10, f"curriculum.order={order}")
    found = [solved(each) for each in made]
    assert len({name for each in found[:6] for name in each}) == 12  # the base model has half of each right
    everyone = {name for each in found for name in each}
    for round, asked in enumerate(found[6:], start=7):
        recent = {name: rate for each in found[round - 4 : round - 1] for name, rate in each.items()}
        inside = {name for name in everyone if 0 < recent.get(name, 0.5) < 1}
        told = made[round - 1].json("metrics.json")
        assert told["problems_in_range"] == len(inside)
        assert told["asked_out_of_range"] == len(set(asked) - inside) == max(0, 2 - len(inside))
        times = {name: sum(name in each for each in found[: round - 1]) for name in everyone}
        assert max(times[name] for name in set(asked) & inside) <= sorted(map(times.get, inside))[1]  # type: ignore[type-var]
    again = follow(10, f"curriculum.order={order}")
    assert [each.digest for each in again] == [each.digest for each in made]


def test_where_too_few_are_in_the_range_the_nearest_to_it_are_asked(follow: Follow) -> None:
    made = follow(
        9, "curriculum.latest_rounds=99", "curriculum.above=0.1", f"task.reward={__name__}:all_or_none"
    )
    assert made[6].json("metrics.json")["problems_in_range"] == 0  # each was asked once
    for each in made[6:]:
        assert each.json("metrics.json")["asked_out_of_range"] == 2
        assert set(solved(each).values()) == {
            1.0
        }  # 0 from the range; those that are never right are 0.1 away


def test_groups_that_made_room_for_others_count_too(follow: Follow) -> None:
    made = follow(2, "rollout.refill_batches=2")
    sampled = [each.json("metrics.json")["groups_sampled"] for each in made]
    table = read_table(made[-1].file(TABLE)).to_pylist()
    assert sum(row["asked"] for row in table) == sum(sampled)
    assert any(row["right"] in (0, 4) for row in table)


def test_only_rollouts_that_follow_read_the_one_before() -> None:
    still, following = plan(parameters()), plan(parameters("curriculum.latest_rounds=1"))
    assert "rollout" not in still["round-02/rollout"].inputs
    assert following["round-02/rollout"].inputs["rollout"] == "round-01/rollout"
    assert "rollout" not in following["round-01/rollout"].inputs
    chooses = ["curriculum={latest_rounds: 2}", "rollout.max_response_tokens=8"]
    with pytest.raises(BadInput, match=r"curriculum\.latest_rounds: method\.replay exgrpo chooses problems"):
        settled(compose("nano", "sums", "exgrpo", chooses))
