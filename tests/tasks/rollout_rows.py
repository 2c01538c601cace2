"""Rollout tables for tests: small, seeded, in the real schema."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from params.base import Choice
from params.method import Method
from params.schema import Model, Params, Replay, Rollout, Update
from params.task import Task
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import ROLLOUTS, write_table
from tests.conftest import as_artefact


def parameters(
    update: Update | None = None, method: Method | None = None, replay: Replay | None = None, **model: Any
) -> Params:
    """Everything a stage reads, for a tiny model in float32."""
    return Params(
        model=Model(source="nano", **{"dtype": "float32", **model}),
        task=Task(problems=Choice(name="arithmetic")),
        rollout=Rollout(problems_per_round=4, samples_per_problem=3, max_response_tokens=8),
        update=update or Update(tokens_per_micro_batch=64, head_chunk=5, lora_rank=2, learning_rate=1e-2),
        method=method or Method(),
        replay=replay or Replay(),
    )


def rows(
    rewards: Sequence[Sequence[float | None]], round: int = 1, seed: int = 0, behaviour: float | None = None
) -> list[dict[str, Any]]:
    """A group for each list of rewards; prompts of 1 to 6 tokens, responses of 1 to 6."""
    generator = torch.Generator().manual_seed(1000 * round + seed)

    def draw(low: int, high: int, count: int = 1) -> list[int]:
        return torch.randint(low, high, (count,), generator=generator).tolist()

    made = []
    for group, given in enumerate(rewards):
        prompt = draw(4, 90, draw(1, 7)[0])
        for sample, reward in enumerate(given):
            response = draw(4, 90, draw(1, 7)[0])
            logp = (-4.5 + 0.1 * torch.randn(len(response), generator=generator)).tolist()
            made.append(
                {
                    "problem_id": f"p{group}",
                    "group": group,
                    "sample": sample,
                    "prompt_ids": prompt,
                    "response_ids": response,
                    "behaviour_logp": logp if behaviour is None else [behaviour] * len(response),
                    "finish_reason": "stop",
                    "reward": reward,
                    "reward_error": None if reward is not None else "the judge died",
                    "policy": "0" * 64,
                    "round": round,
                    "seed": group * 100 + sample,
                }
            )
    return made


def rollout_artefact(folder: Path, made: list[dict[str, Any]], round: int = 1) -> Artefact:
    """The rows as a ``rollout`` artefact in a fresh ``folder``."""
    folder.mkdir(parents=True)
    write_table(folder / "rollouts.parquet", pa.Table.from_pylist(made, schema=ROLLOUTS))
    return as_artefact(folder, "rollout", round)
