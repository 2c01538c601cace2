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

from flows.environment import workspace
from params.base import BadInput, nearest
from params.layers import merge
from params.load import read_setting
from params.reward import RewardChoice, Rewards, read_rewards, several
from tasks.artefacts.store import Store
from tasks.artefacts.tables import write_table
from tasks.core.seeds import numpy_generator
from tasks.problems.row_files import cell_text, rows_of
from tasks.problems.rows import columns_text
from tasks.rewards.base import Answer, Group, Verdict
from tasks.rewards.contract import find_reward
from tasks.rewards.judge import Judge
from tasks.rewards.kept import KeptVerdicts
from tasks.rewards.problems import check_columns
from tasks.stats.intervals import mean_interval

_COLUMNS = ("question", "gold", "answer")
_LISTED = "databases.json"
EXPLAINED = 160
"""Characters of a text that are shown."""


@dataclass(frozen=True)
class JudgeOptions:
    """What a person wants judged, and how."""

    file: Path
    rewards: Sequence[str] = ("math",)
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
    rewards = _rewards(asked)
    compares = any(find_reward(each.name, "--reward").judge for each in several(rewards))
    rows = _rows(asked.file, compares)
    groups, places = _groups(rows)
    check_columns(rewards, groups)
    root = None if asked.databases is None else _root(asked.databases, scratch)
    dear = any(find_reward(each.name, "--reward").content_keys for each in several(rewards))
    kept = KeptVerdicts(Store(workspace())) if dear else None
    with (
        closing(Judge(rewards, asked.workers, root, kept)) as judge,
        Progress(disable=as_json, transient=True) as progress,
    ):
        bar = progress.add_task("judging", total=len(rows))
        tell = partial(progress.update, bar)
        found = judge.judge_groups(groups, lambda done: tell(completed=done), asked.explain)
    told = dict(zip(places, (one for verdicts in found for one in verdicts), strict=True))
    verdicts = [told[place] for place in range(len(rows))]
    if asked.explain:
        _explain([(row["gold"], row["answer"]) for row in rows], verdicts, as_json)
    if asked.out is not None:
        _write(asked.out, rows, verdicts)
    said = summary(verdicts)
    print(json.dumps(said) if as_json else _said(said))
    return said


def _rewards(asked: JudgeOptions) -> Rewards:
    """The rewards that a person names, with their options: of several, each option under its name."""
    chosen: list[dict[str, Any]] = [{"name": name} for name in asked.rewards]
    alone = len(chosen) == 1
    called = {RewardChoice(name=name).called: place for place, name in enumerate(asked.rewards)}
    for text in asked.settings:
        setting = read_setting(text)
        setting = setting.get("task", setting)  # where a reward is called reward, which is short for task's
        for name, options in setting.items() if not alone else [(next(iter(called)), setting)]:
            if name not in called or not isinstance(options, dict):
                raise BadInput(f"--set {text}: expected REWARD.OPTION=VALUE{nearest(name, called)}")
            chosen[called[name]] = merge(chosen[called[name]], options)
    try:
        found: Rewards = read_rewards(chosen[0] if alone else chosen)
    except ValueError as error:
        raise BadInput(str(error).replace("task.reward", "--reward")) from None
    return found


def _groups(rows: Sequence[dict[str, Any]]) -> tuple[list[Group], list[int]]:
    """The answers to one question together, where rows have one, and the row of each answer in turn."""
    places: dict[tuple[str, ...], list[int]] = {}
    for place, row in enumerate(rows):
        key = (row["question"], row["gold"]) if "question" in row else (str(place),)
        places.setdefault(key, []).append(place)
    groups = []
    for each in places.values():
        first = rows[each[0]]
        answers = tuple(Answer(rows[place]["answer"]) for place in each)
        asked = first.get("question", "")
        columns = {name: value for name, value in first["columns"].items() if name != "answer"}
        groups.append(Group(first["gold"], answers, asked, asked, columns=columns))
    return groups, [place for each in places.values() for place in each]


