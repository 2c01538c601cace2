"""Presets have the constants of their papers; which is whose stands on the pages of the methods."""

from __future__ import annotations

from typing import Any

import pytest

from params.base import value_at
from params.load import compose

PUBLISHED: dict[str, dict[str, Any]] = {
    "erpd": {
        "distil.teachers": {"main": ("cross_entropy", 1e-3, "base")},
        "distil.signals": {"main": ("main", "base", "all")},
        "distil.student": (16, 0.2, 0.28, 0.0, 0.0),
    },
    "erpd-weak": {
        "distil.unlearn.loss": "probability",
        "distil.unlearn.steps": 10,
        "distil.unlearned_step": 10,
        "distil.teachers": {"main": ("probability", 1e-3, "base")},
        "distil.teachers.main.steps": 50,
        "distil.signals": {"main": ("main", "unlearned", "negative")},
        "distil.student": (16, 0.2, 0.28, 0.0, 0.0),
    },
    "erpd-ensemble": {
        "distil.teachers": {
            "recovered": ("cross_entropy", 1e-3, "unlearned"),
            "conservative": ("cross_entropy", 5e-2, "base"),
        },
        "distil.signals": {
            "contrast": ("recovered", "unlearned", "all"),
            "main": ("conservative", "base", "all"),
        },
        "distil.student.sequence": [("contrast", 16), ("main", 16)],
    },
    "erpd-iterate": {
        "distil.signals": {"main": ("main", "auto", "all")},
        "distil.student": (10, 0.2, 0.28, 0.0, 0.0),
        "rounds": 6,
    },
    "dph-rl": {
        "method.replay": {"samples": 8, "least_right": 6, "coefficient": 0.2, "share": 512 / 4096},
        "rollout.refill_batches": 3,
    },
    "dyjr-forward-kl": {
        "method.replay": {"form": "forward_kl", "warm_up_steps": 20, "warm_up_fill": 0.2, "fill": 0.05},
        "replay.max_age": 8,
    },
    "rlep-dynamic": {
        "method.replay": {"share": 512 / 4096, "warm_up_steps": 20, "warm_up_fill": 0.2, "fill": 0.05},
        "replay.max_age": 8,
    },
    "rlep": {
        "method.replay": {"successes": 2},
        "method.scale_by_std": True,
        "method.aggregation": "token_mean",
    },
    "exgrpo": {
        "method.replay": {"share": 0.5},
        "method.scale_by_std": False,
        "method.aggregation": "constant",
        "method.terms": [{"name": "entropy_bonus", "coefficient": 0.001}],
        "replay.start_above": 0.35,
        "replay.admit": "correct_unless_all",
        "replay.retire": True,
    },
    "luffy": {
        "method.replay": {"gamma": 0.1, "demonstrations": 1},
        "rollout.samples_per_problem": 7,
        "method.terms": [{"name": "entropy_bonus", "coefficient": 0.001}],
    },
    "uft": {"method.replay": {"low": 0.05, "high": 0.95, "coefficient": 0.001, "parts": 5}},
    "gspo": {
        "method.objective": {"clip_low": 3e-4, "clip_high": 4e-4},
        "method.aggregation": "sequence_mean",
    },
    "sapo": {"method.objective": {"tau_positive": 1.0, "tau_negative": 1.05}},
}
"""By preset, what stands at a path: of a part its options, of a teacher its loss, beta and start, of a signal
its teacher, reference and part on right answers, of the student steps, clip, KL and entropy weight."""


def stands(at: str, value: Any) -> Any:
    if at == "distil.teachers":
        return {name: (each.loss, each.beta, each.start) for name, each in value.items()}
    if at == "distil.signals":
        return {name: (each.teacher, each.reference, each.on_right) for name, each in value.items()}
    if at == "distil.student":
        return (value.steps, value.clip_low, value.clip_high, value.kl_coefficient, value.entropy_coefficient)
    if at == "distil.student.sequence":
        return [(each.signal, each.steps) for each in value]
    if at == "method.terms":
        return [each.model_dump() for each in value]
    return value


@pytest.mark.parametrize("preset", PUBLISHED)
def test_a_preset_is_its_papers(preset: str) -> None:
    params = compose("nano", "sums", preset)
    for at, expected in PUBLISHED[preset].items():
        found = stands(at, value_at(params, at))
        if at in ("method.replay", "method.objective"):
            found = {name: found.model_extra[name] for name in expected}
        assert found == expected, at
