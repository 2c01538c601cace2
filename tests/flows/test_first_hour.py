"""A person's own file and settings: what is wrong is told in one line, before anything runs."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.execution.fingerprint import lasting_facts
from flows.execution.validation import chosen
from flows.stage_table.stages import stage_table
from params.base import BadInput
from tasks.problems import jsonl
from tasks.rewards import math
from tests.flows.own_data import SMALL, Refused, command, rows, written


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (float("nan"), "'answer' is nan; expected text or a finite number"),
        (float("inf"), "'answer' is inf; expected text or a finite number"),
        (float("-inf"), "'answer' is -inf; expected text or a finite number"),
        ("N/A", "the right answer 'N/A' is no value"),
        ("?", "the right answer '?' is no value"),
        ("None", "the right answer 'None' is no value"),
        ("null", "the right answer 'null' is no value"),
        ("Paris", "cannot use the right answer 'Paris'"),
        (
            "He sold 5 of them, so 12 of them are left now.",
            "is a text; expected a value, or a solution that ends",
        ),
        ("\ud800", "'answer' holds half a character"),
        (r"so it is $\boxed{}$", r"the last \boxed{} is empty"),
        (True, "'answer' is True; expected text or a number"),
        ([], "'answer' is []; expected text or a number"),
    ],
)
def test_an_answer_that_is_none_is_refused_by_its_line(
    tmp_path: Path, refused: Refused, answer: Any, expected: str
) -> None:
    folder = tmp_path.parent / f"{tmp_path.name}-data"
    folder.mkdir()
    path = written(folder, rows(answer))
    refused(command(path), f"{path}:4: ")
    refused(command(path), expected)


def test_a_number_of_too_many_digits_is_one_line(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path.parent / f"{tmp_path.name}.jsonl"
    path.write_text('{"question": "a", "answer": ' + "9" * 5001 + "}\n")
    refused(command(path), f"{path}:1: a whole number of more than 4300 digits")


def test_the_same_question_with_two_answers_is_told_with_both_lines(tmp_path: Path, refused: Refused) -> None:
    path = written(tmp_path.parent, rows("9", question="1  AND 1?"))
    refused(command(path), f"{path}:4: the same question as {path}:2 with another answer, '9' and not '2'")
    config = jsonl.Config(path=str(path), conflicts="first")
    train, held_out = jsonl.read(config, chosen_task(path, "problems.conflicts=first"), 0)
    answers = [*train["answer"].to_pylist(), *held_out["answer"].to_pylist()]
    assert sorted(answers) == ["0", "10", "2", "4", "6", "8"]


def chosen_task(path: Path, *more: str) -> Any:
    return chosen("nano", "jsonl", "grpo", [f"problems.path={path}", *SMALL, *more]).task


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSTINATO_HOME", str(tmp_path))


def golds(path: Path, **options: Any) -> list[str]:
    """The right answers of a file's rows, all held out but for one."""
    config = jsonl.Config(path=str(path), at_most=True, **options)
    task = chosen("nano", "arithmetic", "grpo", ["task.train_count=12", "task.held_out_count=1000"]).task
    train, held_out = jsonl.read(config, task, 0)
    return sorted([*train["answer"].to_pylist(), *held_out["answer"].to_pylist()])


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (0.00001, "0.00001"),
        (1e23, "100000000000000000000000"),
        (42.0, "42"),
        ("1e-05", "0.00001"),
        (r"so it is $\boxed -3$", "-3"),
        (r"$\boxed\frac12$", r"\frac12"),
        (r"$\boxed x+1$", "x+1"),
        ("2e-3", "2e-3"),
    ],
)
def test_a_number_is_the_number_and_a_box_needs_no_braces(tmp_path: Path, answer: Any, gold: str) -> None:
    other = {"question": "b", "answer": "77"}
    assert gold in golds(written(tmp_path, [{"question": "a", "answer": answer}, other]))
    assert math.judge(gold, rf"\boxed{{{gold}}}", math.Config()).reward == 1.0


