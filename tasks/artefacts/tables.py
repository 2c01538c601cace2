"""The tables that stages hand to each other, as Arrow schemas, and how they are read and written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

PROBLEMS = pa.schema(
    [
        pa.field("problem_id", pa.string(), nullable=False),  # unique over train and held-out
        pa.field("question", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),  # the gold answer, as the judge reads it
        pa.field("level", pa.int32(), nullable=False),
        pa.field("source", pa.string(), nullable=False),  # generator or file that it came from
        pa.field("columns", pa.string()),  # the whole row in its source, as a JSON object; null: it had none
        pa.field("demonstrations", pa.list_(pa.string())),  # right answers worked out; null or empty: none
    ]
)

ASKED = pa.schema([*PROBLEMS, pa.field("hint", pa.list_(pa.int32()))])
"""Problems as a rollout asks them: with the beginning of an answer, in tokens, where a method gives one."""

ROLLOUTS = pa.schema(
    [
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("group", pa.int32(), nullable=False),  # position of the problem in this round's batch
        pa.field("sample", pa.int32(), nullable=False),  # position of the response in its group
        pa.field("prompt_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("hint_tokens", pa.int32()),  # last tokens of the prompt that begin the answer; null: none
        pa.field("response_ids", pa.list_(pa.int32()), nullable=False),  # with its end token, if it has one
        # Of several turns: which of the ids were sampled, the others being given (what a tool or user says);
        # null: all of them. Whatever else is said of tokens is null at a given one.
        pa.field("sampled", pa.list_(pa.bool_())),
        pa.field("behaviour_logp", pa.list_(pa.float32()), nullable=False),  # the engine's own, in nats
        # stop | length; of several turns also turn_length | turns | time | environment
        pa.field("finish_reason", pa.string(), nullable=False),
        # Up to the end of its thinking, null where it does none; the judge reads what follows.
        pa.field("thinking_tokens", pa.int32()),
        pa.field("reward", pa.float32()),  # null where the judge failed; of several, the first that applies
        pa.field("reward_error", pa.string()),  # why there is no reward, or why the answer could not be read
        pa.field("policy", pa.string(), nullable=False),  # content digest of what sampled it
        pa.field("round", pa.int32(), nullable=False),
        pa.field("task", pa.string()),  # whose problem it answers, in a mixture of several; else null
        pa.field("seed", pa.int64(), nullable=False),
        # The engine's likeliest tokens at each position, end to end: K for each; null where none are kept.
        pa.field("top_ids", pa.list_(pa.int32())),
        pa.field("top_logp", pa.list_(pa.float32())),
        # The engine's entropy at each position, in nats, over the whole vocabulary; null where not kept.
        pa.field("entropy", pa.list_(pa.float32())),
        # Of several rewards: their weighted sum, each by its name (null: it does not apply, or failed), and
        # what else they say, as a JSON object by REWARD.NAME; null where there is one that says no more.
        pa.field("total", pa.float32()),
        pa.field("rewards", pa.map_(pa.string(), pa.float32())),
        pa.field("notes", pa.string()),
        # Of several turns: what the environment gave for each, null where it gave nothing; and what was said,
        # as a JSON list of messages with role and content. Null where there is one turn.
        pa.field("turn_rewards", pa.list_(pa.float32())),
        pa.field("trace", pa.string()),
    ]
)

TRUNCATED = ("length", "turn_length", "turns", "time")
"""Reasons for an end that is a limit's: of all tokens, of a turn's, of turns, of the environment's time."""

REPLAY = pa.schema(
    [
        *ROLLOUTS,
        pa.field("group_accuracy", pa.float32(), nullable=False),  # mean reward of the group at birth
        pa.field("admitted_as", pa.string(), nullable=False),  # the admission rule that let it in
    ]
)


SPANS = pa.schema(
    [
        pa.field("term", pa.string(), nullable=False),  # the auxiliary term that learns from the span
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("group", pa.int32(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("start", pa.int32(), nullable=False),  # tokens [start, stop) of the response
        pa.field("stop", pa.int32(), nullable=False),
        pa.field("step_start", pa.int32(), nullable=False),  # the step that was chosen
        pa.field("step_stop", pa.int32(), nullable=False),
        pa.field("entropy", pa.float32(), nullable=False),  # its mean, in nats
        pa.field("selection", pa.string(), nullable=False),  # the rule by which it was chosen
        pa.field("tokens", pa.int32(), nullable=False),  # of the whole response
        pa.field("before", pa.string(), nullable=False),  # text of the span up to the step, the step,
        pa.field("step", pa.string(), nullable=False),
        pa.field("after", pa.string(), nullable=False),  # the span after it,
        pa.field("beyond", pa.string(), nullable=False),  # and the response after the span
    ]
)


def write_table(path: Path, table: pa.Table) -> None:
    """Write Parquet whose bytes depend on the rows alone."""
    pq.write_table(table.replace_schema_metadata(None), path, compression="zstd")


@contextlib.contextmanager
def table_writer(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """As ``write_table``, part by part."""
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        yield lambda part: file.write_table(part.replace_schema_metadata(None).cast(schema))


def training_reward(answers: pa.Table) -> pa.ChunkedArray:
    """What advantages are computed from: the weighted sum of several rewards, or the one there is."""
    return pc.coalesce(answers["total"], answers["reward"])


def sampled_lengths(answers: pa.Table) -> pa.ChunkedArray:
    """How many tokens of each response were sampled, int32."""
    lengths, mask = pc.list_value_length(answers["response_ids"]), answers["sampled"]
    if mask.null_count == len(mask):
        return lengths
    given = [each.count(False) if each else 0 for each in mask.to_pylist()]
    return pc.subtract(lengths, pa.array(given, pa.int32()))


def truncated(answers: pa.Table) -> float:
    """The share of responses that ended at a limit."""
    return float(pc.mean(pc.is_in(answers["finish_reason"], pa.array(TRUNCATED))).as_py())


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one Parquet file, or some columns of it."""
    return pq.ParquetFile(path).read(columns)


def plain_columns(path: Path) -> list[str]:
    """The columns of a Parquet file that hold no lists, such as tokens."""
    return [column.name for column in pq.read_schema(path) if not pa.types.is_list(column.type)]
