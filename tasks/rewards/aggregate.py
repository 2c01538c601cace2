"""Several rewards of one answer as one verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from params.reward import RewardChoice
from tasks.core.numbers import LARGEST
from tasks.rewards.base import Verdict

TOO_LARGE = "a weighted sum that float32 does not hold"


def aggregated(choices: Sequence[RewardChoice], verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on one answer from those of each reward, in the order of ``task.reward``.

        total = sum of weight · reward over the rewards that apply          (NaN of none: no reward)

    The reward is that of the first that applies. There is neither where a reward failed, but for one of
    weight 0 that is not the first: it is measured and nothing more; and none where float32 does not hold the
    total.
    """
    failed = [
        f"{choice.called}: {verdict.error or 'no reason given'}"
        for place, (choice, verdict) in enumerate(zip(choices, verdicts, strict=True))
        if verdict.reward is None and verdict.error is not None and (choice.weight or not place)
    ]
    said = "; ".join(
        f"{choice.called}: {verdict.error}"
        for choice, verdict in zip(choices, verdicts, strict=True)
        if verdict.error is not None
    )
    applying = [
        (choice.weight, verdict.reward)
        for choice, verdict in zip(choices, verdicts, strict=True)
        if verdict.reward is not None
    ]
    total = _total([weight * reward for weight, reward in applying])
    known = not failed and bool(applying) and total is not None
    if total is None:
        said = f"{said}; {TOO_LARGE}" if said else TOO_LARGE
    return Verdict(
        reward=applying[0][1] if known else None,
        error=said or (None if applying else "no reward applies"),
        explained=_by_name(choices, [verdict.explained for verdict in verdicts]),
        notes=_by_name(choices, [verdict.notes for verdict in verdicts]),
        total=total if known else None,
        parts={c.called: verdict.reward for c, verdict in zip(choices, verdicts, strict=True)},
    )


def alone(verdict: Verdict) -> Verdict:
    """The verdict of the only reward."""
    return Verdict(None, "no reward applies") if verdict.reward is None and verdict.error is None else verdict


def _total(parts: Sequence[float]) -> float | None:
    """Their sum; None where float32 does not hold it, or one of them."""
    if not all(abs(part) <= LARGEST for part in parts):
        return None
    total = math.fsum(parts)
    return total if abs(total) <= LARGEST else None


def _by_name(
    choices: Sequence[RewardChoice], told: Sequence[Mapping[str, Any] | None]
) -> dict[str, Any] | None:
    found = {
        f"{choice.called}.{key}": value
        for choice, one in zip(choices, told, strict=True)
        for key, value in (one or {}).items()
    }
    return found or None
