"""UFT: the schedule of hints, the distribution of their lengths, where they are cut, and what they teach."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from algorithms import uft
from algorithms.replay_buffer import ReplayBuffer
from algorithms.uft import Config, hint, hint_length, hint_share
from tests.algorithms.replay_cases import batch, chance, fresh, no_entropy, slope, stored, values

LOGP = torch.linspace(-4.0, -0.01, 15, dtype=torch.float64)


def test_the_share_at_the_ends_and_the_middle() -> None:
    low, high, steps = 0.05, 0.95, 300
    first = low + 0.5 * (high - low) * (1 + math.cos(math.pi / steps))
    assert hint_share(0) == pytest.approx(first)
    assert hint_share(0) == pytest.approx(high, abs=1e-4)
    assert hint_share(steps // 2 - 1) == pytest.approx((low + high) / 2)
    assert hint_share(steps - 1) == pytest.approx(low)
    assert [hint_share(step) for step in (steps, steps + 1, 10 * steps)] == [0.0] * 3
    assert hint_share(0, 0.2, 0.8, 1) == pytest.approx(0.2)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(1, 400))
def test_the_share_falls_within_its_bounds(one: float, other: float, steps: int) -> None:
    low, high = sorted((one, other))
    found = [hint_share(step, low, high, steps) for step in range(steps)]
    assert all(low - 1e-12 <= share <= high + 1e-12 for share in found)
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(found))
    assert found[-1] == pytest.approx(low)


@pytest.mark.parametrize(("length", "share"), [(5, 0.95), (5, 0.5), (8, 0.2), (1, 0.3)])
def test_lengths_are_binomial(length: int, share: float) -> None:
    generator, count = chance(1), 20_000
    seen = Counter(hint_length(length, share, generator) for _ in range(count))
    for k in range(length + 1):
        wanted = math.comb(length, k) * share**k * (1 - share) ** (length - k)
        assert seen[k] / count == pytest.approx(wanted, abs=5 * math.sqrt(wanted * (1 - wanted) / count))


def test_lengths_at_the_ends_and_by_the_seed() -> None:
    assert [hint_length(7, share, chance()) for share in (0.0, 1.0)] == [0, 7]
    assert hint_length(0, 0.5, chance()) == 0
    assert len({hint_length(20, 0.5, chance(3)) for _ in range(5)}) == 1


def ends(*places: int, length: int) -> torch.Tensor:
    flags = torch.zeros(length, dtype=torch.bool)
    flags[list(places)] = True
    return flags


def cuts(lines: torch.Tensor, **options: int) -> set[int]:
    """Every length of a hint that the middle of the schedule draws."""
    config = Config(hint_rounds=10, **options)
    return {hint(lines, 5, config, chance(seed)) for seed in range(400)}


def test_hints_end_with_lines_or_with_tokens_of_a_single_line() -> None:
    assert cuts(ends(2, 6, length=10)) == {0, 3, 7, 10}
    assert cuts(ends(2, 9, length=10)) == {0, 3, 10}
    assert cuts(ends(length=3)) == {0, 1, 2, 3}
    assert cuts(ends(2, length=3)) == {0, 1, 2, 3}
    assert cuts(ends(length=20)) == {0, 4, 8, 12, 16, 20}
    assert cuts(ends(*range(7), length=7), parts=2) == {0, 3, 7}


def test_no_hint_after_the_last_round_with_hints() -> None:
    lines, config = ends(length=12), Config(hint_rounds=4, low=1.0, high=1.0)
    assert [hint(lines, round, config, chance()) for round in range(1, 7)] == [12, 12, 12, 12, 0, 0]


def test_the_hints_teach_the_mean_of_their_surprisal() -> None:
    given_ = batch()
    term = uft.term(given_, Config(coefficient=0.5))
    mine = ~given_.fresh[given_.sequence]
    expected = torch.where(mine, -0.5 / mine.sum(), 0.0).double()
    torch.testing.assert_close(slope(term, LOGP), expected, atol=1e-9, rtol=1e-6)
    loss, metrics = values(term, LOGP)
    assert float(loss) == pytest.approx(-0.5 * float(LOGP[mine].mean()), rel=1e-6)
    torch.testing.assert_close(metrics["nll"], -LOGP)
    assert not bool(uft.term(batch(fresh=torch.ones(5, dtype=torch.bool)), Config()).scale.any())
    assert not bool(uft.term(given_, Config(coefficient=0.0)).scale.any())


def test_what_was_shown_is_drawn_for_the_term_alone() -> None:
    nothing = uft.draw(fresh(["a"]), ReplayBuffer(), Config(), chance(), no_entropy)
    assert nothing.rows.num_rows == 0
    shown = stored([("a", 1.0), ("b", 1.0)]).to_table()
    asked = fresh(["a", "b"])
    asked = type(asked)(asked.problem, asked.group, asked.reward, asked.missing, shown)
    drawn = uft.draw(asked, ReplayBuffer(), Config(), chance(), no_entropy)
    assert (drawn.rows.num_rows, drawn.into, drawn.group.tolist()) == (2, "aside", [-1, -1])


def test_the_schedule_falls() -> None:
    with pytest.raises(ValidationError, match="low must not exceed"):
        Config(low=0.9, high=0.1)
