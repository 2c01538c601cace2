"""The signal of ERPD's teachers at every token of some answers, for each mode, and which mode is right more
often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from algorithms.erpd import deviation, ranking, token_signal
from params.distil import Distil
from tasks.core.stage import Job
from tasks.erpd.teach import folder
from tasks.erpd.training import Material
from tasks.policy.full_vocabulary import PolicyStates, policy_states
from tasks.policy.policy import Policy


@dataclass(frozen=True)
class Pair:
    """One teacher against its reference, at T tokens."""

    raw: Tensor
    """[T] log pi_T - log pi_ref."""
    centred: Tensor
    """[T] the same without its expectation under the base."""


@dataclass(frozen=True)
class Views:
    """The base, the teachers and the unlearned teachers of a round, at the same T tokens."""

    base: PolicyStates
    teachers: dict[str, PolicyStates]
    unlearned: dict[str, PolicyStates]
    base_logp: Tensor
    """[T]."""
    pairs: dict[str, dict[str, Pair]]
    """By mode and teacher."""
    divergence: dict[str, dict[str, float]]
    """By teacher, means over the tokens, in nats: ``teacher_to_base``, ``base_to_teacher`` and so on."""

    def combined(self, mode: str, factors: Mapping[str, float]) -> Pair:
        """The teachers' signals, added up; zeros for the mode ``none``."""
        pairs, nothing = self.pairs.get(mode, {}), torch.zeros_like(self.base_logp)
        raw = sum((factors[name] * pair.raw for name, pair in pairs.items()), nothing)
        centred = sum((factors[name] * pair.centred for name, pair in pairs.items()), nothing)
        return Pair(raw, centred)

    def log_ratio(
        self, mode: str, factors: Mapping[str, float], index: Tensor | slice, base: Tensor
    ) -> Tensor:
        """The same over the whole vocabulary [t, V], where ``base`` [t, V] is the base's."""
        found = torch.zeros_like(base)
        for name, factor in factors.items():
            reference = base if mode == "strong" else self.unlearned[name].logp(index)
            found += factor * (self.teachers[name].logp(index) - reference)
        return found


def compared(mode: str) -> str:
    """What a mode compares the teachers with: the base (``strong``), or unlearned teachers (``weak``)."""
    return "strong" if mode == "extrapolated" else mode


def look(job: Job, policy: Policy, prompts: list[list[int]], responses: list[list[int]]) -> Views:
    """Every policy of the round at these answers, a forward pass each; ``policy`` ends with the base."""
    assert job.params.distil is not None
    names, temperature = job.params.distil.teachers, job.params.rollout.temperature

    def held(path: Path | None) -> PolicyStates:
        policy.restore(path)
        return policy_states(policy, prompts, responses, temperature)

    def all_of(stage: str) -> dict[str, PolicyStates]:
        made = job.inputs.get(stage)
        return {n: held(folder(made.path, names, n)) for n in names} if made else {}

    teachers, unlearned, before = all_of("teach"), all_of("unlearn"), job.inputs.get("policy")
    base = held(before.path if before else None)
    words = torch.tensor([token for response in responses for token in response])
    others = {("teacher", name): states for name, states in teachers.items()}
    others |= {("unlearned", name): states for name, states in unlearned.items()}
    base_logp, beside = _beside(base, others, words)
    divergence: dict[str, dict[str, float]] = {}
    for (kind, name), (_, away, back) in beside.items():
        means = {f"base_to_{kind}": away.double().mean(), f"{kind}_to_base": back.double().mean()}
        divergence.setdefault(name, {}).update({key: float(mean) for key, mean in means.items()})
    pairs: dict[str, dict[str, Pair]] = {}
    for name in teachers:
        teacher, to_teacher, _ = beside["teacher", name]
        pairs.setdefault("strong", {})[name] = _pair(teacher, base_logp, -to_teacher)
        if unlearned:
            reference, to_reference, _ = beside["unlearned", name]
            pairs.setdefault("weak", {})[name] = _pair(teacher, reference, to_reference - to_teacher)
    return Views(base, teachers, unlearned, base_logp, pairs, divergence)


@torch.no_grad()
def _beside(
    base: PolicyStates, others: dict[tuple[str, str], PolicyStates], words: Tensor
) -> tuple[Tensor, dict[tuple[str, str], Tensor]]:
    """The base's log-probabilities of the ``words`` [T], and of each other policy [3, T]: its own, KL(base |
    other) and KL(other | base)."""
    own: list[Tensor] = []
    found: dict[tuple[str, str], list[Tensor]] = {key: [] for key in others}
    for at in base.chunks():
        origin = base.logp(at)
        word = words[at, None].to(origin.device)
        own.append(origin.gather(1, word)[:, 0].cpu())
        for key, held in others.items():
            other = held.logp(at)
            away = (origin.exp() * (origin - other)).sum(-1)
            back = (other.exp() * (other - origin)).sum(-1)
            found[key].append(torch.stack([other.gather(1, word)[:, 0], away, back]).cpu())
    return torch.cat(own), {key: torch.cat(parts, 1) for key, parts in found.items()}


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


def choose(views: Views, distil: Distil, answers: Material, unseen: set[int]) -> ChosenSignal:
    """The mode asked for, or that whose summed signal ranks the unseen answers best.

    The evidence: ``auc`` by mode, within problems, over the
    unseen ones, and its ``auc_error`` if it were chance; ``auc_seen``; ``pairs`` of answers compared.
    """
    reward, group = answers.reward, answers.group
    judged, new = ~reward.isnan(), torch.tensor([g in unseen for g in group.tolist()], dtype=torch.bool)
    lengths = [len(response) for response in answers.responses]
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
    return ChosenSignal(mode, factors(views, compared(mode), distil) if mode != "none" else {}, evidence)


def _best(auc: Mapping[str, float | None], error: float | None) -> str:
    """The mode that ranks best, ``strong`` among equals and where nothing could be compared; none where even
    that ranks worse than chance, by more than chance would."""
    known = {mode: value for mode, value in auc.items() if value is not None}
    if not known or error is None:
        return "strong"
    mode = max(known, key=lambda name: known[name])
    return mode if known[mode] + 2.0 * error >= 0.5 else "none"
