"""ERPD on a tabular tree, where every expectation is a sum: losses, fixed points, signals, first steps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from algorithms import erpd
from algorithms.terms import Signals
from params.distil import Student, Teacher, Unlearn
from tests.algorithms.answer_tree import (
    DEPTH,
    FIRST,
    SEQUENCE,
    STATE,
    STATES,
    answers,
    batch_of,
    logits,
    rewards,
    tokens,
)


def slope(loss: Tensor, policy: Tensor) -> Tensor:
    return torch.autograd.grad(loss, policy)[0]


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_first_steps_of_answer_losses_are_reinforce() -> None:
    """At the base, cross-entropy has the gradient of REINFORCE with the baseline one half."""
    base, reward, beta = logits(8), rewards(9), 0.7
    policy, start = base.clone().requires_grad_(True), tokens(base)
    advantage = reward - reward.mean()

    def reinforce(weight: Tensor) -> Tensor:
        return slope((weight * answers(policy)).sum(), policy)

    crossed = erpd.cross_entropy(tokens(policy), start, reward[SEQUENCE], SEQUENCE, beta)[0]
    torch.testing.assert_close(slope(crossed[FIRST].sum(), policy), reinforce(-beta * (reward - 0.5)))
    averaged = erpd.cross_entropy(tokens(policy), start, reward[SEQUENCE], SEQUENCE, beta, True)[0]
    torch.testing.assert_close(
        slope(averaged[FIRST].sum(), policy), reinforce(-beta * (reward - 0.5)) / DEPTH
    )
    for loss in (erpd.sapo, erpd.grpo):
        found = loss(tokens(policy), start, advantage[SEQUENCE], SEQUENCE)[0]
        torch.testing.assert_close(slope(found.sum(), policy), reinforce(-advantage))


def test_cross_entropy_is_what_is_written() -> None:
    base, own, reward, beta = logits(20), logits(21), rewards(22), 0.4
    found, metrics = erpd.cross_entropy(tokens(own), tokens(base), reward[SEQUENCE], SEQUENCE, beta)
    score = beta * (answers(own) - answers(base))
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(score, reward, reduction="none")
    torch.testing.assert_close(found[FIRST], wanted)
    torch.testing.assert_close(metrics["score"][FIRST], score)
    far = torch.tensor([-500.0, 500.0])
    loss, _ = erpd.cross_entropy(far, torch.zeros(2), torch.tensor([1.0, 0.0]), torch.arange(2), 1.0)
    assert loss.tolist() == [500.0, 500.0]


def test_the_probability_error_and_its_gradient() -> None:
    """2 (pi - R) pi: 1.62 for a wrong token at .9, -.18 for a right one; zero at 0 and at 1."""
    probability = torch.tensor([0.9, 0.9, 0.2, 0.5, 1e-12, 1.0 - 1e-12], dtype=torch.float64)
    outcome = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    logp = probability.log().requires_grad_(True)
    loss, metrics = erpd.probability_error(logp, outcome)
    torch.testing.assert_close(loss, (probability - outcome).square(), rtol=1e-9, atol=1e-30)
    found = slope(loss.sum(), logp)
    torch.testing.assert_close(found, 2 * (probability - outcome) * probability, rtol=1e-9, atol=1e-20)
    assert found[:2].tolist() == pytest.approx([1.62, -0.18])
    torch.testing.assert_close(metrics["fit"], (probability - outcome).abs(), rtol=1e-9, atol=1e-20)


def test_the_error_of_a_probable_right_token_is_exact_in_single_precision() -> None:
    logp = torch.tensor([-1e-6, -3e-8])
    found = erpd.probability_error(logp, torch.ones(2))[0]
    torch.testing.assert_close(found.double(), torch.expm1(logp.double()).square(), rtol=1e-6, atol=0.0)


@given(outcome=st.lists(st.booleans(), min_size=1, max_size=12))
def test_a_shared_token_rests_at_the_share_of_right_answers(outcome: list[bool]) -> None:
    """The fixed point of the probability regression on one state and token is the mean of the outcomes."""
    right = torch.tensor(outcome).double()
    share = right.mean().clamp(1e-9, 1.0)
    logp = share.log().requires_grad_(True)
    loss = erpd.probability_error(logp.expand(len(right)), right)[0].sum()
    assert float(slope(loss, logp).abs()) < 1e-7
    for other in (0.9 * share, (1.1 * share).clamp(max=1.0)):
        there = erpd.probability_error(other.log().expand(len(right)), right)[0].sum()
        assert float(there) >= float(loss.detach()) - 1e-9


@given(seed=st.integers(0, 10_000), count=st.integers(2, 60), scale=st.floats(1e-3, 1e3))
def test_a_whitened_signal_has_mean_0_and_deviation_1(seed: int, count: int, scale: float) -> None:
    signal = scale * numbers(seed, count) + 5.0 * scale
    found = erpd.whitened(signal)
    assert float(found.mean()) == pytest.approx(0.0, abs=1e-12)
    assert float(found.std(correction=0)) == pytest.approx(1.0, abs=1e-12)
    torch.testing.assert_close(erpd.whitened(3.0 * signal - 2.0), found, rtol=1e-9, atol=1e-9)


def test_a_constant_signal_gives_zeros() -> None:
    same = torch.full((3,), 0.1)
    assert torch.equal(erpd.whitened(same), torch.zeros(3))
    assert torch.equal(erpd.whitened(torch.empty(0)), torch.empty(0))


def test_the_negative_part_on_right_answers_comes_before_whitening() -> None:
    signal = torch.tensor([2.0, -1.0, 3.0, -4.0, 0.5], dtype=torch.float64)
    outcome = torch.tensor([1.0, 1.0, 0.0, 0.0, math.nan], dtype=torch.float64)
    found = erpd.negative_part_on_right(signal, outcome)
    assert found.tolist() == [0.0, -1.0, 3.0, -4.0, 0.5]
    assert erpd.positive_part_on_right(signal, outcome).tolist() == [2.0, 0.0, 3.0, -4.0, 0.5]
    first = erpd.whitened(found)
    assert float(first.mean()) == pytest.approx(0.0, abs=1e-12)
    other = erpd.negative_part_on_right(erpd.whitened(signal), outcome)
    assert float((first - other).abs().max()) > 0.1
    assert float(other.mean().abs()) > 0.01


@pytest.mark.parametrize("tau", [0.5, 1.0, 1.05])
def test_the_gate_of_sapo(tau: float) -> None:
    ratio = torch.tensor([0.2, 0.7, 1.0, 1.4, 3.0], dtype=torch.float64)
    logp = ratio.log().requires_grad_(True)
    one = torch.ones_like(ratio)
    loss = erpd.sapo(logp, torch.zeros_like(ratio), one, torch.arange(5), tau_positive=tau)[0]
    assert float(loss.detach()[2]) == pytest.approx(-2 / tau)
    (slope,) = torch.autograd.grad(loss.sum(), logp)
    torch.testing.assert_close(-slope / ratio, torch.cosh(tau * (ratio - 1) / 2) ** -2)


@given(seed=st.integers(0, 10_000), a=st.floats(0.0, 3.0), b=st.floats(0.0, 3.0))
def test_a_contrast_cancels_the_drift_that_both_teachers_share(seed: int, a: float, b: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    base, gain, drift = torch.randn(3, 40, generator=generator, dtype=torch.float64)
    signal = erpd.token_signal(base + a * gain + drift, base - b * gain + drift)
    torch.testing.assert_close(signal, (a + b) * gain, rtol=0.0, atol=1e-12)


@given(seed=st.integers(0, 10_000), spread=st.floats(0.1, 5.0))
def test_centring_takes_away_the_mean_under_the_base(seed: int, spread: float) -> None:
    base, teacher, unlearned = (logits(seed + i, spread).log_softmax(-1) for i in range(3))
    to_teacher = (base.exp() * (base - teacher)).sum(-1)
    to_unlearned = (base.exp() * (base - unlearned)).sum(-1)
    assert float((base.exp() * erpd.token_signal(teacher, base)).sum(-1).max()) <= 0.0
    strong = erpd.token_signal(teacher, base, -to_teacher[:, None])
    weak = erpd.token_signal(teacher, unlearned, (to_unlearned - to_teacher)[:, None])
    for signal in (strong, weak):
        torch.testing.assert_close(
            (base.exp() * signal).sum(-1), torch.zeros(len(STATES)).double(), rtol=0.0, atol=1e-9
        )


def test_the_first_step_of_the_student_descends_on_the_divergence_from_the_teacher() -> None:
    base, teacher = logits(10), logits(11)
    policy = base.clone().requires_grad_(True)
    chance = answers(base).exp()[SEQUENCE]
    signal = erpd.token_signal(tokens(teacher), tokens(base))
    loss, _ = erpd.distillation(tokens(policy), tokens(base), signal, tokens(base), clip=math.inf)
    (found,) = torch.autograd.grad((chance * loss).sum(), policy)
    visits = torch.zeros(len(STATES), dtype=torch.float64).index_add(0, STATE, chance)
    own, theirs = policy.log_softmax(-1), teacher.log_softmax(-1)
    divergence = (visits * (own.exp() * (own - theirs)).sum(-1)).sum()
    (wanted,) = torch.autograd.grad(divergence, policy)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_no_signal_moves_nothing() -> None:
    base = logits(12)
    for pull, coefficient in ((0.0, 0.0), (0.0, 0.5), (1.0, 0.0)):
        policy = base.clone().requires_grad_(True)
        signal = erpd.token_signal(tokens(base), tokens(base))
        loss, metrics = erpd.distillation(
            tokens(policy), tokens(base), signal, tokens(base), kl_coefficient=coefficient, pull=pull
        )
        (slope,) = torch.autograd.grad(loss.sum(), policy)
        assert torch.equal(slope, torch.zeros_like(slope))
        assert float(metrics["kl"].max()) == 0.0


def test_the_surrogate_at_the_base_is_the_signal_times_the_score() -> None:
    base = logits(30)
    policy = base.clone().requires_grad_(True)
    signal = erpd.whitened(numbers(31, len(SEQUENCE)))
    loss, _ = erpd.distillation(tokens(policy), tokens(base), signal, tokens(base))
    torch.testing.assert_close(
        slope(loss.sum(), policy), slope(-(signal * tokens(policy)).sum(), policy), rtol=1e-9, atol=1e-12
    )


def test_the_divergence_and_the_entropy_enter_with_their_weights() -> None:
    base, own = logits(32), logits(33)
    signal = numbers(34, len(SEQUENCE))

    def loss_of(policy: Tensor, kl: float, weight: float) -> Tensor:
        logp = policy.log_softmax(-1)
        entropy = -(logp.exp() * logp).sum(-1)[STATE]
        given = (tokens(policy), tokens(base), signal, tokens(base))
        asked = {"kl_coefficient": kl, "entropy_coefficient": weight}
        return erpd.distillation(*given, entropy=entropy, **asked)[0].sum()

    policy = own.clone().requires_grad_(True)
    plain, both = slope(loss_of(policy, 0.0, 0.0), policy), slope(loss_of(policy, 0.3, 0.5), policy)
    difference = tokens(base) - tokens(policy)
    logp = policy.log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1)[STATE]
    more = 0.3 * (difference.exp() - 1.0 - difference) - 0.5 * entropy
    torch.testing.assert_close(both - plain, slope(more.sum(), policy), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="entropies"):
        erpd.distillation(tokens(base), tokens(base), signal, tokens(base), entropy_coefficient=0.5)


def steps_on(signals: list[Tensor], rate: float) -> Tensor:
    """A step of plain descent with each signal in turn, from one base, with ratios to it."""
    base = logits(35)
    policy = base.clone().requires_grad_(True)
    for signal in signals:
        loss, _ = erpd.distillation(tokens(policy), tokens(base), signal, tokens(base))
        policy = (policy - rate * slope(loss.sum(), policy)).detach().requires_grad_(True)
    return policy.detach()


def test_signals_in_sequence_are_not_their_sum_where_the_clip_bites() -> None:
    one, two = (erpd.whitened(numbers(seed, len(SEQUENCE))) for seed in (36, 37))
    first = steps_on([one], 0.5)
    ratio = (tokens(first) - tokens(logits(35))).exp()
    outside = ((ratio > 1.28) & (two > 0)) | ((ratio < 0.8) & (two < 0))
    assert bool(outside.any())
    apart = steps_on([one, two], 0.5)
    policy = first.clone().requires_grad_(True)
    unclipped = -(ratio * two * tokens(policy)).sum()
    without = (policy - 0.5 * slope(unclipped, policy)).detach()
    assert float((apart - without).abs().max()) > 1e-2
    assert float((apart - steps_on([one + two], 0.5)).abs().max()) > 1e-2
    close = steps_on([one, two], 1e-6), steps_on([one + two], 1e-6)  # no ratio has left its bounds
    torch.testing.assert_close(*close, rtol=0.0, atol=1e-9)


def test_a_live_denominator_ends_at_the_teacher_and_a_fixed_one_does_not() -> None:
    base, teacher = logits(38), logits(39)
    policy = teacher.clone().requires_grad_(True)
    raw = erpd.token_signal(tokens(teacher), tokens(base))
    chance = answers(teacher).exp()[SEQUENCE]
    mean, std = raw.mean(), raw.std(correction=0)
    for pull, rests in ((float(1.0 / std), True), (0.0, False)):
        given = (tokens(policy), tokens(teacher), (raw - mean) / std, tokens(base))
        loss, _ = erpd.distillation(*given, pull=pull)
        found = float(slope((chance * loss).sum(), policy).abs().max())
        assert found < 1e-12 if rests else found > 1e-2


@pytest.mark.parametrize("power", [1.0, 1.7])
def test_with_a_pull_the_student_rests_beyond_the_teacher(power: float) -> None:
    """E_pi[lambda q - log pi / pi_0] has its fixed point at pi_0 (pi_T / pi_0)^lambda, state by state."""
    base, teacher = logits(13), logits(14)
    rest = (base.log_softmax(-1) * (1 - power) + power * teacher.log_softmax(-1)).log_softmax(-1)
    policy = rest.clone().requires_grad_(True)
    chance = answers(rest).exp()[SEQUENCE]
    signal = power * erpd.token_signal(tokens(teacher), tokens(base))
    loss, _ = erpd.distillation(tokens(policy), tokens(rest), signal, tokens(base), clip=math.inf, pull=1.0)
    (slope,) = torch.autograd.grad((chance * loss).sum(), policy)
    assert float(slope.abs().max()) < 1e-12


ALL_LOSSES = ["sapo", "grpo", "cross_entropy", "probability", "likelihood", "outcome_regression"]


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_a_flipped_fit_is_a_fit_to_flipped_outcomes(loss: str) -> None:
    reward, group = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0]), torch.tensor([0, 0, 1, 1, 1])
    batch, flipped = (batch_of(r, group, [2, 3, 1, 4, 2]) for r in (reward, 1.0 - reward))
    reference = -torch.rand(12)
    logp, index = -torch.rand(12), torch.arange(12)
    (one,) = erpd.teacher_terms(
        batch, reference, Teacher.model_validate({"loss": loss, "flipped": True}), True
    )
    (two,) = erpd.teacher_terms(flipped, reference, Teacher.model_validate({"loss": loss}), True)
    torch.testing.assert_close(one.scale, two.scale)
    torch.testing.assert_close(
        one.token_loss(Signals(logp), index)[0], two.token_loss(Signals(logp), index)[0]
    )


def loss_of(
    batch_lengths: list[int], reward: Tensor, logp: Tensor, reference: Tensor, config: Teacher
) -> Tensor:
    """The value of the fit's whole loss."""
    batch = batch_of(reward, torch.zeros(len(reward), dtype=torch.int64), batch_lengths)
    index = torch.arange(len(logp))
    terms = erpd.teacher_terms(batch, reference, config, True)
    parts = [(term.scale * term.token_loss(Signals(logp), index)[0]).sum() for term in terms]
    return torch.stack(parts).sum()


