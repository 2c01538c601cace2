"""The entropy bonus, against its definition."""

from __future__ import annotations

import pytest
import torch

from algorithms import entropy_bonus
from algorithms.entropy_bonus import Config
from tests.algorithms.replay_cases import FRESH, batch, values


def test_it_is_the_mean_over_fresh_tokens() -> None:
    term = entropy_bonus.term(batch(), Config(coefficient=0.01))
    assert term.needs_entropy
    fresh = torch.tensor(FRESH)[batch().sequence]
    assert torch.equal(term.scale != 0, fresh)
    entropy = torch.linspace(0.1, 2.0, 15, dtype=torch.float64)
    loss, metrics = values(term, batch().behaviour_logp, entropy)
    assert float(loss) == pytest.approx(-0.01 * float(entropy[fresh].mean()), rel=1e-6)
    assert torch.equal(metrics["entropy"], entropy)


def test_responses_that_do_not_count_get_none() -> None:
    counted = torch.tensor([True, False, False, True, False])
    term = entropy_bonus.term(batch(counted=counted), Config())
    assert torch.equal(term.scale != 0, counted[batch().sequence])
