"""A comparison in words: which method helps, how sure that is, and what a reader should know first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from params.base import nearest
from tasks.report.comparison.data import ACCURACY, ENTROPY, Compared
from tasks.report.comparison.stats import Effect, Results
from tasks.report.format import count, number, percent, points, was
from tasks.report.run.words import bounds

UNEQUAL = 0.05
"""Share by which a method's spending may differ from the baseline's before the page says so."""


def verdict(data: Results, budget: str) -> str:
    """The first sentence: which of these methods helps at equal cost?"""
    effects = list(data.effects.get(ACCURACY, {}).values())
    if len(data.comparison.arms) == 1:
        final = data.final(data.arms[0], ACCURACY)
        said = (
            f"{percent(final.value)} of its held-out answers are right" if final else "no run came to its end"
        )
        return f"{data.arms[0]} alone: {said} after {budget}."
    if data.baseline is None:
        return f"Nothing can be compared: no run of {data.against} came to its end."
    if not effects:
        return f"Nothing can be compared: only one {data.noun} came to its end."
    least = min(effect.estimate.seeds for effect in effects)
    if max(effect.estimate.seeds for effect in effects) < 2:
        return (
            f"One seed cannot show whether anything helps more than {data.baseline}; it takes two at least."
        )
    better = [e for e in effects if e.shown(data.alpha) and e.estimate.value > 0]
    worse = [e for e in effects if e.shown(data.alpha) and e.estimate.value < 0]
    if better:
        names = joined([_amount(e) for e in ranked(better)])
        verb = "helps" if len(better) == 1 else "help"
        return f"{names} {verb} over {data.baseline} after {budget} each."
    if worse and len(worse) == len(effects):
        every = "It hurts" if len(effects) == 1 else "All of them hurt"
        return f"Nothing helps over {data.baseline} after {budget} each. {every}."
    if worse:
        names = joined([_amount(e) for e in reversed(ranked(worse))])
        verb = "hurts" if len(worse) == 1 else "hurt"
        return f"No {data.noun} is shown to help over {data.baseline} after {budget} each; {names} {verb}."
    return f"No difference from {data.baseline} can be shown at {count(least, 'seed')}{_seeds(effects)}."


def evidence(data: Results) -> str:
    """The second: how much, how sure, and what these seeds could have shown."""
    effects, start = ranked(list(data.effects.get(ACCURACY, {}).values())), data.base(ACCURACY)
    if len(data.comparison.arms) == 1 and start:
        return f"The base model has {percent(start.value)} right."
    if not effects or effects[0].estimate.interval.low is None:
        return "No interval can be given."
    first = effects[0]
    did = "gained most:" if first.estimate.value > 0 else "lost least:"
    did = did if len(effects) > 1 else "ended at"
    name = f"{first.arm[0].upper()}{first.arm[1:]}"
    holm = f", corrected by Holm for {count(len(effects), 'comparison')}" if len(effects) > 1 else ""
    parts = [
        f"{name} {did} {points(first.estimate.value)} points of held-out "
        f"accuracy against {data.baseline} ({data.width} interval {bounds(first.estimate.interval)}; "
        f"p {number(first.p_holm, 2)}{holm})"
    ]
    if first.detectable is not None:
        parts.append(
            f"with these seeds {first.arm}'s lead would be seen four times in five from "
            f"{100 * first.detectable:.1f} points on"
        )
    return "; ".join(parts) + "."


def setting(data: Results, budget: str) -> str:
    """What was compared on what."""
    base, run = data.comparison.base, data.runs[0]
    seeds = count(len(data.problems), "seed")
    problems = int(np.mean(list(data.problems.values())))
    samples = count(run.params.evaluate.samples_per_problem, "sampled answer")
    same = f" The {data.noun}s of a seed begin from the same model and learn from the same problems."
    same = same if len(data.arms) > 1 else ""
    return (
        f"{count(len(data.arms), data.noun)} × {seeds} on {base.task} with {base.model}, {budget} each."
        f"{same} Measured on {count(problems, 'held-out problem')} a seed with {samples} each. "
        "Intervals are over seeds and problems together."
    )


def cautions(data: Results, failed: Sequence[str]) -> list[str]:
    """What the figures do not say by themselves."""
    found = list(failed)
    for arm in data.arms:
        gone = sum(run.diverged for run in data.of(arm))
        if gone:
            found.append(
                f"{arm}: {gone} of {count(len(data.of(arm)), 'run')} diverged and {was(gone)} left out, "
                f"which flatters the others of that {data.noun}."
            )
    if 2 <= len(data.problems) < 5:
        found.append(
            f"{count(len(data.problems), 'seed')} are few: intervals are wide and p-values rest on the "
            "assumption that seeds differ normally."
        )
    return [*found, *missing(data), *_alike(data), *_unequal(data), *_collapsed(data), *_unjudged(data)]


def missing(data: Results) -> list[str]:
    """A line for each figure that the comparison asks for and no run has."""
    found = []
    for name in data.comparison.wanted():
        if name in data.figures or data.named(name) in data.held_out:
            continue
        stage = name.partition(".")[0]
        near = {known for known in data.figures if known.partition(".")[0] == stage} or data.figures
        found.append(f"{name}: no run has this metric{nearest(name, near)}")
    return found


def ranked(effects: Sequence[Effect]) -> list[Effect]:
    """The best first."""
    return sorted(effects, key=lambda effect: -effect.estimate.value)


def joined(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _amount(effect: Effect) -> str:
    return f"{effect.arm} ({points(effect.estimate.value)} points)"


def _seeds(effects: Sequence[Effect]) -> str:
    """How many seeds the largest difference would take, where there is telling."""
    largest = max(effects, key=lambda effect: abs(effect.estimate.value))
    if largest.needed is None:
        return ""
    more = f"about {largest.needed:,}" if largest.needed > largest.estimate.seeds else "a few more"
    amount = points(largest.estimate.value)
    return f"; it would take {more} to show the largest ({largest.arm}, {amount} points)"


def _alike(data: Results) -> list[str]:
    """Arms that differ in name alone, as the settings are."""
    base = {run.seed: run for run in data.at_end(data.baseline)} if data.baseline else {}
    found = []
    for arm in [arm for arm in data.arms if arm != data.baseline]:
        if all(run.seed in base and _same(run, base[run.seed]) for run in data.of(arm)):
            found.append(
                f"{arm} scores as {data.baseline} does on every held-out problem of every seed: with these "
                "settings the two take the same steps."
            )
    return found


def _same(one: Compared, other: Compared) -> bool:
    """Whether the last policies answer alike and are as sure of it."""
    if one.final is None or other.final is None or one.figure(ENTROPY) != other.figure(ENTROPY):
        return False
    return np.array_equal(one.final.problems[ACCURACY], other.final.problems[ACCURACY], equal_nan=True)


def _unequal(data: Results) -> list[str]:
    if data.baseline is None:
        return []
    by_arm = {arm: float(np.mean([r.totals.sampled_tokens for r in data.of(arm)])) for arm in data.arms}
    own = by_arm[data.baseline]
    odd = [
        f"{arm} {by_arm[arm] / own:.2f} times"
        for arm in data.arms
        if own and abs(by_arm[arm] / own - 1) > UNEQUAL
    ]
    if not odd:
        return []
    return [
        f"Not every cost is equal: of {data.baseline}'s sampled tokens, {joined(odd)} as many were sampled. "
        "Read the curves against sampled tokens, or give the runs a budget of tokens."
    ]


def _collapsed(data: Results) -> list[str]:
    found = []
    for arm in data.arms:
        ends = [(run.figure(ENTROPY), run.figure(ENTROPY, 0)) for run in data.at_end(arm)]
        shares = [end / start for end, start in ends if start and end is not None]
        if shares and float(np.mean(shares)) < 0.1:
            found.append(
                f"{arm}: entropy fell to {percent(float(np.mean(shares)), 0)} of the base model's: the "
                "policy hardly explores."
            )
    return found


def _unjudged(data: Results) -> list[str]:
    missing = sum(int(np.isnan(m.problems[ACCURACY]).sum()) for run in data.runs for m in run.measured[-1:])
    if not missing:
        return []
    return [f"{count(missing, 'held-out problem')} had no answer that could be judged: left out."]
