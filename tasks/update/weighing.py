"""What a method makes of judged responses: the advantage of each, and which count in the denominator."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from algorithms.advantages import decoupled_advantage, group_advantage, overlong_penalty
from algorithms.drawing import Drawn
from params.method import Method
from params.mixture import MAIN
from params.reward import Rewards, several
from params.schema import Params
from tasks.artefacts.tables import TRUNCATED, training_reward
from tasks.core.segments import Ids, responses_of, turn_ends


@dataclass(frozen=True)
class Weighed:
    """Of S responses."""

    advantage: Tensor
    """[S] float32; 0 for a response of no group, unless its method gives it one."""
    by_turn: list[Tensor] | None
    """[tokens] the advantage of each token's turn, with ``method.credit: turn``."""
    counted: Tensor
    """[S] bool: in the objective's denominator."""


def weighed(table: pa.Table, fresh: Tensor, drawn: Drawn | None, params: Params, method: Method) -> Weighed:
    """Rollouts, the first of them ``fresh`` [S] bool and then those ``drawn``, as a method of this run weighs
    them; each has the longest response of its task."""
    responses = responses_of(table)
    shaped = torch.tensor(training_reward(table).to_pylist(), dtype=torch.float32)
    if method.overlong_tokens is not None:
        lengths = torch.tensor([len(response) for response in responses])
        limits = torch.tensor([params.limits[name or MAIN] for name in table["task"].to_pylist()])
        shaped = shaped + overlong_penalty(lengths, limits, method.overlong_tokens)
    group = torch.tensor(table["group"].to_pylist(), dtype=torch.int64)
    joint = fresh | (drawn is not None and drawn.into != "aside")
    own = fresh if drawn and drawn.advantage is not None else joint
    advantage = torch.zeros_like(shaped)
    if method.reward_aggregation == "normalise_then_sum":
        each, weights = _components(table, shaped, params.task.reward)
        advantage[own] = decoupled_advantage(each[own], weights, group[own])
    else:
        advantage[own] = group_advantage(shaped[own], group[own], method.scale_by_std, method.virtual_reward)
    if drawn and drawn.advantage is not None:
        advantage[~fresh] = drawn.advantage
    by_turn = None
    if method.credit == "turn":
        turns = table["turn_rewards"].to_pylist()
        by_turn = _by_turn(responses, turns, shaped, group, own, advantage, method.scale_by_std)
    stopped = [reason not in TRUNCATED for reason in table["finish_reason"].to_pylist()]
    whole = torch.tensor(stopped, dtype=torch.bool)
    return Weighed(advantage, by_turn, joint & whole if method.drop_truncated else joint)


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
