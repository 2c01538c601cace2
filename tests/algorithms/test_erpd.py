"""ERPD on a tabular tree, where every expectation is a sum: fixed points, telescoping, first steps."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from algorithms import erpd
from algorithms.terms import Batch, Signals
from params.distil import Student, Teacher

V, DEPTH = 3, 3
ANSWERS = list(itertools.product(range(V), repeat=DEPTH))
STATES = {prefix: place for place, prefix in enumerate(
    prefix for depth in range(DEPTH) for prefix in itertools.product(range(V), repeat=depth)
)}  # fmt: skip
STATE = torch.tensor([STATES[answer[:depth]] for answer in ANSWERS for depth in range(DEPTH)])
WORD = torch.tensor([answer[depth] for answer in ANSWERS for depth in range(DEPTH)])
SEQUENCE = torch.arange(len(ANSWERS)).repeat_interleave(DEPTH)
FIRST = torch.arange(len(ANSWERS)) * DEPTH


def logits(seed: int, spread: float = 1.0) -> Tensor:
    """A policy: a row of logits for each state of the tree."""
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(len(STATES), V, generator=generator, dtype=torch.float64)


def tokens(policy: Tensor) -> Tensor:
    """Log-probabilities of the tokens of every answer."""
    return policy.log_softmax(-1)[STATE, WORD]


def answers(policy: Tensor) -> Tensor:
    """Log-probabilities of the answers."""
    return tokens(policy).view(-1, DEPTH).sum(1)


def rewards(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(len(ANSWERS), generator=generator) < 0.3).double()


def partition(base: Tensor, reward: Tensor, beta: float) -> Tensor:
    """V* by its definition."""
    return beta * torch.logsumexp(answers(base) + reward / beta, 0)


def optimum(base: Tensor, reward: Tensor, beta: float) -> Tensor:
    """The policy pi_0 exp((r - V*) / beta), state by state: a word is as likely as what lies below it."""
    joint = (answers(base) + (reward - partition(base, reward, beta)) / beta).exp()
    rows = torch.zeros(len(STATES), V, dtype=torch.float64)
    for answer, mass in zip(ANSWERS, joint, strict=True):
        for depth in range(DEPTH):
            rows[STATES[answer[:depth]], answer[depth]] += mass
    return rows.log()


def expected(values: Tensor, base: Tensor) -> Tensor:
    """The mean over answers of the base, of a loss [T] that every token of an answer carries."""
    return (answers(base).exp() * values[FIRST]).sum()


@pytest.mark.parametrize("beta", [0.05, 0.5, 5.0])
def test_the_squared_error_vanishes_at_its_closed_form_and_only_there(beta: float) -> None:
    base, reward = logits(0), rewards(1)
    target = (reward - partition(base, reward, beta))[SEQUENCE]
    best = optimum(base, reward, beta).requires_grad_(True)
    loss = expected(erpd.mean_squared(tokens(best), tokens(base), target, SEQUENCE, beta)[0], base)
    (slope,) = torch.autograd.grad(loss, best)
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-20)
    assert float(slope.abs().max()) < 1e-10
    centred = (reward - (answers(base).exp() * reward).sum())[SEQUENCE]
    for other in (centred, target):
        elsewhere = erpd.mean_squared(tokens(base), tokens(base), other, SEQUENCE, beta)[0]
        assert float(expected(elsewhere, base)) > 1e-4


def test_fitting_the_squared_error_leads_to_the_closed_form() -> None:
    base, reward, beta = logits(2), rewards(3), 1.0
    target = (reward - partition(base, reward, beta))[SEQUENCE]
    policy = base.clone().requires_grad_(True)
    optimiser = torch.optim.LBFGS(
        [policy], max_iter=500, tolerance_grad=1e-14, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = expected(erpd.mean_squared(tokens(policy), tokens(base), target, SEQUENCE, beta)[0], base)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    found, wanted = policy.detach().softmax(-1), optimum(base, reward, beta).softmax(-1)
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("beta", [0.2, 1.0, 3.0])
def test_the_signal_telescopes_to_the_advantage_of_the_answer(beta: float) -> None:
    base, reward = logits(4), rewards(5)
    best = optimum(base, reward, beta)
    signal = beta * erpd.token_signal(tokens(best), tokens(base))
    told = signal.view(-1, DEPTH).sum(1)
    torch.testing.assert_close(told, reward - partition(base, reward, beta), rtol=0.0, atol=1e-12)
    root = beta * torch.logsumexp(answers(base) + reward / beta, 0)
    for word in range(V):  # Q* - V* of the first token, from their definitions
        below = torch.tensor([answer[0] == word for answer in ANSWERS])
        inside = answers(base)[below] - torch.logsumexp(answers(base)[below], 0)
        value = beta * torch.logsumexp(inside + reward[below] / beta, 0)
        assert float(signal[FIRST][below][0]) == pytest.approx(float(value - root), abs=1e-12)


def test_the_log_partition_of_binary_rewards() -> None:
    reward = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    group = torch.tensor([7, 7, 7, 7, 2, 2, 2, 2])
    for beta in (0.01, 0.3, 4.0):
        shares = torch.where(group == 7, 0.25, 0.5).double()
        wanted = beta * (shares * math.expm1(min(1 / beta, 700.0))).log1p()
        torch.testing.assert_close(erpd.log_partition(reward, group, beta), wanted)
    p, beta = 0.25, 200.0
    found = float(erpd.log_partition(reward, group, beta)[0])
    assert found == pytest.approx(p + p * (1 - p) / (2 * beta), abs=1 / beta**2)


def test_a_small_beta_leads_to_the_base_given_that_it_is_right() -> None:
    base, reward = logits(6), rewards(7)
    share = (answers(base).exp() * reward).sum()
    best = answers(optimum(base, reward, 0.01)).exp()
    torch.testing.assert_close(best, answers(base).exp() * reward / share, rtol=0.0, atol=1e-12)
    right = reward > 0
    divergence = (best[right] * (best[right].log() - answers(base)[right])).sum()
    assert float(divergence) == pytest.approx(-math.log(float(share)), abs=1e-9)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=2, max_size=8),
    right=st.lists(st.booleans(), min_size=8, max_size=8),
    beta=st.floats(0.05, 20.0),
)
def test_with_a_beta_a_response_the_partition_still_makes_the_mean_one(
    lengths: list[int], right: list[bool], beta: float
) -> None:
    reward = torch.tensor(right[: len(lengths)]).double()
    scale = beta / torch.tensor(lengths).double()
    found = erpd.log_partition(reward, torch.zeros(len(lengths), dtype=torch.int64), scale)
    assert float(torch.logsumexp((reward - found) / scale, 0)) == pytest.approx(
        math.log(len(lengths)), abs=1e-9
    )


def test_the_first_steps_are_reinforce() -> None:
    base, reward, beta = logits(8), rewards(9), 0.7
    policy = base.clone().requires_grad_(True)
    advantage = reward - reward.mean()

    def slope(values: Tensor) -> Tensor:
        return torch.autograd.grad(values[FIRST].sum(), policy)[0]

    def reinforce(weight: Tensor) -> Tensor:
        return torch.autograd.grad((weight * answers(policy)).sum(), policy)[0]

    start = tokens(base)
    squared = erpd.mean_squared(tokens(policy), start, advantage[SEQUENCE], SEQUENCE, beta)[0]
    torch.testing.assert_close(slope(squared), reinforce(-2 * beta * advantage))
    crossed = erpd.cross_entropy(tokens(policy), start, reward[SEQUENCE], SEQUENCE, beta)[0]
    torch.testing.assert_close(slope(crossed), reinforce(-beta * (reward - 0.5)))
    smooth = erpd.sapo(tokens(policy), start, advantage[SEQUENCE], SEQUENCE)[0]
    (found,) = torch.autograd.grad(smooth.sum(), policy)
    torch.testing.assert_close(found, reinforce(-advantage))
    normalised = erpd.mean_squared(tokens(policy), start, advantage[SEQUENCE], SEQUENCE, beta, True)[0]
    torch.testing.assert_close(slope(normalised), reinforce(-2 * beta * advantage) / DEPTH)


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


def test_scaling_and_clipping() -> None:
    signal = erpd.token_signal(torch.tensor([4.0, -1.0, 0.0]), torch.zeros(3), scale=True, clip=1.2)
    assert float(signal.max()) == pytest.approx(1.2)
    same = torch.full((3,), 0.1)
    assert torch.equal(erpd.token_signal(same, torch.zeros(3), scale=True), torch.zeros(3))


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


def batch_of(reward: Tensor, group: Tensor, lengths: list[int]) -> Batch:
    sequence = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    zeros = torch.zeros(len(sequence))
    return Batch(
        sequence=sequence,
        behaviour_logp=zeros,
        advantage=zeros,
        importance=torch.ones_like(zeros),
        fresh=torch.ones(len(lengths), dtype=torch.bool),
        max_tokens=9,
        reward=reward,
        group=group,
    )


@pytest.mark.parametrize("loss", ["sapo", "cross_entropy", "mean_squared"])
def test_unlearning_is_learning_from_flipped_rewards(loss: str) -> None:
    reward, group = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0]), torch.tensor([0, 0, 1, 1, 1])
    batch, flipped = (batch_of(r, group, [2, 3, 1, 4, 2]) for r in (reward, 1.0 - reward))
    config = Teacher.model_validate({"loss": loss})
    reference = -torch.rand(12)
    logp, index = -torch.rand(12), torch.arange(12)
    one = erpd.teacher_term(batch, reference, config, True, True)
    two = erpd.teacher_term(flipped, reference, config, False, True)
    torch.testing.assert_close(one.scale, two.scale)
    torch.testing.assert_close(
        one.token_loss(Signals(logp), index)[0], two.token_loss(Signals(logp), index)[0]
    )


def test_the_losses_of_answers_are_means_over_answers() -> None:
    reward, group = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 0, 0])
    batch = batch_of(reward, group, [2, 3, 1])
    config = Teacher(loss="cross_entropy", beta=2.0, length_normalised=True)
    logp = -torch.rand(6)
    term = erpd.teacher_term(batch, torch.zeros(6), config, False, True)
    found = (term.scale * term.token_loss(Signals(logp), torch.arange(6))[0]).sum()
    means = torch.stack([part.mean() for part in logp.split([2, 3, 1])])
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(2.0 * means, reward)
    torch.testing.assert_close(found, wanted)


def test_the_students_term_is_a_mean_over_all_tokens() -> None:
    batch = batch_of(torch.zeros(2), torch.tensor([0, 0]), [3, 1])
    signal = torch.tensor([9.0, 0.0, -1.0, 0.5])
    term = erpd.distillation_term(batch, signal, torch.zeros(4), Student(clip=3.0))
    loss, metrics = term.token_loss(Signals(torch.zeros(4)), torch.arange(4))
    assert float((term.scale * loss).sum()) == pytest.approx(-(3.0 - 1.0 + 0.5) / 4)
    assert term.scale.tolist() == [0.25, 0.0, 0.25, 0.25]
    assert metrics["signal_clipped"].tolist() == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("rewards", [[1, 0, 0, 1], [0, 0, 1, 0], [0.0, 0.5, 1.0, 0.5]])
def test_the_error_of_a_ranking_is_that_of_all_orders(rewards: list[float]) -> None:
    reward, group = torch.tensor([*rewards, *rewards]).float(), torch.tensor([0] * 4 + [1] * 4)
    orders = [torch.tensor(order).float() for order in itertools.permutations(range(4))]
    found = [erpd.ranking(torch.cat(pair), reward, group) for pair in itertools.product(orders, orders)]
    shares = torch.tensor([ranking.share for ranking in found], dtype=torch.float64)
    assert float(shares.mean()) == pytest.approx(0.5)
    assert float(shares.std(correction=0)) == pytest.approx(found[0].error)
    assert found[0].pairs == 2 * sum(a > b for a, b in itertools.permutations(rewards, 2))


def test_a_ranking_compares_answers_to_one_problem_only() -> None:
    reward, group = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([0, 0, 1, 1])
    assert erpd.ranking(torch.tensor([-5.0, -6.0, 9.0, 8.0]), reward, group)[:2] == (1.0, 2)
    assert erpd.ranking(torch.tensor([-5.0, -5.0, 7.0, 8.0]), reward, group).share == 0.25
    assert erpd.ranking(torch.ones(4), torch.ones(4), group) == (None, 0, None)


@pytest.mark.parametrize("target", ["log_partition", "centred", "advantage"])
def test_what_is_taken_from_the_reward(target: str) -> None:
    reward, group = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0, 0, 0])
    batch = batch_of(reward, group, [1, 2, 3])
    config = Teacher.model_validate({"loss": "mean_squared", "beta": 1.0, "target": target})
    term = erpd.teacher_term(batch, torch.zeros(6), config, False, True)
    loss = term.token_loss(Signals(torch.zeros(6)), torch.arange(6))[0]  # at the base s is 0
    taken = math.log((math.e + 2.0) / 3.0) if target == "log_partition" else 1.0 / 3.0
    unit = float(reward.std(correction=0)) if target == "advantage" else 1.0
    wanted = (((reward - taken) / unit) ** 2).repeat_interleave(torch.tensor([1, 2, 3]))
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-4)
