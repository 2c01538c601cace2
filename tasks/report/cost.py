"""What a run cost, counted from what its stages measured of themselves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tasks.artefacts.artefact import Manifest
from tasks.artefacts.role import TimeOf

TRAINING: tuple[TimeOf, ...] = ("sampling", "learning")
"""What a method costs; measuring what came out is none of it."""


@dataclass(frozen=True)
class Cost:
    """What some stages took."""

    tokens: float
    """Sampled for training, those of dropped answers included."""
    seconds: float
    """Wall time of sampling and learning."""


def spent(manifests: Iterable[Manifest]) -> Cost:
    """What these stages took, when they were made; measuring a policy is not counted."""
    counted = [manifest.measured for manifest in manifests if manifest.role.time_of in TRAINING]
    return Cost(
        tokens=sum(measured.get("sampled_tokens", 0.0) for measured in counted),
        seconds=sum(measured.get("stage_seconds", 0.0) for measured in counted),
    )
