"""The pairs that judges of mathematics are measured with, and the rules that they are measured against."""

from __future__ import annotations

import importlib
import random
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest

from params.base import Choice
from tasks.rewards.judge import Judge
from tasks.rewards.math import Config, judge

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return {name: importlib.import_module(name) for name in ("math_pairs", "math_rules")}


def test_hundreds_of_pairs_of_many_kinds_have_both_labels(benchmarks: dict[str, ModuleType]) -> None:
    made = benchmarks["math_pairs"]
    found = made.pairs(4, 3)
    assert len(found) >= 700
    assert len({pair.kind for pair in found}) >= 20
    assert all(right and wrong for _, right, wrong in made.counts(found))
    assert {*made.FIXED} <= {*found}
    assert found == made.pairs(4, 3)
    assert found != made.pairs(4, 3, seed=1)


def test_no_pair_is_both_right_and_wrong(benchmarks: dict[str, ModuleType]) -> None:
    for seed in range(20):
        found = benchmarks["math_pairs"].pairs(2, 99, seed)
        assert len({(pair.gold, pair.answer) for pair in found}) == len(found)


@pytest.mark.parametrize(
    ("rule", "gold", "answer", "expected"),
    [
        ("verl_gsm8k", "1234", "#### 7\n#### 1,234", 1.0),
        ("verl_gsm8k", "1234", "#### 1234.0", 0.0),
        ("verl_gsm8k", "1234", r"\boxed{1234}", 0.0),
        ("verl_math", r"\frac{1}{2}", r"so \boxed{0.5}", 1.0),
        ("verl_math", r"\frac{3}{4}", r"\boxed{1} \boxed{x = \dfrac34}", 1.0),
        ("verl_math", "3/4", r"\boxed{\tfrac{3}{4}}", 1.0),
        ("verl_math", r"2\sqrt{3}", r"\boxed{2 \sqrt3}", 1.0),
        ("verl_math", "45", r"\boxed{45^\circ}", 1.0),
        ("verl_math", "5", r"\boxed{5 \text{ cm}}", 1.0),
        ("verl_math", "5", r"\boxed{5.0}", 0.0),
        ("verl_math", "5", "5", 0.0),
        ("trl", r"\frac{1}{3}", r"\boxed{\frac{1}{3}}", 1.0),
        ("trl", "3", "3", 0.0),
        ("math_verify", r"\frac{1}{3}", "it is 1/3", 1.0),
        ("last_number", "1234", "1,234 apples.", 1.0),
        ("last_number", "x", "1", 0.0),
    ],
)
def test_rules(benchmarks: dict[str, ModuleType], rule: str, gold: str, answer: str, expected: float) -> None:
    assert getattr(benchmarks["math_rules"], rule)(gold, answer) == expected


def test_the_product_accepts_no_wrong_answer_and_rejects_hardly_a_right_one(
    benchmarks: dict[str, ModuleType],
) -> None:
    for seed in (0, 21):
        found = benchmarks["math_pairs"].pairs(4, 3, seed)
        verdicts = [judge(pair.gold, pair.answer, Config()).reward == 1.0 for pair in found]
        accepts = [pair for pair, said in zip(found, verdicts, strict=True) if said and not pair.label]
        rejects = [pair for pair, said in zip(found, verdicts, strict=True) if pair.label and not said]
        assert accepts == []
        assert len(rejects) <= 0.01 * sum(pair.label for pair in found), rejects


def test_a_verdict_depends_on_neither_order_nor_workers_nor_what_came_before(
    benchmarks: dict[str, ModuleType],
) -> None:
    found = [(pair.gold, pair.answer) for pair in benchmarks["math_pairs"].pairs(1, 2, 5)]
    shuffled = random.Random(0).sample(found, len(found))
    said = []
    for pairs, workers in ((found, 1), (shuffled, 2), (found[::-1], 3)):
        with closing(Judge(Choice(name="math"), workers)) as court:
            said.append(dict(zip(pairs, court.judge(pairs), strict=True)))
    assert said[0] == said[1] == said[2]
