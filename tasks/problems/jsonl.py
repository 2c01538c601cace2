"""Questions and answers that somebody collected: a local file, or a data set on the Hugging Face hub."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

import params.base
from params.base import BadInput, nearest
from params.task import Task
from tasks.artefacts.artefact import write_json
from tasks.core import seeds
from tasks.problems.contract import normalised
from tasks.problems.final_answers import Unclear, final_answer, number_in
from tasks.problems.row_files import Row, cell_text, cell_texts, rows_of
from tasks.problems.rows import columns_text, digest, table
from tasks.rewards.golds import bad_golds


class Config(params.base.Config):
    """Where the rows are and what their columns are called."""

    path: str | None = None
    """A local ``.jsonl``, ``.json`` (a list of objects), ``.csv`` or ``.parquet``; it takes the place of
    ``dataset``."""
    held_out_path: str | None = None
    """The held-out problems' file; null: they are drawn from ``path``."""
    dataset: str | None = None
    """A data set on the hub; read where there is no ``path``."""
    subset: str | None = None
    """Its configuration (``main`` of ``openai/gsm8k``); null: the only one."""
    revision: str | None = None
    """Commit or tag of the data set; null: the newest."""
    split: str = "train"
    """Its split to train on."""
    held_out_split: str | None = None
    """Its split to hold out; null: the held-out problems are drawn from ``split``."""
    question: str | Annotated[tuple[str, ...], Field(min_length=1)] = "question"
    """Column of the question, or several whose texts follow each other. Of a list of messages, the one
    message of the user counts."""
    answer: str | None = "answer"
    """Column of the right answer, or of a solution that ends in it; ``reward_model.ground_truth``: a key
    inside a column. Null: there is none, for rewards that need none."""
    answer_marker: str = "####"
    r"""Where an answer holds it, only what follows the last one counts, as in GSM8K's ``#### 42``; where it
    does not, the content of the last ``\boxed{...}``, if there is one."""
    last_number: bool = False
    """Where an answer holds neither, its last number counts, and not its whole text."""
    conflicts: Literal["error", "first"] = "error"
    """What becomes of a question that stands there with two answers. ``first``: the first one counts."""
    on_bad_gold: Literal["error", "drop"] = "error"
    """What becomes of a row whose answer is none, or that the judge does not take for right itself. ``drop``:
    it is left out, and counted in ``left_out.json``."""
    solution: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Column of the demonstrations of a problem, or several: each cell a text, a list of texts or nothing.
    null: ``solution``, where the rows have it. They are no part of a prompt, nor of what the judge reads."""
    demonstration: str = "{solution}"
    r"""What a policy is shown of one; ``{solution}`` stands for its text, up to ``answer_marker`` where it
    holds that, and ``{answer}`` for the right answer: ``{solution}\n\boxed{{answer}}``."""
    answer_units: bool = False
    """Leave out a unit in parentheses behind a number, as in ASDiv's ``9 (apples)``."""
    level: str | None = None
    """Column of the level (``3`` or ``Level 3``; 0 where it holds no number); null: all are of level 1."""
    levels: tuple[int, ...] | None = None
    """Only problems of these levels; null: all."""
    at_most: bool = False
    """Take ``task.train_count`` and ``held_out_count`` as limits: of fewer questions, both sets get their
    share. Otherwise fewer questions are an error."""

    @model_validator(mode="after")
    def _one_source(self) -> Config:
        if self.path is None and self.dataset is None:
            raise ValueError("task.problems: expected a path or a dataset")
        if self.path is None and self.held_out_path is not None:
            raise ValueError("task.problems.held_out_path goes with path; expected held_out_split")
        if self.levels is not None and self.level is None:
            raise ValueError("task.problems.levels needs the column of the level in task.problems.level")
        if "{solution}" not in self.demonstration:
            raise ValueError("task.problems.demonstration must hold {solution}")
        return self

    @property
    def where(self) -> str:
        """What is read, for messages."""
        return str(self.path or self.dataset)

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of the question."""
        return (self.question,) if isinstance(self.question, str) else self.question


CHECKS_GOLDS = True
SOLUTION = "solution"
"""The column of the demonstrations, where none is named."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def read(config: Config, task: Task, seed: int) -> tuple[pa.Table, pa.Table]:
    """Training and held-out problems, drawn by the seed; every question occurs once. Raises ``BadInput``."""
    return write(config, task, seed, None)


