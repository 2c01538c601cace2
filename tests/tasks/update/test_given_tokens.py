"""Tokens that were given are context: no loss, no gradient, no ratio, no place in a denominator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from algorithms.contract import Recipe
from params.load import compose
from params.schema import Params, Update
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import read_table
from tasks.core.context import Context
from tasks.core.segments import Segmented, counts, known, responses_of, sampled_ids, spread
from tasks.core.stage import Job
from tasks.erpd.distil import distil
from tasks.erpd.signal import signal
from tasks.erpd.teach import teach, unlearn
from tasks.policy.gradient import Step, accumulate
from tasks.policy.policy import Policy
from tasks.replay.replay import replay
from tasks.update.annotations import annotated
from tasks.update.responses import Responses
from tasks.update.update import update
from tests.conftest import RunStage
from tests.tasks.rollout_rows import parameters, rollout_artefact, rows

REWARDS = ((1.0, 0.0, 1.0), (1.0, 1.0, 1.0), (0.0, 1.0, 0.0), (1.0, 1.0, 0.0))
METHODS = ("grpo", "dyjr", "drpo", "echorl", "gspo", "dr_grpo", "rl-zvp")


def episodes(round: int = 1, entropy: bool = False) -> list[dict[str, Any]]:
    """The rows of ``rollout_rows`` with given tokens before the last sampled one of each second response."""
    made = rows(REWARDS, round)
    for place, row in enumerate(made):
        ids = row["response_ids"]
        row["entropy"] = [0.5] * len(ids) if entropy else None
        if place % 2 or len(ids) < 2:
            continue
        mask = [True] * (len(ids) - 1) + [False] * 3 + [True]
        row["response_ids"] = [*ids[:-1], 5, 6, 7, ids[-1]]
        row["sampled"], row["behaviour_logp"] = mask, spread(row["behaviour_logp"], mask)
        row["entropy"] = spread(row["entropy"], mask) if entropy else None
    return made


def of(method: str) -> Params:
    chosen = compose("nano", "sums", method, [])
    given = parameters(
        update=Update(tokens_per_micro_batch=96, head_chunk=5, lora_rank=2, learning_rate=1e-2)
    )
    return given.model_copy(
        update={"method": chosen.method, "replay": chosen.replay, "distil": chosen.distil}
    )


def policy_of(model: Artefact, params: Params) -> Policy:
    return Policy.open(model.path, params)


def test_a_segmented_response_is_scored_at_its_sampled_tokens(tiny_model: Artefact, tmp_path: Path) -> None:
    params = of("grpo")
    policy = policy_of(tiny_model, params)
    table = read_table(
        rollout_artefact(Path(tiny_model.path.parent / "scored"), episodes()).file("rollouts.parquet")
    )
    prompts, responses = table["prompt_ids"].to_pylist(), responses_of(table)
    whole = [list(response) for response in responses]
    own = policy.score(prompts, responses, 1.0)
    every = policy.score(prompts, whole, 1.0)
    assert own.lengths == tuple(counts(responses))
    for response, part, all_of_it in zip(
        responses, own.split(own.logp), every.split(every.logp), strict=True
    ):
        places = response.places if isinstance(response, Segmented) else range(len(response))
        assert torch.allclose(part, all_of_it[list(places)], atol=1e-5)


def test_the_gradient_at_what_predicts_given_tokens_is_exactly_zero(
    tiny_model: Artefact, tmp_path: Path
) -> None:
    params = of("grpo")
    policy = policy_of(tiny_model, params)
    made = rollout_artefact(tmp_path / "rollout", episodes())
    given = Responses.read(made.file("rollouts.parquet"), params, None, 1)
    members = [i for i, each in enumerate(given.responses) if isinstance(each, Segmented)]
    assert members
    batch = given.batch(members, 8)
    assert len(batch.sequence) == sum(counts(given.responses[i] for i in members))
    prompts, responses = [given.prompts[i] for i in members], [given.responses[i] for i in members]
    terms = Recipe.of(params.method).on(batch)
    seen: list[tuple[Tensor, Tensor]] = []
    norm: Any = policy.network.model.norm

    def watch(module: Any, inputs: Any, output: Tensor) -> None:
        output.register_hook(lambda gradient: seen.append((output, gradient)))

    handle = norm.register_forward_hook(watch)
    accumulate(policy, Step(prompts, responses, batch, terms), 1.0)
    handle.remove()
    assert seen
    live = sum(int((gradient.abs().sum(-1) > 0).sum()) for _, gradient in seen)
    assert 0 < live <= len(batch.sequence)


def test_a_mask_of_nothing_but_sampled_tokens_is_no_mask(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path
) -> None:
    params, plain = of("grpo"), rows(REWARDS)
    masked = [{**row, "sampled": [True] * len(row["response_ids"])} for row in plain]
    made = [rollout_artefact(tmp_path / name, given) for name, given in (("a", plain), ("b", masked))]
    one, two = (run_stage(update, params, model=tiny_model, rollout=each) for each in made)
    name = "adapter/adapter_model.safetensors"
    assert one.manifest.files[name] == two.manifest.files[name]


@pytest.mark.parametrize("method", METHODS)
def test_methods_learn_from_episodes(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path, method: str
) -> None:
    params = of(method)
    before: dict[str, Artefact] = {}
    for round in (1, 2):
        made = episodes(round, entropy=method in ("echorl", "rl-zvp"))
        rolled = rollout_artefact(tmp_path / f"rollout-{round}", made, round)
        more = {}
        if params.method.replay:
            buffer = run_stage(replay, params, round, rollout=rolled, replay=before.get("replay"))
            more = {"replay": buffer}
        policy = run_stage(
            update, params, round, model=tiny_model, rollout=rolled, policy=before.get("policy"), **more
        )
        before = {"policy": policy, **more}
        said = policy.json("metrics.json")
        sampled = sum(len(known(row["behaviour_logp"])) for row in made)
        assert said["tokens"] == sampled
        assert said["steps"] >= 1


def test_an_echo_ends_with_a_turn_at_the_latest(
    tiny_model: Artefact, run_stage: RunStage, tmp_path: Path
) -> None:

    params = of("echorl")
    made = rollout_artefact(tmp_path / "rollout", episodes(entropy=True))
    policy = policy_of(tiny_model, params)
    given = Responses.read(made.file("rollouts.parquet"), params, None, 1)
    recipe = Recipe.of(params.method)
    job = Job(params, 1, {"model": tiny_model, "rollout": made}, tmp_path, Context(scratch=tmp_path))
    found = annotated(given, recipe.terms, job, policy)
    assert found.boundary is not None
    for response, closes in zip(found.responses, found.boundary, strict=True):
        assert len(closes) == len(sampled_ids(response))
        if isinstance(response, Segmented):
            assert closes[-2]
            assert closes[-1]


def test_credit_of_a_turn_is_what_comes_after_it(tmp_path: Path) -> None:
    params = of("grpo")
    by_turn = params.model_copy(update={"method": params.method.model_copy(update={"credit": "turn"})})
    made = episodes()
    for row in made:
        row["turn_rewards"] = [row["reward"], 0.0] if row.get("sampled") else [row["reward"]]
    path = rollout_artefact(tmp_path / "rollout", made).file("rollouts.parquet")
    given, usual = Responses.read(path, by_turn, None, 1), Responses.read(path, params, None, 1)
    assert usual.weighed.by_turn is None
    assert given.weighed.by_turn is not None
    for group in range(len(REWARDS)):
        members = [i for i, row in enumerate(made) if row["group"] == group]
        left = []
        for i in members:
            left += [made[i]["reward"], 0.0] if made[i].get("sampled") else [made[i]["reward"]]
        values = torch.tensor(left, dtype=torch.float64)
        spread_of = values.std(correction=0)
        wanted = iter(((values - values.mean()) / spread_of if spread_of else values * 0).tolist())
        for i in members:
            own = given.weighed.by_turn[i]
            assert own[0] == pytest.approx(next(wanted), abs=1e-3)
            if made[i].get("sampled"):
                assert own[-1] == pytest.approx(next(wanted), abs=1e-3)
                assert bool((own[:-1] == own[0]).all())


def test_erpd_teaches_and_distils_on_episodes(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path
) -> None:
    short: Sequence[str] = (
        "distil.unlearn={steps: 2, problems_per_step: 4, snapshot_every: 1, relative_rate: 1.0}",
        "distil.teachers.main={loss: cross_entropy, steps: 2, problems_per_step: 4, snapshot_every: 1}",
        "distil.student.steps=2",
        "distil.signals.main.reference=base",
        "distil.signals.main.step=last",
    )
    params = of("erpd").model_copy(update={"distil": compose("nano", "sums", "erpd", short).distil})
    rolled = rollout_artefact(tmp_path / "rollout", episodes())
    inputs = {"model": tiny_model, "rollout": rolled}
    unlearned = run_stage(unlearn, params, **inputs)
    taught = run_stage(teach, params, **inputs, unlearn=unlearned)
    said = run_stage(signal, params, **inputs, teach=taught, unlearn=unlearned)
    table = read_table(said.file("signal.parquet"))
    lengths = [len(known(row["behaviour_logp"])) for row in episodes()]
    assert [len(part) for part in table["base_logp"].to_pylist()] == lengths
    learnt = run_stage(distil, params, **inputs, signal=said, teach=taught, unlearn=unlearned)
    assert (learnt.path / "adapter").is_dir()
