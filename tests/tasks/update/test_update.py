"""The update: one gradient whatever the split, the same bytes every time, and no step that is not finite."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from algorithms import contract, grpo
from algorithms.mismatch import correction_weights
from algorithms.terms import objective_term
from params.base import BadInput, Choice
from params.correction import Correction
from params.method import Method
from params.schema import Update
from tasks.artefacts.artefact import Artefact
from tasks.core.errors import NotFinite
from tasks.policy.gradient import Step, accumulate
from tasks.policy.policy import Policy
from tasks.update.responses import Responses
from tasks.update.update import update
from tests.conftest import RunStage
from tests.tasks.rollout_rows import parameters, rollout_artefact, rows

MIXED = [[1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, None], [0.0, 1.0, 0.5]]
FULL = Update(adapter="full", tokens_per_micro_batch=64, head_chunk=5, learning_rate=1e-2)

Rollouts = Callable[..., Artefact]


@pytest.fixture
def rollouts(tmp_path: Path) -> Rollouts:
    count = itertools.count()

    def make(rewards: Any = MIXED, round: int = 1, **more: Any) -> Artefact:
        return rollout_artefact(tmp_path / f"rollout-{next(count)}", rows(rewards, round, **more), round)

    return make


def weights(artefact: Artefact) -> dict[str, torch.Tensor]:
    names = [
        name
        for name in artefact.manifest.files
        if name.endswith(("adapter_model.safetensors", "model.safetensors"))
    ]
    return load_file(artefact.file(names[0]))


def gradient(
    model: Artefact, artefact: Artefact, budget: int, adapter: Any, reverse: bool = False
) -> list[torch.Tensor]:
    """The gradient of one step on a policy with B away from zero."""
    policy = Policy.open(
        model.path,
        parameters(Update(adapter=adapter, tokens_per_micro_batch=budget, head_chunk=4, lora_rank=2)),
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in policy.weights.masters.values():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    policy.stepped()
    answers = Responses.read(artefact.file("rollouts.parquet"), parameters())
    members = list(range(len(answers.responses)))[:: -1 if reverse else 1]
    batch = answers.batch(members, 8)
    part = contract.find("grpo", "token_loss", "")
    terms = [objective_term(batch, part, grpo.Config(), "token_mean")]
    prompts, responses = [answers.prompts[i] for i in members], [answers.responses[i] for i in members]
    accumulate(policy, Step(prompts, responses, batch, terms), 1.0)
    return [w.grad for w in policy.weights.masters.values() if w.grad is not None]


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_the_gradient_is_the_same_however_the_batch_is_split(
    tiny_model: Artefact, rollouts: Rollouts, adapter: str
) -> None:
    artefact = rollouts()
    whole = gradient(tiny_model, artefact, 4096, adapter)
    assert whole
    for other in (
        gradient(tiny_model, artefact, 16, adapter),
        gradient(tiny_model, artefact, 40, adapter, True),
    ):
        for one, two in zip(whole, other, strict=True):
            torch.testing.assert_close(one, two, rtol=0.0, atol=1e-6 * max(1.0, float(one.abs().max())))


def test_the_gradient_is_that_of_the_loss_written_out(tiny_model: Artefact, rollouts: Rollouts) -> None:
    artefact = rollouts()
    found = gradient(tiny_model, artefact, 40, "full")
    policy = Policy.open(tiny_model.path, parameters(FULL))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in policy.weights.masters.values():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    answers = Responses.read(artefact.file("rollouts.parquet"), parameters())
    total, tokens = torch.zeros(()), 0
    for prompt, response, engine, advantage in zip(
        answers.prompts, answers.responses, answers.engine_logp, answers.advantage, strict=True
    ):
        logs = policy.network(input_ids=torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        logp = logs[len(prompt) - 1 : -1].gather(1, torch.tensor(response)[:, None])[:, 0]
        ratio = (logp - engine).exp()
        total = total - torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage).sum()
        tokens += len(response)
    expected = torch.autograd.grad(total / tokens, list(policy.weights.masters.values()))
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0.0, atol=1e-5 * max(1.0, float(two.abs().max())))


@pytest.mark.parametrize(
    "settings", [Update(tokens_per_micro_batch=64, lora_rank=2, epochs=2, minibatches=2), FULL]
)
def test_two_rounds_have_the_same_bytes_every_time(
    tiny_model: Artefact, rollouts: Rollouts, run_stage: RunStage, settings: Update
) -> None:
    params = parameters(settings)
    inputs = [rollouts(round=1), rollouts(round=2)]

    def two_rounds() -> Artefact:
        first = run_stage(update, params, 1, model=tiny_model, rollout=inputs[0])
        return run_stage(update, params, 2, model=tiny_model, rollout=inputs[1], policy=first)

    one, two = two_rounds(), two_rounds()
    assert one.digest == two.digest
    assert one.json("state.json")["steps"] > settings.epochs * settings.minibatches
    assert one.json("metrics.json")["total_steps"] == one.json("state.json")["steps"]


def test_metrics_do_not_depend_on_the_micro_batches(
    tiny_model: Artefact, rollouts: Rollouts, run_stage: RunStage
) -> None:
    artefact = rollouts()
    made = []
    for budget, chunk in ((512, 512), (16, 2)):
        settings = Update(tokens_per_micro_batch=budget, head_chunk=chunk, lora_rank=2)
        made.append(
            run_stage(update, parameters(settings), model=tiny_model, rollout=artefact).json("metrics.json")
        )
    assert made[0].keys() == made[1].keys()
    for name, value in made[0].items():
        assert made[1][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_what_the_metrics_say(tiny_model: Artefact, rollouts: Rollouts, run_stage: RunStage) -> None:
    said = run_stage(update, parameters(), model=tiny_model, rollout=rollouts()).json("metrics.json")
    assert said["responses"] == 11
    assert said["groups"] == 4
    assert said["constant_groups"] == pytest.approx(0.5)
    assert said["reward_mean"] == pytest.approx(6.5 / 11)
    assert said["steps"] == 1
    assert said["learning_rate"] == pytest.approx(1e-2 / 3)
    assert 0 < said["trained_tokens"] < said["tokens"]
    assert 0 < said["mismatch"] <= said["mismatch_max"]
    assert 0 < said["effective_samples"] <= 1
    assert said["entropy"] > 3.0


def test_groups_that_agree_move_nothing(
    tiny_model: Artefact, rollouts: Rollouts, run_stage: RunStage
) -> None:
    agreed = rollouts([[1.0, 1.0], [0.0, 0.0]])
    first = run_stage(update, parameters(), model=tiny_model, rollout=rollouts())
    after = run_stage(update, parameters(), 2, model=tiny_model, rollout=agreed, policy=first)
    for name, tensor in weights(first).items():
        assert torch.equal(tensor, weights(after)[name])
    said = after.json("metrics.json")
    assert (said["idle_steps"], said["steps"], said["loss"]) == (1, 0, None)
    assert said["mismatch"] > 0


def test_a_round_without_any_reward_moves_nothing(
    tiny_model: Artefact, rollouts: Rollouts, run_stage: RunStage
) -> None:
    said = run_stage(update, parameters(), model=tiny_model, rollout=rollouts([[None, None]])).json(
        "metrics.json"
    )
    assert said["responses"] == 0
    assert said["reward_mean"] is None


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_training_raises_the_chance_of_what_was_rewarded(
    tiny_model: Artefact, rollouts: Rollouts, run_stage: RunStage, adapter: Any
) -> None:
    settings = Update(
        adapter=adapter, tokens_per_micro_batch=64, lora_rank=2, learning_rate=1e-2, warmup_steps=0
    )
    artefact = rollouts([[1.0, 0.0], [0.0, 1.0]])
    answers = Responses.read(artefact.file("rollouts.parquet"), parameters())
    policy = Policy.open(tiny_model.path, parameters(settings))
    before = policy.score(answers.prompts, answers.responses, 1.0)
    after_update = run_stage(update, parameters(settings), model=tiny_model, rollout=artefact)
    policy.restore(after_update.path)
    after = policy.score(answers.prompts, answers.responses, 1.0)
    gain = torch.stack([part.mean() for part in after.split(after.logp - before.logp)])
    assert float((gain * answers.advantage).sum()) > 0.0


def test_a_step_that_is_not_finite_is_refused_and_the_third_ends_the_run(
    tiny_model: Artefact, rollouts: Rollouts, run_stage: RunStage
) -> None:
    params = parameters()
    good = run_stage(update, params, model=tiny_model, rollout=rollouts())
    spoilt = rollouts([[1.0, 0.0]], behaviour=math.nan)
    once = run_stage(update, params, 2, model=tiny_model, rollout=spoilt, policy=good)
    assert once.json("metrics.json")["refused_steps"] == 1
    assert once.json("state.json") == {"steps": 1, "refused_in_a_row": 1}
    for name, tensor in weights(good).items():
        assert torch.equal(tensor, weights(once)[name])
    twice = run_stage(update, params, 3, model=tiny_model, rollout=spoilt, policy=once)
    with pytest.raises(NotFinite, match="3 optimiser steps in a row"):
        run_stage(update, params, 4, model=tiny_model, rollout=spoilt, policy=twice)
    healed = run_stage(update, params, 4, model=tiny_model, rollout=rollouts(), policy=twice)
    assert healed.json("state.json") == {"steps": 2, "refused_in_a_row": 0}


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("token_truncate", None, 1.05), ("token_mask", 0.9, 1.1), ("geometric_mask", 0.85, 1.15)],
)
def test_a_correction_weighs_by_trainer_and_engine(
    tiny_model: Artefact, rollouts: Rollouts, run_stage: RunStage, kind: Any, low: float | None, high: float
) -> None:
    correction = Correction(kind=kind, low=low, high=high)
    artefact = rollouts()
    answers = Responses.read(artefact.file("rollouts.parquet"), parameters())
    policy = Policy.open(tiny_model.path, parameters())
    scores = policy.score(answers.prompts, answers.responses, 1.0)
    own, engine = list(scores.split(scores.logp)), torch.cat(answers.engine_logp)
    batch = answers.batch(range(len(answers.responses)), 8, own, correction)
    expected, cut = correction_weights(scores.logp, engine, batch.sequence, correction)
    torch.testing.assert_close(batch.importance, expected)
    torch.testing.assert_close(batch.behaviour_logp, scores.logp)
    assert 0 < int(cut.sum()) < len(cut)
    said = run_stage(
        update, parameters(method=Method(correction=correction)), model=tiny_model, rollout=artefact
    ).json("metrics.json")
    assert said["ratio_max"] == pytest.approx(1.0, abs=1e-4)
    assert said["mismatch"] == pytest.approx(float((scores.logp - engine).abs().mean()), rel=1e-4)
    assert said["correction_weight"] == pytest.approx(float(expected.mean()), rel=1e-4)
    assert said["correction_cut"] == pytest.approx(float(cut.double().mean()), rel=1e-4)


def test_a_response_that_is_masked_moves_nothing(
    tiny_model: Artefact, rollouts: Rollouts, run_stage: RunStage
) -> None:
    far = Method(correction=Correction(kind="geometric_mask", low=0.5, high=2.0))
    said = run_stage(update, parameters(method=far), model=tiny_model, rollout=rollouts(behaviour=-1.0)).json(
        "metrics.json"
    )
    assert (said["correction_cut"], said["idle_steps"], said["steps"]) == (1.0, 1, 0)


@pytest.mark.parametrize(("round", "lag", "age"), [(1, 0, "0"), (5, 0, "0"), (5, 2, "2"), (2, 3, "1")])
def test_tails_are_told_by_the_age_of_the_policy_that_sampled(
    tiny_model: Artefact, rollouts: Rollouts, run_stage: RunStage, round: int, lag: int, age: str
) -> None:
    params = parameters()
    params = params.model_copy(update={"rollout": params.rollout.model_copy(update={"lag": lag})})
    said = run_stage(update, params, round, model=tiny_model, rollout=rollouts(round=round)).json(
        "metrics.json"
    )
    for name in ("mismatch", "mismatch_p99", "mismatch_p999", "mismatch_above", "mismatch_response_p99"):
        assert said[f"{name}_by_age"] == {age: said[name]}, name
    assert said["mismatch"] <= said["mismatch_p99"] <= said["mismatch_p999"] <= said["mismatch_max"]


def test_impossible_parameters_are_refused_at_the_door(
    tiny_model: Artefact, rollouts: Rollouts, run_stage: RunStage
) -> None:
    artefact = rollouts()
    for params, says in (
        (parameters(Update(tokens_per_micro_batch=3)), "tokens_per_micro_batch"),
        (parameters(method=Method(objective=Choice(name="grp0"))), "did you mean 'grpo'"),
        (parameters(method=Method(objective=Choice(name="grpo", clip_hihg=0.3))), "did you mean 'clip_high'"),  # type: ignore[call-arg]
        (parameters(method=Method(terms=(Choice(name="nothing"),))), "method.terms.0"),
    ):
        with pytest.raises(BadInput, match=says):
            run_stage(update, params, model=tiny_model, rollout=artefact)


def test_progress_reaches_every_response(
    tiny_model: Artefact, rollouts: Rollouts, run_stage: RunStage, context: Any
) -> None:
    told: list[tuple[int, int]] = []
    context.tell = lambda activity, done, total, facts: told.append((done, total))
    run_stage(update, parameters(), model=tiny_model, rollout=rollouts())
    assert told[-1] == (11, 11)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
