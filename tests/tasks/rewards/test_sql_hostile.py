"""Hostile queries: none hangs, crashes the pool, changes a byte, reads another file or eats the memory."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from params.base import Choice
from tasks.rewards.base import Verdict
from tasks.rewards.judge import Judge
from tests.tasks.rewards.hostile_queries import ENDLESS, FAMILIES, FILES, LARGE, PRAGMAS, SECRET, WRITES
from tests.tasks.rewards.sql_case import gold, make_root

ROOT = Path(__file__).parents[3]
MEMORY_MIB = 400
OPTIONS = {
    "timeout_seconds": 4.0, "query_seconds": 1.5, "max_steps": 2_000_000, "heap_mib": 64, "result_mib": 8,
    "memory_mib": MEMORY_MIB,
}  # fmt: skip


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """The databases, and beside them what must not be read."""
    root = make_root(tmp_path / "problems")
    (root / "secret.txt").write_text(SECRET)
    with sqlite3.connect(root / "other.sqlite") as other:
        other.execute("CREATE TABLE secret (s TEXT)")
        other.execute("INSERT INTO secret VALUES (?)", (SECRET,))
    other.close()
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*"))}


class Watch:
    """The largest resident size of any judging process, in MiB, and the files in one folder that they
    had open."""

    def __init__(self, folder: Path) -> None:
        self.peak, self.files = 0.0, set[str]()
        self._folder = folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            for child in psutil.Process().children():
                try:
                    status = Path(f"/proc/{child.pid}/status").read_text()
                    if "tasks.rewards.worker" not in " ".join(child.cmdline()):
                        continue
                    self.files |= {
                        f.path for f in child.open_files() if Path(f.path).is_relative_to(self._folder)
                    }
                except (psutil.Error, OSError):
                    continue
                line = next((line for line in status.splitlines() if line.startswith("VmHWM")), "VmHWM: 0 kB")
                self.peak = max(self.peak, int(line.split()[1]) / 1024)


def judged(root: Path, queries: list[str]) -> list[Verdict]:
    """Every query, between honest ones that must stay right; and what holds of all of them."""
    before = contents(root)
    honest = (gold("SELECT count(*) FROM city"), "SELECT 5")
    pairs = [pair for query in queries for pair in ((gold(f"SELECT '{SECRET}'"), query), honest)]
    judge = Judge(Choice.model_validate({"name": "sql", **OPTIONS}), workers=2, root=root)
    with Watch(root) as watch:
        verdicts = judge.judge(pairs)
    judge.close()
    assert verdicts[1::2] == [Verdict(1.0)] * len(queries)
    wrong = [
        (query[:80], verdict)
        for query, verdict in zip(queries, verdicts[::2], strict=True)
        if verdict.reward != 0
    ]
    assert not wrong
    assert contents(root) == before
    assert watch.files <= {str(root / "town.sqlite")}
    assert watch.peak < MEMORY_MIB
    return verdicts[::2]


def test_what_only_takes_a_moment_to_refuse(planted: Path) -> None:
    slow = {*ENDLESS[2:], *LARGE}
    queries = [query for family in FAMILIES.values() for query in family if query not in slow]
    assert len(queries) > 200
    reasons = [verdict.error or "" for verdict in judged(planted, queries)]
    assert sum("timed out" in reason for reason in reasons) <= 1


@pytest.mark.long
@pytest.mark.ci
def test_every_hostile_query(planted: Path) -> None:
    queries = [query for family in FAMILIES.values() for query in family]
    assert len(queries) == len(set(queries))
    assert len(queries) >= 250
    reasons = [verdict.error or "" for verdict in judged(planted, queries)]
    assert sum("steps" in reason for reason in reasons) >= 5


def test_the_connection_alone_refuses_what_is_no_query(planted: Path) -> None:
    """Without the look at the text that comes first in the judge: the second wall stands by itself."""
    before = contents(planted)
    statements = [*WRITES, *FILES, *PRAGMAS]
    script = [sys.executable, str(Path(__file__).with_name("bare_database.py")), str(planted / "town.sqlite")]
    given = "".join(json.dumps(statement) + "\n" for statement in statements)
    done = subprocess.run(
        script, cwd=planted, input=given, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    outcomes = dict(zip(statements, map(json.loads, done.stdout.splitlines()), strict=True))
    done_all_the_same = {text: said for text, said in outcomes.items() if not said.startswith("refused")}
    # What a plan is may be asked, and transactions that are not open may end; neither does anything.
    assert set(done_all_the_same) <= {"EXPLAIN QUERY PLAN SELECT * FROM city", "EXPLAIN SELECT 1"}
    assert SECRET not in done.stdout
    assert contents(planted) == before
