"""The signal of ERPD's teachers at every token of some answers, for each mode, and which mode is right more
often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from algorithms.erpd import deviation, ranking, token_signal
from params.distil import Distil
from tasks.core.stage import Job
from tasks.erpd.teach import folder
from tasks.policy.full_vocabulary import PolicyStates, policy_states
from tasks.policy.policy import Policy

Index = Tensor | slice
"""Positions."""
MODES = ("strong", "weak")
"""What a mode compares the teachers with: the base, or unlearned teachers."""


@dataclass(frozen=True)
class Pair:
    """One teacher against its reference, at T tokens."""

    raw: Tensor
    """[T] log pi_T - log pi_ref."""
    centred: Tensor
    """[T] the same without its expectation under the base."""


@dataclass
class Views:
    """The base, the teachers and the unlearned teachers of a round, at the same T tokens."""

    base: PolicyStates
    teachers: dict[str, PolicyStates]
    unlearned: dict[str, PolicyStates]
    base_logp: Tensor
    """[T]."""
    pairs: dict[str, dict[str, Pair]]
    """By mode and teacher."""
    divergence: dict[str, float] = field(default_factory=dict)
    """Means over the tokens, in nats: ``teacher_to_base``, ``base_to_teacher`` and so on, by teacher."""

    def combined(self, mode: str, factors: Mapping[str, float]) -> Pair:
        """The teachers' signals, added up."""
        pairs = self.pairs[mode]
        raw = sum((factors[name] * pair.raw for name, pair in pairs.items()), torch.zeros(()))
        centred = sum((factors[name] * pair.centred for name, pair in pairs.items()), torch.zeros(()))
        return Pair(raw, centred)

    def log_ratio(self, mode: str, factors: Mapping[str, float], index: Index, base: Tensor) -> Tensor:
        """The same over the whole vocabulary [t, V], where ``base`` [t, V] is the base's."""
        found = torch.zeros_like(base)
        for name, factor in factors.items():
            reference = base if mode == "strong" else self.unlearned[name].logp(index)
            found += factor * (self.teachers[name].logp(index) - reference)
        return found


def look(job: Job, policy: Policy, prompts: list[list[int]], responses: list[list[int]]) -> Views:
    """Every policy of the round at these answers, a forward pass each; ``policy`` ends with the base."""
    assert job.params.distil is not None
    names, temperature = job.params.distil.teachers, job.params.rollout.temperature
    base = job.inputs.get("policy")

    def held(path: Path | None) -> PolicyStates:
        policy.restore(path)
        return policy_states(policy, prompts, responses, temperature)

    def all_of(stage: str) -> dict[str, PolicyStates]:
        made = job.inputs.get(stage)
        return {n: held(folder(made.path, names, n)) for n in names} if made else {}

    teachers, unlearned = all_of("teach"), all_of("unlearn")
    views = Views(held(base.path if base else None), teachers, unlearned, torch.empty(0), {})
    _read(views, torch.tensor([token for response in responses for token in response]))
    return views


@torch.no_grad()
def _read(views: Views, words: Tensor) -> None:
    """Fill in log-probabilities and divergences, a chunk of positions at a time."""
    others = {("teacher", n): h for n, h in views.teachers.items()}
    others |= {("unlearned", n): h for n, h in views.unlearned.items()}
    own: list[Tensor] = []
    logp: dict[tuple[str, str], list[Tensor]] = {key: [] for key in others}
    away: dict[tuple[str, str], list[Tensor]] = {key: [] for key in others}
    back: dict[tuple[str, str], list[Tensor]] = {key: [] for key in others}
    for at in views.base.chunks():
        base = views.base.logp(at)
        word = words[at, None].to(base.device)
        own.append(base.gather(1, word)[:, 0].cpu())
        for key, held in others.items():
            other = held.logp(at)
            logp[key].append(other.gather(1, word)[:, 0].cpu())
            away[key].append((base.exp() * (base - other)).sum(-1).cpu())
            back[key].append((other.exp() * (other - base)).sum(-1).cpu())
    views.base_logp = torch.cat(own)
    for (kind, name), parts in away.items():
        views.divergence[f"base_to_{kind}.{name}"] = float(torch.cat(parts).double().mean())
        views.divergence[f"{kind}_to_base.{name}"] = float(torch.cat(back[kind, name]).double().mean())
    for name in views.teachers:
        teacher, to_teacher = torch.cat(logp["teacher", name]), torch.cat(away["teacher", name])
        views.pairs.setdefault("strong", {})[name] = _pair(teacher, views.base_logp, -to_teacher)
        if views.unlearned:
            to_unlearned = torch.cat(away["unlearned", name])
            mean = to_unlearned - to_teacher
            views.pairs.setdefault("weak", {})[name] = _pair(
                teacher, torch.cat(logp["unlearned", name]), mean
            )


