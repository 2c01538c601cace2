"""The advantages of a round's answers beside rows that a method drew."""

from __future__ import annotations

import pyarrow as pa
import torch

from algorithms.drawing import Drawn
from params.method import Method
from params.reward import RewardChoice
from tasks.artefacts.tables import ROLLOUTS
from tasks.update.weighing import weighed
from tests.tasks.rollout_rows import parameters, rows

MIXED = ((1.0, 0.0, 1.0), (1.0, 1.0, 1.0), (0.0, 1.0, 0.0))


def test_what_has_an_advantage_of_its_own_does_not_change_that_of_others() -> None:
    """Rewards that are normalised over the batch, beside rows that join no group."""
    rewards = (RewardChoice(name="math"), RewardChoice(name="similarity", weight=0.5))
    params = parameters(method=Method(reward_aggregation="normalise_then_sum"))
    params = params.model_copy(update={"task": params.task.model_copy(update={"reward": rewards})})
    made = rows(MIXED, 2)
    held = [{**row, "group": -1} for row in rows(MIXED, 1) if row["reward"] == 1.0]
    fresh = torch.arange(len(made) + len(held)) < len(made)
    own = torch.full((len(held),), 0.25)
    drawn = Drawn(pa.table({}), torch.full((len(held),), -1), "objective", "current", own)

    def advantages(table: list[dict[str, object]], beside: Drawn | None) -> torch.Tensor:
        whole = pa.Table.from_pylist(table, schema=ROLLOUTS)
        return weighed(whole, fresh[: len(table)], beside, params, params.method).advantage

    alone, both = advantages(made, None), advantages([*made, *held], drawn)
    assert bool(alone.any())
    assert torch.equal(both[: len(made)], alone)
    assert torch.equal(both[len(made) :], own)
