"""DyJR's constraint: its values and gradient, how it is averaged, and what it leaves alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from algorithms import dyjr
from algorithms.divergence import jensen_shannon
from algorithms.dyjr import Config
from algorithms.terms import Signals
from tests.algorithms.replay_cases import FRESH, batch, chance, fresh, no_entropy, slope, stored, values

FORMS = ("jensen_shannon", "binary", "one_sided", "forward_kl")
REPLAYED = ~torch.tensor(FRESH)[batch().sequence]
LENGTH = torch.bincount(batch().sequence)[batch().sequence]
WEIGHT = torch.where(REPLAYED, 1.0 / (2 * LENGTH), 0.0).double()
"""Of each token in a mean over two replayed sequences of their token means (equation 9)."""


def shifted(x: float | Tensor) -> Tensor:
    """The policy's log-probabilities, ``x`` above those of birth."""
    return batch().behaviour_logp + x


@given(st.floats(-15.0, 15.0))
def test_the_default_is_the_ancestors_low_variance_form(x: float) -> None:
    ratio = math.exp(x)
    loss, metrics = values(dyjr.term(batch(), Config(coefficient=0.1)), shifted(x))
    doubled = ratio * x - (ratio + 1) * math.log((ratio + 1) / 2)
    assert float(loss) == pytest.approx(0.1 * doubled, rel=1e-6, abs=1e-9)
    assert metrics["js_doubled"] == pytest.approx(2 * metrics["js"])
    found = slope(dyjr.term(batch(), Config(coefficient=0.1)), shifted(x))
    weight = ratio * math.log(2 * ratio / (1 + ratio))
    torch.testing.assert_close(found, 0.1 * weight * WEIGHT, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("ratio", "half", "slope_of_half"),
    [
        (2.0, 0.0849495, 0.2876821),
        (0.5, 0.0424748, -0.1013663),
        (10.0, 2.1368110, 2.9891850),
        (0.1, 0.2136811, -0.0852374),
    ],
)
def test_the_published_oracles(ratio: float, half: float, slope_of_half: float) -> None:
    term = dyjr.term(batch(), Config(coefficient=1.0))
    x = math.log(ratio)
    assert float(values(term, shifted(x))[0]) == pytest.approx(2 * half, abs=1e-6)
    found = slope(term, shifted(x))[REPLAYED] / WEIGHT[REPLAYED]
    torch.testing.assert_close(found, torch.full_like(found, 2 * slope_of_half), rtol=0.0, atol=1e-6)


def test_expected_under_mu_it_is_twice_the_divergence() -> None:
    generator = torch.Generator().manual_seed(3)
    pi, mu = torch.rand((2, 7), generator=generator, dtype=torch.float64).log_softmax(-1)
    mixture = torch.logaddexp(pi, mu) - math.log(2.0)
    divergence = 0.5 * ((pi.exp() * (pi - mixture)).sum() + (mu.exp() * (mu - mixture)).sum())
    expected = (mu.exp() * dyjr.penalty(pi, mu, Config())).sum()
    assert float(expected) == pytest.approx(2 * float(divergence), abs=1e-12)


def test_two_sequences_of_one_and_nine_tokens_weigh_equally() -> None:
    given_batch = batch(
        sequence=torch.tensor([0] + [1] * 9),
        behaviour_logp=torch.full((10,), -2.0, dtype=torch.float64),
        advantage=torch.zeros(10),
        importance=torch.ones(10),
        fresh=torch.zeros(2, dtype=torch.bool),
        age=torch.tensor([1, 1]),
        group=torch.tensor([-1, -1]),
    )
    by_sequence = dyjr.term(given_batch, Config(coefficient=1.0)).scale
    assert by_sequence.tolist() == pytest.approx([0.5] + [0.5 / 9] * 9)
    by_token = dyjr.term(given_batch, Config(coefficient=1.0, aggregation="token_mean")).scale
    assert by_token.tolist() == pytest.approx([0.1] * 10)


@given(st.lists(st.lists(st.floats(-3.0, 3.0), min_size=1, max_size=6), min_size=1, max_size=5))
def test_the_mean_is_the_slow_obvious_one(moved: list[list[float]]) -> None:
    def value(x: float) -> float:
        u = math.exp(x)
        return u * x - (u + 1) * math.log((u + 1) / 2)

    lengths = torch.tensor([len(one) for one in moved])
    count = len(moved)
    given_batch = batch(
        sequence=torch.arange(count).repeat_interleave(lengths),
        behaviour_logp=torch.full((int(lengths.sum()),), -2.0, dtype=torch.float64),
        advantage=torch.zeros(int(lengths.sum())),
        importance=torch.ones(int(lengths.sum())),
        fresh=torch.zeros(count, dtype=torch.bool),
        age=torch.ones(count, dtype=torch.int64),
        group=-torch.ones(count, dtype=torch.int64),
    )
    x = torch.tensor([each for one in moved for each in one], dtype=torch.float64)
    found, _ = values(dyjr.term(given_batch, Config(coefficient=1.0)), given_batch.behaviour_logp + x)
    expected = sum(sum(value(each) for each in one) / len(one) for one in moved) / count
    assert float(found) == pytest.approx(expected, rel=1e-5, abs=1e-8)


