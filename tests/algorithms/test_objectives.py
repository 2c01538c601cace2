"""What holds for every objective there is: whatever is added to the package is tried here too."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from algorithms.divergence import TopK
from algorithms.terms import Aggregation, aggregation_scale
from tests.algorithms.objective_cases import Case, Tokens, cases, loss_of, tokens

CASES = cases()
every_objective = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
LIMIT = 40


def gradient(case: Case, parts: list[Tokens], scales: list[Tensor], back: list[Tensor]) -> Tensor:
    """The gradient [T, V] of the aggregated loss, summed over micro-batches and put back into order."""
    total = torch.zeros(sum(len(part.ids) for part in parts), parts[0].logits.shape[-1], dtype=torch.float64)
    for part, scale, index in zip(parts, scales, back, strict=True):
        logits = part.logits.clone().requires_grad_(True)
        loss, _ = loss_of(case, part, logits)
        (found,) = torch.autograd.grad((scale * loss).sum(), logits)
        total[index] = found
    return total


def test_the_list_holds_every_objective_of_the_design() -> None:
    wanted = {"grpo", "dr_grpo", "dapo", "gspo", "cispo", "sapo", "dppo", "drpo"}
    assert wanted <= {case.name for case in CASES}
    assert {f"{name}.yaml" for name in ("dppo-kl", "dppo-top", "drpo-published", "mask-drpo", "spo")} <= {
        case.name for case in CASES
    }


@every_objective
@pytest.mark.parametrize("how", ["token_mean", "sequence_mean", "constant"])
def test_splitting_and_ordering_by_response_change_no_gradient(case: Case, how: Aggregation) -> None:
    whole = tokens(seed=1)
    scale = aggregation_scale(whole.sequence, torch.ones(len(whole.ids), dtype=torch.bool), how, LIMIT)
    everything = torch.arange(len(whole.ids))
    at_once = gradient(case, [whole], [scale], [everything])
    for names in ([40, 3], [1000, 0, 17, 8]):
        inside = torch.isin(whole.sequence, torch.tensor(names))
        index = [inside.nonzero()[:, 0].flip(0), (~inside).nonzero()[:, 0]]
        parts = [whole.pick(i) for i in index]
        apart = gradient(case, parts, [scale[i] for i in index], index)
        torch.testing.assert_close(apart, at_once, rtol=0.0, atol=1e-12)
    shuffled = torch.randperm(len(whole.ids), generator=torch.Generator().manual_seed(0))
    moved = gradient(case, [whole.pick(shuffled)], [scale[shuffled]], [shuffled])
    torch.testing.assert_close(moved, at_once, rtol=0.0, atol=1e-12)
    assert float(at_once.abs().max()) > 1e-3


@every_objective
@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_scaling_the_advantage_scales_the_gradient(case: Case, factor: float) -> None:
    sample = tokens(seed=2)
    ones, everything = torch.ones(len(sample.ids)).double(), torch.arange(len(sample.ids))
    once = gradient(case, [sample], [ones], [everything])
    torch.testing.assert_close(
        gradient(case, [sample.scaled(factor)], [ones], [everything]), factor * once, rtol=1e-9, atol=1e-12
    )


@every_objective
def test_no_advantage_no_loss_and_no_gradient(case: Case) -> None:
    sample = tokens(seed=3).scaled(0.0)
    logits = sample.logits.clone().requires_grad_(True)
    loss, _ = loss_of(case, sample, logits)
    (found,) = torch.autograd.grad(loss.sum(), logits)
    assert bool((loss == 0).all())
    assert bool((found == 0).all())


@every_objective
def test_on_policy_the_gradient_is_reinforce(case: Case) -> None:
    drawn = tokens(seed=4)
    sample = Tokens(drawn.logits, drawn.logits, drawn.ids, drawn.advantage, drawn.sequence)
    everything = torch.arange(len(sample.ids))
    scale = aggregation_scale(sample.sequence, everything >= 0, "sequence_mean", LIMIT)
    found = gradient(case, [sample], [scale], [everything])
    logits = sample.logits.clone().requires_grad_(True)
    logp = logits.log_softmax(-1).gather(-1, sample.ids[:, None])[:, 0]
    (expected,) = torch.autograd.grad(-(scale * sample.advantage * logp).sum(), logits)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-8)


@every_objective
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_extremes_stay_finite(case: Case, kind: torch.dtype) -> None:
    far = [(0.0, 0.0), (-50.0, 0.0), (0.0, -50.0), (-1000.0, -1.0), (-1.0, -1000.0), (-1e-9, -50.0)]
    rows = list(itertools.product(far, (-3.0, 0.0, 2.0)))
    logp = torch.tensor([pair[0] for pair, _ in rows], dtype=kind, requires_grad=True)
    behaviour = torch.tensor([pair[1] for pair, _ in rows], dtype=kind)
    advantage = torch.tensor([a for _, a in rows], dtype=kind)
    arguments = [logp, behaviour, advantage, torch.arange(len(rows)), case.config]
    if getattr(case.module, "top_k", lambda config: 0)(case.config):
        ids = torch.full((len(rows), 3), -torch.inf, dtype=kind)
        arguments.append(TopK(ids, ids, torch.zeros(len(rows), 3, dtype=torch.bool)))
    loss, metrics = case.module.token_loss(*arguments)
    (found,) = torch.autograd.grad(loss.sum(), logp)
    assert loss.dtype == kind
    assert bool(torch.isfinite(loss).all())
    assert bool(torch.isfinite(found).all())
    assert bool((loss[advantage == 0] == 0).all())
    for name, values in metrics.items():
        assert values.shape == loss.shape, name
        assert not values.requires_grad, name
        assert bool(torch.isfinite(values).all()), name


@every_objective
def test_no_tokens_and_one_token(case: Case) -> None:
    sample = tokens(seed=5)
    nothing, metrics = loss_of(case, sample.pick(torch.zeros(0, dtype=torch.int64)))
    assert nothing.shape == (0,)
    assert all(values.shape == (0,) for values in metrics.values())
    alone = (sample.sequence == 40).nonzero()[:, 0]
    assert len(alone) == 1
    torch.testing.assert_close(loss_of(case, sample.pick(alone))[0], loss_of(case, sample)[0][alone])


@every_objective
def test_metrics_share_their_names_and_ranges(case: Case) -> None:
    _, metrics = loss_of(case, tokens(seed=6))
    assert {"ratio", "ratio_max", "shift", "shift_max", "shift_tail"} <= set(metrics)
    for name in {"clip_fraction", "clip_low", "clip_high", "shift_tail", "corrective", "amplified"} & set(
        metrics
    ):
        assert set(metrics[name].tolist()) <= {0.0, 1.0}, name
    for name in {"shift", "gate"} & set(metrics):
        assert bool(((metrics[name] >= 0) & (metrics[name] <= 1)).all()), name


@every_objective
def test_behaviour_and_advantage_are_constants(case: Case) -> None:
    drawn = tokens(seed=7)
    behaviour = drawn.behaviour_logits.clone().requires_grad_(True)
    sample = Tokens(drawn.logits, behaviour, drawn.ids, drawn.advantage, drawn.sequence)
    logits = drawn.logits.clone().requires_grad_(True)
    loss, _ = loss_of(case, sample, logits)
    _, leaked = torch.autograd.grad(loss.sum(), [logits, behaviour], allow_unused=True)
    assert leaked is None or bool((leaked == 0).all())
