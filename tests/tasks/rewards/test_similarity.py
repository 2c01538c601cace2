"""Similarity: 1 for the same text alone, in between otherwise, and through the real judge."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from params.base import Choice
from tasks.rewards.judge import Judge
from tasks.rewards.similarity import Config, judge

texts = st.text(max_size=40)


def reward(gold: str, answer: str, config: Config | None = None) -> float:
    value = judge(gold, answer, config or Config()).reward
    assert value is not None
    return value


@given(texts, texts)
def test_it_is_one_for_the_same_text_alone(gold: str, answer: str) -> None:
    value = reward(gold, answer)
    assert 0.0 <= value <= 1.0
    assert (value == 1.0) == (gold.strip() == answer.strip())


def test_closer_is_more() -> None:
    gold = "SELECT name FROM city WHERE size > 10"
    near, far = gold.replace("10", "20"), "SELECT 1"
    assert 1.0 > reward(gold, near) > reward(gold, far) > reward(gold, "")
    assert reward(gold, "") == 0.0


def test_only_the_beginning_of_a_long_answer_counts() -> None:
    assert reward("abc", "abc" + "x" * 100, Config(max_answer_characters=3)) == 1.0


def test_the_judge_finds_it_by_name() -> None:
    judges = Judge(Choice(name="similarity"))
    try:
        assert [v.reward for v in judges.judge([("ab", "ab"), ("ab", "cd")])] == [1.0, 0.0]
    finally:
        judges.close()
