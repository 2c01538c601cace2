"""An objective whose ratio is a response's sees all of its tokens, masked ones too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from algorithms.mismatch import correction_weights
from params.load import compose
from tasks.artefacts.artefact import Artefact
from tasks.policy.gradient import accumulate
from tasks.policy.policy import Policy
from tasks.update.responses import Responses
from tasks.update.shares import recipes_of, shares_of, step_of
from tests.tasks.rollout_rows import rollout_artefact, rows

REWARDS = ((1.0, 0.0, 1.0), (0.0, 1.0, 0.0))


@pytest.mark.parametrize("budget", [16, 512])
def test_a_masked_token_is_part_of_its_responses_ratio(
    tiny_model: Artefact, tmp_path: Path, budget: int
) -> None:
    """GSPO beside a token mask, against the loss written out in float64."""
    settings = ["update.adapter=full", f"update.tokens_per_micro_batch={budget}", "update.head_chunk=5"]
    wide = ["method.objective.clip_low=0.01", "method.objective.clip_high=0.01"]
    mask = "method.correction={kind: token_mask, low: 0.8, high: 1.25}"
    params = compose("nano", "sums", "gspo", [*settings, *wide, mask, "engine.name=transformers"])
    policy = Policy.open(tiny_model.path, params)
    answers = Responses.read(rollout_artefact(tmp_path / "r", rows(REWARDS)).file("rollouts.parquet"), params)
    old = policy.score(answers.prompts, answers.responses, 1.0)
    _, shares = shares_of(recipes_of(params, 1), answers)
    parts = list(old.split(old.logp))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # some steps on
        for master in policy.weights.masters.values():
            master.add_(0.003 * torch.randn(master.shape, generator=generator))
    policy.stepped()
    accumulate(policy, step_of(shares, range(len(answers.responses)), 8, parts), 1.0)
    found = [weight.grad for weight in policy.weights.masters.values() if weight.grad is not None]

    total, masked, clipped = torch.zeros((), dtype=torch.float64), 0, 0
    assert params.method.correction is not None
    for place, (prompt, response) in enumerate(zip(answers.prompts, answers.responses, strict=True)):
        engine = answers.engine_logp[place]
        one = torch.zeros(len(engine), dtype=torch.int64)
        weight, cut = correction_weights(parts[place], engine, one, params.method.correction)
        ids = torch.tensor([[*prompt, *response]])
        logs = policy.network(input_ids=ids).logits[0].double().log_softmax(-1)[len(prompt) - 1 : -1]
        logp = logs.gather(1, torch.tensor(list(response))[:, None])[:, 0]
        ratio = (logp - parts[place].double()).mean().exp()
        advantage = float(answers.advantage[place])
        loss = -torch.minimum(ratio * advantage, ratio.clamp(0.99, 1.01) * advantage)
        total = total + loss * weight.double().mean() / len(answers.responses)
        masked += int(cut.sum())
        clipped += not bool(torch.equal(ratio, ratio.clamp(0.99, 1.01)))
    assert 0 < clipped < len(answers.responses)
    assert 0 < masked < sum(map(len, answers.responses))
    expected: tuple[Tensor, ...] = torch.autograd.grad(total, list(policy.weights.masters.values()))
    assert any(bool(gradient.abs().max() > 1e-4) for gradient in expected)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), two.double(), rtol=0.0, atol=1e-5)
