"""ERPD: an extreme teacher first, then its token-level signal, distilled under a trust region.

Phase one fits a teacher pi_T to fixed answers of the base pi_0 for many epochs, without a KL and without a
hard clip. With s = beta log pi_T(y | x) / pi_0(y | x) of a response of reward r and advantage A, it minimises

    sapo            -(1 / |y|) sum_t f(rho_t) A
    cross_entropy   -[r log sigmoid(s) + (1 - r) log sigmoid(-s)]
    mean_squared    (s - (r - V*))^2,    V* = beta log E_pi_0 exp(r / beta)

The last has the optimum pi_0 exp((r - V*) / beta) with a loss of zero; there beta q_t is the soft advantage
of a token, and sum_t beta q_t = r - V*. Phase two starts again from the base with the signal

    q_t = log pi_T - log pi_ref,    A_t = clip((q_t - E_pi_0[q_t]) / std, -c, c)

and either ascends min(rho A, clip(rho) A) - k KL(pi, pi_0), or goes towards the exact optimum per state,

    argmin KL(pi | pi_T) + mu KL(pi | pi_0)  =  pi_0^(1 - eta) pi_T^eta / Z,    eta = 1 / (1 + mu)

ERPD is arXiv 2605.25582, of which we could read the abstract, a model card and notes: two stages; strong
teachers by SAPO or cross-entropy, weak ones by a squared error with an unlearned policy as reference; the
token-level log-ratio as signal; several teachers combined. Every formula here is our reconstruction. SAPO's
is arXiv 2511.20347; the squared error has the form of A*-PO, arXiv 2505.20686, the cross-entropy that of
PRIME, arXiv 2502.01456; extrapolation is that of G-OPD, arXiv 2602.12125.

Log-probabilities are in nats, per token and [T]; ``sequence`` [T] says which response a token is of.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from algorithms import grpo
from algorithms import sapo as smooth
from algorithms.advantages import group_advantage
from algorithms.divergence import kl_k3
from algorithms.geometric import geometric_target as geometric_target  # noqa: PLC0414 - a public name of this module
from algorithms.terms import Batch, Metrics, Signals, Term, aggregation_scale, over_responses
from params.distil import Student, Teacher

STEPS = 100
"""Halvings of the bracket around V*."""


def sapo(
    logp: Tensor,
    reference_logp: Tensor,
    advantage: Tensor,
    sequence: Tensor,
    tau_positive: float = 1.0,
    tau_negative: float = 1.05,
) -> tuple[Tensor, Metrics]:
    """SAPO's smooth gate: loss [T] and its metrics [T], as ``algorithms.sapo``."""
    config = smooth.Config(tau_positive=tau_positive, tau_negative=tau_negative)
    return smooth.token_loss(logp, reference_logp, advantage, sequence, config)


def cross_entropy(
    logp: Tensor,
    reference_logp: Tensor,
    reward: Tensor,
    sequence: Tensor,
    beta: float = 0.1,
    length_normalised: bool = False,
) -> tuple[Tensor, Metrics]:
    """-[r log sigmoid(s) + (1 - r) log sigmoid(-s)], r in 0..1; each token [T] carries its response's loss.

    All tokens of a response must be in the call. Metrics [T]: ``score``, s; ``fit``, |r - sigmoid(s)|.
    """
    score = _scores(logp, reference_logp, sequence, beta, length_normalised)
    seen = score.detach()
    return softplus(score) - reward * score, {"score": seen, "fit": (reward - seen.sigmoid()).abs()}


def mean_squared(
    logp: Tensor,
    reference_logp: Tensor,
    target: Tensor,
    sequence: Tensor,
    beta: float = 0.1,
    length_normalised: bool = False,
) -> tuple[Tensor, Metrics]:
    """(s - target)^2; each token [T] carries its response's loss. The target of the closed form is r - V*.

    All tokens of a response must be in the call. Metrics [T]: ``score``, s; ``fit``, |target - s|.
    """
    score = _scores(logp, reference_logp, sequence, beta, length_normalised)
    seen = score.detach()
    return (score - target).square(), {"score": seen, "fit": (target - seen).abs()}


