"""Engine against trainer: how far apart their probabilities are, and weights that correct for it.

With rho_t = pi_trainer(y_t) / pi_engine(y_t), both before the update's first step, a token weighs

    token_truncate      min(rho_t, high)                                       TIS
    token_mask          rho_t if low <= rho_t <= high, else 0                  IcePop
    sequence_truncate   min(prod_t rho_t, high)
    sequence_mask       prod_t rho_t if that is within [low, high], else 0     masked importance sampling
    geometric_mask      1 if exp(mean_t log rho_t) is within [low, high], else 0

and the objective's own ratio is taken to the trainer's log-probabilities. A stale engine (``rollout.lag``)
counts as one that differs. Masked tokens stay in the denominator, fixed before (verl leaves them out).

TIS: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training"; verl's bound
is 2. IcePop: Ring-1T, arXiv 2510.18855, and INTELLECT-3, arXiv 2512.16144, equation 1, with bounds 0.5 and 5.
Of sequences and the geometric mean: Liu, Li et al. 2025, "When speed kills stability", and verl's rollout
correction, with bounds of 2 and of 1.0002 to 1.001; TRL masks sequences above 3 by default. Tails are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from algorithms.diagnostics import effective_sample_size
from algorithms.divergence import kl_k3, log_ratio
from algorithms.terms import over_responses
from params.correction import Correction

FAR = 2.0
"""A token's ratio above this, or below its inverse, is of the tails."""


def correction_weights(
    trainer: Tensor, engine: Tensor, sequence: Tensor, choice: Correction
) -> tuple[Tensor, Tensor]:
    """The weight of each token, [T], and [T] bool: truncated or masked; for log-probabilities [T] in nats.

    ``sequence`` [T] says which response a token is of; all tokens of a response must be in the call. A
    log-ratio is cut at +-20.
    """
    low, high = choice.bounds()
    apart = (trainer - engine).double()
    level = choice.kind.partition("_")[0]
    if level != "token":
        apart = over_responses(apart, sequence, mean=level == "geometric")
    ratio = log_ratio(apart, torch.zeros_like(apart)).exp()
    if choice.kind.endswith("_truncate"):
        return ratio.clamp(max=high).to(engine.dtype), ratio > high
    kept = (ratio >= low) & (ratio <= high)
    weight = torch.ones_like(ratio) if level == "geometric" else ratio
    return torch.where(kept, weight, torch.zeros_like(weight)).to(engine.dtype), ~kept


def mismatch(trainer: Tensor, engine: Tensor, sequence: Tensor) -> dict[str, float]:
    """How far the engine's log-probabilities [T] of its own samples are from the trainer's [T]; {} for T = 0.

    In nats per token: ``mismatch``, the mean difference, ``mismatch_max``, the largest, and ``mismatch_kl``,
    the mean k3 estimate of KL(engine || trainer). Tails: ``mismatch_p99`` and ``mismatch_p999``, quantiles of
    it over tokens; ``mismatch_above`` and ``mismatch_below``, shares of tokens with rho above 2 and
    below 1/2; ``mismatch_response_p99``, the quantile over responses of |mean log rho|, by which
    ``geometric_mask`` goes. ``effective_samples``: the share of the tokens left by weights rho.
    """
    if not len(trainer):
        return {}
    apart = trainer.double() - engine.double()
    distance, ratio = apart.abs(), log_ratio(trainer.double(), engine.double())
    names, first = torch.unique(sequence, return_inverse=True)
    counts = torch.bincount(first, minlength=len(names))
    by_response = torch.zeros(len(names), dtype=torch.float64).index_add(0, first, apart) / counts
    found = {
        "mismatch": distance.mean(),
        "mismatch_max": distance.max(),
        "mismatch_kl": kl_k3(engine.double(), trainer.double()).mean(),
        "mismatch_p99": _quantile(distance, 0.99),
        "mismatch_p999": _quantile(distance, 0.999),
        "mismatch_above": (ratio.exp() > FAR).double().mean(),
        "mismatch_below": (ratio.exp() < 1.0 / FAR).double().mean(),
        "mismatch_response_p99": _quantile(by_response.abs(), 0.99),
        "effective_samples": effective_sample_size(ratio) / len(ratio),
    }
    return {name: float(value) for name, value in found.items()}


def _quantile(values: Tensor, share: float) -> Tensor:
    """The smallest value that ``share`` of the values do not exceed. (``torch.quantile`` has a limit.)"""
    place = max(int(-(-share * len(values) // 1)) - 1, 0)
    return values.sort().values[place]
