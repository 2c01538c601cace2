"""RL-ZVP: what groups that agree are taught, token by token, and that groups that differ are left alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from algorithms import grpo
from algorithms.contract import find
from algorithms.rl_zvp import Config, candidates, entropy_from, term, token_advantage
from algorithms.terms import Batch, Signals, objective_term

RIGHT, WRONG, MIXED = 0, 1, 2
entropies = st.lists(st.floats(0, 5, width=32), min_size=1, max_size=6)


def batch(tokens: list[list[float]], group: list[int], reward: list[float]) -> Batch:
    """Responses by the entropies of their tokens; the mixed group has advantages of +1 and -1."""
    sequence = torch.tensor([i for i, each in enumerate(tokens) for _ in each])
    own = torch.tensor([(2 * r - 1.0) if g == MIXED else 0.0 for g, r in zip(group, reward, strict=True)])
    return Batch(
        sequence=sequence,
        behaviour_logp=torch.full((len(sequence),), -1.0),
        advantage=own[sequence],
        importance=torch.ones(len(sequence)),
        fresh=torch.ones(len(tokens), dtype=torch.bool),
        max_tokens=8,
        reward=torch.tensor(reward, dtype=torch.float32),
        group=torch.tensor(group),
        entropy=torch.tensor([h for each in tokens for h in each]),
    )


def gradient(given: Batch, config: Config) -> Tensor:
    """Of the term by each token's log-probability, where the policy is the sampler's."""
    made = term(given, config)
    logp = given.behaviour_logp.clone().requires_grad_()
    loss, _ = made.token_loss(Signals(logp), torch.arange(len(logp)))
    (found,) = torch.autograd.grad((made.scale * loss).sum(), logp)
    return found


SIX = batch([[0.5, 2.0], [1.0], [0.2, 0.8], [0.4], [3.0], [1.5]], [0, 0, 1, 1, 2, 2], [1, 1, 0, 0, 1, 0])


def test_the_published_advantages_by_the_objectives_denominator() -> None:
    pull = [0.05, 0.2, 0.1, -0.06, 0.0, 0.0, 0.0, 0.0]
    torch.testing.assert_close(gradient(SIX, Config(alpha=0.1)), -torch.tensor(pull) / 8)
    objective = objective_term(SIX, find("grpo", "token_loss", "here"), grpo.Config(), "token_mean")
    assert ((objective.scale > 0) == torch.tensor([0, 0, 0, 0, 0, 0, 1, 1]).bool()).all()
    by_response = gradient(replace(SIX, aggregation="sequence_mean"), Config(alpha=0.1))
    assert by_response[1].item() == pytest.approx(-0.2 / (6 * 2))


@given(st.lists(entropies, min_size=2, max_size=5), st.booleans())
def test_right_is_pulled_wrong_is_pushed_but_for_its_most_uncertain_token(
    tokens: list[list[float]], right: bool
) -> None:
    group, reward = [RIGHT if right else WRONG] * len(tokens), [float(right)] * len(tokens)
    given_ = batch(tokens, group, reward)
    found = token_advantage(
        given_.entropy, given_.sequence, torch.full_like(given_.sequence, right).bool(), 0.3
    )
    for i, each in enumerate(tokens):
        values = found[given_.sequence == i]
        assert bool((values >= 0).all() if right else (values <= 0).all())
        assert right or values[torch.tensor(each).argmax()] == 0
        expected = [0.3 * (h if right else h - max(each)) for h in each]
        assert values.tolist() == pytest.approx(expected, abs=1e-5)


def test_switched_off_or_without_known_entropies_it_is_nothing() -> None:
    assert entropy_from(Config(alpha=0.0)) is None
    assert not term(replace(SIX, entropy=None), Config(alpha=0.0)).scale.any()
    unknown = replace(SIX, entropy=torch.full((8,), math.nan))
    assert not term(unknown, Config()).scale.any()
    with pytest.raises(ValueError, match="lacks rewards, groups or entropies"):
        term(replace(SIX, entropy=None), Config())


def test_groups_that_differ_and_replayed_and_lone_answers_are_left_alone() -> None:
    reward = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 1.0, math.nan])
    group = torch.tensor([0, 0, 1, 1, 2, -1, 0])
    fresh = torch.tensor([True, True, True, True, True, True, True])
    assert candidates(reward, group, fresh, Config()).tolist() == [True, True, *[False] * 5]
    fresh[1] = False
    assert not candidates(reward, group, fresh, Config()).any()
    shaped = replace(SIX, advantage=torch.where(SIX.sequence < 2, 0.5, SIX.advantage))  # by length, say
    assert not term(shaped, Config()).scale[:3].any()


def test_a_ratio_beyond_the_bound_stops_it() -> None:
    made = term(SIX, Config(alpha=1.0, clip_low=0.2, clip_high=0.28))
    logp = (SIX.behaviour_logp + torch.tensor([0.3, 0.2, 0, -0.3, 0, 0, 0, 0])).requires_grad_()
    loss, metrics = made.token_loss(Signals(logp), torch.arange(8))
    (found,) = torch.autograd.grad((made.scale * loss).sum(), logp)
    assert found[0] == 0
    assert found[1] < 0
    assert found[3] == 0
    assert metrics["right"].tolist() == [1, 1, 1, 0, 0, 0, 1, 0]