def write(config: Config, task: Task, seed: int, out: Path | None) -> tuple[pa.Table, pa.Table]:
    """The same; with ``out``, writes there how many rows were left out."""
    left_out: Counter[str] = Counter(bad_gold=0)
    pool = _problems(_rows(config, held_out=False), config, task, left_out)
    if (config.held_out_path if config.path else config.held_out_split) is None:
        wanted = task.held_out_count + task.train_count
        counts = f"task.train_count {task.train_count} and task.held_out_count {task.held_out_count}"
        chosen = _draw(pool, wanted, counts, config, seed, "both")
        aside_count = -(-len(chosen) * task.held_out_count // wanted)
        tables = table(chosen[aside_count:]), table(chosen[:aside_count])
    else:
        aside = _problems(_rows(config, held_out=True), config, task, left_out)
        counts = f"task.held_out_count {task.held_out_count}"
        held_out = _draw(aside, task.held_out_count, counts, config, seed, "held_out")
        rest = {key: row for key, row in pool.items() if key not in aside}
        counts = f"task.train_count {task.train_count}"
        tables = table(_draw(rest, task.train_count, counts, config, seed, "train")), table(held_out)
    if out is not None and config.on_bad_gold == "drop":
        write_json(out / "left_out.json", left_out)
    return tables


def held_out(config: Config, task: Task, out: Path | None) -> pa.Table:
    """All that is held out, or all there is where nothing is named for it. Raises ``BadInput``."""
    left_out: Counter[str] = Counter(bad_gold=0)
    aside = (config.held_out_path if config.path else config.held_out_split) is not None
    found = _problems(_rows(config, held_out=aside), config, task, left_out)
    if out is not None:
        write_json(out / "left_out.json", left_out)
    return table(found.values())


def files(config: Config) -> list[Path]:
    """The local files that ``read`` reads."""
    return [Path(name).expanduser() for name in (config.path, config.held_out_path) if name is not None]


def place(config: Config, question: str) -> str | None:
    """Where in the files a question stands, for messages."""
    for path in files(config):
        for where, row in rows_of(path, "task.problems"):
            texts = [str(row.get(column)).strip() for column in config.columns]
            if normalised(" ".join(texts)) == normalised(question):
                return where
    return None


def _draw(
    pool: dict[str, dict[str, Any]], wanted: int, counts: str, config: Config, seed: int, use: str
) -> list[dict[str, Any]]:
    if len(pool) < (2 if config.at_most else wanted):
        raise BadInput(f"{config.where}: {len(pool)} distinct questions; expected {wanted} ({counts})")
    keys = sorted(pool)
    order = seeds.numpy_generator(seed, "problems", 0, use).permutation(len(keys))
    return [pool[keys[i]] for i in order[:wanted]]


def _problems(
    rows: Iterable[Row], config: Config, task: Task, left_out: Counter[str]
) -> dict[str, dict[str, Any]]:
    """Problems by normalised question, the first of equal ones; raises ``BadInput`` for the first bad row."""
    found: dict[str, dict[str, Any]] = {}
    places: dict[str, str] = {}
    name = Path(config.path).name if config.path else str(config.dataset)
    for place, row in rows:
        if not isinstance(row, dict):
            raise BadInput(f"{place}: expected an object with '{config.columns[0]}' and '{config.answer}'")
        level = number_in(_text(row, config.level, place, "level")) if config.level else 1
        if config.levels is not None and level not in config.levels:
            continue
        question = " ".join(_text(row, column, place, "question") for column in config.columns)
        try:
            answer = _answer(row, config, place)
        except _NoAnswer:
            if config.on_bad_gold == "error":
                raise
            left_out["bad_gold"] += 1
            continue
        key = normalised(question)
        values = {"question": question, "answer": answer, "level": level, "source": name}
        values["columns"] = columns_text(row)
        number = digest(f"{name}\n{key}")
        first = found.setdefault(
            key, {"problem_id": f"{Path(name).stem}-{number}", **values, "demonstrations": []}
        )
        known = first["demonstrations"]
        known += [text for text in _demonstrations(row, config, answer, place) if text not in known]
        if first["answer"] != answer and config.conflicts == "error":
            raise BadInput(
                f"{place}: the same question as {places[key]} with another answer, '{answer[:40]}' and not "
                f"'{first['answer'][:40]}'; expected one (task.problems.conflicts=first takes the first)"
            )
        places.setdefault(key, place)
    bad = bad_golds(task, list(found.values()))
    for key in [key for key, row in found.items() if row["answer"] in bad]:
        if config.on_bad_gold == "error":
            raise BadInput(
                f"{places[key]}: {bad[found[key]['answer']]} (task.problems.on_bad_gold=drop leaves it out)"
            )
        left_out["bad_gold"] += 1
        del found[key]
    if not found:
        raise BadInput(f"{config.where}: no rows; expected questions with answers")
    return found


class _NoAnswer(BadInput):
    """A row has no right answer."""


def _answer(row: dict[str, Any], config: Config, place: str) -> str:
    if config.answer is None:
        return ""
    row = _opened(row, config.answer)
    if config.answer not in row:
        _text(row, config.answer, place, "answer")
    try:
        solution = _text(row, config.answer, place, "answer")
        if odd := _CONTROL.search(solution):
            raise Unclear(f"holds the control character {odd[0]!r} (in JSON a backslash is written twice)")
        return final_answer(solution, config.answer_marker, config.answer_units, config.last_number)
    except Unclear as error:
        raise _NoAnswer(f"{place}: '{config.answer}': {error}") from None
    except BadInput as error:
        raise _NoAnswer(str(error)) from None


def _demonstrations(row: dict[str, Any], config: Config, answer: str, place: str) -> list[str]:
    """The worked solutions of a row, as a policy is shown them."""
    if config.solution is None:
        columns = [SOLUTION] if SOLUTION in row else []
    else:
        columns = [config.solution] if isinstance(config.solution, str) else [*config.solution]
    texts = [text for column in columns for text in cell_texts(row, column, place)]
    parts = (text.rpartition(config.answer_marker) for text in texts)
    bodies = [
        (body if marker else text).strip() for text, (body, marker, _) in zip(texts, parts, strict=True)
    ]
    form = config.demonstration.replace("{answer}", answer)
    return [form.replace("{solution}", body) for body in bodies if body]


def _text(row: dict[str, Any], column: str, place: str, option: str) -> str:
    if column not in row:
        hint = nearest(column, [str(key) for key in row if key is not None])
        raise BadInput(f"{place}: no '{column}'{hint} (set task.problems.{option} to the column's name)")
    cell = row[column]
    if option == "question" and isinstance(cell, list):
        cell = _asked(cell, column, place)
    if option == "answer" and isinstance(cell, list) and cell:  # several, all of which are asked for
        cell = ", ".join(cell_text(each, column, place) for each in cell)
    text = cell_text(cell, column, place)
    if not text:
        raise BadInput(f"{place}: '{column}' is {row[column]!r:.60}; expected text or a number")
    return text


def _asked(messages: list[Any], column: str, place: str) -> Any:
    """What the user says in a list of messages, which must be all there is."""
    roles = [message.get("role") if isinstance(message, dict) else None for message in messages]
    if roles != ["user"]:
        said = ", ".join(map(str, roles)) or "nothing"
        raise BadInput(f"{place}: '{column}' holds messages of {said}; expected one of the user")
    return messages[0].get("content")


def _opened(row: dict[str, Any], column: str) -> dict[str, Any]:
    """The row with a column for ``reward_model.ground_truth``, where there is such a key in a column."""
    here: Any = row
    for part in column.split("."):
        if not isinstance(here, dict) or part not in here:
            return row
        here = here[part]
    return {**row, column: here}


def _rows(config: Config, held_out: bool) -> Iterator[Row]:
    if config.path is None:
        split = config.held_out_split if held_out else config.split
        return _hub_rows(str(config.dataset), config.subset, config.revision, str(split))
    path = Path(str(config.held_out_path if held_out else config.path)).expanduser()
    return rows_of(path, "task.problems")


def _hub_rows(name: str, subset: str | None, revision: str | None, split: str) -> Iterator[Row]:
    import datasets  # takes seconds, and only these lines need it

    datasets.disable_progress_bars()
    at = f"task.problems.dataset: {name}" + (f" ({subset})" if subset else "")
    try:
        rows = datasets.load_dataset(name, subset, split=split, revision=revision)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise BadInput(f"{at} is not on the hub ({_first_line(error)})") from None
    except ConnectionError as error:
        raise BadInput(f"{at}: the hub cannot be reached ({_first_line(error)}); name a local file") from None
    except (ValueError, datasets.exceptions.DatasetsError, OSError) as error:
        raise BadInput(f"{at}, split {split}: {_first_line(error)}") from None
    for number, row in enumerate(rows, start=1):
        yield f"{name}, {split}: row {number}", row


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
