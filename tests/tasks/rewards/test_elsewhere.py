"""Rewards as TRL, verl and OpenRLHF document them run as they are, and are told apart by their parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from params.base import BadInput, Choice
from params.task import Task
from tasks.rewards.base import Answer, Group, Verdict
from tasks.rewards.contract import chosen_reward
from tasks.rewards.judge import Judge
from tasks.rewards.problems import groups_of

# The interfaces of TRL's "Using a custom reward function", verl's "Implement Reward Function for Dataset" and
# OpenRLHF's example of a reward function, each by a function of the same shape.
FILE = r"""
import asyncio
import re


def by_tokens(completions_ids, **kwargs):
    return [float(len(ids)) for ids in completions_ids]


def by_new_tokens(completion_ids, **kwargs):
    return [float(len(ids)) for ids in completion_ids]


def by_characters(completions, **kwargs):
    return [float(len(text)) for text in completions]


def tagged(completions, **kwargs):
    contents = [messages[0]["content"] for messages in completions]
    return [1.0 if re.match(r"^<think>.*?</think><answer>.*?</answer>$", text) else 0.0 for text in contents]


def boxed(completions, ground_truth, **kwargs):
    found = [re.search(r"\\boxed\{(.*?)\}", text) for text in completions]
    return [1.0 if f and f.group(1) == right else 0.0 for f, right in zip(found, ground_truth)]


def sums_only(prompts, completions, task, **kwargs):
    return [(1.0 if "4" in text else -1.0) if kind == "sum" else None
            for prompt, text, kind in zip(prompts, completions, task)]


def code_only(prompts, completions, task, **kwargs):
    return [None if kind != "code" else float("def" in text) for text, kind in zip(completions, task)]


async def awaited(prompts, completions, **kwargs):
    await asyncio.sleep(0.01)
    return [1.0 if text else 0.0 for text in completions]


def logging(prompts, completions, log_extra=None, log_metric=None, **kwargs):
    log_extra("read", [text[-1:] for text in completions])
    log_metric("share", sum("4" in text for text in completions) / len(completions))
    return [1.0 for _ in completions]


def ranked(completions, **kwargs):
    return [float(sorted(completions).index(text)) for text in completions]


def state(completions, trainer_state, **kwargs):
    return [float(trainer_state.global_step) for _ in completions]


def one_bad(completions, **kwargs):
    return [float("nan") if text == "bad" else "1" if text == "text" else 1.0 for text in completions]


def too_few(completions, **kwargs):
    return [1.0]


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return len(solution_str) / 100


def with_details(data_source, solution_str, ground_truth, extra_info=None):
    right = solution_str.strip() == ground_truth
    return {"score": float(right), "acc": right, "pred": solution_str, "from": data_source,
            "index": (extra_info or {}).get("index")}


def scoreless(data_source, solution_str, ground_truth, extra_info=None):
    return {"acc": 1.0}


async def verl_awaited(data_source, solution_str, ground_truth, extra_info=None, bonus=0.0, **kwargs):
    return 1.0 + bonus


class Tensor(list):
    def tolist(self):
        return list(self)


def reward_func(queries, prompts, labels, **kwargs):
    rewards = []
    for query, prompt, label in zip(queries, prompts, labels):
        rewards.append(1.0 if query[len(prompt):].strip() == label else 0.0)
    found = Tensor(rewards)
    return {"rewards": found, "scores": found, "extra_logs": {"accuracy": sum(rewards) / len(rewards)}}


def neither(completions, solution_str):
    return 0.0


def strange(text, target):
    return 0.0


def greedy_verl(solution_str, ground_truth, tokenizer):
    return 0.0


