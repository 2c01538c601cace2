"""ERPD: Extreme Region Policy Distillation, arXiv 2605.25582v1: teachers, token-level signals, a student.

Phase one fits a teacher pi_E to fixed, judged answers of the round's base pi_0, with many steps and weak
constraint or none. R is the outcome, A the group's advantage, rho = pi / pi_0, and of an answer y
s(y) = beta sum_t log pi / pi_0, or beta times the mean (equations 2, 3 and 10):

    cross_entropy   -[R log sigmoid(s) + (1 - R) log sigmoid(-s)]
    sapo            -(1 / |y|) sum_t f(rho_t) A
    grpo            -(1 / |y|) sum_t min(rho_t A, clip(rho_t) A)
    probability     a mean over tokens of (pi(y_t) - R)^2

The last first pushes down what it should not, and recovers later: an early checkpoint of it is the
unlearned policy pi_U. The signal of a sampled token is q_t = log pi_E - log pi_ref, where pi_ref is pi_0
(S1), pi_U (S2) or an older student (S3), whitened over the round's answers. Phase two starts at pi_0 again
and takes few steps of the clipped surrogate on the same answers, with that signal as the advantage.

Ours, and not the paper's: ``outcome_regression`` with its V*, ``ranking``, the signal's expectation under the
base, and a student that goes beyond the teacher. SAPO's gate is arXiv 2511.20347; the regression has the form
of A*-PO, arXiv 2505.20686; extrapolation is that of G-OPD, arXiv 2602.12125.

Log-probabilities are in nats, per token and [T]; ``sequence`` [T] says which response a token is of.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from algorithms import grpo as clipped_surrogate
from algorithms import sapo as smooth
from algorithms.advantages import group_advantage
from algorithms.correct import CORRECT
from algorithms.divergence import kl_k3
from algorithms.geometric import geometric_target as geometric_target  # noqa: PLC0414 - a public name of this module
from algorithms.outcome_regression import log_partition
from algorithms.outcome_regression import outcome_regression as outcome_regression  # noqa: PLC0414 - the same
from algorithms.terms import Batch, Metrics, Signals, Term, aggregation_scale, over_responses
from params.distil import Fit, Student

OUTCOME_LOSSES = ("cross_entropy", "probability", "likelihood")
"""Fitted to the outcome itself, which lies between 0 and 1."""


def cross_entropy(
    logp: Tensor,
    reference_logp: Tensor,
    reward: Tensor,
    sequence: Tensor,
    beta: float = 1e-3,
    length_normalised: bool = False,
) -> tuple[Tensor, Metrics]:
    """-[R log sigmoid(s) + (1 - R) log sigmoid(-s)], R in 0..1 (equations 2 and 3); loss [T].

    Each token carries its response's loss, and all tokens of a response must be in the call. Metrics [T]:
    ``score``, s; ``fit``, |R - sigmoid(s)|.
    """
    log_ratio = logp - reference_logp.detach()
    score = beta * over_responses(log_ratio, sequence, length_normalised)
    seen = score.detach()
    return softplus(score) - reward * score, {"score": seen, "fit": (reward - seen.sigmoid()).abs()}


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


def grpo(
    logp: Tensor,
    reference_logp: Tensor,
    advantage: Tensor,
    sequence: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> tuple[Tensor, Metrics]:
    """The clipped surrogate: loss [T] and its metrics [T], as ``algorithms.grpo``."""
    config = clipped_surrogate.Config(clip_low=clip_low, clip_high=clip_high)
    return clipped_surrogate.token_loss(logp, reference_logp, advantage, sequence, config)


def probability_error(logp: Tensor, outcome: Tensor) -> tuple[Tensor, Metrics]:
    """(pi - R)^2 of a token's probability pi and its answer's outcome R [T] in 0..1 (equation 10); loss [T].

    The gradient in log pi is 2 (pi - R) pi. Metrics [T]: ``probability``, and ``fit``, |pi - R|.
    """
    probability = logp.exp()
    missing = torch.where(outcome > 0.5, torch.expm1(logp) + (1.0 - outcome), probability - outcome)
    return missing.square(), {"probability": probability.detach(), "fit": missing.detach().abs()}


def teacher_terms(batch: Batch, reference_logp: Tensor, config: Fit, by_std: bool) -> list[Term]:
    """Phase one's loss: the fit's own term, and the divergence from the base where it has a weight.

    ``cross_entropy``, ``sapo``, ``grpo`` and ``outcome_regression`` are means over responses, ``probability``
    over tokens, ``likelihood`` over the tokens of right answers. ``batch`` holds whole groups, with rewards;
    ``reference_logp`` [T] is the base's. ``by_std``: advantages are divided by their group's deviation.
    """
    if batch.reward is None or batch.group is None:
        raise ValueError("erpd: the batch has no rewards")
    reward = 1.0 - batch.reward if config.flipped else batch.reward
    goal = _goal(reward, batch, config, by_std)

    def token_loss(signals: Signals, index: Tensor) -> tuple[Tensor, Metrics]:
        sequence = batch.sequence[index]
        return _fit(signals.logp, reference_logp[index], goal[sequence], sequence, config)

    terms = [Term(config.loss, _fit_scale(batch, goal, config), token_loss)]
    if config.kl_coefficient:
        terms.append(_divergence_term(batch, reference_logp, config.kl_coefficient))
    return terms


def _fit(
    logp: Tensor, reference_logp: Tensor, goal: Tensor, sequence: Tensor, config: Fit
) -> tuple[Tensor, Metrics]:
    """The loss [t] of a fit, whose ``goal`` [t] is the outcome, the advantage or what s is regressed on."""
    given = (logp, reference_logp, goal, sequence)
    match config.loss:
        case "probability":
            return probability_error(logp, goal)
        case "likelihood":
            return -logp, {"probability": logp.detach().exp()}
        case "sapo":
            return sapo(*given, config.tau_positive, config.tau_negative)
        case "grpo":
            return grpo(*given, config.clip_low, config.clip_high)
        case "cross_entropy":
            return cross_entropy(*given, config.beta, config.length_normalised)
        case "outcome_regression":
            return outcome_regression(*given, config.beta, config.length_normalised)


def _fit_scale(batch: Batch, goal: Tensor, config: Fit) -> Tensor:
    """The weight [T] of each token: 0 where it has nothing to say, so that it need not be computed."""
    everything = torch.ones_like(batch.sequence, dtype=torch.bool)
    of_token = goal[batch.sequence]
    right = of_token >= CORRECT
    if config.loss == "likelihood":
        return aggregation_scale(batch.sequence, right, "token_mean", batch.max_tokens)
    if config.loss == "probability":
        scale = aggregation_scale(batch.sequence, everything, "token_mean", batch.max_tokens)
        return torch.where(right, scale, config.wrong_weight * scale)
    scale = aggregation_scale(batch.sequence, everything, "sequence_mean", batch.max_tokens)
    if config.loss in ("sapo", "grpo"):
        return torch.where(of_token != 0, scale, torch.zeros_like(scale))
    return scale


def _goal(reward: Tensor, batch: Batch, config: Fit, by_std: bool) -> Tensor:
    """What a fit holds a response [S] against."""
    assert batch.group is not None
    if config.loss in OUTCOME_LOSSES:
        return reward
    if config.loss in ("sapo", "grpo"):
        return group_advantage(reward, batch.group, by_std)
    if config.target != "log_partition":
        return group_advantage(reward, batch.group, config.target == "advantage")
    lengths = torch.bincount(batch.sequence, minlength=len(reward)).clamp(min=1)
    beta = config.beta / lengths.double() if config.length_normalised else config.beta
    return reward - log_partition(reward, batch.group, beta)


def _divergence_term(batch: Batch, base_logp: Tensor, coefficient: float) -> Term:
    """``coefficient`` times the mean over tokens of k3 to the base.

    As GRPO and verl have it, exp(d) - 1 - d with d = log pi_0 / pi: on answers of the base it is the
    divergence to second order near the base, and no estimate of it far away, where the log-ratio is clamped.
    """
    everything = torch.ones_like(batch.sequence, dtype=torch.bool)
    scale = coefficient * aggregation_scale(batch.sequence, everything, "token_mean", batch.max_tokens)

    def token_loss(signals: Signals, index: Tensor) -> tuple[Tensor, Metrics]:
        divergence = kl_k3(signals.logp, base_logp[index])
        return divergence, {"divergence": divergence.detach()}

    return Term("kl", scale, token_loss)


def token_signal(teacher_logp: Tensor, reference_logp: Tensor, expectation: Tensor | float = 0.0) -> Tensor:
    """q_t = log pi_E - log pi_ref at the sampled tokens, [T]: S1, S2 or S3 by the reference.

    Ours: without its ``expectation`` under the base, which is -KL(pi_0 | pi_E) of the token's state where the
    reference is the base, and KL(pi_0 | pi_ref) - KL(pi_0 | pi_E) where it is another.
    """
    return teacher_logp - reference_logp - expectation


def negative_part_on_right(signal: Tensor, outcome: Tensor) -> Tensor:
    """min(0, q) on the tokens of right answers, q elsewhere; ``outcome`` [T] is each token's answer's, NaN
    where nobody knows. Comes before whitening."""
    return torch.where(outcome >= CORRECT, signal.clamp(max=0.0), signal)


def positive_part_on_right(signal: Tensor, outcome: Tensor) -> Tensor:
    """max(0, q) there: what the paper compares it with."""
    return torch.where(outcome >= CORRECT, signal.clamp(min=0.0), signal)


def whitened(signal: Tensor) -> Tensor:
    """[T] with mean 0 and (population) standard deviation 1 over the tokens; a constant gives zeros."""
    spread = deviation(signal)
    exact = signal.double()
    return ((exact - exact.mean()) / spread).to(signal.dtype) if spread else torch.zeros_like(signal)


def deviation(signal: Tensor) -> float:
    """The population standard deviation over the tokens; of equal values, exactly 0."""
    if not signal.numel() or bool((signal == signal.flatten()[0]).all()):
        return 0.0
    return float(signal.double().std(correction=0))


def distillation(
    logp: Tensor,
    old_logp: Tensor,
    signal: Tensor,
    base_logp: Tensor,
    *,
    clip: float = math.inf,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    kl_coefficient: float = 0.0,
    entropy: Tensor | None = None,
    entropy_coefficient: float = 0.0,
    pull: float = 0.0,
) -> tuple[Tensor, Metrics]:
    """-min(rho A, clip(rho) A) + kl_coefficient k3(pi, pi_0) - entropy_coefficient H: loss and metrics [T].

    rho is to ``old_logp``, k3 to ``base_logp``; ``entropy`` [T] is the policy's, in nats. A is a constant,
    signal - pull log pi / pi_0, within ``clip`` (ours). With ``pull`` 0 it is the signal, whose denominator
    is fixed. For a signal q / std to the base, ``pull`` 1 / std makes the denominator the live policy.
    """
    moved = (logp - base_logp).detach()
    wanted = signal - pull * moved if pull else signal
    advantage = wanted.clamp(-clip, clip)
    bounds = clipped_surrogate.Config(clip_low=clip_low, clip_high=clip_high)
    loss, metrics = clipped_surrogate.token_loss(logp, old_logp, advantage, torch.zeros_like(logp), bounds)
    if kl_coefficient:
        loss = loss + kl_coefficient * kl_k3(logp, base_logp)
    if entropy_coefficient:
        if entropy is None:
            raise ValueError("erpd: an entropy weight needs the entropies")
        loss = loss - entropy_coefficient * entropy
    cut = (wanted.abs() > clip).to(logp.dtype)
    shown = {"advantage": advantage, "signal_clipped": cut, "kl": kl_k3(logp.detach(), base_logp)}
    return loss, {**metrics, **shown}


def distillation_term(
    batch: Batch, signal: Tensor, base_logp: Tensor, config: Student, pull: float = 0.0
) -> Term:
    """Phase two's loss on sampled tokens: a mean over all tokens of the batch.

    ``signal`` [T] is normalised, ``base_logp`` [T] the base's; ``batch.behaviour_logp`` is what ratios are
    taken to.
    """
    everything = torch.ones_like(batch.sequence, dtype=torch.bool)
    scale = aggregation_scale(batch.sequence, everything, "token_mean", batch.max_tokens)
    if not (pull or config.kl_coefficient or config.entropy_coefficient):
        scale = torch.where(signal != 0, scale, torch.zeros_like(scale))

    def token_loss(signals: Signals, index: Tensor) -> tuple[Tensor, Metrics]:
        return distillation(
            signals.logp,
            batch.behaviour_logp[index],
            signal[index],
            base_logp[index],
            clip=math.inf if config.clip is None else config.clip,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            kl_coefficient=config.kl_coefficient,
            entropy=signals.entropy,
            entropy_coefficient=config.entropy_coefficient,
            pull=pull,
        )

    return Term("distillation", scale, token_loss, needs_entropy=bool(config.entropy_coefficient))
