"""Engine against trainer: the weights that correct for it, and the tails that are told."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from algorithms.mismatch import correction_weights, mismatch
from params.base import BadInput, validate
from params.correction import Correction

KINDS = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "geometric_mask")

# Two responses, interleaved: ratios 4, 1/4, 1 of the first, 3/2 and 8 of the second.
RATIOS = torch.tensor([4.0, 1.5, 0.25, 8.0, 1.0], dtype=torch.float64)
SEQUENCE = torch.tensor([7, 3, 7, 3, 7])


def weighed(ratios: Tensor = RATIOS, sequence: Tensor = SEQUENCE, **options: Any) -> tuple[list[float], Any]:
    engine = torch.full_like(ratios, -2.0)
    weights, cut = correction_weights(engine + ratios.log(), engine, sequence, Correction(**options))
    return weights.tolist(), cut.tolist()


@pytest.mark.parametrize(
    ("options", "expected", "cut"),
    [
        ({"kind": "token_truncate"}, [2, 1.5, 0.25, 2, 1], [1, 0, 0, 1, 0]),
        ({"kind": "token_truncate", "high": 5.0}, [4, 1.5, 0.25, 5, 1], [0, 0, 0, 1, 0]),
        ({"kind": "token_mask"}, [4, 1.5, 0, 0, 1], [0, 0, 1, 1, 0]),
        ({"kind": "token_mask", "low": 0.2, "high": 2.0}, [0, 1.5, 0.25, 0, 1], [1, 0, 0, 1, 0]),
        ({"kind": "sequence_truncate"}, [1, 2, 1, 2, 1], [0, 1, 0, 1, 0]),
        ({"kind": "sequence_truncate", "high": 20.0}, [1, 12, 1, 12, 1], [0] * 5),
        ({"kind": "sequence_mask"}, [1, 0, 1, 0, 1], [0, 1, 0, 1, 0]),
        ({"kind": "sequence_mask", "low": 2.0, "high": 20.0}, [0, 12, 0, 12, 0], [1, 0, 1, 0, 1]),
        ({"kind": "geometric_mask"}, [1, 0, 1, 0, 1], [0, 1, 0, 1, 0]),
        ({"kind": "geometric_mask", "low": 0.9, "high": 3.5}, [1] * 5, [0] * 5),  # sqrt(12) is 3.46
    ],
)
def test_each_correction_by_hand(options: dict[str, Any], expected: list[float], cut: list[int]) -> None:
    weights, dropped = weighed(**options)
    assert weights == pytest.approx(expected)
    assert dropped == [bool(each) for each in cut]


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=9), st.randoms(use_true_random=False))
def test_bounds_hold_and_neither_order_nor_company_matters(kind: Any, logs: list[float], chance: Any) -> None:
    apart, low_high = torch.tensor(logs, dtype=torch.float64), Correction(kind=kind).bounds()
    sequence = torch.tensor([chance.randrange(3) for _ in logs])
    engine = torch.full_like(apart, -1.0)
    weights, cut = correction_weights(engine + apart, engine, sequence, Correction(kind=kind))
    assert bool((weights <= low_high[1] + 1e-9).all())
    if kind.endswith("mask"):
        assert bool(((weights == 0) == cut).all())
        assert bool((weights[~cut] >= min(low_high[0], 1.0) - 1e-9).all())
    order = torch.randperm(len(logs), generator=torch.Generator().manual_seed(chance.randrange(99)))
    moved, _ = correction_weights(
        (engine + apart)[order], engine[order], sequence[order], Correction(kind=kind)
    )
    torch.testing.assert_close(moved, weights[order])
    for name in sequence.unique().tolist():
        mine = sequence == name
        alone, _ = correction_weights(
            (engine + apart)[mine], engine[mine], sequence[mine], Correction(kind=kind)
        )
        torch.testing.assert_close(alone, weights[mine])


@pytest.mark.parametrize("kind", KINDS)
def test_where_engine_and_trainer_agree_every_weight_is_one(kind: str) -> None:
    assert weighed(torch.ones(5, dtype=torch.float64), kind=kind) == ([1.0] * 5, [False] * 5)


def test_bounds_that_contradict_each_other() -> None:
    for options, says in (
        ({"kind": "token_truncate", "low": 0.5}, "no lower bound"),
        ({"kind": "token_mask", "low": 6.0}, "low is 6 and high 5"),
        ({"kind": "geometric"}, "kind"),
    ):
        with pytest.raises(BadInput, match=says):
            validate(Correction, options)


def test_the_figures_by_hand() -> None:
    engine = torch.full_like(RATIOS, -3.0)
    found = mismatch(engine + RATIOS.log(), engine, SEQUENCE)
    apart = [abs(math.log(r)) for r in RATIOS.tolist()]
    assert found["mismatch"] == pytest.approx(sum(apart) / 5)
    assert (
        found["mismatch_max"] == found["mismatch_p99"] == found["mismatch_p999"] == pytest.approx(math.log(8))
    )
    assert found["mismatch_kl"] == pytest.approx(sum(r - 1 - math.log(r) for r in RATIOS.tolist()) / 5)
    assert found["mismatch_above"] == pytest.approx(2 / 5)
    assert found["mismatch_below"] == pytest.approx(1 / 5)
    assert found["mismatch_response_p99"] == pytest.approx(math.log(12) / 2)
    assert found["effective_samples"] == pytest.approx(float(RATIOS.sum() ** 2 / RATIOS.square().sum()) / 5)
    assert mismatch(engine[:0], engine[:0], SEQUENCE[:0]) == {}


def test_quantiles_are_of_the_tail() -> None:
    apart = torch.cat([torch.zeros(990), torch.ones(8), torch.full((2,), 5.0)])
    engine, names = torch.zeros(1000), torch.arange(1000)
    found = mismatch(engine + apart, engine, names)
    assert (found["mismatch_p99"], found["mismatch_p999"], found["mismatch_max"]) == (0.0, 5.0, 5.0)
    found = mismatch(engine + apart.roll(1), engine, names // 10)
    assert found["mismatch_response_p99"] == pytest.approx(0.5)  # 98 of 0, then 0.5 and 1.3
