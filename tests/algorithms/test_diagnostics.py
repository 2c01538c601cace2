"""Diagnostics against their definitions."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algorithms.diagnostics import effective_sample_size, entropy, pass_at_k, rank_probabilities


def test_entropy_of_known_distributions() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, -math.inf, -math.inf], [100.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([math.log(4), math.log(2), 0.0])
    torch.testing.assert_close(entropy(logits), expected)
    assert entropy(torch.zeros(2, 3, 8, dtype=torch.bfloat16)).shape == (2, 3)


def test_rank_probabilities_fall_and_sum_to_one() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    ranks = rank_probabilities(logits, 7)
    assert bool((ranks[:, :-1] >= ranks[:, 1:]).all())
    torch.testing.assert_close(ranks.sum(-1), torch.ones(5))
    torch.testing.assert_close(rank_probabilities(torch.zeros(2, 8), 3), torch.full((2, 3), 1 / 8))
    with pytest.raises(ValueError, match=r"1\.\.7"):
        rank_probabilities(logits, 8)


@given(st.integers(1, 7), st.data())
def test_pass_at_k_counts_all_draws(n: int, data: st.DataObject) -> None:
    k, correct = data.draw(st.integers(1, n)), data.draw(st.integers(0, n))
    draws = list(itertools.combinations(range(n), k))
    exact = sum(any(i < correct for i in draw) for draw in draws) / len(draws)
    assert float(pass_at_k(torch.tensor([correct]), n, k)[0]) == pytest.approx(exact)


def test_pass_at_k_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="k is 5"):
        pass_at_k(torch.tensor([1]), 4, 5)
    with pytest.raises(ValueError, match="outside"):
        pass_at_k(torch.tensor([5]), 4, 1)


@given(st.lists(st.floats(-8, 8), min_size=1, max_size=20), st.floats(-50, 50))
def test_effective_sample_size(ratios: list[float], shift: float) -> None:
    weights = [math.exp(x) for x in ratios]
    exact = sum(weights) ** 2 / sum(w * w for w in weights)
    found = effective_sample_size(torch.tensor(ratios, dtype=torch.float64) + shift)
    assert float(found) == pytest.approx(exact, rel=1e-6)
    assert float(effective_sample_size(torch.zeros(9))) == pytest.approx(9.0)
