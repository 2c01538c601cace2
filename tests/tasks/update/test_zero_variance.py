"""Groups that agree, through the update: RL-ZVP's term, and NGRPO's virtual answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from params.base import BadInput, Choice
from params.load import compose
from params.method import Method
from tasks.artefacts.artefact import Artefact
from tasks.update.update import update
from tests.conftest import RunStage
from tests.tasks.rollout_rows import parameters, rollout_artefact, rows

ADAPTER = "adapter/adapter_model.safetensors"


def run(
    run_stage: RunStage, model: Artefact, place: Path, method: Method, rewards: tuple[tuple[float, ...], ...]
) -> Artefact:
    made = [{**row, "entropy": [0.5] * len(row["response_ids"])} for row in rows(rewards)]
    return run_stage(update, parameters(method=method), model=model, rollout=rollout_artefact(place, made))


def test_only_groups_that_agree_feel_the_term(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path
) -> None:
    rewards = ((1.0, 0.0, 1.0), (1.0, 1.0, 1.0), (0.0, 1.0, 0.0), (1.0, 1.0, 0.0))

    def made(name: str, *terms: Choice) -> Artefact:
        return run(run_stage, tiny_model, tmp_path / name, Method(terms=terms), rewards)

    plain, off = made("a"), made("b", Choice(name="rl_zvp", alpha=0.0))
    assert off.manifest.files[ADAPTER] == plain.manifest.files[ADAPTER]
    on = made("c", Choice(name="rl_zvp", alpha=0.2))
    assert on.manifest.files[ADAPTER] != plain.manifest.files[ADAPTER]
    said = on.json("metrics.json")
    assert said["rl_zvp.right"] == 1.0
    assert said["rl_zvp.pull"] == pytest.approx(0.2 * 0.5)


def test_where_all_is_wrong_only_a_virtual_answer_makes_a_step(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path
) -> None:
    wrong = ((0.0, 0.0, 0.0),) * 4
    assert run(run_stage, tiny_model, tmp_path / "a", Method(), wrong).json("metrics.json")["steps"] == 0
    virtual = compose("nano", "sums", "ngrpo").method
    assert run(run_stage, tiny_model, tmp_path / "b", virtual, wrong).json("metrics.json")["steps"] > 0


@pytest.mark.parametrize("other", ["credit=turn", "reward_aggregation=normalise_then_sum"])
def test_a_virtual_answer_has_one_reward_and_one_turn(other: str) -> None:
    with pytest.raises(BadInput, match=r"method\.virtual_reward: an answer's; expected credit: episode"):
        compose("nano", "sums", "ngrpo", [f"method.{other}"])
