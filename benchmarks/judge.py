"""How many SQL answers a second two judging processes score, beside a fresh process for every query.

    python benchmarks/judge.py [--workers 2] [--seconds 5]

Prints one JSON line. Every answer is another query, so no result is known before; a round of equal answers,
as a group of samples often holds, is measured beside it. The naive baseline starts Python, opens the database
and runs both queries, once an answer, with as many at a time as there are workers.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import shared

from params.base import Choice
from tasks.rewards.judge import Judge

GOLD = "SELECT country, count(*), avg(population) FROM city GROUP BY country"
NAIVE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
gold, given = (connection.execute(query).fetchall() for query in sys.argv[2:])
print(sorted(gold) == sorted(given))
"""


def _database(root: Path) -> Path:
    """A thousand cities."""
    path = root / "world.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, country TEXT, population INTEGER)")
        rows = [(i, f"C{i % 37}", i * 7919 % 100_003) for i in range(1000)]
        connection.executemany("INSERT INTO city VALUES (?, ?, ?)", rows)
    connection.close()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    listed = {"world": {"path": path.name, "sha256": digest, "bytes": path.stat().st_size}}
    (root / "databases.json").write_text(json.dumps(listed))
    return path


def _speed(judge: Callable[[list[str]], None], answers: Callable[[int], list[str]], seconds: float) -> float:
    """Answers a second, in batches that grow until one takes ``seconds``."""
    count = 16
    while True:
        batch = answers(count)
        began = time.perf_counter()
        judge(batch)
        took = time.perf_counter() - began
        if took >= seconds / 2:
            return count / took
        count = int(count * min(8.0, 1.2 * seconds / max(took, 1e-3)))


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = shared.arguments(parser, seconds=0.2)
    with TemporaryDirectory() as folder:
        path = _database(Path(folder))
        right = json.dumps({"database": "world", "query": GOLD})
        court = Judge(Choice(name="sql"), options.workers, Path(folder))
        court.judge([(right, GOLD)] * 2 * options.workers)
        limits = itertools.count(1001)

        def pooled(answers: list[str]) -> None:
            verdicts = court.judge([(right, answer) for answer in answers])
            assert all(verdict.reward == 1.0 for verdict in verdicts)

        def one(answer: str) -> bool:
            command = [sys.executable, "-I", "-c", NAIVE, str(path), GOLD, answer]
            return subprocess.run(command, capture_output=True, check=True).stdout == b"True\n"

        def naive(answers: list[str]) -> None:
            with ThreadPoolExecutor(options.workers) as threads:
                assert all(threads.map(one, answers))

        def different(count: int) -> list[str]:
            return [GOLD.replace("FROM city", f"FROM city WHERE id < {next(limits)}") for _ in range(count)]

        speed = _speed(pooled, different, options.seconds)
        equal = _speed(pooled, lambda count: [GOLD] * count, options.seconds)
        baseline = _speed(naive, different, options.seconds)
        court.close()
    found = {
        "workers": options.workers,
        "answers_per_second": round(speed, 1),
        "equal_answers_per_second": round(equal, 1),
        "process_per_answer_per_second": round(baseline, 1),
        "ratio": round(speed / baseline, 1),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
