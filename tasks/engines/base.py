"""What samples text, seen from a stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tasks.artefacts.artefact import Artefact
from tasks.core.errors import StageFailure

BASE = "base"


class EngineFailure(StageFailure):
    """The engine died, stalled, returned too little, or holds other weights than it was given."""


@dataclass(frozen=True)
class Request:
    """One response to sample."""

    prompt_ids: tuple[int, ...]
    seed: int
    """Of this response alone; equal requests with equal seeds give equal responses."""
    max_tokens: int | None = None
    """None: as many as ``Sampling`` allows."""
    follows: int | None = None
    """The request, by its index, whose prompt and response this one's prompt begins with: what was computed
    for it is used again where it is still at hand."""

    def most(self, sampling: Sampling) -> int:
        """Tokens of its response at most."""
        return sampling.max_tokens if self.max_tokens is None else self.max_tokens


@dataclass(frozen=True)
class Sampling:
    """How to sample. With top-p 1 and top-k off, log-probabilities are the softmax's at the temperature."""

    temperature: float
    """0: greedy."""
    max_tokens: int
    stop_ids: tuple[int, ...]
    top: int = 0
    """Likeliest tokens to tell of at each position."""
    entropy: bool = False
    """Tell of the entropy at each position."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that together reach this probability."""
    top_k: int = 0
    """Draw from so many likeliest tokens, before ``top_p``; 0: from all."""
    ends: Callable[[Sequence[int]], bool] | None = None
    """Whether a response is at its end with the last of these tokens, which are all it has or its last ones.
    An engine that cannot ask samples on: whoever asked cuts the response there."""

    @property
    def truncates(self) -> bool:
        """Whether some tokens are never drawn."""
        return self.temperature > 0.0 and (self.top_k > 0 or self.top_p < 1.0)


@dataclass(frozen=True)
class Response:
    """One sampled response."""

    token_ids: tuple[int, ...]
    """With the stop token, if it ended on one. Never empty."""
    logp: tuple[float, ...]
    """Of each token, in nats, in the distribution that it was drawn from; at 1 where the temperature is 0."""
    finish_reason: str
    """``stop`` or ``length``."""
    top_ids: tuple[int, ...] = ()
    """The ``Sampling.top`` likeliest tokens at each position, the likeliest first, end to end."""
    top_logp: tuple[float, ...] = ()
    """Theirs, as ``logp``."""
    entropy: tuple[float, ...] = ()
    """Of the distribution that each token was drawn from, over the whole vocabulary, in nats."""

    def complete(self, sampling: Sampling) -> bool:
        """Whether each token has all that ``sampling`` asks for."""
        tokens = len(self.token_ids)
        likely = len(self.top_ids) == len(self.top_logp) == tokens * sampling.top
        spread = len(self.entropy) == tokens * sampling.entropy
        return tokens > 0 and tokens == len(self.logp) and likely and spread


More = Callable[[float], Sequence[Request] | None]
"""``more(seconds)``: the requests that have come up meanwhile, waited for at most so long; None: the end."""
POLL_SECONDS = 0.01
"""Between two looks for further requests, while responses are under way."""
IDLE_SECONDS = 0.2
"""Of waiting for further requests at a time, while none are."""


def ignore(*told: object) -> None:
    """What nobody waits for."""


def no_more(seconds: float) -> None:
    """No further request comes up."""


def identity(policy: Path | None, rounded: bool = False) -> str:
    """What weights are called: a policy artefact by its content, the base model by ``BASE``; ``rounded`` ones
    are others."""
    name = BASE if policy is None else Artefact.open(policy, check=False).digest
    return f"{name}-float8" if rounded else name


class Engine(Protocol):
    """An engine holds one base model and one policy at a time."""

    def load(self, policy: Path | None) -> None:
        """Sample from this policy artefact's directory from now on; ``None``: from the base model.

        Compares log-probabilities with the trainer's on a probe and raises ``EngineFailure`` when the
        engine still holds other weights. Loading what is loaded already costs nothing.
        """

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        tell: Callable[[int, int], None] = ignore,
        finished: Callable[[int, Response], None] = ignore,
        more: More = no_more,
    ) -> list[Response]:
        """The response to each request, in the same order; ``tell(responses done, tokens so far)``.

        ``finished(index, response)`` hears of each as soon as it is whole, in any order. ``more`` is asked
        for further requests, which join those under way and have the next indices, until it says that none
        come. All are called by the thread that called ``generate``. Raises ``EngineFailure``.
        """

    def sleep(self) -> None:
        """Give back what memory it can until the next ``load``, where that was asked for."""

    def close(self) -> None:
        """End its processes and free its memory."""
