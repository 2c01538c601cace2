"""The three ways in which environments are written, each as ours: told apart by what the class has."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, Literal

from tasks.core.numbers import LARGEST
from tasks.environments.base import Message, Problem, Turn
from tasks.environments.calls import calls_in, schema

Kind = Literal["ours", "tools", "text"]
NO_TOOLS = ("reset", "get_reward", "close")


@dataclass(frozen=True)
class Step:
    """What came of a turn."""

    messages: list[Message] = field(default_factory=list)
    reward: float | None = None
    done: bool = False
    calls: int = 0
    """Of tools."""


def kind_of(has: Callable[[str], bool]) -> Kind | None:
    """How a class is written that ``has`` methods of these names; None where it is no environment."""
    if has("start") and has("step"):
        return "ours"
    if has("init") and has("step"):
        return "text"
    return "tools" if has("reset") else None


def tools_of(environment: type) -> list[dict[str, Any]]:
    """The tools of a class that is written as TRL's, as chat templates read them."""
    methods = inspect.getmembers(environment, inspect.isfunction)
    own = (*NO_TOOLS, *(["get_answer"] if tells_answer(environment) else []))
    bound = [(name, each) for name, each in methods if not name.startswith("_") and name not in own]
    return [schema(name, each.__get__(object())) for name, each in bound]


def tells_answer(environment: type) -> bool:
    """Whether it says what is to be judged: by a ``get_answer`` that takes nothing; else that is a tool."""
    told = getattr(environment, "get_answer", None)
    return callable(told) and list(inspect.signature(told).parameters) == ["self"]


class Adapter:
    """One episode's environment, whatever its kind."""

    def __init__(self, environment: type, options: dict[str, Any], problem: Problem, fenced: bool) -> None:
        self._kind = kind_of(lambda name: callable(getattr(environment, name, None)))
        self._problem, self._fenced = problem, fenced
        self._tools = tools_of(environment) if self._kind == "tools" else []
        self._rewards: list[float | None] = []
        self._made: Any = environment(**self._wanted(environment, options))

    def start(self) -> str | None:
        """Begin; what is to stand behind the user's message, if anything."""
        problem = self._problem
        if self._kind == "ours":
            return self._text(self._made.start(problem))
        if self._kind == "tools":
            return self._text(_awaited(_by_name(self._made.reset, self._row())))
        begun = _awaited(self._made.init([{"role": "user", "content": problem.question}]))
        said = begun[0] if isinstance(begun, tuple) else begun
        if isinstance(said, list):  # the messages: those that it was given are the task's to write
            said = "\n".join(each["content"] for each in said if each["content"] != problem.question) or None
        return self._text(said)

    def step(self, said: str, raw: str) -> Step:
        """What it answers to a turn of the model."""
        made = self._called(said, raw) if self._kind == "tools" else self._stepped(said)
        self._rewards.append(made.reward)
        return made

    def reward(self) -> float | None:
        """Of the episode as it stands; None where it gives none."""
        if self._kind == "tools":
            return _number(_awaited(self._made.get_reward())) if hasattr(self._made, "get_reward") else None
        given = [reward for reward in self._rewards if reward is not None]
        return _number(sum(given)) if given else None

    def answer(self) -> str | None:
        """What a judge is to read in place of the last turn; None where that is the answer."""
        return self._text(_awaited(self._made.get_answer())) if tells_answer(type(self._made)) else None

    def _wanted(self, environment: type, options: dict[str, Any]) -> dict[str, Any]:
        """A text environment of SkyRL's is made with what it is about."""
        if self._kind != "text":
            return options
        taken = inspect.signature(environment).parameters
        truth = {"reward_spec": {"ground_truth": self._problem.answer}, **self._problem.columns}
        given = {"env_config": options, "extras": truth}
        found = {name: value for name, value in given.items() if name in taken}
        return found if found else options

    def _row(self) -> dict[str, Any]:
        problem = self._problem
        own = {"question": problem.question, "answer": problem.answer, "seed": problem.seed}
        folder = None if problem.folder is None else str(problem.folder)
        return {**problem.columns, **own, "folder": folder}

    def _text(self, said: Any) -> str | None:
        return None if said is None else str(said)

    def _stepped(self, said: str) -> Step:
        made = _awaited(self._made.step(said))
        if isinstance(made, Turn):
            messages = [{"role": "user", "content": made.said}] if made.said else []
            return Step(messages, _number(made.reward), made.done)
        if isinstance(made, tuple):
            facts = dict(zip(("observations", "reward", "done"), made, strict=False))
        elif is_dataclass(made) and not isinstance(made, type):
            facts = asdict(made)
        else:
            facts = made if isinstance(made, dict) else vars(made)
        seen = facts.get("observations", "")
        messages = (
            [{"role": each["role"], "content": str(each["content"])} for each in seen]
            if isinstance(seen, list)
            else [{"role": "user", "content": str(seen)}]
        )
        return Step(messages, _number(facts.get("reward")), bool(facts["done"]))

    def _called(self, said: str, raw: str) -> Step:
        """The tools' results; a turn without a call is the last."""
        calls = calls_in(said, raw, self._tools, self._fenced)
        if not calls:
            return Step(done=True)
        known = {tool["function"]["name"] for tool in self._tools}
        results = []
        for call in calls:
            content = f"Error: {call.wrong}" if call.wrong else self._result(call.name, call.arguments)
            name = call.name if call.name in known else "error"  # templates write it: no words of the model's
            results.append({"role": "tool", "name": name, "content": content})
        if self._fenced:
            text = "\n".join(each["content"] for each in results)
            results = [{"role": "user", "content": text}]
        return Step(results, calls=len(calls))

    def _result(self, name: str, arguments: dict[str, Any]) -> str:
        try:
            made = _awaited(getattr(self._made, name)(**arguments))
        except Exception as error:  # a tool that fails says so to the model, as with TRL
            return f"Error: {type(error).__name__}: {str(error)[:200]}"
        return made if isinstance(made, str) else json.dumps(made, default=str)


def _by_name(function: Callable[..., Any], values: dict[str, Any]) -> Any:
    """Called with those of the values that it takes."""
    taken = inspect.signature(function).parameters
    if any(each.kind is each.VAR_KEYWORD for each in taken.values()):
        return function(**values)
    return function(**{name: value for name, value in values.items() if name in taken})


def _awaited(value: Any) -> Any:
    return asyncio.run(value) if inspect.iscoroutine(value) else value


def _number(value: Any) -> float | None:
    """Raises ``ValueError`` for a reward that the table does not hold."""
    if value is None or abs(value) <= LARGEST:
        return None if value is None else float(value)
    expected = "a number that float32 holds" if math.isfinite(value) else "a finite number"
    raise ValueError(f"a reward of {value}; expected {expected}")
