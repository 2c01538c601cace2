"""Responses of several turns: token ids of which some were sampled, and some were given between them.

A response of one turn is a plain list of ids, all of them sampled. One of several turns is ``Segmented``: ids
in the order in which the model saw them, never made anew from text. What is said of its tokens (log-
probabilities, entropies, losses) is said of the sampled ones alone; the given ones are context.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar, overload

import pyarrow as pa

Ids = Sequence[int]
T = TypeVar("T")


class Segmented(Sequence[int]):
    """A response's ids, the last of them sampled; ``places`` are the positions of the sampled ones."""

    def __init__(self, ids: Iterable[int], sampled: Iterable[bool]) -> None:
        """Raises ``ValueError`` where the two differ in length, or no sampled token ends the response."""
        self._ids = tuple(ids)
        mask = tuple(sampled)
        if len(mask) != len(self._ids) or not mask or not mask[-1]:
            raise ValueError(f"{len(self._ids)} ids, {len(mask)} marks; expected as many, the last sampled")
        self.places = tuple(itertools.compress(range(len(mask)), mask))

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids)

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[int]: ...
    def __getitem__(self, place: int | slice) -> int | Sequence[int]:
        """One id, or several as plain ids: which of them were sampled is lost."""
        return self._ids[place]


def responses_of(table: pa.Table) -> list[Ids]:
    """The responses of a table with the columns ``response_ids`` and ``sampled`` (``tables.ROLLOUTS``)."""
    pairs = zip(table["response_ids"].to_pylist(), table["sampled"].to_pylist(), strict=True)
    return [ids if mask is None else Segmented(ids, mask) for ids, mask in pairs]


def places(response: Ids) -> Sequence[int]:
    """The positions of its sampled tokens."""
    return response.places if isinstance(response, Segmented) else range(len(response))


def sampled_ids(response: Ids) -> list[int]:
    """Its sampled tokens."""
    return [response[place] for place in places(response)]


def counts(responses: Iterable[Ids]) -> list[int]:
    """How many tokens of each were sampled."""
    return [len(places(response)) for response in responses]


def beginning(response: Ids, count: int) -> Ids:
    """The response up to its ``count``-th sampled token, ``count`` at least 1."""
    if not isinstance(response, Segmented):
        return response[:count]
    kept = set(response.places[:count])
    stop = response.places[count - 1] + 1
    return Segmented(response[:stop], (place in kept for place in range(stop)))


def turn_ends(response: Ids) -> list[bool]:
    """Of each sampled token whether a turn ends with it."""
    found = places(response)
    return [after != place + 1 for place, after in itertools.pairwise([*found, -1])]


def known(values: Iterable[T | None]) -> list[T]:
    """What a table holds of a response's tokens, without the nulls that stand at the given ones."""
    return [value for value in values if value is not None]


def spread(values: Sequence[T], mask: Sequence[bool] | None, each: int = 1) -> list[Any]:
    """``each`` values a sampled token as a table holds them: with nulls at the given ones. No mask: as they
    are."""
    if mask is None:
        return list(values)
    rest = iter(values)
    return [next(rest) if own else None for own in mask for _ in range(each)]
