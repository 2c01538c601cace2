"""Demonstrations of every source: right for their own judge, from every format, one or several a problem."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from params.base import BadInput, Choice
from params.load import compose
from params.task import Task
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import read_table
from tasks.prepare.problems import problems as make_problems
from tasks.problems import bird, jsonl, spider, worked
from tasks.rewards.judge import Judge
from tasks.rewards.sql_text import find_query
from tests.conftest import RunStage
from tests.tasks.problems.test_sql_benchmarks import DEV, TRAIN, bird_folder, spider_folder, task

EVERY = "sums, differences, products, chain_sum, basic_arithmetic, decimal_chain_sum, gcd, lcm"
GENERATED = [
    *(("arithmetic", 1, (f"problems.generators=[{EVERY}]", f"problems.level={n}")) for n in (1, 3, 5)),
    ("columns", 1, ()),
    ("countdown", 2, ("problems.numbers=4",)),
    ("sql-levels", 2, ("problems.train_databases=8",)),
]


@pytest.mark.parametrize(("name", "each", "options"), GENERATED)
def test_the_judge_takes_every_generated_demonstration_for_right(
    run_stage: RunStage, name: str, each: int, options: tuple[str, ...]
) -> None:
    params = compose("nano", name, "grpo", [*options, "task.train_count=80", "task.held_out_count=16"])
    made = run_stage(make_problems, params)
    assert made.json("metrics.json")["demonstrated"] == 80
    rows = read_table(made.file("train.parquet")).to_pylist()
    pairs = [(row["answer"], text) for row in rows for text in row["demonstrations"]]
    assert len(pairs) == 80 * each
    with closing(Judge(params.task.reward, 1, made.path)) as judge:
        verdicts = judge.judge(pairs)
    assert [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.reward != 1.0] == []


LEAVES = st.integers(0, 99).map(str) | st.decimals(0, 9, places=2).map(str)
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda p: f"({p[0]}) {p[1]} ({p[2]})"),
        inner.map(lambda p: f"-({p})"),
    ),
    max_leaves=6,
)


@given(EXPRESSIONS)
def test_every_line_of_a_calculation_has_the_same_value(expression: str) -> None:
    found = worked.operations(expression)
    wanted = _exact(expression)
    assert all(_exact(one.rest) == wanted for one in found)
    assert all(_exact(f"({one.left}) {one.sign} ({one.right})") == _exact(one.value) for one in found)
    assert len(found) == sum(expression.count(f") {sign} (") for sign in "+-*")


def _exact(text: str) -> Fraction:
    """By Python's own arithmetic, on fractions."""
    exact = re.sub(r"\d+(?:\.\d+)?", lambda match: f"Fraction('{match[0]}')", text)
    found: Fraction = eval(exact, {"Fraction": Fraction})
    return found


def test_calculations_as_people_write_them() -> None:
    assert worked.worked("3 + 4", "7") == "7"
    assert worked.worked("( 2 + 3 ) * -4 - 1", "-21") == "= 5 * (-4) - 1\n= -20 - 1\n= -21"
    assert worked.common_divisor([12, 18]) == "18 = 1 * 12 + 6\n12 = 2 * 6 + 0\n6"
    assert worked.common_multiple([4, 6]) == "4 * 6 / 2 = 12\n12"
    with pytest.raises(ValueError, match="not a calculation"):
        worked.operations("2 ** 3")


ROWS: list[dict[str, Any]] = [
    {"question": f"What is {i} + {i}?", "answer": str(2 * i), "solution": f"{i} twice is {2 * i}."}
    for i in range(1, 5)
]


def of(config: jsonl.Config, train: int = 3) -> dict[str, list[str]]:
    tables = jsonl.read(config, Task(problems=Choice(name="jsonl"), train_count=train, held_out_count=1), 0)
    rows = [row for table in tables for row in table.to_pylist()]
    return {row["question"]: row["demonstrations"] for row in rows}


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(json.dumps(row) for row in rows))


def whole(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(rows))


def table(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ROWS[0])
        writer.writeheader()
        writer.writerows(rows)


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


FORMATS: dict[str, Callable[[Path, list[dict[str, Any]]], None]] = {
    "rows.jsonl": lines,
    "rows.json": whole,
    "rows.csv": table,
    "rows.parquet": parquet,
}


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_brings_them(tmp_path: Path, name: str) -> None:
    FORMATS[name](tmp_path / name, ROWS)
    found = of(jsonl.Config(path=str(tmp_path / name)))
    assert found == {row["question"]: [row["solution"]] for row in ROWS}


def test_a_data_set_by_name_brings_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    lines(tmp_path / "set" / "train.jsonl", ROWS)
    found = of(jsonl.Config(dataset=str(tmp_path / "set")))
    assert found == {row["question"]: [row["solution"]] for row in ROWS}