def test_the_losses_are_means_over_what_they_are_of() -> None:
    reward, lengths = torch.tensor([1.0, 0.0, 1.0]), [2, 3, 1]
    logp, reference = -torch.rand(6) - 0.1, -torch.rand(6)
    given = (lengths, reward, logp, reference)
    means = torch.stack([part.mean() for part in (logp - reference).split(lengths)])
    crossed = Teacher(loss="cross_entropy", beta=2.0, length_normalised=True)
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(2.0 * means, reward)
    torch.testing.assert_close(loss_of(*given, crossed), wanted)
    outcome = reward.repeat_interleave(torch.tensor(lengths))
    error = (logp.exp() - outcome).square()
    torch.testing.assert_close(loss_of(*given, Teacher(loss="probability")), error.mean())
    weighed = torch.where(outcome == 1.0, error, 0.5 * error).mean()
    torch.testing.assert_close(loss_of(*given, Teacher(loss="probability", wrong_weight=0.5)), weighed)
    torch.testing.assert_close(loss_of(*given, Teacher(loss="likelihood")), -logp[outcome == 1.0].mean())
    d = reference - logp
    with_kl = loss_of(*given, crossed.model_copy(update={"kl_coefficient": 0.3}))
    torch.testing.assert_close(with_kl, wanted + 0.3 * (d.exp() - 1.0 - d).mean(), rtol=1e-4, atol=1e-6)


