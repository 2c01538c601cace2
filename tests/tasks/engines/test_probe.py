"""What tells an engine with the right weights from one with others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tasks.engines import probe
from tasks.engines.base import EngineFailure
from tasks.prepare import nano

TOKENS = 60


def noise(scale: float, seed: int) -> Tensor:
    return scale * torch.randn(TOKENS, generator=torch.Generator().manual_seed(seed))


OLD = -2.0 + noise(0.5, 0)


def test_rounding_is_tolerated_and_other_weights_are_not() -> None:
    probe.check(OLD + noise(0.05, 1), OLD, 0.25)
    with pytest.raises(
        EngineFailure, match=r"differ from the trainer's by 0\.\d+ nats .*probe_tolerance, 0\.25"
    ):
        probe.check(OLD + 0.4, OLD, 0.25)
    with pytest.raises(EngineFailure, match="nan"):
        probe.check(OLD * torch.nan, OLD, 0.25)


@pytest.mark.parametrize("step", [0.01, 0.03, 0.1, 0.4])
def test_an_engine_that_follows_passes(step: float) -> None:
    for seed in range(100):
        new = OLD + noise(step, seed)
        probe.check_changed(new + noise(0.05, seed + 1), OLD + noise(0.05, seed + 2), new, OLD)


def test_rounding_that_happens_to_point_back_is_no_stale_engine() -> None:
    new = OLD + noise(0.04, 1)
    engine = new + 0.07 * torch.sign(OLD - new)
    probe.check_changed(engine, OLD + noise(0.06, 2), new, OLD)


def test_an_engine_that_follows_may_be_nearer_to_the_scores_of_before() -> None:
    nearer = 0
    for seed in range(100):
        new = OLD + noise(0.06, seed)
        engine, before = new + noise(0.08, seed + 1), OLD + noise(0.02, seed + 2)
        nearer += probe.mismatch(engine, OLD) < probe.mismatch(engine, new)
        probe.check_changed(engine, before, new, OLD)
    assert nearer


@pytest.mark.parametrize("step", [0.01, 0.03, 0.1, 0.4])
def test_an_engine_that_stays_is_refused_with_both_figures(step: float) -> None:
    for seed in range(100):
        new, stale = OLD + noise(step, seed), OLD + noise(0.05, seed + 2)
        with pytest.raises(EngineFailure, match=r"nats from that one's and 0\.\d+ from the new one's"):
            probe.check_changed(stale, stale, new, OLD)


def test_an_engine_that_went_back_to_the_old_policy_is_refused() -> None:
    new = OLD + noise(0.3, 1)
    with pytest.raises(EngineFailure, match="still holds the policy of before"):
        probe.check_changed(OLD + noise(0.05, 2), OLD + noise(0.05, 3), new, OLD)


def test_a_policy_that_did_not_move_asks_nothing_of_the_engine() -> None:
    probe.check_changed(OLD, OLD, OLD + 1e-5, OLD)


@pytest.mark.parametrize("context", [8, 64, 512])
def test_the_probe_fits_the_context(context: int) -> None:
    made = probe.Probe(nano.tokenizer(), context)
    for prompt, response in zip(made.prompts, made.responses, strict=True):
        assert prompt
        assert response
        assert len(prompt) + len(response) < context