def test_the_small_number_earns_and_its_look_alike_does_not(tmp_path: Path) -> None:
    (gold, _) = golds(
        written(tmp_path, [{"question": "a", "answer": 0.00001}, {"question": "b", "answer": 7}])
    )
    assert math.judge(gold, "0.00001", math.Config()).reward == 1.0
    assert math.judge(gold, r"\boxed{e-5}", math.Config()).reward == 0.0


def test_numbers_of_parquet_stand_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    columns = {
        "question": [f"q{n}" for n in range(4)],
        "answer": pa.array(np.array([42.0, 0.1, 2.5, -3.0]), pa.float64()).cast(pa.float32()),
    }
    pq.write_table(pa.table(columns), path)
    assert golds(path) == ["-3", "0.1", "2.5", "42"]
    pq.write_table(pa.table({"question": ["a", "b"], "answer": [1.0, float("nan")]}), path)
    with pytest.raises(BadInput, match=r"mine\.parquet: row 2: 'answer' is nan"):
        golds(path)


def test_a_long_cell_of_csv_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["question", "answer"], ["x" * 200_000, "1"], ["b", "2"]])
    assert golds(path) == ["1", "2"]


def test_the_last_number_where_it_is_asked_for(tmp_path: Path) -> None:
    path = written(
        tmp_path, [{"question": "a", "answer": "5 of them, then 12."}, {"question": "b", "answer": "7"}]
    )
    assert golds(path, last_number=True) == ["12", "7"]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.text(r"\{}$0123x+-/.", max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=json_values)
def test_whatever_stands_in_answer_judges_itself_right_or_is_refused_by_its_line(
    tmp_path: Path, answer: Any
) -> None:
    path = written(tmp_path, rows(answer, question="the one?"))
    try:
        params = chosen("nano", "jsonl", "grpo", [f"problems.path={path}", *SMALL, "problems.at_most=true"])
    except BadInput as error:
        if not str(error).startswith(f"{path}:4: "):
            raise
        return
    options = params.task.problems.resolve(jsonl.Config, "task.problems")
    tables = jsonl.read(options, params.task.model_copy(update={"train_count": 40}), 0)
    found = {row["question"]: row["answer"] for table in tables for row in table.to_pylist()}
    gold = found["the one?"]
    forms = math.self_answers(gold, math.Config()) or (gold,)
    assert 1.0 in [math.judge(gold, form, math.Config()).reward for form in forms]


def test_settings_of_text_stand_as_they_are_written() -> None:
    for text in ("{question} Go.", "Question: {question}", "[{question}]", "- {question}", "yes: {question}"):
        assert chosen("nano", "sums", "grpo", [f"prompt.template={text}"]).task.prompt.template == text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"question": "a", "answer": "7", "answer": "8"}\n', "mine.jsonl:1: 'answer' is there twice"),
        (b'{"question": "a", "answer": "\\boxed{7}"}\n', "holds the control character '\\x08'"),
        (b"question,answer,answer\na,1,2\n", "mine.csv:1: 'answer' is there twice"),
    ],
)
def test_a_file_that_says_a_thing_twice_or_not_as_meant_is_refused(
    tmp_path: Path, refused: Refused, content: bytes, expected: str
) -> None:
    path = tmp_path.parent / ("mine.csv" if content.startswith(b"question") else "mine.jsonl")
    path.write_bytes(content)
    refused(command(path), expected)


def test_bad_rows_are_dropped_and_counted_where_that_is_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, [*rows("Paris"), {"question": "nan", "answer": float("nan")}])
    config = jsonl.Config(path=str(path), on_bad_gold="drop")
    train, held_out = jsonl.write(config, chosen_task(path, "problems.on_bad_gold=drop"), 0, tmp_path)
    assert len(train) + len(held_out) == 6
    assert json.loads((tmp_path / "left_out.json").read_text()) == {"bad_gold": 2}