def _pair(teacher: Tensor, reference: Tensor, expectation: Tensor) -> Pair:
    return Pair(token_signal(teacher, reference), token_signal(teacher, reference, expectation))


def factors(views: Views, mode: str, distil: Distil) -> dict[str, float]:
    """How much of each teacher's signal there is in the whole: its weight over its deviation, scaled so that
    one teacher alone has 1, or the sign of its weight."""
    pairs = views.pairs[mode]
    spread = {name: deviation(pair.centred) for name, pair in pairs.items()}
    weights = {name: distil.signal.weights.get(name, 1.0) for name in pairs}
    total = sum(abs(weight) for weight in weights.values()) or 1.0
    typical = sum(spread.values()) / len(spread)
    return {n: weights[n] / total * (typical / spread[n] if spread[n] else 0.0) for n in pairs}


@dataclass(frozen=True)
class ChosenSignal:
    """Which signal it is to be, and why."""

    mode: str
    """``strong``, ``weak``, ``extrapolated`` or, where no signal ranks better than chance, ``none``."""
    factors: dict[str, float]
    evidence: dict[str, Any]

    @property
    def compared(self) -> str:
        """What the teachers are compared with."""
        return "strong" if self.mode == "extrapolated" else self.mode


def choose(
    views: Views, distil: Distil, reward: Tensor, group: Tensor, lengths: list[int], unseen: set[int]
) -> ChosenSignal:
    """The mode asked for, or that whose summed signal ranks the unseen answers best.

    ``reward`` [S] is NaN where there is none. The evidence: ``auc`` by mode, within problems, over the
    unseen ones, and its ``auc_error`` if it were chance; ``auc_seen``; ``pairs`` of answers compared.
    """
    judged, new = ~reward.isnan(), torch.tensor([g in unseen for g in group.tolist()], dtype=torch.bool)
    evidence: dict[str, Any] = {"auc": {}, "auc_seen": {}}
    for mode in views.pairs:
        whole = views.combined(mode, factors(views, mode, distil)).raw
        score = torch.stack([part.sum() for part in whole.split(lengths)]).double()
        for name, where in (("auc", judged & new), ("auc_seen", judged & ~new)):
            found = ranking(score[where], reward[where], group[where])
            evidence[name][mode] = found.share
            evidence["pairs" if name == "auc" else "pairs_seen"] = found.pairs
            if name == "auc":
                evidence["auc_error"] = found.error
    asked = distil.signal.mode
    mode = _best(evidence["auc"], evidence["auc_error"]) if asked == "auto" else asked
    compared = "strong" if mode == "extrapolated" else mode
    return ChosenSignal(mode, factors(views, compared, distil) if mode != "none" else {}, evidence)


def _best(auc: Mapping[str, float | None], error: float | None) -> str:
    """The mode that ranks best, ``strong`` among equals and where nothing could be compared; none where even
    that ranks worse than chance, by more than chance would."""
    known = {mode: value for mode, value in auc.items() if value is not None}
    if not known or error is None:
        return "strong"
    mode = max(known, key=lambda name: known[name])
    return mode if known[mode] + 2.0 * error >= 0.5 else "none"
