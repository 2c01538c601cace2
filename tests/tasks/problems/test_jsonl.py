"""Problems from files: what is read, and what is said of what cannot be."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from params.base import BadInput, Choice
from params.task import Task
from tasks.problems import jsonl
from tasks.problems.contract import normalised


def task(train: int = 3, held_out: int = 2) -> Task:
    return Task(problems=Choice(name="jsonl"), train_count=train, held_out_count=held_out)


def rows(count: int = 6) -> list[dict[str, Any]]:
    return [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(count)]


def write(path: Path, content: list[dict[str, Any]]) -> jsonl.Config:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    elif path.suffix == ".json":
        path.write_text(json.dumps(content))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(content[0]))
            writer.writeheader()
            writer.writerows(content)
    else:
        pq.write_table(pa.Table.from_pylist(content), path)
    return jsonl.Config(path=str(path))


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_every_format_gives_the_same_problems(tmp_path: Path, suffix: str) -> None:
    train, held_out = jsonl.read(write(tmp_path / f"sums.{suffix}", rows()), task(), 0)
    found = {(row["question"], row["answer"]) for row in train.to_pylist() + held_out.to_pylist()}
    assert (train.num_rows, held_out.num_rows, len(found)) == (3, 2, 5)
    assert found < {(row["question"], row["answer"]) for row in rows()}
    assert set(train["source"].to_pylist()) == {f"sums.{suffix}"}


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1).filter(str.strip), min_size=1),
    st.integers(0, 2**31),
)
def test_train_and_held_out_share_no_question(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], seed: int
) -> None:
    content = [{"question": text, "answer": "1"} for text in texts for text in (text, f" {text.upper()} ")]
    config = write(tmp_path_factory.mktemp("jsonl") / "q.jsonl", content)
    distinct = len({normalised(row["question"]) for row in content})
    if distinct < 2:
        return
    train, held_out = jsonl.read(config, task(distinct - 1, 1), seed)
    keys = [normalised(q) for q in train["question"].to_pylist() + held_out["question"].to_pylist()]
    assert len(set(keys)) == len(keys) == distinct
    assert jsonl.read(config, task(distinct - 1, 1), seed)[0].equals(train)


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    one = jsonl.read(write(tmp_path / "a.jsonl", rows()), task(), 5)
    two = jsonl.read(write(tmp_path / "a.jsonl", rows()[::-1]), task(), 5)
    assert one[0].equals(two[0])
    assert one[1].equals(two[1])


def test_answers_of_worked_solutions_and_numbers(tmp_path: Path) -> None:
    content = [
        {"q": "a", "a": "3 and 4 make 7.\n#### 7", "n": 1},
        {"q": "b", "a": 2.5, "n": 2},
        {"q": "c", "a": "#### 1 #### 1,234 ", "n": 3},
    ]
    config = write(tmp_path / "g.jsonl", content).model_copy(update={"question": "q", "answer": "a"})
    train, held_out = jsonl.read(config, task(2, 1), 0)
    answers = {row["question"]: row["answer"] for row in train.to_pylist() + held_out.to_pylist()}
    assert answers == {"a": "7", "b": "2.5", "c": "1,234"}


def test_a_held_out_file_of_its_own(tmp_path: Path) -> None:
    config = write(tmp_path / "train.jsonl", rows(6))
    write(tmp_path / "test.jsonl", rows(3))
    config = config.model_copy(update={"held_out_path": str(tmp_path / "test.jsonl")})
    train, held_out = jsonl.read(config, task(3, 2), 0)
    assert set(train["question"].to_pylist()) == {row["question"] for row in rows(6)[3:]}
    assert set(held_out["question"].to_pylist()) < {row["question"] for row in rows(3)}
    assert jsonl.files(config) == [tmp_path / "train.jsonl", tmp_path / "test.jsonl"]
    with pytest.raises(
        BadInput, match=r"train\.jsonl: 3 distinct questions; expected 4 \(task\.train_count 4\)"
    ):
        jsonl.read(config, task(4, 2), 0)


BAD = {
    "broken.jsonl": ('{"question": "a", "answer": "1"}\n{"question": ', "broken.jsonl:2: not JSON"),
    "missing.jsonl": (
        '{"questions": "a", "answer": "1"}',
        "missing.jsonl:1: no 'question'; did you mean 'questions'?",
    ),
    "list.jsonl": ('\n["a", "1"]', "list.jsonl:2: expected an object with 'question' and 'answer'"),
    "null.jsonl": ('{"question": null, "answer": "1"}', "null.jsonl:1: 'question' is nothing; expected text"),
    "true.jsonl": (
        '{"question": "a", "answer": true}',
        "true.jsonl:1: 'answer' is True; expected text or a number",
    ),
    "mark.jsonl": (
        '{"question": "a", "answer": "so ####"}',
        "mark.jsonl:1: 'answer': nothing follows '####'",
    ),
    "empty.jsonl": ("", "empty.jsonl: no rows; expected"),
    "object.json": ('{"question": "a"}', "object.json: expected a list of objects, found dict"),
    "binary.jsonl": ("\udcff\udcfe", "binary.jsonl:1: not"),
    "short.csv": ("question,answer\na\n", "short.csv:2: 'answer' is nothing; expected text or a number"),
    "long.csv": ("question,answer\na,1,2\n", "long.csv:2: expected 2 cells, as in the header"),
    "not.parquet": ("PAR?", "not.parquet: not Parquet ("),
    "rows.txt": ("a", "rows.txt: expected a file that ends in .jsonl, .ndjson, .json, .csv, .parquet"),
    "few.jsonl": (
        '{"question": "a", "answer": "1"}',
        "few.jsonl: 1 distinct questions; expected 5 (task.train_count 3",
    ),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_file_is_named_with_the_row_and_what_was_expected(tmp_path: Path, name: str) -> None:
    content, expected = BAD[name]
    (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(BadInput) as caught:
        jsonl.read(jsonl.Config(path=str(tmp_path / name)), task(), 0)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"gone\.jsonl: no such file \(task\.problems\)"):
        jsonl.read(jsonl.Config(path=str(tmp_path / "gone.jsonl")), task(), 0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "task.problems: expected a path or a dataset"),
        ({"dataset": "b", "held_out_path": "a.jsonl"}, "expected held_out_split"),
        ({"path": "a.jsonl", "levels": [5]}, "needs the column of the level in task.problems.level"),
    ],
)
def test_contradictory_options(options: dict[str, str], expected: str) -> None:
    with pytest.raises(BadInput) as caught:
        Choice(name="jsonl", **options).resolve(jsonl.Config, "task.problems")
    assert expected in str(caught.value)


def test_a_data_set_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "train.jsonl", rows(5))
    write(tmp_path / "set" / "test.jsonl", [{"question": "What is 9 + 9?", "answer": "18"}])
    config = jsonl.Config(dataset=str(tmp_path / "set"), held_out_split="test")
    train, held_out = jsonl.read(config, task(5, 1), 0)
    assert held_out["answer"].to_pylist() == ["18"]
    assert set(train["question"].to_pylist()) == {row["question"] for row in rows(5)}
    with pytest.raises(BadInput, match="split tset"):
        jsonl.read(config.model_copy(update={"held_out_split": "tset"}), task(5, 1), 0)


def test_every_column_is_kept(tmp_path: Path) -> None:
    content = [{**row, "hint": {"deep": [i, None]}, "n": i, "when": None} for i, row in enumerate(rows())]
    train, held_out = jsonl.read(write(tmp_path / "a.jsonl", content), task(), 0)
    for row in train.to_pylist() + held_out.to_pylist():
        kept = json.loads(row["columns"])
        assert kept in content
        assert kept["question"] == row["question"]


def test_a_right_answer_inside_a_column_and_a_message_for_a_question(tmp_path: Path) -> None:
    content = [
        {
            "prompt": [{"role": "user", "content": f"{i} + 1?"}],
            "reward_model": {"style": "rule", "ground_truth": str(i + 1)},
        }
        for i in range(6)
    ]
    options = {"question": "prompt", "answer": "reward_model.ground_truth"}
    for name in ("a.jsonl", "a.parquet"):
        config = write(tmp_path / name, content).model_copy(update=options)
        train, _ = jsonl.read(config, task(), 0)
        found = {row["question"]: row["answer"] for row in train.to_pylist()}
        assert found.items() <= {f"{i} + 1?": str(i + 1) for i in range(6)}.items()
    config = config.model_copy(update={"answer": "reward_model.truth"})
    with pytest.raises(BadInput, match=r"no 'reward_model\.truth'; did you mean 'reward_model'"):
        jsonl.read(config, task(), 0)


def test_other_messages_and_no_answer(tmp_path: Path) -> None:
    content: list[dict[str, Any]] = [{"prompt": f"say {i}"} for i in range(6)]
    config = write(tmp_path / "a.jsonl", content).model_copy(update={"question": "prompt", "answer": None})
    unread = task().model_copy(update={"reward": Choice(name="repetition")})
    train, _ = jsonl.read(config, unread, 0)
    assert set(train["answer"].to_pylist()) == {""}
    with pytest.raises(BadInput, match="the right answer ''"):
        jsonl.read(config, task(), 0)
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}]
    write(tmp_path / "a.jsonl", [*content, {"prompt": said}])
    with pytest.raises(BadInput, match=r"a\.jsonl:7: 'prompt' holds messages of system, user; expected one"):
        jsonl.read(config, unread, 0)
