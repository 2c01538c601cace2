"""Shared prompts are exact: the log-probabilities and gradients of one padded sequence at a time."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BloomConfig, BloomForCausalLM, MistralConfig, MistralForCausalLM

from params.base import BadInput
from params.schema import Update
from tasks.policy import packing
from tasks.policy.policy import Policy
from tasks.prepare import nano
from tests.conftest import Artefact
from tests.tasks.rollout_rows import parameters

Group = tuple[list[int], list[list[int]]]
LAYOUTS = {
    "tree": packing.Layout(),
    "packed": packing.Layout(share=False),
    "mask": packing.Layout(flat=False),
    "mask, balanced": packing.Layout(flat=False, cost=packing.Cost(pair=0.2)),
    "padded": packing.Layout(share=False, flat=False),
}
TOKENS = st.integers(4, 90)
GROUPS: st.SearchStrategy[list[Group]] = st.lists(
    st.tuples(
        st.lists(TOKENS, min_size=1, max_size=9),
        st.lists(st.lists(TOKENS, min_size=1, max_size=7), min_size=1, max_size=6),
    ),
    min_size=1,
    max_size=3,
)


@functools.cache
def opened(
    folder: Path, adapter: Any, attention: Any = "products", dtype: str = "float32", move: bool = True
) -> Policy:
    settings = Update(adapter=adapter, attention=attention, lora_rank=2, lora_alpha=8.0, head_chunk=3)
    policy = Policy.open(folder, parameters(settings, dtype=dtype))
    if not move:
        return policy
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in policy.weights.masters.values():
            weight.add_(0.03 * torch.randn(weight.shape, generator=generator))
    policy.stepped()
    return policy


def one_at_a_time(policy: Policy, prompt: list[int], response: list[int], temperature: float) -> torch.Tensor:
    """The definition: the whole sequence in a row of its own, all logits, padded on the right."""
    ids = torch.tensor([prompt + response + [0, 0]])
    logs = (policy.network(input_ids=ids).logits[0] / temperature).log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(response) - 1)
    return torch.stack([logs[place, token] for place, token in zip(places, response, strict=True)])


def flat(groups: Sequence[Group]) -> tuple[list[list[int]], list[list[int]]]:
    pairs = [(prompt, response) for prompt, responses in groups for response in responses]
    return [p for p, _ in pairs], [r for _, r in pairs]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("adapter", ["lora", "full"])
@given(groups=GROUPS, budget=st.integers(16, 70))
@settings(max_examples=8, deadline=None)
def test_every_layout_is_exact(
    tiny_model: Artefact, adapter: str, layout: str, attention: str, groups: list[Group], budget: int
) -> None:
    policy = opened(tiny_model.path, adapter)
    prompts, responses = flat(groups)
    weights = list(policy.weights.masters.values())
    push = torch.linspace(-1.0, 1.0, sum(map(len, responses)))
    starts = [sum(map(len, responses[:i])) for i in range(len(responses))]
    alone = [one_at_a_time(policy, p, r, 0.8) for p, r in zip(prompts, responses, strict=True)]
    expected = torch.autograd.grad((push * torch.cat(alone)).sum(), weights)

    before, policy.layout = policy.layout, LAYOUTS[layout]
    policy.network.config._attn_implementation = attention
    logp = torch.zeros(len(push))
    with policy.passes():
        for chosen in packing.plan(prompts, responses, budget, LAYOUTS[layout]):
            batch = packing.build(chosen, responses, starts, LAYOUTS[layout].flat)
            assert batch.input_ids.numel() <= budget
            logp = logp.index_add(0, batch.index, policy.forward(batch, 0.8).logp)
        found = torch.autograd.grad((push * logp).sum(), weights)
    policy.network.config._attn_implementation = "sdpa"
    policy.layout = before

    torch.testing.assert_close(logp, torch.cat(alone), rtol=1e-5, atol=1e-5)
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, exact, rtol=0.0, atol=1e-5 * max(1.0, float(exact.abs().max())))


@given(groups=GROUPS)
@settings(max_examples=10, deadline=None)
def test_flex_attention_sees_the_same(tiny_model: Artefact, groups: list[Group]) -> None:
    """Forward: on a CPU it has no backward pass."""
    prompts, responses = flat(groups)
    by_products, by_flex = (opened(tiny_model.path, "lora", name) for name in ("products", "flex"))
    found = by_flex.score(prompts, responses, 1.0).logp
    torch.testing.assert_close(found, by_products.score(prompts, responses, 1.0).logp, rtol=1e-5, atol=1e-5)


@given(groups=GROUPS, budget=st.integers(16, 70), layout=st.sampled_from(sorted(LAYOUTS)))
@settings(max_examples=80, deadline=None)
def test_every_response_lies_in_one_row_within_the_budget(
    groups: list[Group], budget: int, layout: str
) -> None:
    prompts, responses = flat(groups)
    chosen = LAYOUTS[layout]
    batches = packing.plan(prompts, responses, budget, chosen)
    laid = [i for batch in batches for row in batch for i in row.members]
    assert sorted(laid) == list(range(len(responses)))
    for batch in batches:
        lengths = [row.length for row in batch]
        assert (sum(lengths) if chosen.flat else len(batch) * max(lengths)) <= budget
        for row in batch:
            assert all(tuple(prompts[i]) == row.prompt for i in row.members)
            assert row.length == len(row.prompt) + sum(len(responses[i]) - 1 for i in row.members)
            assert chosen.share or len(row.members) == 1


def test_a_group_shares_one_copy_of_its_prompt() -> None:
    ((row,),) = packing.plan([[1] * 30] * 8, [[2] * 5] * 8, 200, packing.Layout())
    assert row.length == 30 + 8 * 4


def test_micro_batches_cost_about_the_same() -> None:
    """Two rows of long prompts and six short ones fill two micro-batches; neither takes both long ones."""
    prompts = [[i] * length for i, length in enumerate([60, 60, 20, 20, 20, 20, 20, 20])]
    layout = packing.Layout(cost=packing.Cost(pair=0.1))
    one, two = packing.plan(prompts, [[1]] * 8, 130, layout)
    assert sum(row.cost for row in one) == sum(row.cost for row in two)


def test_long_responses_do_not_share_when_a_dense_mask_would_cost_more() -> None:
    layout = packing.Layout(flat=False, cost=packing.Cost(pair=0.01))
    plan = packing.plan([[1] * 4] * 8, [[2] * 500] * 8, 5000, layout)
    assert {len(row.members) for batch in plan for row in batch} == {1}
    shared = packing.plan([[1] * 4] * 8, [[2] * 500] * 8, 5000, dataclasses.replace(layout, flat=True))
    assert {len(row.members) for batch in shared for row in batch} == {8}


def test_a_budget_smaller_than_a_sequence_is_refused() -> None:
    with pytest.raises(BadInput, match=r"tokens_per_micro_batch: 9 .* 10 tokens"):
        packing.plan([[1] * 4], [[2] * 6], 9, packing.Layout())
    with pytest.raises(ValueError, match="at least one token"):
        packing.plan([[1]], [[]], 9, packing.Layout())


def scores_alone(policy: Policy) -> None:
    prompts = [[5, 6, 7, 8, 9]] * 3
    responses = [[10, 11, 12], [13], [14, 15, 16, 17]]
    with torch.no_grad():
        alone = [one_at_a_time(policy, p, r, 1.0) for p, r in zip(prompts, responses, strict=True)]
    torch.testing.assert_close(
        policy.score(prompts, responses, 1.0).logp, torch.cat(alone), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("kind", ["windowed", "alibi"])
def test_models_that_cannot_share_fall_back_and_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    words = len(nano.tokenizer())
    model: Any
    if kind == "windowed":
        model = MistralForCausalLM(
            MistralConfig(
                vocab_size=words,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                sliding_window=3,
            )
        )
    else:
        model = BloomForCausalLM(BloomConfig(vocab_size=words, hidden_size=16, n_layer=2, n_head=2))
    nano.save(model, tmp_path)
    policy = Policy.open(tmp_path, parameters())
    assert not policy.layout.share
    assert sum("cannot share prompts" in record.message for record in caplog.records) == 1
    scores_alone(policy)
