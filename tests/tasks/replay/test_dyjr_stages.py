"""DyJR's Algorithm 1 line by line: the real stages on answers that a real model gave."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms import dyjr
from params.schema import Params
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import ROLLOUTS, read_table
from tasks.policy.policy import Policy
from tasks.replay.base_pool import base_pool
from tasks.replay.replay import replay
from tasks.update.update import update
from tests.tasks.conftest import ROUNDS, Nano, nano_parameters
from tests.tasks.rollout_rows import rollout_artefact

RULES = st.fixed_dictionaries(
    {
        "warm_up_steps": st.integers(0, 4),
        "warm_up_fill": st.sampled_from([0.05, 0.2, 0.3, 1.0]),
        "fill": st.sampled_from([0.0, 0.05, 0.1, 0.2]),
    }
)


def preset(method: str = "dyjr", max_age: int = 8, **options: Any) -> Params:
    settings = [f"method.replay.{name}={value}" for name, value in options.items()]
    return nano_parameters(method, f"replay.max_age={max_age}", *settings)


def snapshots(nano: Nano, params: Params) -> list[Artefact]:
    made: list[Artefact] = []
    for round, fresh in enumerate(nano.rollouts, start=1):
        made.append(nano.run(replay, params, round, rollout=fresh, replay=made[-1] if made else None))
    return made


def rows(artefact: Artefact, name: str = "buffer.parquet") -> list[dict[str, Any]]:
    return read_table(artefact.file(name)).to_pylist()


def key(row: dict[str, Any]) -> tuple[int, int, int]:
    return row["round"], row["group"], row["sample"]


@given(RULES, st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_laws_of_the_buffer(nano: Nano, rules: dict[str, Any], max_age: int) -> None:
    params = preset(max_age=max_age, **rules)
    config = dyjr.Config(**rules)
    offered: dict[tuple[int, int, int], dict[str, Any]] = {}
    for round, made in enumerate(snapshots(nano, params), start=1):
        fresh = rows(nano.rollouts[round - 1], "rollouts.parquet")
        offered |= {key(row): row for row in fresh}
        confidence = Counter(row["group"] for row in fresh if row["reward"] == 1.0)
        held = rows(made)
        entered = [row for row in held if row["round"] == round]
        wanted = dyjr.fill_rate(round, config) * len(fresh)
        right = sum(confidence.values())
        assert len(entered) == min(math.ceil(wanted - 1e-9), right)
        assert all(row["reward"] == 1.0 for row in held)
        kept_out = {key(row) for row in fresh if row["reward"] == 1.0} - {key(row) for row in entered}
        if entered and kept_out:
            weakest = min(confidence[row["group"]] for row in entered)
            assert weakest >= max(confidence[group] for _, group, _ in kept_out)
        assert all(round - row["round"] <= max_age for row in held)
        assert all({name: row[name] for name in ROLLOUTS.names} == offered[key(row)] for row in held)
        said = made.json("metrics.json")
        strata = {int(k): n for k, n in said["strata"].items()}
        assert strata == Counter(confidence[row["group"]] for row in entered)
        assert said["fill"] == len(entered) / len(fresh)


def test_the_preset_is_the_papers() -> None:
    params = nano_parameters("dyjr")
    assert params.method.replay is not None
    config = params.method.replay.resolve(dyjr.Config, "method.replay")
    assert config == dyjr.Config()
    assert (config.coefficient, config.share, config.aggregation) == (0.05, 512 / 4096, "sequence_mean")
    assert (config.warm_up_steps, config.warm_up_fill, config.fill) == (20, 0.2, 0.05)
    assert (params.replay.admit, params.replay.max_age, params.replay.sizing) == ("method", 8, "age")
    assert (params.replay.per_problem, params.replay.per_round) == (None, None)


def test_an_update_may_draw_what_its_own_round_sampled_at_every_age_alike(nano: Nano) -> None:
    """Of a buffer with as many rows of each round each age is drawn, by no more than chance apart."""
    params = preset(share=0.5, warm_up_fill=0.1)
    buffer = snapshots(nano, params)[-1]
    held = Counter(ROUNDS - row["round"] for row in rows(buffer))
    assert len(held) == ROUNDS
    ages: Counter[str] = Counter()
    for seed in range(6):
        chosen = params.model_copy(update={"seed": seed})
        made = nano.run(update, chosen, ROUNDS, model=nano.model, rollout=nano.rollouts[-1], replay=buffer)
        said = made.json("metrics.json")
        assert said["replayed"] == min(16, sum(held.values()))
        ages.update(said["replayed_by_age"])
    assert set(ages) == {str(age) for age in held}
    total = sum(ages.values())
    for age, count in ages.items():
        expected = total * held[int(age)] / sum(held.values())
        assert abs(count - expected) < 5 * math.sqrt(expected)


def test_the_mean_over_sequences_is_the_slow_one_through_the_stage(nano: Nano, tmp_path: Path) -> None:
    """All answers right: no advantage, and the loss is the constraint alone."""
    params = preset(share=9.0, coefficient=0.5, warm_up_fill=1.0)
    agreed = [{**row, "reward": 1.0} for row in rows(nano.rollouts[1], "rollouts.parquet")]
    stale = [
        {**row, "reward": 1.0, "behaviour_logp": [logp - 0.3 for logp in row["behaviour_logp"]]}
        for row in rows(nano.rollouts[0], "rollouts.parquet")
    ]
    buffer = nano.run(replay, params, 1, rollout=rollout_artefact(tmp_path / "stale", stale))
    fresh = rollout_artefact(tmp_path / "agreed", agreed, 2)
    said = nano.run(update, params, 2, model=nano.model, rollout=fresh, replay=buffer).json("metrics.json")
    held = rows(buffer)
    policy = Policy.open(nano.model.path, params)
    scores = policy.score([r["prompt_ids"] for r in held], [r["response_ids"] for r in held], 1.0)
    means = []
    for row, logps in zip(held, scores.split(scores.logp), strict=True):
        total = 0.0
        for logp, birth in zip(logps.tolist(), row["behaviour_logp"], strict=True):
            u = math.exp(logp - birth)
            total += u * math.log(u) - (u + 1) * math.log((u + 1) / 2)
        means.append(total / len(row["response_ids"]))
    lengths = {len(row["response_ids"]) for row in held}
    assert len(lengths) > 1
    assert said["loss"] == pytest.approx(0.5 * sum(means) / len(means), rel=1e-4)
    assert said["replayed"] == len(held)


def test_an_answer_of_this_step_acts_from_the_second_optimiser_step_on(nano: Nano) -> None:
    """At first pi is mu, so that the constraint has no gradient on what was sampled this round."""
    given = {"model": nano.model, "rollout": nano.rollouts[0]}
    found = {}
    for minibatches in (1, 4):
        params = nano_parameters(
            "dyjr",
            "method.replay.warm_up_fill=1",
            "method.replay.share=1",
            f"update.minibatches={minibatches}",
        )
        buffer = nano.run(replay, params, 1, rollout=nano.rollouts[0])
        found[minibatches] = nano.run(update, params, 1, **given, replay=buffer).json("metrics.json")
        assert set(found[minibatches]["replayed_by_age"]) == {"0"}
    assert found[1]["dyjr.js"] < 1e-10
    assert found[4]["dyjr.js"] > 1e-6


@pytest.mark.parametrize("option", ["coefficient=0", "share=0", "fill=0"])
@pytest.mark.parametrize("method", ["dyjr", "dyjr-forward-kl"])
def test_without_strength_share_or_rows_it_is_grpo_bit_for_bit(nano: Nano, method: str, option: str) -> None:
    params = nano_parameters(method, f"method.replay.{option}", "method.replay.warm_up_steps=0")
    grpo = params.model_copy(update={"method": params.method.model_copy(update={"replay": None})})
    given = {"model": nano.model, "rollout": nano.rollouts[1]}
    buffer = nano.run(replay, params, 2, rollout=nano.rollouts[1])
    one = nano.run(update, params, 2, **given, replay=buffer)
    other = nano.run(update, grpo, 2, **given)
    for name in one.manifest.files.keys() - {"metrics.json"}:
        assert one.file(name).read_bytes() == other.file(name).read_bytes(), name


def test_rlep_on_the_buffer_learns_from_what_was_not_all_right(nano: Nano) -> None:
    params = preset("rlep-dynamic", share=2.0, warm_up_fill=1.0)
    buffer = snapshots(nano, params)[-1]
    given = {"model": nano.model, "rollout": nano.rollouts[-1]}
    said = nano.run(update, params, ROUNDS, **given, replay=buffer).json("metrics.json")
    plain = nano.run(update, nano_parameters(), ROUNDS, **given).json("metrics.json")
    drawn = rows(buffer)
    uncertain = [row for row in drawn if row["group_accuracy"] < 1.0]
    tokens = sum(len(row["response_ids"]) for row in uncertain)
    assert said["replayed"] == len(drawn)
    assert said["trained_tokens"] == plain["trained_tokens"] + tokens
    assert said["constant_groups"] == plain["constant_groups"]
    assert said["ratio_max"] == pytest.approx(1.0, abs=1e-4)  # taken to the policy before the update


def test_the_base_model_answers_once_and_what_it_masters_stays(nano: Nano) -> None:
    params = nano_parameters("dph-rl", "method.replay.samples=4", "method.replay.least_right=2")
    given = {"model": nano.model, "problems": nano.problems}
    one, two = (nano.run(base_pool, params, 0, **given) for _ in range(2))
    assert one.digest == two.digest
    held, said = rows(one), one.json("metrics.json")
    assert said["rows"] == said["problems"] == len(held) > 0
    assert all(row["group_accuracy"] >= 0.5 and row["reward"] == 1.0 for row in held)
    stricter = nano_parameters("dph-rl", "method.replay.samples=4", "method.replay.least_right=4")
    mastered = rows(nano.run(base_pool, stricter, 0, **given))
    assert mastered == [row for row in held if row["group_accuracy"] == 1.0]