def test_a_problem_may_have_several_or_none(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [
        {"question": "a", "answer": "1", "first": ["so 1", "thus 1", None], "second": "hence 1"},
        {"question": "b", "answer": "2", "first": None, "second": ""},
        {"question": "A", "answer": "1", "first": ["so 1", "again 1"], "second": None},
    ]
    lines(path, rows)
    config = jsonl.Config(path=str(path), solution=("first", "second"))
    assert of(config, 1) == {"a": ["so 1", "thus 1", "hence 1", "again 1"], "b": []}
    assert of(jsonl.Config(path=str(path)), 1) == {"a": [], "b": []}


def test_a_demonstration_in_the_form_that_is_asked_for(tmp_path: Path) -> None:
    lines(tmp_path / "rows.jsonl", [{"question": q, "answer": f"It is {q}. #### {q}"} for q in "12"])
    params = compose("nano", "gsm8k", "grpo", [f"problems.path={tmp_path / 'rows.jsonl'}"])
    config = params.task.problems.resolve(jsonl.Config, "")
    assert of(config, 1) == {q: [f"It is {q}.\n\n\\boxed{{{q}}}"] for q in "12"}


@pytest.mark.parametrize(
    ("value", "options", "said"),
    [
        ({"no": "text"}, {}, "rows.jsonl:1: 'solution' is {'no': 'text'}; expected text or a number"),
        ([["deep"]], {}, "rows.jsonl:1: 'solution' is ['deep']; expected text or a number"),
        ("x", {"solution": "solutions"}, "rows.jsonl:1: no 'solutions'; did you mean 'solution'?"),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, value: Any, options: dict[str, str], said: str) -> None:
    lines(tmp_path / "rows.jsonl", [{"question": "a", "answer": "1", "solution": value}])
    with pytest.raises(BadInput) as caught:
        of(jsonl.Config(path=str(tmp_path / "rows.jsonl"), **options), 1)
    assert str(caught.value).endswith(said)


def test_a_form_without_the_solution_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must hold \{solution\}"):
        jsonl.Config(path="a", demonstration="{answer}")


def test_benchmarks_show_the_gold_query_or_a_column(tmp_path: Path) -> None:
    config = spider_folder(tmp_path / "spider")
    train, _ = spider.read(config, task(), 0)
    for row in train.to_pylist():
        query = json.loads(row["answer"])["query"]
        reasoned, alone = row["demonstrations"]
        assert alone == query
        assert find_query(reasoned) == query
        assert reasoned.startswith("-- from: ")
    written = config.model_copy(update={"solution": "question"})
    train, _ = spider.read(written, task(), 0)
    asked = {" ".join(q.split()) for q, _ in TRAIN}
    assert {" ".join(row["demonstrations"][0].split()) for row in train.to_pylist()} <= asked
    with pytest.raises(BadInput, match="no 'sol'"):
        spider.read(config.model_copy(update={"solution": "sol"}), task(), 0)
    _, held_out = bird.read(bird_folder(tmp_path / "bird"), task(), 0)
    assert {row["demonstrations"][1] for row in held_out.to_pylist()} == {query for _, query in DEV}


def test_reasoning_follows_the_order_in_which_sql_works() -> None:
    from tasks.problems.sql_rows import commented

    query = (
        "SELECT city, count(*) FROM shop WHERE open = 1 GROUP BY city\nHAVING count(*) > 2 "
        "ORDER BY city LIMIT 3"
    )
    assert commented(query).splitlines()[:-2] == [
        "-- from: shop",
        "-- keep rows with: open = 1",
        "-- group by: city",
        "-- keep groups with: count(*) > 2",
        "-- show: city, count(*)",
        "-- order by: city",
        "-- at most: 3",
    ]
    assert find_query(commented(query)) == query
    both = "SELECT a FROM t UNION SELECT b FROM (SELECT b FROM u WHERE b > 1)"
    assert find_query(commented(both)) == both
    assert commented(both).splitlines()[:3] == ["-- first", "-- from: t", "-- show: a"]


def test_none_is_told_by_the_count(run_stage: RunStage, tmp_path: Path) -> None:
    lines(tmp_path / "rows.jsonl", [{"question": q, "answer": "1"} for q in "ab"])
    params = compose("nano", "jsonl", "grpo", [f"problems.path={tmp_path / 'rows.jsonl'}"])
    few = params.task.model_copy(update={"train_count": 1, "held_out_count": 1})
    made: Artefact = run_stage(make_problems, params.model_copy(update={"task": few}))
    assert made.json("metrics.json")["demonstrated"] == 0
