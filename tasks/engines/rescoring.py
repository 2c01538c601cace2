"""Log-probabilities that no company of a batch has rounded: each talk is read once more, whole.

What a batch holds depends on timing where requests come up while others are sampled, and sums of another
shape differ in their last digits. What is drawn does not, but where a draw lies within such a digit of the
border between two tokens (about one in a million).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from tasks.core.segments import Segmented
from tasks.engines.base import Request, Response, Sampling
from tasks.policy.policy import Policy


def rescored(
    policy: Policy, requests: Sequence[Request], responses: Sequence[Response], sampling: Sampling
) -> list[Response]:
    """The responses with what the policy, which sampled them untruncated, says of their tokens.

    A talk longer than a micro-batch, of which no update could learn either, stays as it was drawn.
    """
    last = [len(one.prompt_ids) + len(two.token_ids) for one, two in zip(requests, responses, strict=True)]
    talks = [turns for turns in _talks(requests, responses) if last[turns[-1]] <= policy.budget]
    if not talks:
        return list(responses)
    order = [index for turns in talks for index in turns]
    likely = [token for index in order for token in responses[index].top_ids]
    scores = policy.score(
        [requests[turns[0]].prompt_ids for turns in talks],
        [_whole(turns, requests, responses) for turns in talks],
        sampling.temperature or 1.0,
        entropy=sampling.entropy,
        others=torch.tensor(likely).view(-1, sampling.top) if sampling.top else None,
    )
    found, place = list(responses), 0
    for index in order:
        here = slice(place, place := place + len(responses[index].token_ids))
        told: dict[str, Any] = {"logp": tuple(scores.logp[here].tolist())}
        if scores.others is not None:
            told["top_logp"] = tuple(scores.others[here].flatten().tolist())
        if scores.entropy is not None:
            told["entropy"] = tuple(scores.entropy[here].tolist())
        found[index] = dataclasses.replace(responses[index], **told)
    return found


def _talks(requests: Sequence[Request], responses: Sequence[Response]) -> list[list[int]]:
    """Requests that go on from each other, in the order in which their first ones were asked."""
    talks: dict[int, list[int]] = {}
    first: list[int] = []
    for index, request in enumerate(requests):
        begin, earlier = index, request.follows
        if earlier is not None:
            before = (*requests[earlier].prompt_ids, *responses[earlier].token_ids)
            begin = first[earlier] if request.prompt_ids[: len(before)] == before else index
        first.append(begin)
        talks.setdefault(begin, []).append(index)
    return list(talks.values())


def _whole(turns: Sequence[int], requests: Sequence[Request], responses: Sequence[Response]) -> Segmented:
    """All behind the first prompt."""
    start, own = len(requests[turns[0]].prompt_ids), set[int]()
    for index in turns:
        place = len(requests[index].prompt_ids) - start
        own.update(range(place, place + len(responses[index].token_ids)))
    ids = (*requests[turns[-1]].prompt_ids[start:], *responses[turns[-1]].token_ids)
    return Segmented(ids, (place in own for place in range(len(ids))))
