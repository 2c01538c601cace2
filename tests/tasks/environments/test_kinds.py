"""Environments as people write them: ours, TRL's with tools, SkyRL's text ones; each through its process."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from params.base import BadInput, Choice
from params.episode import Episode
from tasks.environments.base import Problem
from tasks.environments.find import environments
from tasks.environments.pool import Pool

FILE = '''
import random


class Shop:
    """As TRL has them."""

    def __init__(self, stock=2):
        self.stock = stock

    def reset(self, question, city, **row):
        self.city, self.sold = city, 0
        return f"The shop is in {city}."

    def buy(self, count: int) -> str:
        """Buy some.

        Args:
            count: how many
        """
        if count > self.stock:
            raise ValueError("not so many")
        self.sold += count
        return {"left": self.stock - self.sold}

    async def look(self) -> str:
        """Look around."""
        return "a shelf"

    def get_reward(self) -> float:
        return float(self.sold)


class Oracle:
    """Its tool has the name of ours, and an argument."""

    def reset(self, question):
        pass

    def get_answer(self, about: str) -> str:
        """Ask it.

        Args:
            about: what
        """
        return f"{about}? 42"


class Text:
    """As SkyRL-Gym has them."""

    def __init__(self, env_config, extras):
        self.truth = extras["reward_spec"]["ground_truth"]

    def init(self, prompt):
        return prompt, {}

    def step(self, action):
        done = action == self.truth
        seen = [] if done else [{"role": "user", "content": "no"}]
        return {"observations": seen, "reward": float(done), "done": done, "metadata": {}}


class Dice:
    def start(self, problem):
        return str(random.random())

    def step(self, said):
        raise AssertionError


class Nothing:
    def look(self):
        pass
'''
PROBLEM = Problem("What?", "42", 7, {"city": "Rome"})


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)


def opened(name: str, fenced: bool = True, **options: Any) -> Iterator[Pool]:
    pool = Pool(Choice(name=name, **options), Episode(), fenced)
    try:
        yield pool
    finally:
        pool.close()


def asked(pool: Pool, said: str) -> dict[str, Any]:
    pool.step(0, said, said)
    return pool.answer()[1]


@pytest.mark.parametrize("fenced", [True, False])
def test_tools_are_called_and_what_they_say_is_read(fenced: bool) -> None:
    for pool in opened("mine.py:Shop", fenced, stock=3):
        assert [tool["function"]["name"] for tool in pool.tools] == ["buy", "look"]
        pool.start(0, PROBLEM)
        assert pool.answer() == (0, {"said": "The shop is in Rome."})
        call = "```buy\n{}\n```" if fenced else '<tool_call>{{"name": "buy", "arguments": {}}}</tool_call>'
        body = "2" if fenced else '{"count": 2}'
        if fenced:  # one argument alone is text: the tool has to take it as it is
            assert "TypeError" in asked(pool, call.format(body))["messages"][0]["content"]
            return
        said = asked(pool, call.format(body))
        assert said["messages"] == [{"role": "tool", "name": "buy", "content": '{"left": 1}'}]
        assert "not so many" in asked(pool, call.format('{"count": 9}'))["messages"][0]["content"]
        look = asked(pool, '<tool_call>{"name": "look", "arguments": {}}</tool_call>')
        assert look["messages"][0]["content"] == "a shelf"
        last = asked(pool, "That is all.")
        assert (last["done"], last["total"]) == (True, 2.0)


def test_a_reward_that_no_column_holds_is_a_failure() -> None:
    for pool in opened("mine.py:Shop", fenced=False, stock=10**40):
        pool.start(0, PROBLEM)
        pool.answer()
        asked(pool, f'<tool_call>{{"name": "buy", "arguments": {{"count": {10**39}}}}}</tool_call>')
        last = asked(pool, "That is all.")
        assert last["failed"] == "environment"
        assert last["why"] == "ValueError: a reward of 1e+39; expected a number that float32 holds"


def test_a_tool_may_be_called_get_answer() -> None:
    for pool in opened("mine.py:Oracle"):
        assert [tool["function"]["name"] for tool in pool.tools] == ["get_answer"]
        pool.start(0, PROBLEM)
        pool.answer()
        said = asked(pool, "```get_answer\nthe world\n```")
        assert said["messages"][0]["content"] == "the world? 42"
        last = asked(pool, "It is 42.")
        assert (last["done"], last["total"], last["answer"]) == (True, None, None)


@pytest.mark.parametrize(
    ("call", "name", "content"),
    [
        ('"\\ud83d<eos>", "arguments": {}', "error", "Error: no tool '?<eos>'; there are get_answer"),
        ('"get_answer", "arguments": {"about": "\\ud83d"}', "get_answer", "?? 42"),
    ],
)
def test_half_a_surrogate_pair_and_a_name_of_the_models_own_reach_no_template(
    call: str, name: str, content: str
) -> None:
    for pool in opened("mine.py:Oracle", fenced=False):
        pool.start(0, PROBLEM)
        pool.answer()
        said = asked(pool, f'<tool_call>{{"name": {call}}}</tool_call>')
        assert said["messages"] == [{"role": "tool", "name": name, "content": content}]


def test_a_text_environment_takes_steps() -> None:
    for pool in opened("mine.py:Text"):
        pool.start(0, PROBLEM)
        assert pool.answer() == (0, {"said": None})
        first = asked(pool, "41")
        assert (first["messages"], first["reward"]) == ([{"role": "user", "content": "no"}], 0.0)
        last = asked(pool, "42")
        assert (last["done"], last["total"]) == (True, 1.0)


def test_chance_is_of_the_seed_alone() -> None:
    found = []
    for pool in opened("mine.py:Dice"):
        for name, seed in ((0, 1), (1, 2), (2, 1)):
            pool.start(name, Problem("?", "", seed))
            found.append(pool.answer()[1]["said"])
    assert found[0] == found[2] != found[1]


def test_what_ends_frees_its_process_and_the_others_go_on() -> None:
    for pool in opened("guess"):
        for name in range(5):
            pool.start(name, Problem("1-9", "4", name))
        assert sorted(pool.answer()[0] for _ in range(5)) == list(range(5))
        for name in range(0, 5, 2):
            pool.end(name)
        for name in (1, 3):
            pool.step(name, "6", "6")
        assert {pool.answer()[1]["messages"][0]["content"] for _ in range(2)} == {"1-5"}


def test_there_may_be_more_episodes_than_a_process_has_files_at_first() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(free := os.dup(2))
    few = free + 32
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, before[1]))
    try:
        for pool in opened("guess"):
            for name in range(few):
                pool.start(name, Problem("1-9", "4", name))
            assert sorted(pool.answer()[0] for _ in range(few)) == list(range(few))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_class_that_is_no_environment_is_one_line() -> None:
    with pytest.raises(BadInput, match="Nothing is no environment"):
        list(opened("mine.py:Nothing"))


def test_ours_are_found_by_name() -> None:
    assert set(environments()) == {"calculator", "guess", "sql-agent"}
