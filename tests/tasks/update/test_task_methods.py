"""Methods that differ by task: one optimiser step, in which each token is as its task's method has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from flows.execution.fingerprint import fingerprint
from flows.execution.validation import settled
from flows.stage_table.stages import plan
from params.base import BadInput
from params.load import compose
from params.mixture import MAIN
from params.schema import Params
from tasks.artefacts.artefact import Artefact
from tasks.policy.gradient import accumulate
from tasks.policy.policy import Policy
from tasks.update.responses import Responses
from tasks.update.shares import recipes_of, shares_of, step_of
from tasks.update.update import update
from tests.conftest import RunStage
from tests.tasks.rollout_rows import rollout_artefact, rows

REWARDS = [[1.0, 0.0, 1.0], [0.0, 1.0, 0.5], [1.0, 0.0, None], [0.0, 0.0, 1.0]]
OF = [MAIN, "countdown", "countdown", MAIN]
"""The task of each group."""


def parameters(*more: str) -> Params:
    small = [
        *("tasks=[countdown]", "rollout.problems_per_round=4", "rollout.samples_per_problem=3"),
        *("update.adapter=full", "update.tokens_per_micro_batch=256", "update.head_chunk=5"),
        *("update.learning_rate=1e-2", "engine.name=transformers", "rollout.max_response_tokens=12"),
    ]
    return compose("nano", "sums", "grpo", [*small, *more])


@pytest.fixture
def rollouts(tmp_path: Path) -> Artefact:
    made: list[dict[str, Any]] = [{**row, "task": OF[row["group"]]} for row in rows(REWARDS)]
    for row in made[::5]:
        row["finish_reason"] = "length"
    return rollout_artefact(tmp_path / "rollout", made)


def weights(made: Artefact) -> dict[str, Tensor]:
    names = [name for name in made.manifest.files if name.endswith("model.safetensors")]
    return load_file(made.file(names[0]))


SAME = "tasks.countdown.method={objective: {name: grpo, clip_high: 0.28}, aggregation: token_mean}"


def test_tasks_that_name_the_runs_method_change_no_bit(
    run_stage: RunStage, tiny_model: Artefact, rollouts: Artefact
) -> None:
    usual = run_stage(update, parameters(), model=tiny_model, rollout=rollouts)
    named = run_stage(update, parameters(SAME), model=tiny_model, rollout=rollouts)
    assert named.digest == usual.digest
    assert not any(name.startswith("countdown.") for name in named.json("metrics.json"))


CHANGES: dict[str, dict[str, Any]] = {
    "clip": {"clip": (0.05, 0.01)},
    "everything": {
        "clip": (0.05, 0.01),
        "aggregation": "sequence_mean",
        "scale_by_std": False,
        "drop_truncated": True,
    },
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_loss_is_that_of_each_tokens_own_method_over_the_whole_steps_denominator(
    run_stage: RunStage, tiny_model: Artefact, rollouts: Artefact, name: str
) -> None:
    own = CHANGES[name]
    low, high = own["clip"]
    more = {key: value for key, value in own.items() if key != "clip"}
    written = f"{{objective: {{clip_low: {low}, clip_high: {high}}}, {_yaml(more)}}}"
    params = parameters(f"tasks.countdown.method={written}", "method.objective.clip_low=0.1")
    policy = Policy.open(tiny_model.path, params)
    answers = Responses.read(rollouts.file("rollouts.parquet"), params)
    expected = _written_out(policy, answers, own)
    found = _gradient(policy, answers, params)
    for one, two in zip(found, expected[1], strict=True):
        torch.testing.assert_close(one, two, rtol=0.0, atol=1e-5 * max(1.0, float(two.abs().max())))
    told = run_stage(update, params, model=tiny_model, rollout=rollouts).json("metrics.json")
    assert told["loss"] == pytest.approx(expected[0], abs=1e-6)
    assert told["countdown.clip_fraction"] > told["main.clip_fraction"]
    assert told["main.clip_fraction"] <= told["clip_fraction"] <= told["countdown.clip_fraction"]


def _yaml(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}: {str(value).lower()}" for key, value in values.items())


def _gradient(policy: Policy, answers: Responses, params: Params) -> list[Tensor]:
    _, shares = shares_of(recipes_of(params, 1), answers)
    accumulate(policy, step_of(shares, range(len(answers.responses)), 12, None), 1.0)
    return [weight.grad for weight in policy.weights.masters.values() if weight.grad is not None]


def _written_out(policy: Policy, answers: Responses, own: dict[str, Any]) -> tuple[float, list[Tensor]]:
    """The loss, summed in float64, and its gradient. A token of a task's counts as in a step of its method
    alone: 1 / N over the responses of every task."""
    stopped = [place % 5 != 0 for place in _kept()]
    total = torch.zeros((), dtype=torch.float64)
    lengths = [len(response) for response in answers.responses]
    for place, (prompt, response, engine) in enumerate(
        zip(answers.prompts, answers.responses, answers.engine_logp, strict=True)
    ):
        theirs = answers.task[place] == "countdown"
        low, high = own["clip"] if theirs else (0.1, 0.28)
        group = answers.reward[answers.group == answers.group[place]].double()
        spread = group.std(correction=0)
        centred = answers.reward[place].double() - group.mean()
        scaled = not theirs or own.get("scale_by_std", True)
        advantage = centred / spread if scaled else centred
        drops = theirs and own.get("drop_truncated", False)
        counted = [size for size, whole in zip(lengths, stopped, strict=True) if whole or not drops]
        if drops and not stopped[place]:
            continue
        logs = policy.network(input_ids=torch.tensor([prompt + response])).logits[0].double().log_softmax(-1)
        logp = logs[len(prompt) - 1 : -1].gather(1, torch.tensor(response)[:, None])[:, 0]
        ratio = (logp - engine.double()).exp()
        loss = -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
        by_response = theirs and own.get("aggregation") == "sequence_mean"
        total = total + (loss.mean() / len(counted) if by_response else loss.sum() / sum(counted))
    gradient = torch.autograd.grad(total, list(policy.weights.masters.values()))
    return total.item(), list(gradient)


def _kept() -> list[int]:
    """The places in the table of those that could be judged."""
    return [place for place, reward in enumerate(r for group in REWARDS for r in group) if reward is not None]


def test_a_tasks_correction_and_terms_are_of_its_own_tokens(
    run_stage: RunStage, tiny_model: Artefact, rollouts: Artefact
) -> None:
    own = "{correction: {high: 1.0}, terms: [{name: entropy_bonus, coefficient: 0.1}]}"
    params = parameters(f"tasks.countdown.method={own}", "update.measure_terms=true")
    told = run_stage(update, params, model=tiny_model, rollout=rollouts).json("metrics.json")
    assert told["correction_weight"] == told["countdown.correction_weight"] < 1.0
    assert told["correction_cut"] == told["countdown.correction_cut"] > 0.0
    assert told["entropy_bonus.entropy"] == told["countdown.entropy_bonus.entropy"] > 0.0
    assert told["entropy_bonus.grad_norm"] > 0.0
    assert not {"main.correction_weight", "main.entropy_bonus.entropy"} & set(told)


def test_a_tasks_method_makes_the_updates_again_and_nothing_else() -> None:
    def identities(params: Params) -> dict[str, str]:
        return {name: fingerprint(row, 1, params, {}) for name, row in plan(params).table.items()}

    usual = identities(parameters())
    assert identities(parameters(SAME)) == usual
    clipped = identities(parameters("tasks.countdown.method.objective.clip_high=0.4"))
    assert {name for name in usual if usual[name] != clipped[name]} == {"update"}
    other = parameters("tasks.countdown.method={objective: cispo}")
    table = plan(other).table
    assert {name for name in usual if usual[name] != fingerprint(table[name], 1, other, {})} == {"update"}


OWN = "tasks.countdown.method"
BAD: dict[str, tuple[list[str], str]] = {
    "key": (
        [f"{OWN}={{agregation: token_mean}}"],
        f"{OWN}.agregation: unknown key; did you mean 'aggregation'?",
    ),
    "value": ([f"{OWN}={{aggregation: sum}}"], f"{OWN}.aggregation: input should be"),
    "option": ([f"{OWN}={{objective: {{clip: 1}}}}"], f"{OWN}.objective.clip: unknown key"),
    "part": ([f"{OWN}={{objective: grop}}"], f"{OWN}.objective: no 'grop' with a token_loss"),
    "term": ([f"{OWN}={{terms: [dyjr]}}"], f"{OWN}.terms.0: dyjr replays and brings its term"),
    "replay": ([f"{OWN}={{replay: rlep}}"], f"{OWN}.replay: of the whole run alone; expected it in method"),
    "stages": ([f"{OWN}={{distil: {{}}}}"], f"{OWN}.distil: unknown key"),
    "beside replay": (
        [f"{OWN}={{scale_by_std: false}}", "method.replay={name: rlep}", "replay.admit=correct"],
        f"{OWN}: method.replay learns from all tasks at once; expected null there",
    ),
    "top": (
        [f"{OWN}={{objective: {{name: dppo, divergence: top_tv, k: 4}}}}"],
        f"at least 4, which {OWN}.objective dppo compares",
    ),
    "limit": ([f"{OWN}={{overlong_tokens: 20}}"], f"{OWN}.overlong_tokens: 20; expected at most"),
    "correction": (
        [f"{OWN}={{correction: {{low: 3}}}}"],
        f"{OWN}.correction: token_truncate has no lower bound",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_tasks_method_is_one_line(name: str) -> None:
    settings, says = BAD[name]
    with pytest.raises(BadInput) as caught:
        settled(parameters(*settings))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