def log_partition(reward: Tensor, group: Tensor, beta: Tensor | float) -> Tensor:
    """V* [S] of each response's group: the V at which the group's mean of exp((r - V) / beta) is 1.

    For one ``beta`` that is beta log mean exp(r / beta), an estimate of beta log E_pi_0 exp(r / beta);
    a ``beta`` [S] a response, as length normalisation gives, has no closed form and is searched for.
    ``reward`` and ``group`` [S]; the result has ``reward``'s type.
    """
    exact = reward.double()
    scale = torch.as_tensor(beta, dtype=torch.float64, device=exact.device).expand_as(exact)
    found = torch.empty_like(exact)
    for name in torch.unique(group):
        mine = group == name
        r, b = exact[mine], scale[mine]
        count = r.new_tensor(float(len(r))).log()
        if bool((b == b[0]).all()):
            found[mine] = b[0] * (torch.logsumexp(r / b[0], 0) - count)
            continue
        low, high = r.min(), r.max()
        for _ in range(STEPS):
            middle = (low + high) / 2
            over = torch.logsumexp((r - middle) / b, 0) > count
            low, high = torch.where(over, middle, low), torch.where(over, high, middle)
        found[mine] = (low + high) / 2
    return found.to(reward.dtype)


def teacher_term(batch: Batch, reference_logp: Tensor, config: Teacher, flipped: bool, by_std: bool) -> Term:
    """Phase one's loss, a mean over responses; ``flipped`` unlearns: r becomes 1 - r and A becomes -A.

    ``batch`` holds whole groups, with rewards; ``reference_logp`` [T] is the base's. ``by_std``: SAPO's
    advantages are divided by their group's deviation.
    """
    if batch.reward is None or batch.group is None:
        raise ValueError("erpd: the batch has no rewards")
    reward = 1.0 - batch.reward if flipped else batch.reward
    lengths = torch.bincount(batch.sequence, minlength=len(reward)).clamp(min=1)
    goal = _goal(reward, batch.group, lengths, config, by_std)
    everything = torch.ones_like(batch.sequence, dtype=torch.bool)
    scale = aggregation_scale(batch.sequence, everything, "sequence_mean", batch.max_tokens)
    if config.loss == "sapo":
        scale = torch.where(goal[batch.sequence] != 0, scale, torch.zeros_like(scale))

    def token_loss(signals: Signals, index: Tensor) -> tuple[Tensor, Metrics]:
        sequence = batch.sequence[index]
        given = (signals.logp, reference_logp[index], goal[sequence], sequence)
        if config.loss == "sapo":
            return sapo(*given, config.tau_positive, config.tau_negative)
        loss = cross_entropy if config.loss == "cross_entropy" else mean_squared
        return loss(*given, config.beta, config.length_normalised)

    return Term(config.loss, scale, token_loss)


def _goal(reward: Tensor, group: Tensor, lengths: Tensor, config: Teacher, by_std: bool) -> Tensor:
    """What a teacher's loss holds a response [S] against."""
    if config.loss == "cross_entropy":
        return reward
    if config.loss == "sapo":
        return group_advantage(reward, group, by_std)
    if config.target != "log_partition":
        return group_advantage(reward, group, config.target == "advantage")
    beta = config.beta / lengths.double() if config.length_normalised else config.beta
    return reward - log_partition(reward, group, beta)


def token_signal(
    teacher_logp: Tensor,
    reference_logp: Tensor,
    expectation: Tensor | float = 0.0,
    *,
    scale: bool = False,
    clip: float | None = None,
) -> Tensor:
    """q_t = log pi_T - log pi_ref - ``expectation`` at the sampled tokens, [T].

    The expectation under the base centres it: -KL(pi_0 | pi_T) of the token's state where the reference is
    the base, KL(pi_0 | pi_U) - KL(pi_0 | pi_T) where it is an unlearned teacher. ``scale`` divides by the
    (population) standard deviation, and then ``clip`` bounds the absolute value.
    """
    signal = teacher_logp - reference_logp - expectation
    if scale:
        signal = standardised(signal)
    return signal if clip is None else signal.clamp(-clip, clip)


def standardised(signal: Tensor) -> Tensor:
    """Divided by its population standard deviation; a constant gives zeros."""
    spread = deviation(signal)
    return signal / spread if spread else torch.zeros_like(signal)


