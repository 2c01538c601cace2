"""Final answers in the forms that collections of problems use, and data in those forms end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from params.base import BadInput, Choice
from params.load import compose
from params.task import Task
from tasks.problems import jsonl
from tasks.problems.final_answers import Unclear, boxed, final_answer, number_in, without_units

braced = st.recursive(
    st.text("ab1 +", max_size=4),
    lambda inner: st.builds("{}{{{}}}{}".format, inner, inner, inner),
    max_leaves=8,
)


def task(train: int, held_out: int) -> Task:
    return Task(problems=Choice(name="jsonl"), train_count=train, held_out_count=held_out)


def lines(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@given(braced, braced, braced)
def test_the_last_box_is_read_with_its_braces(before: str, content: str, after: str) -> None:
    text = rf"so \boxed{{0}} {before} \boxed{{{content}}} {after}"
    if content.strip():
        assert boxed(text) == content.strip()
    else:
        with pytest.raises(Unclear, match="empty"):
            boxed(text)


@pytest.mark.parametrize(
    ("text", "units", "expected"),
    [
        ("3 and 4 make 7.\n#### 7", False, "7"),
        ("#### 1 then #### 1,234 ", False, "1,234"),
        (r"it is $\boxed{\frac{1}{2}}$.", False, r"\frac{1}{2}"),
        (r"\boxed{3} no, \boxed{\{1, 2\}}", False, r"\{1, 2\}"),
        (r"\fbox{9}", False, "9"),
        (r"so $\boxed 5$", False, "5"),
        ("042", False, "042"),
        ("x^2 (mod 7)", False, "x^2 (mod 7)"),
        ("9 (apples)", False, "9 (apples)"),
        ("9 (apples)", True, "9"),
        ("5 (red); 3 (blue)", True, "5, 3"),
        ("1/2 (of a cake)", True, "1/2"),
        ("f(x)", True, "f(x)"),
        ("Tom", True, "Tom"),
    ],
)
def test_final_answers(text: str, units: bool, expected: str) -> None:
    assert final_answer(text, "####", units) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [("7 ####", "nothing follows '####'"), (r"\boxed{1", "not closed"), (r"\boxed{ }", "is empty")],
)
def test_unclear_answers(text: str, reason: str) -> None:
    with pytest.raises(Unclear, match=reason):
        final_answer(text, "####", False)


def test_levels_and_units() -> None:
    assert [number_in(value) for value in ("Level 5", 3, "3", "Level ?", 2.0)] == [5, 3, 3, 0, 2]
    assert without_units("5 (a); 3") == "5 (a); 3"


def test_the_presets_read_files_of_their_forms(tmp_path: Path) -> None:
    count = 40
    rows: dict[str, list[dict[str, object]]] = {
        "gsm8k": [{"question": f"q{i}", "answer": f"So it is {i}.\n#### {i}"} for i in range(count)],
        "math": [
            {
                "problem": f"q{i}",
                "level": f"Level {i % 5 + 1}",
                "solution": rf"so \boxed{{\frac{{{i}}}{{7}}}}",
            }
            for i in range(count)
        ],
        "asdiv": [
            {"body": f"b{i}.", "question": "How many?", "answer": f"{i} (apples)"} for i in range(count)
        ],
        "aime": [{"ID": i, "Question": f"q{i}", "Answer": i} for i in range(count)],
    }
    answers = {"math": [rf"\frac{{{i}}}{{7}}" for i in range(count)]}
    for name, found in rows.items():
        path = lines(tmp_path / f"{name}.jsonl", found)
        pq.write_table(pa.Table.from_pylist(found), tmp_path / f"{name}.parquet")
        read = {}
        for file in (path, str(tmp_path / f"{name}.parquet")):
            params = compose("nano", name, "grpo", [f"problems.path={file}", "model.context=6000"])
            config = params.task.problems.resolve(jsonl.Config, "task.problems")
            train, held_out = jsonl.read(config, params.task, 0)
            assert train.num_rows + held_out.num_rows == count
            assert 1 <= held_out.num_rows < train.num_rows
            read[file] = sorted(train["answer"].to_pylist() + held_out["answer"].to_pylist())
            levels = set(train["level"].to_pylist()) | set(held_out["level"].to_pylist())
            assert levels == (set(range(1, 6)) if name == "math" else {1})
            if name == "asdiv":
                assert train["question"][0].as_py().endswith(". How many?")
        assert list(read.values()) == [sorted(answers.get(name, [str(i) for i in range(count)]))] * 2


def test_only_some_levels(tmp_path: Path) -> None:
    path = lines(tmp_path / "m.jsonl", [{"question": str(i), "answer": i, "grade": i % 3} for i in range(30)])
    config = jsonl.Config(path=path, level="grade", levels=(0, 2))
    train, held_out = jsonl.read(config, task(15, 5), 0)
    assert set(train["level"].to_pylist() + held_out["level"].to_pylist()) == {0, 2}
    with pytest.raises(BadInput, match="20 distinct questions; expected 24"):
        jsonl.read(config, task(20, 4), 0)


def test_limits_share_what_there_is_and_a_path_takes_the_place_of_a_data_set(tmp_path: Path) -> None:
    path = lines(tmp_path / "m.jsonl", [{"question": str(i), "answer": i} for i in range(30)])
    config = jsonl.Config(path=path, dataset="some/where", held_out_split="test", at_most=True)
    train, held_out = jsonl.read(config, task(200, 100), 0)
    assert (train.num_rows, held_out.num_rows) == (20, 10)
    assert not set(train["question"].to_pylist()) & set(held_out["question"].to_pylist())
    train, held_out = jsonl.read(config, task(8, 4), 0)
    assert (train.num_rows, held_out.num_rows) == (8, 4)
    with pytest.raises(BadInput, match="1 distinct questions"):
        jsonl.read(
            jsonl.Config(path=lines(tmp_path / "n.jsonl", [{"question": "a", "answer": 1}])), task(2, 1), 0
        )


def test_a_row_without_a_clear_answer_is_named(tmp_path: Path) -> None:
    path = lines(tmp_path / "m.jsonl", [{"question": "a", "answer": r"so \boxed{1"}])
    with pytest.raises(BadInput, match=r"m\.jsonl:1: 'answer': the last \\boxed\{ is not closed"):
        jsonl.read(jsonl.Config(path=path), task(2, 1), 0)
