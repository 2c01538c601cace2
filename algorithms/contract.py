"""The contract of a method: all that a module of it may have. To be read before writing one.

A method is made of parts, each a module with a frozen ``Config`` and at least one of three hooks: an
objective has ``token_loss``, an auxiliary term has ``term``, a replay method has ``draw``. Naming the module
in a method's YAML is all it takes to use it, and a new part is a new file here, or a module of the user's own
with a dotted name, such as ``my_methods.softer``. What else it may have are the further fields of ``Hooks``;
how a function that is no hook is told from one that is misspelt stands in ``params.parts``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pyarrow as pa
import torch
from torch import Tensor

from algorithms.divergence import TopK
from algorithms.drawing import Drawn, Entropy, Fresh, ReplayedProblems
from algorithms.terms import Batch, Boundary, MetricLabel, Metrics, Term, objective_term
from params.base import BadInput, Choice, Config
from params.method import Method
from params.parts import Part, find_part

if TYPE_CHECKING:  # a rollout reads the contract, and no rule of the buffer
    from algorithms.replay_buffer import ReplayBuffer


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
    ) -> tuple[Tensor, Metrics]:
        """Loss and metrics of these tokens."""


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
    ) -> Drawn:
        """The rows, and their place in the update."""


@dataclass(frozen=True)
class Hooks(Part):
    """What a method's module offers; None where it has no such hook."""

    token_loss: TokenLoss | None = None
    """The objective."""
    top_k: Callable[[Any], int] | None = None
    """``top_k(config)``: how many of the sampler's likeliest tokens the objective compares; 0: none."""
    WHOLE_RESPONSES: bool = False
    """The objective's loss of a token depends on all tokens of its response: ``token_loss`` is given those
    without an advantage, or that a correction masks, as well."""
    term: Callable[[Batch, Any], Term] | None = None
    """``term(batch, config)``: a summand of the loss over one batch; here it chooses its tokens and fixes its
    denominator. A replay method has one where the objective does not give the loss of what it drew."""
    acts: Callable[[Any, int], bool] | None = None
    """``acts(config, round)``: whether the term is part of that round's loss; None: of every round's."""
    boundary: Callable[[Any], Boundary | None] | None = None
    """``boundary(config)``: what closes a step; the batch then has ``boundary``. None: not asked for."""
    entropy_from: Callable[[Any], Literal["stored", "policy"] | None] | None = None
    """``entropy_from(config)``: whence the batch has ``entropy``: from the rollouts, or from a forward pass
    of the policy before the update over the responses that ``candidates`` names. None: not asked for."""
    candidates: Callable[[Tensor, Tensor, Tensor, Any], Tensor] | None = None
    """``candidates(reward, group, fresh, config)``: [S] bool; goes with ``entropy_from``."""
    draws: Callable[[Any], bool] | None = None
    """``draws(config)``: whether the term chooses by chance; then the batch has ``chance``."""
    reference: Callable[[Any], bool] | None = None
    """``reference(config)``: whether the term compares with the run's base model; then the batch has
    ``reference_logp``."""
    draw: Draw | None = None
    """A replay method. It draws from this round's buffer, which holds the round's own answers already."""
    admit: Callable[[Tensor, Tensor, Tensor, int, Any], list[int]] | None = None
    """``admit(reward, group, eligible, round, config)``: positions of those of S fresh answers that enter the
    buffer, in order, with ``replay.admit: method``. ``reward`` [S], NaN where there is none; ``group`` [S];
    ``eligible`` [S] bool, the right ones that the other rules of ``params.schema.Replay`` let in."""
    base_answers: Callable[[Any], int] | None = None
    """``base_answers(config)``: how often the base model answers each training problem before the first
    round. What ``admit`` then lets in, as of round 0, is a buffer that never changes, and the only one."""
    BASE_OPTIONS: tuple[str, ...] = ()
    """The options that ``base_answers`` and ``admit`` read: with others, those answers stay as they are. None
    named: all."""
    DRAWS_ROUND_BEFORE: bool = False
    """The update draws from the buffer as the round before left it, without this round's answers."""
    problems: Callable[[pa.Table, pa.Table, int, Any, torch.Generator], ReplayedProblems] | None = None
    """``problems(rows, results, count, config, generator)``: which of a round's ``count`` problems the buffer
    chooses, by its rows and results (``replay_buffer.RESULTS``); a rollout then reads the buffer."""
    DEMONSTRATIONS: bool = False
    """What it draws from is no buffer, but the demonstrations of the round's problems: right answers that
    came with them, as rows with log-probabilities of 0."""
    hint: Callable[[Tensor, int, Any, torch.Generator], int] | None = None
    """``hint(lines, round, config, generator)``: how many tokens of a demonstration stand in front of the
    answers to its problem; ``lines`` [T] bool: which of its tokens end a line. A replay method with it has
    no buffer, and finds what was shown in ``Fresh.hints``."""
    MEASURES_DRIFT: bool = False
    """The term says by ``Term.drift`` how far the policy is from what it replays."""
    METRICS: tuple[MetricLabel, ...] = ()
    """How the report shows the metrics of the part. A term's that is not here is shown by its name, an
    objective's is not."""

    def demonstrated(self) -> bool:
        """Whether a method of it stands on demonstrations of its problems, and on no buffer."""
        return self.DEMONSTRATIONS or self.hint is not None


Hook = Literal["token_loss", "term", "draw"]


def find(name: str, hook: Hook, where: str) -> Hooks:
    """The part of a method that is called ``name`` and has ``hook``; raises ``BadInput``."""
    found = find_part(Hooks, "algorithms", name, hook, where)
    if found.entropy_from and not found.candidates:
        raise BadInput(f"{found.file}: entropy_from without candidates; expected both")
    if found.top_k and found.token_loss and len(inspect.signature(found.token_loss).parameters) < 6:
        raise BadInput(f"{found.file}: top_k, but token_loss takes no likeliest tokens; expected both")
    return found


@dataclass(frozen=True)
class Recipe:
    """A method's parts with their options, found and checked before any work is done."""

    method: Method
    objective: tuple[Hooks, Config]
    replay: tuple[Hooks, Config] | None
    terms: tuple[tuple[Hooks, Config], ...]
    """The auxiliary terms, then the replay method's own, if it has one."""

    @classmethod
    def of(cls, method: Method, at: str = "method") -> Recipe:
        """That of the method that stands ``at``; raises ``BadInput`` for what does not exist."""

        def chosen(choice: Choice, hook: Hook, where: str) -> tuple[Hooks, Config]:
            part = find(choice.name, hook, where)
            return part, choice.resolve(part.Config, where)

        terms = [chosen(choice, "term", f"{at}.terms.{i}") for i, choice in enumerate(method.terms)]
        replay = chosen(method.replay, "draw", f"{at}.replay") if method.replay else None
        terms += [replay] if replay and replay[0].term else []
        return cls(method, chosen(method.objective, "token_loss", f"{at}.objective"), replay, tuple(terms))

    def in_round(self, round: int) -> Recipe:
        """Without the terms that do not act in that round."""
        acting = [(part, config) for part, config in self.terms if not part.acts or part.acts(config, round)]
        return replace(self, terms=tuple(acting))

    def on(self, batch: Batch) -> list[Term]:
        """The loss's terms over one batch, the objective first."""
        first = objective_term(batch, *self.objective, self.method.aggregation)
        return [first, *(part.term(batch, config) for part, config in self.terms if part.term)]
