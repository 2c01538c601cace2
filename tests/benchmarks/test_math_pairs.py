"""The pairs that judges of mathematics are measured with, and the rules that they are measured against."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

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
