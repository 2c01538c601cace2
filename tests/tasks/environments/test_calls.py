"""Which calls of tools a text holds, what a tool is, and what a calculator and a database say."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tasks.environments.calculator import Calculator
from tasks.environments.calls import Call, calls_in, described, schema
from tasks.environments.sql_agent import SqlAgent
from tasks.rewards.sql_text import find_query


def weather(city: str, days: int = 1) -> str:
    """Tell the weather.

    Args:
        city: where
        days (int): how far ahead

    Returns:
        words
    """
    return f"{city} {days}"


TOOLS = [schema("weather", weather), schema("calculator", Calculator().calculator)]
CALL = Call("weather", {"city": "Rome"})


def test_a_tool_is_what_templates_read() -> None:
    facts = TOOLS[0]["function"]
    assert facts["description"] == "Tell the weather."
    assert facts["parameters"]["properties"] == {
        "city": {"type": "string", "description": "where"},
        "days": {"type": "integer", "description": "how far ahead"},
    }
    assert facts["parameters"]["required"] == ["city"]
    assert "```calculator\nEXPRESSION\n```" in described(TOOLS)


@pytest.mark.parametrize(
    "raw",
    [
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>',
        'Let me look. <tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Rome\\"}"}</tool_call>',
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Rome"}}]</s>',
        '{"name": "weather", "parameters": {"city": "Rome"}}',
    ],
)
def test_calls_as_templates_have_them(raw: str) -> None:
    text = raw.removesuffix("<|im_end|>").removesuffix("</s>")
    assert calls_in(text, raw, TOOLS, fenced=False) == [CALL]


def test_several_calls_and_wrong_ones() -> None:
    raw = '<tool_call>{"name": "wether", "arguments": {}}</tool_call><tool_call>nonsense</tool_call>'
    one, two = calls_in(raw, raw, TOOLS, fenced=False)
    assert "no tool 'wether'" in str(one.wrong)
    assert "JSON" in str(two.wrong)
    for text in ("It rains.", '{"name": ["weather"], "parameters": {}}', '{"name": {}}'):
        assert calls_in(text, f"{text}<|im_end|>", TOOLS, fenced=False) == []


def test_fenced_calls() -> None:
    text = 'So:\n```calculator\n1 + 2\n```\nand\n```weather\n{"city": "Rome"}\n```\n```sql\nSELECT 1\n```'
    assert calls_in(text, text, TOOLS, fenced=True) == [Call("calculator", {"expression": "1 + 2"}), CALL]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2*3", "7"),
        ("(2 + 3)/4", "1.25"),
        ("0.1 + 0.2", "0.3"),
        ("2^10 - gcd(12, 18)", "1018"),
        ("sqrt(2)", "1.414213562"),
        ("-7 // 2", "-4"),
    ],
)
def test_the_calculator_is_exact(expression: str, value: str) -> None:
    assert Calculator().calculator(expression) == value


@pytest.mark.parametrize(
    "expression", ["9**9**9", "__import__('os')", "1/0", "(1).real", "'a'*9", "x", "2**0.3", "1" * 300]
)
def test_the_calculator_works_out_nothing_else(expression: str) -> None:
    with pytest.raises((ValueError, ZeroDivisionError, SyntaxError)):
        Calculator().calculator(expression)


def test_the_database_answers_and_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "one.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (a, b)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", [(i, "x" * 99) for i in range(8)])
    connection.close()
    entry: dict[str, Any] = {"path": path.name, "sha256": "0", "bytes": path.stat().st_size}
    (tmp_path / "databases.json").write_text(json.dumps({"one": entry}))
    before = path.read_bytes()
    agent = SqlAgent(rows=2, cell_characters=3)
    agent.reset(json.dumps({"database": "one", "query": "SELECT 1"}), str(tmp_path))
    assert agent.get_answer() is None
    assert agent.sql("SELECT a, b FROM t;") == "0 | xxx...\n1 | xxx...\n... 6 more rows"
    assert agent.sql("SELECT a FROM t WHERE a > 99") == "no rows"
    for wrong in ("SELECT c FROM t", "DELETE FROM t", "SELECT 1; SELECT 2", "PRAGMA user_version", ""):
        assert agent.sql(wrong).startswith("Error:")
    assert path.read_bytes() == before
    agent.sql("SELECT a FROM t")
    assert find_query(agent.get_answer() or "") == "SELECT a FROM t"
