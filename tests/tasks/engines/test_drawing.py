"""Which token a number draws, against the plain definition in float64."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.seeds import seed
from tasks.engines.base import Sampling
from tasks.engines.drawing import draw


@given(st.integers(1, 700), st.floats(0.0, 0.99), st.integers(0, 2**31), st.floats(0.1, 20.0))
def test_a_token_is_where_the_cumulated_p_passes_its_number(
    words: int, never: float, number: int, spread: float
) -> None:
    """At most as far off as sums in float32 are; and never a token of p 0."""
    generator = torch.Generator().manual_seed(number)
    scores = torch.randn(3, words, generator=generator) * spread
    hidden = torch.rand(3, words, generator=generator) < never
    hidden[:, number % words] = False
    scores = scores.masked_fill(hidden, -math.inf)
    places = [(number + row, row) for row in range(3)]
    drawn = draw(scores, places, Sampling(1.0, 1, ()))
    p = scores.double().softmax(-1)
    mass = p.cumsum(-1)
    for row, (own, position) in enumerate(places):
        token, u = drawn[row].token, (seed(own, "token", position) >> 10) / 2**53
        assert p[row, token] > 0
        assert mass[row, token] - p[row, token] <= u + 1e-6
        assert mass[row, token] >= u - 1e-6


def test_scores_that_are_no_numbers_draw_a_token_that_tells_of_it() -> None:
    drawn = draw(torch.full((2, 300), math.nan), [(1, 1), (2, 1)], Sampling(1.0, 1, ()))
    assert [each.token for each in drawn] == [299, 299]
    assert all(math.isnan(each.logp) for each in drawn)


def test_tokens_come_as_often_as_their_p_says() -> None:
    """In blocks far apart, 4,000 draws: within four standard deviations."""
    shares = {3: 0.5, 255: 0.2, 256: 0.2, 1023: 0.1}
    scores = torch.full((1, 1024), -math.inf)
    for token, share in shares.items():
        scores[0, token] = math.log(share)
    drawn = draw(scores.expand(4000, -1), [(7, position) for position in range(4000)], Sampling(1.0, 1, ()))
    counts = torch.bincount(torch.tensor([each.token for each in drawn]), minlength=1024)
    assert counts.sum() == sum(counts[token] for token in shares) == 4000
    for token, share in shares.items():
        assert abs(counts[token] - 4000 * share) < 4 * math.sqrt(4000 * share * (1 - share))
