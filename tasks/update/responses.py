"""What an update learns from: responses with their rewards, laid out for the loss's terms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from algorithms.advantages import decoupled_advantage, group_advantage, overlong_penalty
from algorithms.correct import CORRECT
from algorithms.drawing import Drawn
from algorithms.mismatch import correction_weights
from algorithms.terms import Aggregation, Batch, TopWords
from params.base import BadInput
from params.correction import Correction
from params.reward import Rewards, several
from params.schema import Params
from tasks.artefacts.tables import TRUNCATED, read_table, training_reward
from tasks.core.segments import Ids, counts, known, responses_of, sampled_ids, turn_ends


@dataclass(frozen=True)
class Responses:
    """S responses in the order of their table: the fresh ones, then those from the replay buffer."""

    problem: list[str]
    """The problem of each."""
    sample: list[int]
    """Its position in its group."""
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
    advantage: Tensor
    """[S] float32; 0 for a response of no group, unless its method gives it one."""
    fresh: Tensor
    """[S] bool: of this round."""
    age: Tensor
    """[S] int64: rounds since it was sampled."""
    counted: Tensor
    """[S] bool: in the objective's denominator."""
    objective: Tensor
    """[S] bool: its loss, where it has one, is the objective's."""
    aggregation: Aggregation
    top: list[tuple[Tensor, Tensor]] | None
    """Ids and log-probabilities [tokens, K] of the likeliest tokens, where the rollouts keep them."""
    by_turn: list[Tensor] | None = None
    """[tokens] the advantage of each token's turn, with ``method.credit: turn``."""
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
        method, limit = params.method, params.rollout.max_response_tokens
        reward = torch.tensor(table["reward"].to_pylist(), dtype=torch.float32)
        responses = responses_of(table)
        shaped = torch.tensor(training_reward(table).to_pylist(), dtype=torch.float32)
        if method.overlong_tokens is not None:
            lengths = torch.tensor([len(response) for response in responses])
            shaped = shaped + overlong_penalty(lengths, limit, method.overlong_tokens)
        group = torch.tensor(table["group"].to_pylist(), dtype=torch.int64)
        joint = fresh | (drawn is not None and drawn.into != "aside")
        advantage = torch.zeros_like(shaped)
        if method.reward_aggregation == "normalise_then_sum":
            each, weights = _components(table, shaped, params.task.reward)
            advantage[joint] = decoupled_advantage(each[joint], weights, group[joint])
        else:
            advantage[joint] = group_advantage(shaped[joint], group[joint], method.scale_by_std)
        if drawn and drawn.advantage is not None:
            advantage[~fresh] = drawn.advantage
        by_turn = None
        if method.credit == "turn":
            own = fresh if drawn and drawn.advantage is not None else joint
            turns = table["turn_rewards"].to_pylist()
            by_turn = _by_turn(responses, turns, shaped, group, own, advantage, method.scale_by_std)
        stopped = [reason not in TRUNCATED for reason in table["finish_reason"].to_pylist()]
        whole = torch.tensor(stopped, dtype=torch.bool)
        logp = [torch.tensor(known(x), dtype=torch.float32) for x in table["behaviour_logp"].to_pylist()]
        return cls(
            problem=table["problem_id"].to_pylist(),
            sample=table["sample"].to_pylist(),
            prompts=table["prompt_ids"].to_pylist(),
            responses=responses,
            engine_logp=logp,
            sampled_logp=logp,
            reward=reward,
            group=group,
            advantage=advantage,
            fresh=fresh,
            age=round - torch.tensor(table["round"].to_pylist(), dtype=torch.int64),
            counted=joint & whole if method.drop_truncated else joint,
            objective=fresh | (drawn is not None and drawn.into == "objective"),
            aggregation=method.aggregation,
            top=_top_words(table, params.rollout.top_logprobs, path),
            by_turn=by_turn,
        )

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
                if self.by_turn is None
                else torch.cat([self.by_turn[i] for i in chosen])
            ),
            importance=importance,
            fresh=self.fresh[chosen],
            max_tokens=max_tokens,
            counted=self.counted[chosen],
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


def _by_turn(
    responses: Sequence[Ids],
    rewards: Sequence[Sequence[float | None] | None],
    total: Tensor,
    group: Tensor,
    own: Tensor,
    advantage: Tensor,
    scale_by_std: bool,
) -> list[Tensor]:
    """Of each response [tokens]: the advantage of the token's turn among all turns of the group's responses
    that are ``own`` [S], by the reward from that turn on; of the others their ``advantage`` [S].

    What ``total`` [S] has beyond the turns' rewards comes with the last turn.
    """
    turn = [torch.tensor([0, *itertools.accumulate(turn_ends(each)[:-1])]) for each in responses]
    before = [
        torch.tensor([0.0, *itertools.accumulate(value or 0.0 for value in (given or [None])[:-1])])
        for given in rewards
    ]
    found = [advantage[i].repeat(len(places)) for i, places in enumerate(turn)]
    mine = own.nonzero().squeeze(1).tolist()
    if mine:
        left = [total[i] - before[i][: int(turn[i][-1]) + 1] for i in mine]
        lengths = [len(values) for values in left]
        groups = torch.cat([group[i].repeat(count) for i, count in zip(mine, lengths, strict=True)])
        made = group_advantage(torch.cat(left), groups, scale_by_std)
        for i, values in zip(mine, made.split(lengths), strict=True):
            found[i] = values[turn[i]]
    return found


def _components(table: pa.Table, shaped: Tensor, rewards: Rewards) -> tuple[Tensor, Tensor]:
    """What each reward said [S, K], NaN where it does not apply, and their weights [K]. A row with one reward
    alone, such as a demonstration, has the first. What the sum has beyond them (DAPO's overlong punishment)
    is one more, of weight 1."""
    choices = several(rewards)
    weights = [choice.weight for choice in choices]
    alone = [{choices[0].called: reward} for reward in table["reward"].to_pylist()]
    told = [dict(row) if row else one for row, one in zip(table["rewards"].to_pylist(), alone, strict=True)]
    said = [[math.nan if (x := row.get(c.called)) is None else x for c in choices] for row in told]
    each = torch.tensor(said, dtype=torch.float64)
    beyond = shaped.double() - torch.tensor(training_reward(table).to_pylist(), dtype=torch.float64)
    if bool(beyond.any()):
        each, weights = torch.cat([each, beyond[:, None]], dim=1), [*weights, 1.0]
    return each, torch.tensor(weights, dtype=torch.float64)


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
