"""The set ``gsm8k`` and lm-eval's GSM8K on the same answers: verdicts differ for listed reasons alone.

``lm_eval_gsm8k.json`` holds answers of SmolLM2-135M to sums, written and drawn ones (``from``), with the
verdicts of lm-eval's own filters and metric under the settings of its task ``gsm8k``, version 3.0: ``strict``
(strict-match) and ``flexible`` (flexible-extract). ``differs`` says why ours is another.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from params.load import compose
from params.views import of_set
from tasks.problems.contract import find_source
from tasks.rewards.judge import Judge

RECORDED = json.loads(Path(__file__).with_name("lm_eval_gsm8k.json").read_text())
KINDS = {
    "strict": {
        "form": True,  # no plain number directly after "#### "
        "value": True,  # the same number, written otherwise
        "first": None,  # of several "####" theirs reads the first, ours the last
        "goes on": False,  # theirs reads the number and not what follows it
        "commas": False,  # theirs drops every comma
    },
    "flexible": {
        "value": True,
        "later": None,  # digits or dots behind the answer, which theirs reads
        "part": False,  # theirs reads digits that are part of something else
        "commas": False,
    },
}
"""Of each rule: why a verdict differs, and what ours then is; None: either."""
PLAIN = re.compile(r"[^#]*#### -?(?:0|[1-9]\d*|[1-9]\d{0,2}(?:,\d{3})+)\.?")
"""An answer for which all rules say the same: one ``####``, and behind it a number alone."""


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> list[bool]:
    """Of the product: right answers as the set reads them from its file, and its judge."""
    golds = sorted({record["gold"] for record in RECORDED["records"]})
    path = tmp_path_factory.mktemp("gsm8k") / "test.jsonl"
    rows = [{"question": f"Question {n}", "answer": gold} for n, gold in enumerate(golds)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ["evaluate.sets=[gsm8k]", f"sets.gsm8k.problems.path={path}"]
    task = of_set(compose("nano", "sums", "grpo", settings), "gsm8k").task
    source = find_source(task.problems.name, "task.problems")
    assert source.held_out is not None
    read = source.held_out(task.problems.resolve(source.Config, "task.problems"), task, None)
    right = dict(zip(golds, read["answer"].to_pylist(), strict=True))
    judge = Judge(task.reward, 1)
    try:
        found = judge.judge([(right[record["gold"]], record["answer"]) for record in RECORDED["records"]])
    finally:
        judge.close()
    assert all(verdict.reward in (0.0, 1.0) for verdict in found)
    return [verdict.reward == 1.0 for verdict in found]


@pytest.mark.parametrize("rule", KINDS)
def test_verdicts_differ_for_the_listed_reasons_alone(verdicts: list[bool], rule: str) -> None:
    wrong: list[tuple[str, Any]] = []
    met: Counter[str] = Counter()
    for record, ours in zip(RECORDED["records"], verdicts, strict=True):
        kind = record["differs"].get(rule)
        met[kind] += 1
        expected = record[rule] if kind is None else not record[rule]
        side = KINDS[rule][kind] if kind else None
        if ours != expected or side not in (None, ours):
            wrong.append((record["answer"][-80:], ours))
    assert not wrong
    assert set(met) == {None, *KINDS[rule]}
    assert met[None] >= RECORDED["agree"][rule]


def test_where_the_rules_say_the_same_so_do_the_verdicts(verdicts: list[bool]) -> None:
    plain = [
        (record, ours)
        for record, ours in zip(RECORDED["records"], verdicts, strict=True)
        if PLAIN.fullmatch(record["answer"].strip())
    ]
    assert len(plain) >= RECORDED["plain"]
    assert {ours for _, ours in plain} == {True, False}
    assert all(ours == record["strict"] == record["flexible"] for record, ours in plain)
