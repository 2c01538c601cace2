"""Several rewards of one answer: their sum, the one that decides, failures, and the ready-made ones."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from params.base import BadInput, Choice, validate
from params.load import compose
from params.reward import RewardChoice, several
from params.task import Task
from tasks.rewards.aggregate import aggregated
from tasks.rewards.base import Answer, Group, Verdict
from tasks.rewards.judge import Judge

VERDICTS = st.one_of(
    st.floats(-2.0, 2.0).map(Verdict),
    st.just(Verdict(None)),
    st.just(Verdict(None, "it hung")),
    st.just(Verdict(0.0, "unreadable")),
)
WEIGHTS = st.floats(-2.0, 2.0)


@given(st.lists(st.tuples(WEIGHTS, VERDICTS), min_size=1, max_size=5))
def test_the_sum_is_over_what_applies_and_a_failure_is_null(drawn: list[tuple[float, Verdict]]) -> None:
    choices = [RewardChoice(name="x", label=f"r{i}", weight=weight) for i, (weight, _) in enumerate(drawn)]
    verdicts = [verdict for _, verdict in drawn]
    found = aggregated(choices, verdicts)
    assert found.parts == {f"r{i}": verdict.reward for i, verdict in enumerate(verdicts)}
    failed = [i for i, (weight, v) in enumerate(drawn) if v.error == "it hung" and (weight or i == 0)]
    applying = [(weight, v.reward) for weight, v in drawn if v.reward is not None]
    if failed or not applying:
        assert (found.reward, found.total) == (None, None)
        assert found.error
    else:
        assert found.reward == applying[0][1]
        assert found.total == pytest.approx(math.fsum(weight * reward for weight, reward in applying))
    for i, verdict in enumerate(verdicts):
        assert verdict.error is None or f"r{i}: {verdict.error}" in str(found.error)


@given(st.lists(st.floats(-3.0, 3.0), min_size=2, max_size=5), st.floats(0.1, 3.0))
def test_the_sum_scales_with_the_weights(rewards: list[float], factor: float) -> None:
    def total(scale: float) -> float:
        choices = [RewardChoice(name="x", label=f"r{i}", weight=scale * (i + 1)) for i in range(len(rewards))]
        found = aggregated(choices, [Verdict(reward) for reward in rewards]).total
        assert found is not None
        return found

    assert total(factor) == pytest.approx(factor * total(1.0), abs=1e-9)


@pytest.mark.parametrize(("weights", "rewards"), [((1e30, 1.0), (1e30, 1.0)), ((1e300, -1e300), (1e9, 1e9))])
def test_a_sum_that_no_column_holds_is_no_reward(
    weights: tuple[float, ...], rewards: tuple[float, ...]
) -> None:
    choices = [RewardChoice(name="x", label=f"r{i}", weight=weight) for i, weight in enumerate(weights)]
    found = aggregated(choices, [Verdict(reward) for reward in rewards])
    assert (found.reward, found.total) == (None, None)
    assert found.error == "a weighted sum that float32 does not hold"


FILE = """
import os, time

def fragile(completions, **kwargs):
    if "hang" in completions:
        time.sleep(60)
    if "die" in completions:
        os._exit(3)
    return [None if text == "none" else 0.5 for text in completions]

def ours(gold, answer):
    if answer == "hang alone":
        time.sleep(60)
    return float(gold == answer)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)


def test_what_hangs_or_dies_costs_its_own_answers_only(mine: None) -> None:
    rewards = Task(
        problems=Choice(name="sums"),
        reward=[
            {"name": "mine:ours", "timeout_seconds": 0.5},
            {"name": "mine:fragile", "weight": 2.0, "timeout_seconds": 0.5},
        ],
    ).reward
    texts = (["a", "none"], ["a", "hang"], ["a", "die"], ["hang alone", "a"], ["b", "a"])
    groups = [Group("a", tuple(map(Answer, each))) for each in texts]
    judge = Judge(rewards, workers=2)
    found = judge.judge_groups(groups)
    judge.close()
    assert [[verdict.total for verdict in group] for group in found] == [
        [2.0, 0.0],
        [None, None],
        [None, None],
        [None, 2.0],
        [1.0, 2.0],
    ]
    assert found[1][0].parts == {"ours": 1.0, "fragile": None}
    assert found[1][0].error == "fragile: timed out after 1 s"
    assert found[2][0].error == "fragile: judge died (exit code 3)"
    assert found[3][0].error == "ours: timed out after 0.5 s"


