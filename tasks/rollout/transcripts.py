"""Episodes as people read them, and as other programs do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from tasks.core.segments import known

FIELDS = ("problem_id", "sample", "round", "finish_reason", "reward", "reward_error", "turn_rewards", "seed")


def transcript(trace: str) -> str:
    """What was said after the prompt: the model's words as they are, what was given with ``> `` before it."""
    messages = json.loads(trace)
    first = next((i for i, each in enumerate(messages) if each.get("sampled")), len(messages))
    return "\n".join(_shown(each) for each in messages[first:])


def _shown(message: dict[str, Any]) -> str:
    text = str(message["content"])
    if message["role"] == "assistant":
        return text
    return "\n".join(f"> {line}" for line in text.splitlines())


def as_records(rollouts: pa.Table) -> Iterator[dict[str, Any]]:
    """Each row of a table as a mapping that JSON takes: ``messages``, and of every token behind the prompt
    its id, whether it was sampled (``loss_mask``, 1 or 0) and its log-probability (null: given). The model's
    own messages are marked ``sampled``."""
    for row in rollouts.to_pylist():
        ids = row["response_ids"]
        mask = row["sampled"] or [True] * len(ids)
        yield {
            **{name: row[name] for name in FIELDS},
            "messages": json.loads(row["trace"]) if row["trace"] else None,
            "prompt_ids": row["prompt_ids"],
            "completion_ids": ids,
            "loss_mask": [int(own) for own in mask],
            "logprobs": row["behaviour_logp"],
        }


def headline(row: dict[str, Any]) -> str:
    """What became of an episode, in a line."""
    turns = len(row["turn_rewards"] or [None])
    reward = "no reward" if row["reward"] is None else f"reward {row['reward']:g}"
    error = f" ({row['reward_error']})" if row["reward_error"] else ""
    sampled, tokens = len(known(row["behaviour_logp"])), len(row["response_ids"])
    return (
        f"{row['problem_id']}, sample {row['sample']}: {_count(turns, 'turn')}, {row['finish_reason']}, "
        f"{reward}{error}, {sampled} of {tokens} tokens sampled"
    )


def _count(number: int, what: str) -> str:
    """``1 turn``, ``2 turns``."""
    return f"{number} {what}{'' if number == 1 else 's'}"