alias = reward_func
"""


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "theirs.py"
    path.write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return path


def said(name: str, texts: list[str], columns: dict[str, Any] | None = None, **options: Any) -> list[Verdict]:
    """What a function of the file says of answers to one problem."""
    answers = tuple(Answer(text, tuple(range(len(text.split()) + 1))) for text in texts)
    group = Group("4", answers, "2+2", "What is 2+2?", "sums", columns or {}, 16, 3)
    judge = Judge(Choice(name=f"theirs:{name}", **options))
    try:
        return judge.judge_groups([group])[0]
    finally:
        judge.close()


def rewards(name: str, texts: list[str], columns: dict[str, Any] | None = None, **more: Any) -> list[Any]:
    return [verdict.reward for verdict in said(name, texts, columns, **more)]


def test_trl_text() -> None:
    assert rewards("by_tokens", [" blue.", " in the sky."]) == [2.0, 4.0]
    assert rewards("by_new_tokens", [" blue.", " in the sky."]) == [2.0, 4.0]
    assert rewards("by_characters", [" blue.", " in the sky."]) == [6.0, 12.0]
    assert rewards("boxed", [r"is \boxed{4}.", r"is \boxed{5}."], {"ground_truth": "4"}) == [1.0, 0.0]
    assert rewards("awaited", ["yes", ""]) == [1.0, 0.0]
    assert rewards("ranked", ["b", "c", "a"]) == [1.0, 2.0, 0.0]
    assert rewards("state", ["b"]) == [3.0]


def test_trl_messages() -> None:
    texts = ["<think>2 and 2</think><answer>4</answer>", "4"]
    asked = {"prompt": [{"role": "user", "content": "What is 2+2?"}]}
    assert rewards("tagged", texts, asked) == [1.0, 0.0]
    assert rewards("tagged", texts, messages=True) == [1.0, 0.0]
    failed = said("tagged", texts)
    assert [verdict.reward for verdict in failed] == [None, None]
    assert "judge failed: TypeError" in str(failed[0].error)


def test_trl_logs() -> None:
    first, second = said("logging", ["is 4", "is 5"])
    assert (first.notes, second.notes) == ({"read": "4", "share": 0.5}, {"read": "5", "share": 0.5})


def test_trl_none_is_not_applicable() -> None:
    several = Task(problems=Choice(name="sums"), reward=["theirs:sums_only", "theirs:code_only"]).reward
    kinds = ("sum", "code", "verse")
    groups = [Group("4", (Answer("4"), Answer("def")), columns={"task": kind}) for kind in kinds]
    judge = Judge(several)
    found = judge.judge_groups(groups)
    judge.close()
    assert [[verdict.reward for verdict in verdicts] for verdicts in found] == [[1, -1], [0, 1], [None, None]]
    assert found[0][1].parts == {"sums_only": -1.0, "code_only": None}
    assert found[2][0].error == "no reward applies"


def test_trl_one_bad_answer_costs_itself_alone() -> None:
    found = said("one_bad", ["fine", "bad", "text", "fine"])
    assert [verdict.reward for verdict in found] == [1.0, None, None, 1.0]
    assert found[1].error == "theirs:one_bad returned nan; expected a finite number"
    few = said("too_few", ["a", "b"])
    assert {v.error for v in few} == {
        "judge failed: ValueError: theirs:too_few returned 1 rewards for 2 answers"
    }


def test_verl() -> None:
    assert rewards("compute_score", ["x" * 50, ""]) == [0.5, 0.0]
    columns = {
        "data_source": "openai/gsm8k",
        "reward_model": {"style": "rule", "ground_truth": "four"},
        "extra_info": {"index": 7},
    }
    first, second = said("with_details", ["four", "4"], columns)
    assert (first.reward, second.reward) == (1.0, 0.0)
    assert first.notes == {"acc": True, "pred": "four", "from": "openai/gsm8k", "index": 7}
    assert said("with_details", ["4"])[0].notes == {"acc": True, "pred": "4", "from": "sums", "index": None}
    assert said("scoreless", ["4"]) == [Verdict(None, "theirs:scoreless returned no 'score' but acc")]
    assert rewards("verl_awaited", ["4"]) == [1.0]
    assert rewards("verl_awaited", ["4"], arguments={"bonus": 0.5}) == [1.5]


def test_openrlhf() -> None:
    first, second = said("reward_func", ["4", "5"])
    assert (first.reward, second.reward, first.notes) == (1.0, 0.0, {"accuracy": 0.5})
    assert rewards("alias", ["4"], style="openrlhf") == [1.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "strange",
            r"takes \(text, target\); expected \(gold, answer\), TRL's \(prompts, completions, .*\), "
            r"verl's \(data_source, solution_str, ground_truth, extra_info\), OpenRLHF's",
        ),
        ("neither", "fits trl and verl; expected task.reward.style, one of the two"),
        ("greedy_verl", r"takes \(solution_str, ground_truth, tokenizer\); expected"),
    ],
)
def test_an_unknown_signature_is_told_before_anything_runs(name: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        chosen_reward(Choice(name=f"theirs:{name}"), "task.reward")


def test_a_column_that_no_problem_has_is_told_before_anything_runs() -> None:
    task = Task(problems=Choice(name="sums"), reward=Choice(name="theirs:boxed"))
    row = {"question": "2+2", "answer": "4", "source": "s", "columns": '{"solution": "4", "prompt": "2+2"}'}
    with pytest.raises(BadInput, match="takes 'ground_truth', which is no column of the problems; they have"):
        groups_of([row], task)
    (group,) = groups_of([{**row, "columns": '{"ground_truth": "4"}'}], task)
    assert group.columns == {"ground_truth": "4"}