@settings(max_examples=5, deadline=None)
@given(st.permutations(range(4)))
def test_a_group_may_arrive_in_any_order(order: list[int]) -> None:
    rewards = [RewardChoice(name="length"), RewardChoice(name="repetition", weight=0.5)]
    answers = [Answer("a " * (place + 1), tuple(range(place + 1))) for place in range(4)]
    judge = Judge(tuple(rewards))
    arriving = judge.begin(Group("", ()), 4)
    for place in order:
        arriving.add(place, answers[place])
    found = [verdict.total for verdict in arriving.verdicts()]
    judge.close()
    assert found == pytest.approx([0.5, 0.5 - 1 / 3, 0.5 - 2 / 3, -0.5 - 0.25])


def ready(name: str, texts: list[str], limit: int | None = None, **options: object) -> list[float | None]:
    answers = tuple(Answer(text, tuple(range(len(text)))) for text in texts)
    judge = Judge(Choice.model_validate({"name": name, **options}))
    found = judge.judge_groups([Group("", answers, max_tokens=limit)])[0]
    judge.close()
    return [verdict.reward for verdict in found]


def test_format() -> None:
    whole = "<think>why</think>\n<answer>4</answer>"
    texts = [whole, f" {whole}\n", f"so {whole}", f"{whole} then", "<answer>4</answer>", "4", whole + whole]
    assert ready("format", texts) == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    texts = ["<think>why</think> 4", "<think>why</think>", "<think>why 4", "4"]
    assert ready("format", texts, tags=["think"], text_after=True) == [1.0, 0.0, 0.0, 0.0]
    assert ready("format", ["why</think> 4", "why"], tags=["think"], text_after=True, opened=True) == [
        1.0,
        0.0,
    ]


def test_repetition_and_overlong() -> None:
    assert ready("repetition", ["a b c d", "a a a a a", "A a", ""], words=2) == [0.0, -0.75, 0.0, 0.0]
    assert ready("overlong", ["", "x" * 6, "x" * 8, "x" * 10, "x" * 12], 10, cache_tokens=4) == [
        *(0.0, 0.0, -0.5, -1.0, -1.0),
    ]
    assert ready("overlong", ["x" * 8], cache_tokens=4, max_tokens=9) == [-0.75]
    assert ready("overlong", ["x"], cache_tokens=4) == [None]
    assert ready("length", ["xx", "xxx", "xxxx"]) == [0.5, 0.0, -0.5]
    assert ready("length", ["xx", "xx"]) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("given_rewards", "message"),
    [
        ("[math,math]", "two rewards are called 'math'; expected a label for one of them"),
        ("[a.b:right,c.d:right]", "two rewards are called 'right'"),
        ("[{name: math, weight: 0},{name: format, weight: 0}]", "every weight is 0; expected one at least"),
        ("[]", "no reward in the list"),
        ("[{weight: 1}]", r"task\.reward\.0: .* names no reward"),
        ("[{name: math, weight: much}]", r"task\.reward\.0\.weight: 'much'; expected a number"),
        ("[{name: math, label: a b}]", "'a b' is no name for a reward"),
    ],
)
def test_bad_lists_are_told_in_one_line(given_rewards: str, message: str) -> None:
    with pytest.raises(BadInput, match=message) as told:
        compose("nano", "sums", "grpo", [f"task.reward={given_rewards}"])
    assert "\n" not in str(told.value)


def test_a_list_has_names_weights_and_options() -> None:
    rewards = "[math,{name: format, weight: 0.2, tags: [answer]},{name: a.b:right, label: mine}]"
    params = compose("nano", "sums", "grpo", [f"task.reward={rewards}"])
    found = several(params.task.reward)
    assert [(each.called, each.weight) for each in found] == [("math", 1.0), ("format", 0.2), ("mine", 1.0)]
    assert found[1].model_extra == {"tags": ["answer"]}
    again = validate(type(params), params.model_dump(mode="json"))
    assert again.task.reward == params.task.reward
    (one,) = several(compose("nano", "sums", "grpo", ["task.reward={name: math, weight: 0.5}"]).task.reward)
    assert (one.weight, one.called) == (0.5, "math")


def test_distil_learns_from_one() -> None:
    with pytest.raises(BadInput, match=r"task\.reward: several, but distil learns from one"):
        compose("nano", "sums", "erpd", ["task.reward=[math,format]"])