def _explain(pairs: Sequence[tuple[str, str]], verdicts: Sequence[Verdict], as_json: bool) -> None:
    for number, ((gold, answer), verdict) in enumerate(zip(pairs, verdicts, strict=True), start=1):
        said = {"gold": gold, **(verdict.explained or {"answer": answer[-EXPLAINED:]})}
        said |= {name: str(value) for name, value in (verdict.notes or {}).items()}
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
        **_parts(verdicts),
    }


def _parts(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Of several rewards the mean of each over the answers that it applies to, and of their weighted sum."""
    told = [verdict.parts for verdict in verdicts if verdict.parts is not None]
    if not told:
        return {}
    values = {name: [value for parts in told if (value := parts[name]) is not None] for name in told[0]}
    totals = [verdict.total for verdict in verdicts if verdict.total is not None]
    means = {name: float(np.mean(found)) if found else None for name, found in values.items()}
    return {"rewards": means, "total": float(np.mean(totals)) if totals else None}


def _said(found: dict[str, Any]) -> str:
    if found["accuracy"] is None:
        lines = [f"{found['rows']} answers, none of which could be judged"]
    else:
        value, low, high = (100 * found[key] for key in ("accuracy", "low", "high"))
        of = f"{found['judged']} of {found['rows']} answers"
        lines = [f"accuracy {value:.1f} % [{low:.1f}, {high:.1f}] over {of}"]
    for name, mean in found.get("rewards", {}).items():
        lines.append(f"{name}: {'never applies' if mean is None else f'{mean:.4g} on average'}")
    if found.get("total") is not None:
        lines.append(f"weighted sum: {found['total']:.4g} on average")
    for title, key in (("not judged, and left out", "failed"), ("scored 0", "errors")):
        if found[key]:
            lines.append(f"{title}:")
            lines += [f"  {count:6d}  {reason}" for reason, count in found[key].items()]
    return "\n".join(lines)


def _rows(path: Path, compares: bool) -> list[dict[str, Any]]:
    """``gold`` and ``answer`` of every row as text, ``question`` where there is one, and all of the row as
    ``columns``. A row needs no right answer where no reward ``compares`` with it. Raises ``BadInput``."""
    found = []
    for place, given in rows_of(path, "judge"):
        if not isinstance(given, dict):
            raise BadInput(f"{place}: expected an object with 'gold' and 'answer'")
        row = given
        if isinstance(row.get("gold"), dict):  # the right answer of a query, as it is meant
            row = {**row, "gold": json.dumps(row["gold"], sort_keys=True, ensure_ascii=False)}
        if not compares and row.get("gold") is None:
            row = {**row, "gold": ""}
        for column in ("gold", "answer"):
            if column not in row:
                raise BadInput(f"{place}: no '{column}'{nearest(column, map(str, row))}")
        texts = [c for c in _COLUMNS if row.get(c) is not None or c != "question"]
        # a model's answer may be any text, and stands as it is
        said = {c: v if isinstance(v := row[c], str) else cell_text(v, c, place) for c in texts}
        found.append({**said, "columns": json.loads(columns_text(given))})
    if not found:
        raise BadInput(f"{path}: no rows; expected answers")
    return found


def _write(path: Path, rows: list[dict[str, Any]], verdicts: Sequence[Verdict]) -> None:
    """The rows with ``reward`` and ``reward_error``, and each of several rewards and their weighted sum as
    ``reward_NAME`` and ``total``; whole or not at all."""
    names = list(verdicts[0].parts or ())
    scored: list[dict[str, Any]] = [
        {name: row.get(name) for name in _COLUMNS}
        | {"reward": verdict.reward, "reward_error": verdict.error}
        | {f"reward_{name}": (verdict.parts or {}).get(name) for name in names}
        | ({"total": verdict.total} if names else {})
        for row, verdict in zip(rows, verdicts, strict=True)
    ]
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    if path.suffix == ".jsonl":
        aside.write_text("".join(json.dumps(row) + "\n" for row in scored))
    else:
        texts = [(name, pa.string()) for name in _COLUMNS]
        more = [(f"reward_{name}", pa.float64()) for name in names] + [("total", pa.float64())] * bool(names)
        schema = pa.schema([*texts, ("reward", pa.float64()), ("reward_error", pa.string()), *more])
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
