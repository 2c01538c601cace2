"""``ostinato judge FILE``: an evaluation tool by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.cli import main
from tests.tasks.rewards.sql_case import gold, make_root


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OSTINATO_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def judge(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["judge", *map(str, arguments)])
    return int(ended.value.code or 0)


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_it_scores_a_file_and_writes_a_table(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, object]] = [
        {"question": "1 + 1?", "gold": 2, "answer": "\\boxed{2}"},
        {"question": "1 + 2?", "gold": "3", "answer": "two \ud800"},
        {"gold": "Paris", "answer": "3"},
        {"gold": "3", "answer": "so 3"},
    ]
    assert judge(write(here / "a.jsonl", rows), "--out", here / "o.parquet", "--json", "--workers", 1) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["rows"], said["judged"], said["accuracy"]) == (4, 3, pytest.approx(2 / 3))
    assert said["low"] <= said["accuracy"] <= said["high"]
    assert said["failed"] == {"cannot read the right answer 'Paris'": 1}
    assert said["errors"] == {"no mathematical expression in the answer": 1}
    table = pq.read_table(here / "o.parquet").to_pylist()
    assert [row["reward"] for row in table] == [1.0, 0.0, None, 1.0]
    assert table[0]["question"] == "1 + 1?"
    assert [path.name for path in here.iterdir() if path.name.startswith(".")] == []


def test_it_runs_queries_on_a_folder_of_databases(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = make_root(here / "listed")
    plain = here / "plain"
    (plain / "town").mkdir(parents=True)
    (plain / "town" / "town.sqlite").write_bytes((listed / "town.sqlite").read_bytes())
    meant = json.loads(gold("SELECT name, id FROM city"))
    rows: list[dict[str, object]] = [
        {"gold": meant, "answer": "SELECT id, name FROM city"},
        {"gold": gold("SELECT 1"), "answer": "SELECT x"},
    ]
    answers = write(here / "a.jsonl", rows)
    for folder, comparison, line in (
        (listed, "spider", "accuracy 50.0 %"),
        (plain, "spider", "accuracy 50.0 %"),
        (plain, "bird", "accuracy 0.0 %"),
    ):
        options = ("--reward", "sql", "--databases", folder, "--set", f"comparison={comparison}")
        assert judge(answers, *options, "--workers", 1) == 0
        said = capsys.readouterr().out
        assert line in said
        assert "1  no such column: x" in said


def test_a_reward_of_ones_own_is_found_here(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "mine.py").write_text("def length(gold, answer):\n    return len(answer) / 10\n")
    (here / "a.csv").write_text('gold,answer\nx,12345\nx,"1234567"\n')
    assert judge("a.csv", "--reward", "mine:length", "--out", "o.csv") == 0
    assert "accuracy 60.0 % [50.0, 70.0] over 2 of 2 answers" in capsys.readouterr().out
    assert (here / "o.csv").read_text().splitlines()[1] == ',"x","12345",0.5,'


TRL = """
def reward(completions, hint, log_metric=None, **kwargs):
    log_metric("count", len(completions))
    return [float(h in text) for text, h in zip(completions, hint)]
"""


def test_several_rewards_read_columns_and_groups(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "mine.py").write_text(TRL)
    rows: list[dict[str, object]] = [
        {"question": "1 + 1?", "gold": 2, "answer": "so 2", "hint": "so"},
        {"question": "1 + 2?", "gold": 3, "answer": "3", "hint": "so"},
        {"question": "1 + 1?", "gold": 2, "answer": "3", "hint": "so"},
    ]
    file = write(here / "a.jsonl", rows)
    options = ("--reward", "math", "--reward", "mine:reward", "--set", "reward.weight=0.5", "--workers", 1)
    assert judge(file, *options, "--explain", "--json", "--out", here / "o.parquet") == 0
    *each, said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said["accuracy"] == pytest.approx(2 / 3)
    assert said["rewards"] == pytest.approx({"math": 2 / 3, "reward": 1 / 3})
    assert said["total"] == pytest.approx(2.5 / 3)
    assert [row["reward.count"] for row in each] == ["2", "1", "2"]
    table = pq.read_table(here / "o.parquet").to_pylist()
    assert [row["total"] for row in table] == [1.5, 1.0, 0.0]
    assert [row["reward_reward"] for row in table] == [1.0, 0.0, 0.0]
    assert judge(file, "--reward", "mine:reward") == 0
    assert "accuracy 33.3 %" in capsys.readouterr().out
    assert judge(write(here / "b.jsonl", [{"answer": "hm"}]), "--reward", "repetition") == 0


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (
            '{"gold": 1, "answer": 2}',
            ("--reward", "math", "--reward", "math"),
            "two rewards are called 'math'",
        ),
        (
            '{"gold": 1, "answer": 2}',
            ("--reward", "math", "--reward", "format", "--set", "fromat.opened=true"),
            "did you mean 'format'?",
        ),
        ('{"gold": 1, "answr": 2}', (), "a.jsonl:1: no 'answer'; did you mean 'answr'?"),
        ('{"gold": 1, "answer": 2}\n{"gold": 1, "answer": null}', (), "a.jsonl:2: 'answer' is nothing"),
        ('{"gold": 1, "answer": 2}\n[1]', (), "a.jsonl:2: expected an object"),
        ('{"gold"', (), "a.jsonl:1: not JSON"),
        ("", (), "no rows"),
        ('{"gold": 1, "answer": 2}', ("--reward", "maths"), "did you mean 'math'?"),
        ('{"gold": 1, "answer": 2}', ("--reward", "nowhere:f"), "no module 'nowhere'"),
        ('{"gold": 1, "answer": 2}', ("--set", "timeout=3"), "did you mean 'timeout_seconds'?"),
        ('{"gold": 1, "answer": 2}', ("--out", "o.txt"), "expected a file that ends in"),
        ('{"gold": 1, "answer": 2}', ("--out", "nowhere/o.csv"), "no such directory"),
        ('{"gold": 1, "answer": 2}', ("--databases", "nowhere"), "expected a directory with databases.json"),
    ],
)
def test_bad_input_is_one_line(
    content: str, arguments: tuple[str, ...], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "a.jsonl").write_text(content)
    assert judge("a.jsonl", *arguments) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said


def test_each_verdict_tells_what_it_stands_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(
        here / "a.jsonl",
        [
            {"gold": "35\\%", "answer": "so \\boxed{36\\%}"},
            {"gold": "4, 9", "answer": "The values are 9 and 4."},
            {"gold": 0.00001, "answer": "0.00001"},
        ],
    )
    assert judge(file, "--explain", "--json", "--workers", 1) == 0
    *rows, _ = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["row"], row["reward"], row["read as"], row["compared with"]) for row in rows] == [
        (1, 0.0, "36 %", "35 %"),
        (2, 1.0, "a list of 2: 9, 4", "a list of 2: 4, 9"),
        (3, 1.0, "1/100000", "1/100000"),
    ]
    assert rows[0]["extracted"] == "\\boxed{36\\%}"
    assert judge(file, "--explain") == 0
    assert "row 1: 0.0\n  gold           35\\%\n  extracted      \\boxed{36\\%}" in capsys.readouterr().out
