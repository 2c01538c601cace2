"""The share of pairs that a score orders rightly, and its error under chance."""

from __future__ import annotations

import itertools

import pytest
import torch

from algorithms.ranking import ranking


@pytest.mark.parametrize("rewards", [[1, 0, 0, 1], [0, 0, 1, 0], [0.0, 0.5, 1.0, 0.5]])
def test_the_error_of_a_ranking_is_that_of_all_orders(rewards: list[float]) -> None:
    reward, group = torch.tensor([*rewards, *rewards]).float(), torch.tensor([0] * 4 + [1] * 4)
    orders = [torch.tensor(order).float() for order in itertools.permutations(range(4))]
    found = [ranking(torch.cat(pair), reward, group) for pair in itertools.product(orders, orders)]
    shares = torch.tensor([each.share for each in found], dtype=torch.float64)
    assert float(shares.mean()) == pytest.approx(0.5)
    assert float(shares.std(correction=0)) == pytest.approx(found[0].error)
    assert found[0].pairs == 2 * sum(a > b for a, b in itertools.permutations(rewards, 2))


def test_a_ranking_compares_answers_to_one_problem_only() -> None:
    reward, group = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([0, 0, 1, 1])
    assert ranking(torch.tensor([-5.0, -6.0, 9.0, 8.0]), reward, group)[:2] == (1.0, 2)
    assert ranking(torch.tensor([-5.0, -5.0, 7.0, 8.0]), reward, group).share == 0.25
    assert ranking(torch.ones(4), torch.ones(4), group) == (None, 0, None)
