"""The method: from rewards to a loss. In a mixture a task may change a part of the run's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import FiniteFloat, PositiveInt, model_validator

from params.base import BadInput, Choice, Config, validate
from params.correction import Correction
from params.layers import merge


class Method(Config):
    """An advantage rule, an objective, an aggregation and auxiliary terms."""

    scale_by_std: bool = True
    """Divide a group's centred rewards by their (population) standard deviation."""
    virtual_reward: FiniteFloat | None = None
    """The reward of one more answer that counts in each group's mean and deviation: of the best one possible,
    a group that is all wrong is pushed down (NGRPO); null: none."""
    reward_aggregation: Literal["sum_then_normalise", "normalise_then_sum"] = "sum_then_normalise"
    """How several rewards become one advantage: of their weighted sum; or each normalised within its group,
    then summed by weight and divided by the batch's standard deviation (GDPO)."""
    credit: Literal["episode", "turn"] = "episode"
    """Of several turns: every token has its episode's advantage; or that of its turn, by the reward from that
    turn on, normalised over all turns of a group (ours)."""
    objective: Choice = Choice(name="grpo")
    """A module of ``algorithms`` with a ``token_loss``, and its options."""
    aggregation: Literal["token_mean", "sequence_mean", "constant"] = "token_mean"
    """Mean over tokens; over responses of their token means; or sum over (responses × max tokens)."""
    terms: tuple[Choice, ...] = ()
    """Auxiliary terms: modules of ``algorithms`` with a ``term``, and their options."""
    correction: Correction | None = None
    """Weights against the mismatch of engine and trainer; null: none. The mismatch is told in any case."""
    overlong_tokens: PositiveInt | None = None
    """Last tokens before the limit over which the reward falls by up to 1 (DAPO's soft overlong punishment);
    null: no such penalty."""
    drop_truncated: bool = False
    """Leave responses that hit the limit out of the loss and its denominator (DAPO's overlong filtering)."""
    replay: Choice | None = None
    """How earlier responses join an update: a module of ``algorithms`` with a ``draw``, and its options."""

    @model_validator(mode="after")
    def _normalises(self) -> Method:
        if self.reward_aggregation == "normalise_then_sum" and not self.scale_by_std:
            raise ValueError(
                "method.scale_by_std: false, but reward_aggregation: normalise_then_sum divides by it; "
                "expected true"
            )
        if self.credit == "turn" and self.reward_aggregation == "normalise_then_sum":
            raise ValueError("method.credit: turn; expected reward_aggregation: sum_then_normalise with it")
        if self.virtual_reward is not None and (
            self.credit == "turn" or self.reward_aggregation == "normalise_then_sum"
        ):
            raise ValueError(
                "method.virtual_reward: an answer's; expected credit: episode and reward_aggregation: "
                "sum_then_normalise with it"
            )
        return self


OF_THE_RUN = ("replay", "reward_aggregation")
"""What no task of a mixture has of its own."""


def changed_method(method: Method, change: Mapping[str, Any], where: str) -> Method:
    """The run's method with a task's changes, which stand at ``where``. Raises ``BadInput``."""
    for key in OF_THE_RUN:
        if key in change:
            raise BadInput(f"{where}.{key}: of the whole run alone; expected it in method")
    if not change:
        return method
    if method.replay:
        raise BadInput(
            f"{where}: method.replay learns from all tasks at once; expected null there, or no {where}"
        )
    try:
        return validate(Method, merge(method.model_dump(mode="json"), change), where)
    except BadInput as error:
        raise BadInput(re.sub(r"(?<![\w.])method\.", f"{where}.", str(error))) from None
