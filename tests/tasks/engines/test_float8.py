"""Weights in float8: what rounding does to them, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from params.schema import Params, Update
from tasks.artefacts.artefact import Artefact
from tasks.engines.float8 import LARGEST, Rounded, rounded
from tasks.policy.policy import Policy
from tests.tasks.rollout_rows import parameters

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(0, 10_000), st.integers(-12, 12))
HALF_STEP = 2.0**-4
"""Of e4m3's three bits, relative to the number."""
SMALLEST_HALF_STEP = 2.0**-10
"""Of its subnormal numbers, in units of the scale."""
BFLOAT16 = 2.0**-8


def drawn(shape: tuple[int, int, int, int]) -> Tensor:
    rows, columns, seed, power = shape
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator).bfloat16().float() * 2.0**power


@settings(deadline=None)
@given(SHAPES)
def test_a_weight_moves_by_half_a_step_at_most(shape: tuple[int, int, int, int]) -> None:
    weight = drawn(shape)
    scale = weight.abs().amax(1, keepdim=True) / LARGEST
    allowed = torch.maximum(weight.abs() * HALF_STEP, scale * SMALLEST_HALF_STEP) + weight.abs() * BFLOAT16
    assert bool(((rounded(weight).float() - weight).abs() <= allowed).all())


@settings(deadline=None)
@given(SHAPES)
def test_a_rows_largest_weight_stays_and_rounding_again_changes_nothing(
    shape: tuple[int, int, int, int],
) -> None:
    weight = drawn(shape)
    once = rounded(weight)
    assert torch.equal(once.float().abs().amax(1), weight.abs().amax(1))
    assert torch.equal(rounded(once), once)


@settings(deadline=None)
@given(SHAPES, st.integers(-8, 8))
def test_a_row_has_a_scale_of_its_own(shape: tuple[int, int, int, int], power: int) -> None:
    weight = drawn(shape)
    louder = weight.clone()
    louder[0] *= 2.0**power
    assert torch.equal(rounded(louder)[0], rounded(weight)[0] * 2.0**power)
    assert torch.equal(rounded(louder)[1:], rounded(weight)[1:])


def test_zeros_stay_and_a_row_has_few_numbers() -> None:
    weight = torch.zeros(2, 5000)
    weight[1] = torch.linspace(-1.0, 1.0, 5000)
    made = rounded(weight)
    assert made.dtype == torch.bfloat16
    assert not made[0].any()
    assert len(made[1].unique()) <= 253


@pytest.fixture(params=["lora", "full"])
def params(request: pytest.FixtureRequest) -> Params:
    update = Update(tokens_per_micro_batch=512, lora_rank=4, adapter=request.param)
    return parameters(update, context=64)


def moved(policy: Policy, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    policy.restore(None)
    with torch.no_grad():
        for weight in policy.weights.masters.values():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    policy.stepped()


def test_the_linear_layers_of_the_merged_policy_are_rounded_and_nothing_else(
    tiny_model: Artefact, params: Params, tmp_path: Path
) -> None:
    policy = Policy.open(tiny_model.path, params)
    copy = Rounded(policy, params)
    moved(policy, 1)
    before = {name: weight.clone() for name, weight in policy.network.state_dict().items()}
    copy.take("one")
    merged = policy.weights.merged()
    held = dict(copy.network.state_dict())
    linear = [name for name in held if "_proj" in name]
    assert len(linear) == 2 * 7
    for name, weight in held.items():
        assert torch.equal(weight, rounded(merged[name]) if name in linear else merged[name].bfloat16())
    assert all(torch.equal(weight, before[name]) for name, weight in policy.network.state_dict().items())
    copy.merged(tmp_path / "folder")
    stored = load_file(tmp_path / "folder" / "model.safetensors")
    assert set(stored) <= set(held)
    assert all(torch.equal(weight, held[name]) for name, weight in stored.items())


def test_a_name_that_is_held_is_not_taken_again(tiny_model: Artefact, params: Params) -> None:
    policy = Policy.open(tiny_model.path, params)
    copy = Rounded(policy, params)
    copy.take("base")
    scores = copy.score([(1, 10, 11)], [(20, 21, 22)], 0.7).logp
    moved(policy, 2)
    copy.take("base")
    assert torch.equal(copy.score([(1, 10, 11)], [(20, 21, 22)], 0.7).logp, scores)
    copy.take("two")
    again = copy.score([(1, 10, 11)], [(20, 21, 22)], 0.7).logp
    assert not torch.equal(again, scores)
    torch.testing.assert_close(
        again, policy.score([(1, 10, 11)], [(20, 21, 22)], 0.7).logp, atol=0.3, rtol=0.0
    )
