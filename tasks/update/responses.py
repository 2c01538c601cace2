"""What an update learns from: responses with their rewards, laid out for the loss's terms."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from algorithms.correct import CORRECT
from algorithms.drawing import Drawn
from algorithms.mismatch import correction_weights
from algorithms.terms import Aggregation, Batch, TopWords
from params.base import BadInput
from params.correction import Correction
from params.method import Method
from params.mixture import MAIN
from params.schema import Params
from tasks.artefacts.tables import read_table
from tasks.core.segments import Ids, counts, known, responses_of, sampled_ids
from tasks.update.weighing import Weighed, weighed


@dataclass(frozen=True)
class Responses:
    """S responses in the order of their table: the fresh ones, then those from the replay buffer."""

    problem: list[str]
    """The problem of each."""
    sample: list[int]
    """Its position in its group."""
    task: list[str]
    """Whose problem it answers, in a mixture; else ``MAIN``."""
    prompts: list[list[int]]
    responses: list[Ids]
    """With what was given between their turns; T, and what is said of tokens, are of the sampled ones."""
    engine_logp: list[Tensor]
    """What the objective compares with: the engine's own, or of replayed responses what the anchor says."""
    sampled_logp: list[Tensor]
    """The engine's own."""
    reward: Tensor
    """[S] float32: what the judge gave."""
    group: Tensor
    """[S] int64; -1: of no group."""
    fresh: Tensor
    """[S] bool: of this round."""
    age: Tensor
    """[S] int64: rounds since it was sampled."""
    objective: Tensor
    """[S] bool: its loss, where it has one, is the objective's."""
    top: list[tuple[Tensor, Tensor]] | None
    """Ids and log-probabilities [tokens, K] of the likeliest tokens, where the rollouts keep them."""
    weigh: Callable[[Method], Weighed]
    """What a method makes of them."""
    weighed: Weighed
    """What the run's method makes of them, or that of a task."""
    aggregation: Aggregation
    entropy: list[Tensor] | None = None
    """[tokens] nats, NaN where not known; where a term asks. See ``tasks.update.annotations``."""
    boundary: list[Tensor] | None = None
    """[tokens] bool: closes a step; where a term asks."""
    chance: Tensor | None = None
    """[S] float64: a draw of its own for each; where a term asks."""
    reference_logp: list[Tensor] | None = None
    """[tokens] nats, of the base model; where a term asks."""

    @classmethod
    def read(cls, path: Path, params: Params, drawn: Drawn | None = None, round: int = 0) -> Responses:
        """From the rollout table of ``round``, and the rows that the method ``drawn`` from the buffer; a
        response whose reward is null is left out of its group.

        Raises ``BadInput`` where ``rollout.top_logprobs`` asks for tokens that the table does not hold.
        """
        table = read_table(path)
        table = table.filter(table["reward"].is_valid())
        fresh = torch.arange(len(table) + (drawn.rows.num_rows if drawn else 0)) < len(table)
        if drawn:
            table = pa.concat_tables([table, _regrouped(drawn, table.schema)])
        weigh = functools.partial(weighed, table, fresh, drawn, params)
        logp = [torch.tensor(known(x), dtype=torch.float32) for x in table["behaviour_logp"].to_pylist()]
        return cls(
            problem=table["problem_id"].to_pylist(),
            sample=table["sample"].to_pylist(),
            task=[name or MAIN for name in table["task"].to_pylist()],
            prompts=table["prompt_ids"].to_pylist(),
            responses=responses_of(table),
            engine_logp=logp,
            sampled_logp=logp,
            reward=torch.tensor(table["reward"].to_pylist(), dtype=torch.float32),
            group=torch.tensor(table["group"].to_pylist(), dtype=torch.int64),
            fresh=fresh,
            age=round - torch.tensor(table["round"].to_pylist(), dtype=torch.int64),
            objective=fresh | (drawn is not None and drawn.into == "objective"),
            top=_top_words(table, params.rollout.top_logprobs, path),
            weigh=weigh,
            weighed=weigh(params.method),
            aggregation=params.method.aggregation,
        )

    def under(self, method: Method) -> Responses:
        """The same responses as another method weighs them."""
        return replace(self, weighed=self.weigh(method), aggregation=method.aggregation)

    @property
    def advantage(self) -> Tensor:
        """[S] float32; 0 for a response of no group, unless its method gives it one."""
        return self.weighed.advantage

    def count_fresh(self) -> int:
        """How many are fresh: they come first."""
        return int(self.fresh.sum())

    def constant_groups(self) -> float:
        """The share of groups that teach nothing, as all their rewards are equal."""
        groups = self.group[self.group >= 0].unique()
        mixed = self.group[(self.group >= 0) & (self.advantage != 0)].unique()
        return 1.0 - len(mixed) / max(len(groups), 1)

    def right_groups(self) -> tuple[float, float]:
        """The shares of the fresh groups whose judged responses are all right, and all not right."""
        right = self.reward >= CORRECT
        groups, some = self.group[self.fresh].unique(), self.group[self.fresh & right].unique()
        missed = self.group[self.fresh & ~right].unique()
        count = max(len(groups), 1)
        return (len(groups) - len(missed)) / count, (len(groups) - len(some)) / count

    def batch(
        self,
        members: Sequence[int],
        max_tokens: int,
        old: list[Tensor] | None = None,
        correction: Correction | None = None,
    ) -> Batch:
        """These responses laid end to end. With ``old``, the trainer's own log-probabilities of the fresh
        ones, the objective compares with those, and a token of these weighs what ``correction`` says."""
        chosen = list(members)
        lengths = torch.tensor(counts(self.responses[i] for i in chosen))
        engine = torch.cat([self.engine_logp[i] for i in chosen])
        sequence = torch.arange(len(chosen)).repeat_interleave(lengths)
        behaviour = engine
        importance = torch.ones_like(engine)
        if old is not None and correction is not None:
            own = [old[i] if self.fresh[i] else self.engine_logp[i] for i in chosen]
            behaviour = torch.cat(own)
            weights, _ = correction_weights(behaviour, engine, sequence, correction)
            importance = torch.where(self.fresh[chosen][sequence], weights, importance)
        return Batch(
            sequence=sequence,
            behaviour_logp=behaviour,
            advantage=(
                self.advantage[chosen].repeat_interleave(lengths)
                if self.weighed.by_turn is None
                else torch.cat([self.weighed.by_turn[i] for i in chosen])
            ),
            importance=importance,
            fresh=self.fresh[chosen],
            max_tokens=max_tokens,
            counted=self.weighed.counted[chosen],
            objective=self.objective[chosen],
            age=self.age[chosen],
            reward=self.reward[chosen],
            group=self.group[chosen],
            aggregation=self.aggregation,
            top=None if self.top is None else self._top(chosen),
            entropy=_end_to_end(self.entropy, chosen),
            boundary=_end_to_end(self.boundary, chosen),
            chance=None if self.chance is None else self.chance[chosen],
            reference_logp=_end_to_end(self.reference_logp, chosen),
        )

    def _top(self, members: Sequence[int]) -> TopWords:
        assert self.top is not None
        ids = torch.cat([self.top[i][0] for i in members])
        token = torch.tensor([token for i in members for token in sampled_ids(self.responses[i])])
        return TopWords(ids, torch.cat([self.top[i][1] for i in members]), ids == token[:, None])


def _end_to_end(values: list[Tensor] | None, members: Sequence[int]) -> Tensor | None:
    return None if values is None else torch.cat([values[i] for i in members])


def _regrouped(drawn: Drawn, schema: pa.Schema) -> pa.Table:
    """The drawn rows as rollouts of the groups that they join."""
    rows = drawn.rows.select(schema.names)
    group = pa.array(drawn.group.numpy(), pa.int32())
    return rows.set_column(rows.column_names.index("group"), schema.field("group"), group).cast(schema)


def _top_words(table: pa.Table, count: int, path: Path) -> list[tuple[Tensor, Tensor]] | None:
    if not count:
        return None
    if table["top_ids"].null_count:
        raise BadInput(f"{path}: holds no likeliest tokens; expected {count} (rollout.top_logprobs)")
    return [
        (
            torch.tensor(known(ids), dtype=torch.int64).view(-1, count),
            torch.tensor(known(logp)).view(-1, count),
        )
        for ids, logp in zip(table["top_ids"].to_pylist(), table["top_logp"].to_pylist(), strict=True)
    ]
