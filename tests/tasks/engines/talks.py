"""Requests that come up while others are sampled, and limits of their own: as all engines take them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from tasks.engines.base import Engine, Request, Response, Sampling

TURNS = 3
FURTHER = (60, 61, 62)
MOST = 6


def continued(request: Request, index: int, response: Response, seed: int) -> Request:
    """What follows a request: its response, some further tokens, and a limit of its own."""
    return Request((*request.prompt_ids, *response.token_ids, *FURTHER), seed, MOST, index)


def talks(engine: Engine, asked: Sequence[Request], chosen: Sampling) -> list[Response]:
    """Requests that go on for some turns, the next as soon as one is whole; those of turn 1, then 2, ..."""
    count, known = len(asked), list(asked)
    places = [(0, number) for number in range(count)]
    heard: dict[tuple[int, int], int] = {}
    coming: list[tuple[tuple[int, int], Request]] = []

    def finished(index: int, response: Response) -> None:
        turn, number = places[index]
        heard[turn, number] = index
        if turn + 1 < TURNS:
            after = continued(known[index], index, response, 1000 * (turn + 1) + number)
            coming.append(((turn + 1, number), after))

    def more(seconds: float) -> list[Request] | None:
        if len(heard) == count * TURNS:
            return None
        found, coming[:] = list(coming), []
        places.extend(place for place, _ in found)
        known.extend(request for _, request in found)
        return [request for _, request in found]

    made = engine.generate(asked, chosen, finished=finished, more=more)
    assert len(made) == count * TURNS
    return [made[heard[place]] for place in sorted(heard)]


def as_if_alone(
    engine: Engine, asked: Sequence[Request], chosen: Sampling, made: list[Response], within: float
) -> None:
    """Whether ``made``, of ``talks``, is what the engine answers to each turn by itself."""
    before = list(asked)
    for turn in range(TURNS):
        alone = engine.generate(before, chosen)
        of_turn = made[turn * len(asked) : (turn + 1) * len(asked)]
        for ours, theirs in zip(of_turn, alone, strict=True):
            assert (ours.token_ids, ours.finish_reason) == (theirs.token_ids, theirs.finish_reason)
            assert ours.top_ids == theirs.top_ids
            for name in ("logp", "top_logp", "entropy"):
                assert getattr(ours, name) == pytest.approx(getattr(theirs, name), abs=within)
        before = [
            dataclasses.replace(continued(one, 0, two, 1000 * (turn + 1) + number), follows=None)
            for number, (one, two) in enumerate(zip(before, alone, strict=True))
        ]


def limited(engine: Engine, prompts: Sequence[tuple[int, ...]]) -> None:
    """A response has as many tokens as its request allows, and no stop token before its end."""
    asked = [Request(prompt, 7 + most, most) for prompt in prompts for most in (1, 5, 9)]
    plain = engine.generate(asked, Sampling(0.8, 20, ()))
    assert [len(response.token_ids) for response in plain] == [request.max_tokens for request in asked]
    assert {response.finish_reason for response in plain} == {"length"}
    stop = frozenset(response.token_ids[len(response.token_ids) // 2] for response in plain)
    ended = engine.generate(asked, Sampling(0.8, 20, tuple(stop)))
    for whole, response in zip(plain, ended, strict=True):
        place = next(i for i, token in enumerate(whole.token_ids) if token in stop)
        assert response.token_ids == whole.token_ids[: place + 1]
        assert response.finish_reason == "stop"
        assert response.logp == pytest.approx(whole.logp[: place + 1], abs=1e-3)
