"""How requests are dealt to lanes, and how lanes run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.artefacts.artefact import Artefact
from tasks.engines.base import EngineFailure, Request, Response, Sampling
from tasks.engines.decoding import Lane, Room, deal, families, sampled
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


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 6))
def test_every_request_is_dealt_once_and_evenly(prompts: list[int], lanes: int) -> None:
    asked = [Request((1, prompt), seed) for seed, prompt in enumerate(prompts)]
    dealt = deal(families(asked), lanes)
    found = [index for lane in dealt for family in lane for index, _ in family]
    assert sorted(found) == list(range(len(asked)))
    assert len(dealt) <= lanes
    for lane in dealt:
        for family in lane:
            assert len({request.prompt_ids for _, request in family}) == 1
    share = -(-len(asked) // lanes)
    assert max(sum(map(len, lane)) for lane in dealt) < 2 * share + 1


@pytest.mark.parametrize("room", [Room(1, 1), Room(2, 40), Room(5, 100), Room(100, 10**6)])
def test_room_changes_nothing_but_the_order(policy: Policy, room: Room) -> None:
    asked = requests()
    found: dict[int, Response] = {}
    most = 0

    def tell(tokens: int, done: dict[int, Response]) -> bool:
        nonlocal most
        most = max(most, tokens)
        assert not found.keys() & done.keys()
        found.update(done)
        return True

    with policy.passes():
        Lane(policy.network, families(asked), SAMPLING, room).run(tell)
        alone: dict[int, Response] = {}
        for index, request in enumerate(asked):
            Lane(policy.network, [[(index, request)]], SAMPLING, Room(1, 64)).run(
                lambda tokens, done: alone.update(done) is None
            )
    assert most <= max(1, room.rows)
    for index in range(len(asked)):
        assert found[index].token_ids == alone[index].token_ids
        assert found[index].logp == pytest.approx(alone[index].logp, abs=1e-5)


def test_lanes_end_with_whoever_listens(policy: Policy) -> None:
    endless = Sampling(0.9, 60, ())
    with policy.passes():
        steps = sampled([Lane(policy.network, families(requests()), endless, Room(9, 10**6))], 60.0)
        next(steps)
        steps.close()
    assert not [each for each in threading.enumerate() if each.name.startswith("lane")]


class Stuck(Lane):
    def __init__(self, until: threading.Event) -> None:
        self.until = until

    def run(self, tell: Callable[[int, dict[int, Response]], bool]) -> None:
        self.until.wait(20.0)


def test_a_lane_that_stands_still_is_named() -> None:
    until = threading.Event()
    steps = sampled([Stuck(until)], timeout=0.1)
    threading.Timer(1.5, until.set).start()
    with pytest.raises(EngineFailure, match=r"no token in 0\.1 s"):
        next(steps)
