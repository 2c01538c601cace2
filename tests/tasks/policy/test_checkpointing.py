"""Activation checkpointing and gradients that are moved as they come change no gradient."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from tasks.artefacts.artefact import Artefact
from tasks.policy import full, packing
from tasks.policy import policy as module
from tasks.policy.checkpointing import checkpoint_layers
from tasks.policy.policy import Policy, offsets
from tests.tasks.policy.test_packing import GROUPS, Group, flat
from tests.tasks.policy.test_packing import opened as opened_once

opened = opened_once.__wrapped__  # a policy of its own for each call


def gradients(policy: Policy, groups: Sequence[Group], elsewhere: bool = False) -> list[torch.Tensor]:
    """Of a sum over all tokens, by ``backward`` in this thread or, as on a GPU, in another."""
    prompts, responses = flat(groups)
    starts = offsets([len(response) for response in responses])
    for weight in policy.weights.leaves():
        weight.grad = None
    with policy.passes():
        for rows in packing.plan(prompts, responses, 70, policy.layout):
            batch = packing.build(rows, responses, starts, policy.layout.flat)
            loss = policy.forward(batch, 0.8).logp.sum()
            if elsewhere:
                thread = threading.Thread(target=loss.backward)
                thread.start()
                thread.join()
            else:
                loss.backward()
    found = [weight.grad for weight in policy.weights.leaves()]
    return [grad for grad in found if grad is not None]


@pytest.mark.parametrize("attention", ["products", "none"])
@pytest.mark.parametrize("adapter", ["lora", "full"])
@given(groups=GROUPS)
@settings(max_examples=5, deadline=None)
def test_gradients_are_the_same_with_checkpoints(
    tiny_model: Artefact, adapter: str, attention: str, groups: list[Group]
) -> None:
    plain, sparing = (opened(tiny_model.path, adapter) for _ in range(2))
    checkpoint_layers(sparing.network)
    if attention == "none":
        plain.layout = sparing.layout = packing.Layout(share=True, flat=False)
    expected = gradients(plain, groups)
    for elsewhere in (False, True):
        found = gradients(sparing, groups, elsewhere)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_layers_are_computed_again(tiny_model: Artefact) -> None:
    policy, calls = opened(tiny_model.path, "lora"), []
    for layer in policy.network.base_model.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    groups: list[Group] = [([3, 4, 5], [[6, 7, 8], [9, 4]])]
    gradients(policy, groups)
    once = len(calls)
    assert once
    checkpoint_layers(policy.network)
    gradients(policy, groups)
    assert len(calls) == 3 * once


def test_evaluation_computes_nothing_again(tiny_model: Artefact) -> None:
    policy = opened(tiny_model.path, "lora")
    before = policy.score([[3, 4]], [[5, 6]], 1.0).logp
    checkpoint_layers(policy.network)
    assert torch.equal(policy.score([[3, 4]], [[5, 6]], 1.0).logp, before)


def test_gradients_in_the_base_type_are_gone_as_soon_as_they_are_added(
    tiny_model: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on one GPU; the masters' are those of the usual way."""
    found: dict[bool, dict[str, Any]] = {}
    groups: list[Group] = [([3, 4, 5], [[6, 7, 8], [9, 4]])]
    for moved in (False, True):
        monkeypatch.setattr(full, "moves_gradients", lambda device, moved=moved: moved)
        policy = opened(tiny_model.path, "full", dtype="bfloat16")
        prompts, responses = flat(groups)
        starts = offsets([len(response) for response in responses])
        with policy.passes():
            for rows in packing.plan(prompts, responses, 8, policy.layout):  # several micro-batches
                batch = packing.build(rows, responses, starts, policy.layout.flat)
                parts = policy.weights.gradients(policy.forward(batch, 0.8).logp.sum())
                policy.weights.add_gradients(parts)
        assert all(leaf.grad is None for leaf in policy.weights.leaves())
        found[moved] = {name: master.grad for name, master in policy.weights.masters.items()}
    for name, gradient in found[False].items():
        torch.testing.assert_close(found[True][name], gradient)


def test_the_base_of_full_weights_is_read_again_only_when_they_have_moved(
    tiny_model: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    load = module.load_model
    monkeypatch.setattr(module, "load_model", lambda *a: (read.append(1), load(*a))[1])
    policy = opened(tiny_model.path, "full", move=False)
    base = {name: weight.detach().clone() for name, weight in policy.weights.masters.items()}
    policy.restore(None)
    assert len(read) == 1
    with torch.no_grad():
        for weight in policy.weights.masters.values():
            weight.add_(1.0)
    policy.stepped()
    policy.restore(None)
    assert len(read) == 2
    for name, weight in policy.weights.masters.items():
        assert torch.equal(weight, base[name])
