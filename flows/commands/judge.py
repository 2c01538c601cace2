"""``ostinato judge FILE``: an existing file of answers, scored as the answers of a run are."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from rich.progress import Progress

from params.base import BadInput, Choice, nearest
from params.load import merge, read_setting
from tasks.artefacts.tables import write_table
from tasks.core.seeds import numpy_generator
from tasks.problems.row_files import cell_text, rows_of
from tasks.rewards.base import Verdict
from tasks.rewards.judge import Judge
from tasks.stats.intervals import mean_interval

_COLUMNS = ("question", "gold", "answer")
_LISTED = "databases.json"
EXPLAINED = 160
"""Characters of a text that are shown."""


@dataclass(frozen=True)
class JudgeOptions:
    """What a person wants judged, and how."""

    file: Path
    reward: str = "math"
    databases: Path | None = None
    """A directory with ``databases.json``, or one of SQLite files: ``ID.sqlite`` or ``ID/ID.sqlite``."""
    settings: Sequence[str] = ()
    """Options of the reward: ``timeout_seconds=2``."""
    out: Path | None = None
    workers: int = 2
    explain: bool = False
    """Show each verdict with what it stands on."""


def judge_file(asked: JudgeOptions, as_json: bool, scratch: Path) -> dict[str, Any]:
    """Score every row, print what came of it, and write the scores where they are wanted.

    Raises ``BadInput`` for what was asked wrongly, ``JudgeFailure`` where the judge cannot start.
    """
    if asked.out is not None and asked.out.suffix not in (".jsonl", ".csv", ".parquet"):
        raise BadInput(f"--out {asked.out}: expected a file that ends in .jsonl, .csv or .parquet")
    if asked.out is not None and not asked.out.absolute().parent.is_dir():
        raise BadInput(f"--out {asked.out}: no such directory")
    rows = _rows(asked.file)
    choice: dict[str, Any] = {"name": asked.reward}
    for text in asked.settings:
        choice = merge(choice, read_setting(text))
    root = None if asked.databases is None else _root(asked.databases, scratch)
    with (
        closing(Judge(Choice.model_validate(choice), asked.workers, root)) as judge,
        Progress(disable=as_json, transient=True) as progress,
    ):
        bar = progress.add_task("judging", total=len(rows))
        pairs = [(row["gold"], row["answer"]) for row in rows]
        tell = partial(progress.update, bar)
        verdicts = judge.judge(pairs, lambda done: tell(completed=done), asked.explain)
    if asked.explain:
        _explain(pairs, verdicts, as_json)
    if asked.out is not None:
        _write(asked.out, rows, verdicts)
    found = summary(verdicts)
    print(json.dumps(found) if as_json else _said(found))
    return found


def _explain(pairs: Sequence[tuple[str, str]], verdicts: Sequence[Verdict], as_json: bool) -> None:
    for number, ((gold, answer), verdict) in enumerate(zip(pairs, verdicts, strict=True), start=1):
        said = {"gold": gold, **(verdict.explained or {"answer": answer[-EXPLAINED:]})}
        if as_json:
            told = {"reward": verdict.reward, "error": verdict.error}
            print(json.dumps({"event": "verdict", "row": number, **said, **told}))
            continue
        print(f"row {number}: {verdict.reward}{f', {verdict.error}' if verdict.error else ''}")
        for name, text in said.items():
            print(f"  {name:14} {' '.join(text.split())[:EXPLAINED]}")


def summary(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The mean reward of what has one, its 95 % interval over the rows, and how often each reason came."""
    rewards = np.array([v.reward for v in verdicts if v.reward is not None], dtype=np.float64)
    interval = mean_interval(rewards, 0.95, 2000, numpy_generator(0, "judge", 0))
    reasons = Counter((v.reward is None, v.error) for v in verdicts if v.error is not None)
    return {
        "rows": len(verdicts),
        "judged": len(rewards),
        "accuracy": interval.value,
        "low": interval.low,
        "high": interval.high,
        "failed": {reason: n for (failed, reason), n in reasons.most_common() if failed},
        "errors": {reason: n for (failed, reason), n in reasons.most_common() if not failed},
    }


def _said(found: dict[str, Any]) -> str:
    if found["accuracy"] is None:
        lines = [f"{found['rows']} answers, none of which could be judged"]
    else:
        value, low, high = (100 * found[key] for key in ("accuracy", "low", "high"))
        of = f"{found['judged']} of {found['rows']} answers"
        lines = [f"accuracy {value:.1f} % [{low:.1f}, {high:.1f}] over {of}"]
    for title, key in (("not judged, and left out", "failed"), ("scored 0", "errors")):
        if found[key]:
            lines.append(f"{title}:")
            lines += [f"  {count:6d}  {reason}" for reason, count in found[key].items()]
    return "\n".join(lines)


def _rows(path: Path) -> list[dict[str, str]]:
    """``gold`` and ``answer`` of every row as text, ``question`` where there is one. Raises ``BadInput``."""
    found = []
    for place, given in rows_of(path, "judge"):
        if not isinstance(given, dict):
            raise BadInput(f"{place}: expected an object with 'gold' and 'answer'")
        row = given
        if isinstance(row.get("gold"), dict):  # the right answer of a query, as it is meant
            row = {**row, "gold": json.dumps(row["gold"], sort_keys=True, ensure_ascii=False)}
        for column in ("gold", "answer"):
            if column not in row:
                raise BadInput(f"{place}: no '{column}'{nearest(column, map(str, row))}")
        texts = [c for c in _COLUMNS if row.get(c) is not None or c != "question"]
        # a model's answer may be any text, and stands as it is
        found.append({c: v if isinstance(v := row[c], str) else cell_text(v, c, place) for c in texts})
    if not found:
        raise BadInput(f"{path}: no rows; expected answers")
    return found


def _write(path: Path, rows: list[dict[str, str]], verdicts: Sequence[Verdict]) -> None:
    """The rows with ``reward`` and ``reward_error``, whole or not at all."""
    scored: list[dict[str, Any]] = [
        {name: row.get(name) for name in _COLUMNS} | {"reward": verdict.reward, "reward_error": verdict.error}
        for row, verdict in zip(rows, verdicts, strict=True)
    ]
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    if path.suffix == ".jsonl":
        aside.write_text("".join(json.dumps(row) + "\n" for row in scored))
    else:
        texts = [(name, pa.string()) for name in _COLUMNS]
        schema = pa.schema([*texts, ("reward", pa.float64()), ("reward_error", pa.string())])
        encoded = [{name: _utf8(value) for name, value in row.items()} for row in scored]
        table = pa.Table.from_pylist(encoded, schema)
        write_table(aside, table) if path.suffix == ".parquet" else pyarrow.csv.write_csv(table, aside)
    os.replace(aside, path)


def _utf8(value: Any) -> Any:
    """Texts as Arrow takes them."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _root(folder: Path, scratch: Path) -> Path:
    """A directory with a list of the databases: ``folder`` itself, or one made for the files in it."""
    if (folder / _LISTED).is_file():
        return folder
    files = [*folder.glob("*.sqlite"), *folder.glob("*/*.sqlite")] if folder.is_dir() else []
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(files):
        if path.parent in (folder, folder / path.stem):
            with path.open("rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
            found[path.stem] = {"path": str(path.resolve()), "sha256": digest, "bytes": path.stat().st_size}
    if not found:
        raise BadInput(
            f"--databases {folder}: expected a directory with {_LISTED}, ID.sqlite or ID/ID.sqlite files"
        )
    (scratch / _LISTED).write_text(json.dumps(found))
    return scratch