def test_groups_that_agree_teach_policy_gradients_nothing() -> None:
    batch = batch_of(torch.ones(2), torch.tensor([0, 0]), [2, 3])
    for loss in ("sapo", "grpo"):
        (term,) = erpd.teacher_terms(batch, torch.zeros(5), Teacher.model_validate({"loss": loss}), True)
        assert not bool(term.scale.any())
    (unlearned,) = erpd.teacher_terms(batch, torch.zeros(5), Unlearn(), True)
    assert unlearned.name == "probability"
    assert bool(unlearned.scale.all())


def test_the_students_term_is_a_mean_over_all_tokens() -> None:
    batch = batch_of(torch.zeros(2), torch.tensor([0, 0]), [3, 1])
    signal = torch.tensor([9.0, 0.0, -1.0, 0.5])
    term = erpd.distillation_term(batch, signal, torch.zeros(4), Student(clip=3.0))
    loss, metrics = term.token_loss(Signals(torch.zeros(4)), torch.arange(4))
    assert float((term.scale * loss).sum()) == pytest.approx(-(3.0 - 1.0 + 0.5) / 4)
    assert term.scale.tolist() == [0.25, 0.0, 0.25, 0.25]
    assert metrics["signal_clipped"].tolist() == [1.0, 0.0, 0.0, 0.0]
    free = erpd.distillation_term(batch, signal, torch.zeros(4), Student(entropy_coefficient=0.5))
    assert free.needs_entropy
    assert free.scale.tolist() == [0.25] * 4
    with_entropy, _ = free.token_loss(Signals(torch.zeros(4), torch.ones(4)), torch.arange(4))
    assert with_entropy.tolist() == [-9.5, -0.5, 0.5, -1.0]
