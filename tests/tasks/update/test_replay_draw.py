"""Replay in the update: what joins the batch and how, and that nothing else changes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from algorithms.contract import Recipe
from algorithms.drawing import Drawn
from params.base import Choice
from params.correction import Correction
from params.load import compose, presets
from params.method import Method
from params.schema import Params, Replay, Update
from tasks.artefacts.artefact import Artefact
from tasks.policy.policy import Policy
from tasks.replay.replay import opened, replay
from tasks.update import replay_draw
from tasks.update.mismatch import Mismatch
from tasks.update.responses import Responses
from tasks.update.update import update
from tests.conftest import RunStage
from tests.tasks.conftest import Nano, nano_parameters
from tests.tasks.rollout_rows import parameters, rollout_artefact, rows
from tests.tasks.update.test_update import weights

MIXED = [[1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, None], [0.0, 1.0, 0.0]]
KEEP = Replay(admit="correct", per_problem=2)
TWICE = Update(
    tokens_per_micro_batch=96, head_chunk=5, lora_rank=2, learning_rate=1e-2, epochs=2, minibatches=2
)
OBJECTIVES = [n for n in presets("methods") if compose("nano", "sums", n).method.replay is None]

Rollouts = Callable[..., Artefact]


def params_of(method: Method, update: Update = TWICE, top: int = 0) -> Params:
    params = parameters(update, method=method, replay=KEEP)
    return params.model_copy(update={"rollout": params.rollout.model_copy(update={"top_logprobs": top})})


def objective(name: str) -> tuple[Method, int]:
    """The method of a preset, and how many likeliest tokens it compares."""
    preset = compose("nano", "sums", name)
    return preset.method, preset.rollout.top_logprobs


def replaying(method: Method, name: str, **options: Any) -> Method:
    return method.model_copy(update={"replay": Choice(name=name, **options)})


@pytest.fixture
def rollouts(tmp_path: Path) -> Rollouts:
    count = itertools.count()

    def make(rewards: Any = MIXED, round: int = 1, top: int = 0, **more: Any) -> Artefact:
        made = rows(rewards, round, **more)
        for row in made:
            row["entropy"] = [0.5] * len(row["response_ids"])
        for row in made if top else ():
            near = [[token, *range(4, 3 + top)] for token in row["response_ids"]]
            row["top_ids"] = [word for words in near for word in words]
            row["top_logp"] = [
                logp for first in row["behaviour_logp"] for logp in [first] + [-5.0] * (top - 1)
            ]
        return rollout_artefact(tmp_path / f"rollout-{next(count)}", made, round)

    return make


@pytest.fixture
def snapshot(run_stage: RunStage, rollouts: Rollouts) -> Callable[..., Artefact]:
    """The real stage on a round of made-up answers."""

    def make(rewards: Any = MIXED, rules: Replay = KEEP, **more: Any) -> Artefact:
        return run_stage(replay, parameters(replay=rules), 1, rollout=rollouts(rewards, 1, **more))

    return make


def test_every_drawn_row_is_learned_from_where_there_are_fewer_groups_than_steps(
    tiny_model: Artefact, run_stage: RunStage, rollouts: Rollouts, snapshot: Any
) -> None:
    """Of two groups in four steps, a step each has half of the rows."""
    many = TWICE.model_copy(update={"epochs": 1, "minibatches": 4})
    method = replaying(Method(), "dyjr", share=1.0)
    given = {"model": tiny_model, "rollout": rollouts([[1.0, 0.0], [0.0, 1.0]], round=2)}
    said = run_stage(update, params_of(method, many), 2, **given, replay=snapshot()).json("metrics.json")
    assert said["steps"] == 2
    assert said["replayed"] == 4
    assert said["trained_tokens"] == said["tokens"] + said["replayed_tokens"]


def assert_finite(said: dict[str, Any]) -> None:
    """Every figure that was measured, those by age included."""
    by_age = [value for ages in said.values() if isinstance(ages, dict) for value in ages.values()]
    figures = [*by_age, *(value for value in said.values() if not isinstance(value, dict))]
    assert all(math.isfinite(value) for value in figures if value is not None)


def same(one: Artefact, two: Artefact) -> bool:
    first, second = weights(one), weights(two)
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_takes_the_constraint_and_is_itself_without(
    tiny_model: Artefact, run_stage: RunStage, rollouts: Rollouts, snapshot: Any, name: str
) -> None:
    method, top = objective(name)
    given = {"model": tiny_model, "rollout": rollouts(round=2, top=top)}
    held, empty = snapshot(top=top), snapshot([[0.0, 0.0]], top=top)
    constrained, idle = (replaying(method, "dyjr", share=0.2, **more) for more in ({}, {"coefficient": 0.0}))
    nothing = replaying(method, "dyjr", share=0.0)
    plain = run_stage(update, params_of(method, top=top), 2, **given)
    assert same(plain, run_stage(update, params_of(constrained, top=top), 2, **given))
    assert same(plain, run_stage(update, params_of(constrained, top=top), 2, **given, replay=empty))
    assert same(plain, run_stage(update, params_of(idle, top=top), 2, **given, replay=held))
    assert same(plain, run_stage(update, params_of(nothing, top=top), 2, **given, replay=held))
    with_replay = run_stage(update, params_of(constrained, top=top), 2, **given, replay=held)
    assert not same(plain, with_replay)
    said = with_replay.json("metrics.json")
    assert said["dyjr.js"] == pytest.approx(said["drift_by_age"]["1"])
    assert said["dyjr.js_doubled"] == pytest.approx(2 * said["dyjr.js"])
    assert (said["responses"], said["replayed"]) == (11, 3)
    assert said["replayed_tokens"] > 0
    assert said["penalty_by_age"]["1"] == pytest.approx(said["dyjr.penalty"])
    assert said["replayed_by_age"] == {"1": 3}
    assert_finite(said)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("rule", ["rlep", "exgrpo"])
def test_every_objective_takes_the_other_rules_and_is_itself_without(
    tiny_model: Artefact, run_stage: RunStage, rollouts: Rollouts, snapshot: Any, name: str, rule: str
) -> None:
    method, top = objective(name)
    short = [[1.0, 0.0], [0.0, 0.0], [0.0, None], [0.0, 1.0]]
    given = {"model": tiny_model, "rollout": rollouts(short, 2, top=top)}
    rules = params_of(replaying(method, rule), top=top)
    plain = run_stage(update, params_of(method, top=top), 2, **given)
    assert same(plain, run_stage(update, rules, 2, **given, replay=snapshot([[0.0, 0.0]], top=top)))
    with_replay = run_stage(update, rules, 2, **given, replay=snapshot(top=top))
    assert not same(plain, with_replay)
    said = with_replay.json("metrics.json")
    assert said["replayed"] == {"rlep": 5, "exgrpo": 3}[rule]
    assert_finite(said)


def test_without_a_method_the_buffer_is_not_read(
    tiny_model: Artefact, run_stage: RunStage, rollouts: Rollouts, snapshot: Any
) -> None:
    given = {"model": tiny_model, "rollout": rollouts(round=2)}
    held = snapshot()
    held.file("buffer.parquet").write_bytes(b"not a table")
    assert same(
        run_stage(update, params_of(Method()), 2, **given),
        run_stage(update, params_of(Method()), 2, **given, replay=held),
    )


def test_the_first_round_has_nothing_to_replay(
    tiny_model: Artefact, run_stage: RunStage, rollouts: Rollouts
) -> None:
    made = run_stage(update, params_of(replaying(Method(), "dyjr")), 1, model=tiny_model, rollout=rollouts())
    said = made.json("metrics.json")
    assert said["replayed"] == 0
    assert not [name for name in said if name.startswith("dyjr")]


def test_the_same_inputs_give_the_same_bytes(
    tiny_model: Artefact, run_stage: RunStage, rollouts: Rollouts, snapshot: Any
) -> None:
    given = {"model": tiny_model, "rollout": rollouts(round=2), "replay": snapshot()}
    rules = params_of(replaying(Method(), "dyjr"))
    one, two = (run_stage(update, rules, 2, **given) for _ in range(2))
    assert one.digest == two.digest


def drawn(table: Artefact, into: Any, groups: list[int]) -> Drawn:
    buffer = opened(table).to_table()
    return Drawn(buffer.slice(0, len(groups)), torch.tensor(groups), into)


def read(rollout: Artefact, found: Drawn | None, **method: Any) -> Responses:
    return Responses.read(rollout.file("rollouts.parquet"), parameters(method=Method(**method)), found, 3)


def test_what_stands_aside_has_no_advantage_and_does_not_count(rollouts: Rollouts, snapshot: Any) -> None:
    fresh = rollouts(round=3)
    held = snapshot(rules=Replay(admit="all", per_problem=2))
    plain, more = read(fresh, None), read(fresh, drawn(held, "aside", [-1, -1]))
    assert more.reward[11:].tolist() == [1.0, 0.0]
    assert torch.equal(more.advantage[:11], plain.advantage)
    assert not more.advantage[11:].any()
    assert more.weighed.counted.tolist() == more.fresh.tolist() == [True] * 11 + [False] * 2
    assert more.age.tolist() == [0] * 11 + [2] * 2
    assert more.constant_groups() == plain.constant_groups()


@pytest.mark.parametrize("into", ["objective", "denominator"])
def test_what_joins_a_group_is_standardised_with_it(rollouts: Rollouts, snapshot: Any, into: Any) -> None:
    sixteen = [[0.0] * 16, [1.0] * 3]
    more = read(rollouts(sixteen, 3), drawn(snapshot(), into, [0, 0, 1]))
    assert more.advantage[:16].tolist() == pytest.approx([-math.sqrt(2 / 16)] * 16)
    assert more.advantage[19:21].tolist() == pytest.approx([math.sqrt(16 / 2)] * 2)
    assert not more.advantage[[16, 17, 18, 21]].any()
    assert more.weighed.counted.all()
    assert more.objective[19:].tolist() == [into == "objective"] * 3
    assert more.constant_groups() == pytest.approx(0.5)


def test_the_stored_log_probabilities_are_the_frozen_ones(rollouts: Rollouts, snapshot: Any) -> None:
    held = snapshot()
    more = read(rollouts(round=3), drawn(held, "aside", [-1, -1]))
    stored = opened(held).to_table()["behaviour_logp"].to_pylist()
    for found, birth in zip(more.engine_logp[11:], stored, strict=False):
        torch.testing.assert_close(found, torch.tensor(birth))
    old = [torch.zeros(len(response)) for response in more.responses[:11]]
    batch = more.batch([0, 11, 12], 8, old, Correction(high=2.0))
    replayed_tokens = batch.sequence > 0
    torch.testing.assert_close(batch.behaviour_logp[replayed_tokens], torch.cat(more.engine_logp[11:]))
    assert not batch.behaviour_logp[~replayed_tokens].any()
    assert bool((batch.importance[replayed_tokens] == 1).all())


def test_the_current_anchor_is_the_policy_before_the_update(
    tiny_model: Artefact, rollouts: Rollouts, snapshot: Any
) -> None:
    params = params_of(Method(), top=3)
    more = Responses.read(
        rollouts([[0.0] * 3, [1.0] * 2], 3, top=3).file("rollouts.parquet"),
        params,
        drawn(snapshot(top=3), "objective", [0, 0, 1]),
        3,
    )
    policy = Policy.open(tiny_model.path, params)
    moved = replay_draw.anchored(more, policy, 1.0)
    scores = policy.score(more.prompts, more.responses, 1.0)
    own = scores.split(scores.logp)
    assert moved.top is not None
    for place in (5, 6):
        torch.testing.assert_close(moved.engine_logp[place], own[place])
        torch.testing.assert_close(moved.top[place][1][:, 0], own[place])
    for place in (0, 4, 7):  # the fresh ones, and one of a group that agrees
        assert torch.equal(moved.engine_logp[place], more.engine_logp[place])


def test_with_the_current_anchor_the_first_ratio_is_one(
    tiny_model: Artefact, run_stage: RunStage, rollouts: Rollouts, snapshot: Any
) -> None:
    once = Update(tokens_per_micro_batch=96, head_chunk=5, lora_rank=2)
    method = replaying(Method(correction=Correction()), "rlep")
    given = {"model": tiny_model, "rollout": rollouts([[0.0, 0.0]] * 4, 2)}
    made = run_stage(update, params_of(method, once), 2, **given, replay=snapshot(behaviour=-9.0))
    assert made.json("metrics.json")["ratio_max"] == pytest.approx(1.0, abs=1e-4)
    said = made.json("metrics.json")
    assert said["mismatch_max"] < 3.0
    # the tails by age are of what was sampled, not of the anchor
    assert said["mismatch_by_age"]["0"] == said["mismatch"]
    assert said["mismatch_by_age"]["1"] > 3.0


def test_what_joins_the_answers_and_is_no_older_has_no_mismatch_of_its_own(
    rollouts: Rollouts, snapshot: Any
) -> None:
    held = snapshot()  # of round 1
    for round, ages in ((1, {"0"}), (3, {"0", "2"})):
        path = rollouts(round=round).file("rollouts.parquet")
        more = Responses.read(path, parameters(), drawn(held, "aside", [-1, -1]), round)
        found = Mismatch(more, parameters(), round)
        found.look(range(len(more.responses)), torch.zeros(sum(map(len, more.responses))))
        said = found.metrics()
        assert set(said["mismatch_by_age"]) == ages
        assert said["mismatch_by_age"]["0"] == said["mismatch"]


def test_what_the_present_policy_sampled_has_no_divergence(
    tiny_model: Artefact, run_stage: RunStage, rollouts: Rollouts, snapshot: Any, tmp_path: Path
) -> None:
    policy = Policy.open(tiny_model.path, parameters())
    made = rows(MIXED, 1)
    scores = policy.score([r["prompt_ids"] for r in made], [r["response_ids"] for r in made], 1.0)
    for row, own in zip(made, scores.split(scores.logp), strict=True):
        row["behaviour_logp"] = own.tolist()
    held = run_stage(replay, parameters(replay=KEEP), 1, rollout=rollout_artefact(tmp_path / "own", made, 1))
    once = Update(tokens_per_micro_batch=96, head_chunk=5, lora_rank=2)
    given = {"model": tiny_model, "rollout": rollouts(round=2), "replay": held}
    said = run_stage(update, params_of(replaying(Method(), "dyjr"), once), 2, **given).json("metrics.json")
    assert said["dyjr.js"] < 1e-12


def test_what_is_said_of_the_fresh_answers_does_not_depend_on_the_replayed_ones(nano: Nano) -> None:
    rules = nano_parameters("dyjr", "replay.sizing=age", "update.tokens_per_micro_batch=4096")
    held = nano.run(replay, rules, 1, rollout=nano.rollouts[0])
    given = {"model": nano.model, "rollout": nano.rollouts[1]}
    plain = nano.run(update, rules, 2, **given).json("metrics.json")
    more = nano.run(update, rules, 2, **given, replay=held).json("metrics.json")
    assert more["trained_tokens"] == plain["trained_tokens"] + more["replayed_tokens"]
    for name in ("entropy", "mismatch", "mismatch_max", "ratio", "reward_mean", "tokens", "constant_groups"):
        assert more[name] == pytest.approx(plain[name], rel=1e-3, abs=1e-6), name


def test_every_step_gets_its_part_of_the_replayed_responses(
    tiny_model: Artefact, run_stage: RunStage, rollouts: Rollouts, snapshot: Any
) -> None:
    many = snapshot([[1.0, 0.0]] * 8)
    method = replaying(Method(), "dyjr", share=0.8)
    agreed = {"model": tiny_model, "rollout": rollouts([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]], 2)}
    said = run_stage(update, params_of(method), 2, **agreed, replay=many).json("metrics.json")
    assert (said["replayed"], said["steps"], said["idle_steps"]) == (5, 4, 0)
    assert said["trained_tokens"] == 2 * said["replayed_tokens"]
    assert "ratio" not in said
    plain = run_stage(update, params_of(Method()), 2, **agreed).json("metrics.json")
    assert plain["idle_steps"] == 4
    assert said["mismatch"] == plain["mismatch"]  # looked at before the first step


def test_a_methods_own_term_comes_with_its_draw() -> None:
    recipe = Recipe.of(replaying(Method(), "dyjr"))
    assert [part.name for part, _ in recipe.terms] == ["dyjr"]
    assert not Recipe.of(replaying(Method(), "rlep")).terms
