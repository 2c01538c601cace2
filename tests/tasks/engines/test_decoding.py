"""How much may be held at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
