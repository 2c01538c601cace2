"""How much may be held at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.artefacts.artefact import Artefact
from tasks.engines.base import Request, Response, Sampling
from tasks.engines.decoding import Decoding, Room, families
from tasks.policy.policy import Policy
from tests.tasks.rollout_rows import parameters

PROMPTS = ((1, 10, 11, 12, 13), (1, 20, 21), (1, 30, 31, 32, 33, 34, 35), (1, 40))
SAMPLING = Sampling(0.9, 12, (2, 50, 51, 52))


@pytest.fixture(scope="module")
def policy(tiny_model: Artefact) -> Iterator[Policy]:
    opened = Policy.open(tiny_model.path, parameters(context=64))
    yield opened
    opened.close()


def requests() -> list[Request]:
    return [Request(prompt, 100 * p + s) for p, prompt in enumerate(PROMPTS) for s in range(3)]


@pytest.mark.parametrize("room", [Room(1, 1), Room(2, 40), Room(5, 100), Room(6, 10**6), Room(100, 10**6)])
def test_room_changes_nothing_but_the_order(policy: Policy, room: Room) -> None:
    asked = requests()
    found: dict[int, Response] = {}
    alone: dict[int, Response] = {}
    most = 0
    with policy.passes():
        for tokens, done in Decoding(policy.network, families(asked), SAMPLING, room).steps():
            most = max(most, tokens)
            assert not found.keys() & done.keys()
            found.update(done)
        for index, request in enumerate(asked):
            for _, done in Decoding(policy.network, [[(index, request)]], SAMPLING, Room(1, 64)).steps():
                alone.update(done)
    assert most <= max(1, room.rows)
    for index in range(len(asked)):
        assert found[index].token_ids == alone[index].token_ids
        assert found[index].logp == pytest.approx(alone[index].logp, abs=1e-5)


SHORT = Sampling(1.0, 6, (2,))
SHAPES = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=8)
"""Of each problem, the tokens of its prompt and of its answers: all of a problem end together."""


@given(SHAPES, st.integers(1, 2), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_a_response_is_the_one_that_is_sampled_alone_whoever_came_and_went(
    policy: Policy, shapes: list[tuple[int, int]], samples: int, rows: int
) -> None:
    asked = [
        Request((1, *range(40 + 7 * p, 39 + 7 * p + length)), 100 * p + s, max_tokens=limit)
        for p, (length, limit) in enumerate(shapes)
        for s in range(samples)
    ]
    found: dict[int, Response] = {}
    alone: dict[int, Response] = {}
    with policy.passes():
        for _, done in Decoding(policy.network, families(asked), SHORT, Room(rows, 10**6)).steps():
            found.update(done)
        for index, request in enumerate(asked):
            for _, done in Decoding(policy.network, [[(index, request)]], SHORT, Room(1, 64)).steps():
                alone.update(done)
    for index in range(len(asked)):
        assert found[index].token_ids == alone[index].token_ids
        assert found[index].logp == pytest.approx(alone[index].logp, abs=1e-5)
