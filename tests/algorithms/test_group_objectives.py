"""Dr.GRPO, DAPO, GSPO, CISPO and SAPO against the objectives as they are written."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from algorithms import cispo, dapo, dr_grpo, grpo, gspo, sapo
from algorithms.advantages import group_advantage
from algorithms.terms import aggregation_scale
from tests.algorithms.objective_cases import slope

RATIO = st.floats(0.05, 5.0)
ADVANTAGE = st.floats(-3.0, 3.0)


def token(ratio: float) -> tuple[Tensor, Tensor]:
    behaviour = torch.tensor([-1.5], dtype=torch.float64)
    return (behaviour + math.log(ratio)).requires_grad_(True), behaviour


def only(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


FIRST = torch.zeros(1, dtype=torch.int64)


def batch(seed: int, spread: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log pi with gradient, log mu, advantage and response of 21 interleaved tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths, names = torch.tensor([1, 5, 3, 12]), torch.tensor([7, 2, 90, 0])
    order = torch.randperm(21, generator=generator)
    behaviour = -3.0 * torch.rand(21, generator=generator, dtype=torch.float64)
    logp = behaviour + spread * torch.randn(21, generator=generator, dtype=torch.float64)
    advantage = torch.tensor([1.2, -0.4, 0.5, -1.3], dtype=torch.float64).repeat_interleave(lengths)[order]
    return logp.requires_grad_(True), behaviour, advantage, names.repeat_interleave(lengths)[order]


@given(RATIO, ADVANTAGE)
def test_dr_grpo_and_dapo_are_grpo_with_other_bounds(ratio: float, advantage: float) -> None:
    for module, high in ((dr_grpo, 0.2), (dapo, 0.28)):
        config = grpo.Config(clip_low=0.2, clip_high=high)
        logp, behaviour = token(ratio)
        wanted, _ = grpo.token_loss(logp, behaviour, only(advantage), FIRST, config)
        arguments = (logp, behaviour, only(advantage), FIRST)
        found, _ = (
            dapo.token_loss(*arguments, dapo.Config())
            if module is dapo
            else dr_grpo.token_loss(*arguments, dr_grpo.Config())
        )
        assert found.tolist() == wanted.tolist()
        assert slope(found, logp).tolist() == slope(wanted, logp).tolist()


def test_dr_grpo_divides_by_a_constant() -> None:
    logp, behaviour, advantage, sequence = batch(0, 0.5)
    loss, _ = dr_grpo.token_loss(logp, behaviour, advantage, sequence, dr_grpo.Config())
    scale = aggregation_scale(sequence, sequence >= 0, "constant", 40)
    ratio = (logp - behaviour).exp()
    kept = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    assert float((scale * loss).sum().detach()) == pytest.approx(-float(kept.detach().sum()) / (4 * 40))


@given(st.integers(0, 1000), st.sampled_from([1e-4, 1e-3, 0.3]))
def test_gspo_with_a_mean_over_responses_is_the_papers_objective(seed: int, spread: float) -> None:
    logp, behaviour, advantage, sequence = batch(seed, spread)
    loss, metrics = gspo.token_loss(logp, behaviour, advantage, sequence, gspo.Config())
    scale = aggregation_scale(sequence, sequence >= 0, "sequence_mean", 40).double()
    written = torch.zeros((), dtype=torch.float64)
    for name in sequence.unique():
        inside = sequence == name
        ratio = (logp[inside] - behaviour[inside]).mean().exp()
        a = advantage[inside][0]
        written = written - torch.minimum(ratio * a, ratio.clamp(1 - 3e-4, 1 + 4e-4) * a) / 4
        assert metrics["sequence_ratio"][inside].tolist() == pytest.approx(
            [float(ratio.detach())] * len(logp[inside])
        )
    (wanted,) = torch.autograd.grad(written, logp)
    assert float((scale * loss).sum().detach()) == pytest.approx(float(written.detach()), abs=1e-7)
    torch.testing.assert_close(slope(scale * loss, logp), wanted, rtol=1e-6, atol=1e-12)


@given(RATIO, ADVANTAGE)
def test_gspo_of_one_token_is_grpo(ratio: float, advantage: float) -> None:
    logp, behaviour = token(ratio)
    bounds = {"clip_low": 0.2, "clip_high": 0.28}
    found, _ = gspo.token_loss(logp, behaviour, only(advantage), FIRST, gspo.Config.model_validate(bounds))
    wanted, _ = grpo.token_loss(logp, behaviour, only(advantage), FIRST, grpo.Config.model_validate(bounds))
    assert found.tolist() == wanted.tolist()
    assert slope(found, logp).tolist() == slope(wanted, logp).tolist()


def test_gspo_clips_whole_responses() -> None:
    sequence = torch.tensor([5, 9, 5, 9])
    behaviour = torch.full((4,), -1.0, dtype=torch.float64)
    logp = (behaviour + torch.tensor([0.5, 0.01, -0.5, -0.02], dtype=torch.float64)).requires_grad_(True)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    loss, metrics = gspo.token_loss(logp, behaviour, advantage, sequence, gspo.Config())
    assert metrics["clip_low"].tolist() == [0.0, 1.0, 0.0, 1.0]
    assert metrics["clip_high"].tolist() == [0.0] * 4
    (all_tokens,) = torch.autograd.grad(loss.sum(), logp, retain_graph=True)
    assert all_tokens.tolist() == pytest.approx([-1.0, 0.0, -1.0, 0.0])
    assert slope(loss[:1], logp).tolist() == pytest.approx([-0.5, 0.0, -0.5, 0.0])


@given(RATIO, ADVANTAGE, st.sampled_from([(0.2, 0.28), (1.0, 0.28), (10.0, 0.2)]))
def test_cispo_in_verls_convention(ratio: float, advantage: float, offsets: tuple[float, float]) -> None:
    low, high = offsets
    logp, behaviour = token(ratio)
    config = cispo.Config(clip_low=low, clip_high=high)
    loss, metrics = cispo.token_loss(logp, behaviour, only(advantage), FIRST, config)
    weight = min(max(ratio, 1 - low), 1 + high)
    assert float(loss.detach()) == pytest.approx(-weight * advantage * (math.log(ratio) - 1.5), abs=1e-9)
    assert float(slope(loss, logp)) == pytest.approx(-weight * advantage, abs=1e-9)
    if advantage and min(abs(ratio - 1 - high), abs(ratio - 1 + low)) > 1e-9:
        assert float(metrics["clip_fraction"]) == (weight != pytest.approx(ratio, abs=1e-12))


@given(st.floats(0.01, 20.0), ADVANTAGE)
def test_cispo_in_trls_convention_has_no_lower_bound(ratio: float, advantage: float) -> None:
    logp, behaviour = token(ratio)
    loss, _ = cispo.token_loss(logp, behaviour, only(advantage), FIRST, cispo.Config(ratio_cap=5.0))
    assert float(slope(loss, logp)) == pytest.approx(-min(ratio, 5.0) * advantage, abs=1e-9)
    same = cispo.Config(clip_low=1.0, clip_high=4.0)
    assert cispo.token_loss(logp, behaviour, only(advantage), FIRST, same)[0].tolist() == loss.tolist()


@given(RATIO, st.one_of(st.floats(0.1, 3.0), st.floats(-3.0, -0.1)))
def test_cispo_never_masks(ratio: float, advantage: float) -> None:
    logp, behaviour = token(ratio)
    for config in (cispo.Config(), cispo.Config(clip_low=0.2), cispo.Config(ratio_cap=5.0)):
        assert float(slope(cispo.token_loss(logp, behaviour, only(advantage), FIRST, config)[0], logp)) != 0.0


@given(st.floats(0.01, 8.0), ADVANTAGE)
def test_sapo_is_its_written_objective(ratio: float, advantage: float) -> None:
    logp, behaviour = token(ratio)
    loss, metrics = sapo.token_loss(logp, behaviour, only(advantage), FIRST, sapo.Config())
    tau = 1.0 if advantage > 0 else 1.05
    gate = 4 / tau / (1 + math.exp(-tau * (ratio - 1)))
    derivative = 1 / math.cosh(tau * (ratio - 1) / 2) ** 2
    assert float(loss.detach()) == pytest.approx(-gate * advantage, abs=1e-9)
    assert float(slope(loss, logp)) == pytest.approx(-derivative * ratio * advantage, abs=1e-9)
    assert float(metrics["gate"]) == pytest.approx(derivative, abs=1e-12)


@pytest.mark.parametrize("tau", [0.5, 1.0, 1.05, 4.0])
def test_sapo_on_policy(tau: float) -> None:
    logp, behaviour = token(1.0)
    config = sapo.Config(tau_positive=tau, tau_negative=tau)
    loss, metrics = sapo.token_loss(logp, behaviour, only(1.0), FIRST, config)
    assert float(loss.detach()) == pytest.approx(-2.0 / tau)
    assert float(slope(loss, logp)) == pytest.approx(-1.0)
    assert float(metrics["gate"]) == 1.0


@pytest.mark.parametrize(("size", "p"), [(4, 0.3), (8, 0.5), (6, 0.9)])
def test_the_share_of_groups_that_teach_nothing(size: int, p: float) -> None:
    share = 0.0
    for outcome in itertools.product((0.0, 1.0), repeat=size):
        advantage = group_advantage(only(0.0).new_tensor(outcome), torch.zeros(size, dtype=torch.int64))
        if bool((advantage == 0).all()):
            share += p ** sum(outcome) * (1 - p) ** (size - sum(outcome))
    assert share == pytest.approx(p**size + (1 - p) ** size)


@pytest.mark.parametrize("size", [2, 8, 16])
def test_the_sample_deviation_differs_by_a_constant(size: int) -> None:
    rewards = torch.zeros(size, dtype=torch.float64)
    rewards[0] = 1.0
    advantage = group_advantage(rewards, torch.zeros(size, dtype=torch.int64))
    sample = (rewards - rewards.mean()) / rewards.std(correction=1)
    torch.testing.assert_close(sample, advantage * math.sqrt((size - 1) / size))


@pytest.mark.parametrize("size", [2, 8])
def test_a_virtual_best_reward_teaches_groups_that_are_all_wrong(size: int) -> None:
    """NGRPO, arXiv 2509.18851, through the advantage of a group with one more reward."""
    rewards = torch.tensor([0.0] * size + [1.0], dtype=torch.float64)
    found = group_advantage(rewards, torch.zeros(size + 1, dtype=torch.int64))[:-1]
    assert found.tolist() == pytest.approx([-1 / math.sqrt(size)] * size)
    right = group_advantage(torch.ones(size + 1), torch.zeros(size + 1, dtype=torch.int64))
    assert right.tolist() == [0.0] * (size + 1)