@given(st.floats(-10.0, 10.0))
def test_the_ablation_is_the_forward_kl(x: float) -> None:
    term = dyjr.term(batch(), Config(coefficient=1.0, form="forward_kl"))
    loss, _ = values(term, shifted(x))
    assert float(loss) == pytest.approx(math.exp(x) - x - 1, rel=1e-6, abs=1e-9)
    torch.testing.assert_close(slope(term, shifted(x)), (math.exp(x) - 1) * WEIGHT, rtol=1e-6, atol=1e-9)


def test_half_the_coefficient_of_the_forward_kl_is_as_steep_near_one() -> None:
    js = slope(dyjr.term(batch(), Config(coefficient=0.1)), shifted(1e-6))
    kl = slope(dyjr.term(batch(), Config(coefficient=0.05, form="forward_kl")), shifted(1e-6))
    torch.testing.assert_close(js, kl, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("x", [-3.0, -0.2, 0.4, 1.5])
def test_the_binary_form_has_its_gradient(x: float) -> None:
    term = dyjr.term(batch(), Config(coefficient=1.0, form="binary"))
    logp = shifted(min(x, 0.4))
    p, q = logp.exp(), batch().behaviour_logp.exp()
    mixture = (p + q) / 2
    weight = p * (torch.logit(p) - torch.logit(mixture)) * WEIGHT
    torch.testing.assert_close(slope(term, logp), weight, rtol=1e-6, atol=1e-9)


def test_the_one_sided_form_only_pulls_back() -> None:
    both = dyjr.term(batch(), Config(coefficient=1.0))
    one = dyjr.term(batch(), Config(coefficient=1.0, form="one_sided"))
    torch.testing.assert_close(slope(one, shifted(-0.7)), slope(both, shifted(-0.7)))
    assert not slope(one, shifted(0.7)).any()


def test_the_cap_bounds_the_push() -> None:
    capped = slope(dyjr.term(batch(), Config(coefficient=1.0, ratio_cap=2.0)), shifted(3.0))
    weight = 2.0 * math.log(2 * math.exp(3.0) / (1 + math.exp(3.0)))
    assert float(capped.max()) == pytest.approx(weight / (2 * 4), rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_what_the_present_policy_sampled_costs_nothing(form: str) -> None:
    term = dyjr.term(batch(), Config(form=form))  # type: ignore[arg-type]
    loss, _ = values(term, shifted(0.0))
    assert float(loss) == 0.0
    assert not slope(term, shifted(0.0)).any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("x", [-1000.0, -20.0, 20.0, 1000.0])
def test_it_stays_finite(form: str, x: float) -> None:
    moved = torch.where(torch.arange(15) % 2 == 0, x, -x).double()
    given_batch = batch(behaviour_logp=torch.full((15,), -3.0))
    term = dyjr.term(given_batch, Config(form=form))  # type: ignore[arg-type]
    logp = (given_batch.behaviour_logp + moved.float()).clamp(max=0.0)
    loss, _ = values(term, logp)
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(slope(term, logp)).all())


@pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean"])
def test_fresh_tokens_and_the_number_of_responses_do_not_matter(aggregation: Any) -> None:
    term = dyjr.term(batch(), Config(aggregation=aggregation))
    assert torch.equal(term.scale != 0, REPLAYED)
    assert float(term.scale.sum()) == pytest.approx(0.05)
    alone = batch(fresh=torch.ones(5, dtype=torch.bool))
    assert not dyjr.term(alone, Config()).scale.any()
    assert not dyjr.term(batch(), Config(coefficient=0.0)).scale.any()


def test_its_drift_is_the_divergence_whatever_the_form() -> None:
    x = torch.where(batch().sequence == 2, 0.3, 0.9).double()
    index = REPLAYED.nonzero()[:, 0]
    logp = shifted(x)
    term = dyjr.term(batch(), Config(form="binary"))
    _, metrics = term.token_loss(Signals(logp[index]), index)
    assert term.drift is not None
    assert torch.allclose(metrics[term.drift], jensen_shannon(x[index], torch.zeros_like(x[index])))


def test_it_draws_a_share_of_the_fresh_responses_uniformly() -> None:
    buffer = stored([(f"p{i}", 1.0) for i in range(10)])
    asked = fresh(["a", "b", "c"], samples=5)
    seen = torch.zeros(10)
    for seed in range(400):
        drawn = dyjr.draw(asked, buffer, Config(share=0.2), chance(seed), no_entropy)
        assert drawn.into == "aside"
        assert drawn.anchor == "stored"
        assert drawn.group.tolist() == [-1, -1, -1]
        places = drawn.rows["sample"].to_pylist()
        assert len(set(places)) == 3
        seen[places] += 1
    assert float((seen - 120).abs().max()) < 5 * math.sqrt(400 * 0.3 * 0.7)
    again = [dyjr.draw(asked, buffer, Config(), chance(3), no_entropy).rows for _ in range(2)]
    assert again[0].equals(again[1])
    assert dyjr.draw(asked, buffer, Config(share=9.0), chance(), no_entropy).rows.num_rows == 10
