"""The contract of a method: all that a module of it may have. To be read before writing one.

A method is made of parts, each a module with a frozen ``Config`` and at least one of three hooks: an
objective has ``token_loss``, an auxiliary term has ``term``, a replay method has ``draw``. Naming the module
in a method's YAML is all it takes to use it, and a new part is a new file here, or a module of the user's own
with a dotted name, such as ``my_methods.softer``. What else it may have are the further fields of ``Hooks``;
how a function that is no hook is told from one that is misspelt stands in ``params.parts``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import pyarrow as pa
import torch
from torch import Tensor

from algorithms.divergence import TopK
from algorithms.drawing import Drawn, Entropy, Fresh, ReplayedProblems
from algorithms.replay_buffer import ReplayBuffer
from algorithms.terms import Batch, Boundary, MetricLabel, Metrics, Term
from params.base import BadInput
from params.parts import Part, find_part


class TokenLoss(Protocol):
    """An objective: its loss [T], to be minimised, and metrics [T].

    ``logp`` [T] has a gradient; ``behaviour_logp`` [T] (nats) and ``advantage`` [T] are constants, and
    ``sequence`` [T] says which response a token is of. An advantage of zero must give a loss of zero.
    ``top`` is a sixth argument for an objective with ``top_k``.
    """

    def __call__(
        self,
        logp: Tensor,
        behaviour_logp: Tensor,
        advantage: Tensor,
        sequence: Tensor,
        config: Any,
        *top: TopK,
    ) -> tuple[Tensor, Metrics]: ...


class MakeTerm(Protocol):
    """A summand of the loss over one batch; here it chooses its tokens and fixes its denominator."""

    def __call__(self, batch: Batch, config: Any) -> Term: ...


class Draw(Protocol):
    """Rows of the buffer to learn from beside the fresh responses.

    ``generator`` is the only source of chance. ``entropy(rows)`` gives the mean token entropy [R] (nats)
    under the current policy of rows of the buffer: one forward pass over them, made when it is called.
    """

    def __call__(
        self,
        fresh: Fresh,
        buffer: ReplayBuffer,
        config: Any,
        generator: torch.Generator,
        entropy: Entropy,
    ) -> Drawn: ...


class Problems(Protocol):
    """Which of a round's ``count`` problems the buffer chooses, by its rows and results (``RESULTS``)."""

    def __call__(
        self, rows: pa.Table, results: pa.Table, count: int, config: Any, generator: torch.Generator
    ) -> ReplayedProblems: ...


class Candidates(Protocol):
    """[S] bool: the responses whose entropies a term wants, of ``reward``, ``group`` and ``fresh`` [S]."""

    def __call__(self, reward: Tensor, group: Tensor, fresh: Tensor, config: Any) -> Tensor: ...


class Asks(Protocol):
    """Whether a term asks for something, with these options."""

    def __call__(self, config: Any) -> bool: ...


class AsksBoundary(Protocol):
    """What closes a step; None: the term does not ask."""

    def __call__(self, config: Any) -> Boundary | None: ...


class AsksEntropy(Protocol):
    """Whence a term wants entropies; None: it does not ask."""

    def __call__(self, config: Any) -> Literal["stored", "policy"] | None: ...


class Count(Protocol):
    """A number that follows from the options."""

    def __call__(self, config: Any) -> int: ...


@dataclass(frozen=True)
class Hooks(Part):
    """What a method's module offers; None where it has no such hook."""

    token_loss: TokenLoss | None = None
    """The objective."""
    top_k: Count | None = None
    """How many of the sampler's likeliest tokens the objective compares; 0: none."""
    term: MakeTerm | None = None
    """An auxiliary term, or a replay method's loss of what it drew, where the objective does not give it."""
    boundary: AsksBoundary | None = None
    """Then the batch has ``boundary``."""
    entropy_from: AsksEntropy | None = None
    """Then the batch has ``entropy``: from the rollouts, or from a forward pass of the policy before the
    update over the responses that ``candidates`` names."""
    candidates: Candidates | None = None
    """Goes with ``entropy_from``."""
    draws: Asks | None = None
    """Whether the term chooses by chance; then the batch has ``chance``."""
    reference: Asks | None = None
    """Whether the term compares with the run's base model; then the batch has ``reference_logp``."""
    draw: Draw | None = None
    """A replay method."""
    problems: Problems | None = None
    """A replay method that chooses problems; a rollout then reads the buffer."""
    MEASURES_DRIFT: bool = False
    """The term says by ``Term.drift`` how far the policy is from what it replays."""
    METRICS: tuple[MetricLabel, ...] = ()
    """How the report shows the metrics of the part; one that is not here is shown by its name."""


def find(name: str, hook: Literal["token_loss", "term", "draw", "problems"], where: str) -> Hooks:
    """The part of a method that is called ``name`` and has ``hook``; raises ``BadInput``."""
    found = find_part(Hooks, "algorithms", name, hook, where)
    if found.entropy_from and not found.candidates:
        raise BadInput(f"{found.file}: entropy_from without candidates; expected both")
    return found