def deviation(signal: Tensor) -> float:
    """The population standard deviation over the tokens; of equal values, exactly 0."""
    if not signal.numel() or bool((signal == signal.flatten()[0]).all()):
        return 0.0
    return float(signal.double().std(correction=0))


class Ranking(NamedTuple):
    """How well a score orders the answers to each problem."""

    share: float | None
    """Of the pairs of answers to one problem, those in which the better rewarded has the higher score, equal
    scores counting half: the area under the ROC curve, within problems. None without any pair."""
    pairs: int
    error: float | None
    """Standard deviation of ``share`` of scores that have nothing to do with the rewards."""


def ranking(score: Tensor, reward: Tensor, group: Tensor) -> Ranking:
    """``score``, ``reward`` and ``group`` are [S]. The error is Kendall's for ties in the rewards, problem by
    problem: of m right and n wrong answers, that of Mann and Whitney, m n (m + n + 1) / 12 for the count."""
    won, pairs, variance = 0.0, 0, 0.0
    for name in torch.unique(group):
        mine = group == name
        better = reward[mine][:, None] > reward[mine]
        ahead = (score[mine][:, None] - score[mine]).sign()[better]
        won, pairs = won + float((ahead.double() + 1.0).sum()) / 2.0, pairs + int(better.sum())
        equal = torch.unique(reward[mine], return_counts=True)[1].tolist()
        variance += (_kendall(int(mine.sum())) - sum(map(_kendall, equal))) / 72.0
    return Ranking(won / pairs, pairs, math.sqrt(variance) / pairs) if pairs else Ranking(None, 0, None)


def _kendall(count: int) -> int:
    return count * (count - 1) * (2 * count + 5)


def distillation(
    logp: Tensor,
    old_logp: Tensor,
    signal: Tensor,
    base_logp: Tensor,
    *,
    clip: float = 4.0,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    kl_coefficient: float = 0.0,
    pull: float = 0.0,
) -> tuple[Tensor, Metrics]:
    """-min(rho A, clip(rho) A) + kl_coefficient k3(pi, pi_0): loss [T] and metrics [T].

    rho is to ``old_logp``, k3 to ``base_logp``. A = clip(signal - pull log pi / pi_0, -c, c), a constant:
    with ``pull`` 0 it is the signal; with lambda q for a signal and ``pull`` 1 the student goes towards
    pi_0 (pi_T / pi_0)^lambda.
    """
    moved = (logp - base_logp).detach()
    wanted = signal - pull * moved if pull else signal
    advantage = wanted.clamp(-clip, clip)
    bounds = grpo.Config(clip_low=clip_low, clip_high=clip_high)
    loss, metrics = grpo.token_loss(logp, old_logp, advantage, torch.zeros_like(logp), bounds)
    divergence = kl_k3(logp, base_logp)
    cut = (wanted.abs() > clip).to(logp.dtype)
    shown = {"advantage": advantage, "signal_clipped": cut, "kl": divergence.detach()}
    return loss + kl_coefficient * divergence, {**metrics, **shown}


def distillation_term(
    batch: Batch, signal: Tensor, base_logp: Tensor, config: Student, pull: float = 0.0
) -> Term:
    """Phase two's loss on sampled tokens: a mean over all tokens of the batch.

    ``signal`` [T] is centred and scaled, ``base_logp`` [T] the base's; ``batch.behaviour_logp`` is what
    ratios are taken to.
    """
    everything = torch.ones_like(batch.sequence, dtype=torch.bool)
    scale = aggregation_scale(batch.sequence, everything, "token_mean", batch.max_tokens)
    if not pull and not config.kl_coefficient:
        scale = torch.where(signal != 0, scale, torch.zeros_like(scale))

    def token_loss(signals: Signals, index: Tensor) -> tuple[Tensor, Metrics]:
        return distillation(
            signals.logp,
            batch.behaviour_logp[index],
            signal[index],
            base_logp[index],
            clip=config.clip,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            kl_coefficient=config.kl_coefficient,
            pull=pull,
        )

    return Term("distillation", scale, token_loss)


def _scores(
    logp: Tensor, reference_logp: Tensor, sequence: Tensor, beta: float, length_normalised: bool
) -> Tensor:
    """s of each token's response [T]: beta times the sum, or the mean, of its log-ratios."""
    return beta * over_responses(logp - reference_logp.detach(), sequence, length_normalised)
