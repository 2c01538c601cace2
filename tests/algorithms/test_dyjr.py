"""DyJR's constraint: the ancestors' losses, its gradient, and what it leaves alone."""

from __future__ import annotations

import math

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
COUNT = int(REPLAYED.sum())


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
    expected = torch.where(REPLAYED, 0.1 * weight / COUNT, 0.0).double()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@given(st.floats(-10.0, 10.0))
def test_the_ablation_is_the_forward_kl(x: float) -> None:
    term = dyjr.term(batch(), Config(coefficient=1.0, form="forward_kl"))
    loss, _ = values(term, shifted(x))
    assert float(loss) == pytest.approx(math.exp(x) - x - 1, rel=1e-6, abs=1e-9)
    expected = torch.where(REPLAYED, (math.exp(x) - 1) / COUNT, 0.0).double()
    torch.testing.assert_close(slope(term, shifted(x)), expected, rtol=1e-6, atol=1e-9)


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
    weight = p * (torch.logit(p) - torch.logit(mixture)) / COUNT
    torch.testing.assert_close(slope(term, logp), torch.where(REPLAYED, weight, 0.0), rtol=1e-6, atol=1e-9)


def test_the_one_sided_form_only_pulls_back() -> None:
    both = dyjr.term(batch(), Config(coefficient=1.0))
    one = dyjr.term(batch(), Config(coefficient=1.0, form="one_sided"))
    torch.testing.assert_close(slope(one, shifted(-0.7)), slope(both, shifted(-0.7)))
    assert not slope(one, shifted(0.7)).any()


def test_the_cap_bounds_the_push() -> None:
    capped = slope(dyjr.term(batch(), Config(coefficient=1.0, ratio_cap=2.0)), shifted(3.0))
    weight = 2.0 * math.log(2 * math.exp(3.0) / (1 + math.exp(3.0)))
    assert float(capped.max()) == pytest.approx(weight / COUNT, rel=1e-6)


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


def test_fresh_tokens_and_the_number_of_responses_do_not_matter() -> None:
    term = dyjr.term(batch(), Config())
    assert torch.equal(term.scale != 0, REPLAYED)
    assert float(term.scale.sum()) == pytest.approx(0.1)
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
