"""Answers that another artefact holds, in place of sampling them anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import read_table
from tasks.engines.base import Engine, Request, Response, Sampling, ignore

TABLES = ("rollouts.parquet", "answers.parquet")
"""Files that hold whole answers, greedy ones told apart in the second."""
_COLUMNS = ("prompt_ids", "response_ids", "behaviour_logp", "finish_reason", "seed")
_MORE = ("top_ids", "top_logp", "entropy")

Key = tuple[int, bool, tuple[int, ...]]
"""Seed, whether it is greedy, prompt: a request, and with it the answer."""


class Recorded:
    """An engine that knows the answers of an artefact, sampled with the same settings from the same policy,
    and asks another engine for those that it does not know, if there are any."""

    def __init__(self, answers: Artefact, engine: Callable[[], Engine]) -> None:
        self._known = dict(_read(answers))
        self._engine = engine
        self._asked: Engine | None = None
        self._policy: Path | None = None
        self.reused = 0
        """Tokens of the answers that it knew."""

    def load(self, policy: Path | None) -> None:
        """As ``Engine.load``, where that is needed at all."""
        self._policy = policy
        if self._asked is not None:
            self._asked.load(policy)

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        tell: Callable[[int, int], None] = ignore,
        finished: Callable[[int, Response], None] = ignore,
    ) -> list[Response]:
        """As ``Engine.generate``."""
        greedy = sampling.temperature == 0
        known = [self._known.get((each.seed, greedy, each.prompt_ids)) for each in requests]
        found = {place: response for place, response in enumerate(known) if response is not None}
        tokens = 0
        for done, (place, response) in enumerate(found.items(), 1):
            tokens += len(response.token_ids)
            finished(place, response)
            tell(done, tokens)
        self.reused += tokens
        missing = [place for place, response in enumerate(known) if response is None]
        if missing:
            asked = [requests[place] for place in missing]
            responses = self._opened().generate(
                asked,
                sampling,
                lambda done, more: tell(len(found) + done, tokens + more),
                lambda index, response: finished(missing[index], response),
            )
            found |= dict(zip(missing, responses, strict=True))
        return [found[place] for place in range(len(requests))]

    def sleep(self) -> None:
        """As ``Engine.sleep``."""
        if self._asked is not None:
            self._asked.sleep()

    def close(self) -> None:
        """Nothing: whoever keeps the engine closes it."""

    def _opened(self) -> Engine:
        if self._asked is None:
            self._asked = self._engine()
            self._asked.load(self._policy)
        return self._asked


def _read(answers: Artefact) -> Iterable[tuple[Key, Response]]:
    name = next(name for name in TABLES if name in answers.manifest.files)
    marked = ("greedy",) if name == TABLES[1] else ()
    table = read_table(answers.file(name), [*_COLUMNS, *_MORE, *marked, "sampled"])
    for row in table.filter(pc.is_null(table["sampled"])).to_pylist():
        yield _key(row), _response(row)


def _key(row: Mapping[str, Any]) -> Key:
    return row["seed"], bool(row.get("greedy")), tuple(row["prompt_ids"])


def _response(row: Mapping[str, Any]) -> Response:
    ids, logp, reason = row["response_ids"], row["behaviour_logp"], row["finish_reason"]
    return Response(tuple(ids), tuple(logp), reason, *(tuple(row[name] or ()) for name in _MORE))