@pytest.mark.parametrize("body", ["raise KeyError('x')", "return float('nan')", "return 'good'"])
def test_a_reward_that_gives_none_is_told_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused, body: str
) -> None:
    folder = tmp_path.parent / f"{tmp_path.name}-code"
    folder.mkdir()
    (folder / "mine_reward.py").write_text(f"def reward(gold, answer):\n    {body}\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(str(folder))
    command = [
        "run",
        "--model",
        "nano",
        "--engine",
        "transformers",
        "--set",
        "task.reward=mine_reward:reward",
    ]
    refused(command, "task.reward: the judge mine_reward:reward cannot use the right answer '1': ")


@pytest.mark.parametrize(
    ("preset", "row", "gold"),
    [
        ("gsm8k", {"question": "q", "answer": "3*2=<<3*2=6>>6\n#### 1,080"}, "1,080"),
        ("gsm8k", {"question": "q", "answer": "so\n#### $70,000\nor so"}, "$70,000"),
        ("gsm8k", {"question": "q", "answer": "#### -3"}, "-3"),
        (
            "math",
            {"problem": "q", "solution": r"$\boxed{\dfrac{3}{4}}$", "level": "Level ?"},
            r"\dfrac{3}{4}",
        ),
        ("math", {"problem": "q", "solution": r"first \boxed{1}, then $\fbox{5}$.", "level": "Level 5"}, "5"),
        (
            "math",
            {"problem": "q", "solution": r"\boxed{\text{Evelyn}}", "level": "Level 2"},
            r"\text{Evelyn}",
        ),
        ("asdiv", {"body": "b", "question": "q", "answer": "9 (apples)"}, "9"),
        ("asdiv", {"body": "b", "question": "q", "answer": "5 (red); 3 (blue)"}, "5, 3"),
        ("aime", {"Question": "q", "Answer": "025"}, "025"),
        ("aime", {"Question": "q", "Answer": 25.0}, "25"),
    ],
)
def test_each_collection_is_read_in_its_own_form(
    tmp_path: Path, preset: str, row: dict[str, Any], gold: str
) -> None:
    other = {key: ("other" if key != "level" else "Level 1") for key in row}
    other[list(row)[-1 if preset != "math" else 1]] = "#### 7" if preset == "gsm8k" else "7"
    path = written(tmp_path, [row, other])
    params = chosen(
        "nano", preset, "grpo", [f"problems.path={path}", "engine.name=transformers", *PRESET_SMALL]
    )
    config = params.task.problems.resolve(jsonl.Config, "task.problems")
    tables = jsonl.read(config, params.task, 0)
    assert gold in [answer for table in tables for answer in table["answer"].to_pylist()]
    assert math.judge(gold, rf"\boxed{{{gold}}}", math.Config()).reward == 1.0


PRESET_SMALL = ["rollout.problems_per_round=1"]


def test_a_disk_without_room_is_told_before_anything_runs(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5 * 2**20))
    refused(["run", "--model", "nano", "--task", "sums"], "5 MiB free; expected at least 256 to run")


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OSTINATO_HOME", str(tmp_path))
    with pytest.raises(BadInput, match="mine"):
        chosen("nano", "jsonl", "grpo", ["problems.path=~/mine.jsonl", *SMALL])
    path = written(tmp_path, rows())
    params = chosen("nano", "jsonl", "grpo", ["problems.path=~/mine.jsonl", *SMALL])
    before = lasting_facts(stage_table()["problems"], params)
    path.write_text(path.read_text() + "\n")
    assert lasting_facts(stage_table()["problems"], params) != before


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("tasks={{other: {{problems: {{name: jsonl, path: {path}}}}}}}", "mine.jsonl:4: "),
        ("evaluate.sets={{other: {{problems: {{name: jsonl, path: {path}}}}}}}", "mine.jsonl:4: "),
        (
            "tasks={{other: {{problems: {{name: jsonl, path: 's3://bucket/mine.jsonl'}}}}}}",
            "tasks.other.problems: an address in a bucket; expected local files",
        ),
    ],
)
def test_further_tasks_and_sets_are_looked_at_too(tmp_path: Path, settings: str, said: str) -> None:
    path = written(tmp_path, rows("Paris"))
    with pytest.raises(BadInput, match=said):
        chosen("nano", "sums", "grpo", [*SMALL, settings.format(path=path)])
