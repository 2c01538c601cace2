"""What both sides of step.py are given: problems of two shapes, and a model that does not stop by itself."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import shared

from params.load import compose
from tasks.artefacts.store import Store
from tasks.core.context import Context
from tasks.core.stage import Job
from tasks.prepare import nano
from tasks.prepare.model import model as make_model

NEVER_SAMPLED = "<empty_output>"
"""The end token of the copied SmolLM2: in its vocabulary from the beginning and practically never sampled."""


@dataclass(frozen=True)
class Shape:
    max_tokens: int
    """Tokens of every response."""
    instruction: str
    problems: int = 8
    samples: int = 8
    context: int = 512


SHAPES = {
    "arithmetic-short": Shape(32, "What is {question}? Answer with just the number."),
    "sql": Shape(48, "{question}"),
    "tiny": Shape(8, "{question}=", problems=2, samples=4, context=256),
}


@dataclass(frozen=True)
class Problem:
    """A question and the text that an answer is compared with."""

    question: str
    answer: str


def problems(shape: str, count: int) -> list[Problem]:
    """``count`` different problems, always the same."""
    rng = random.Random(shape)
    make = _query if shape == "sql" else _sum
    found: dict[str, Problem] = {}
    while len(found) < count:
        problem = make(rng)
        found.setdefault(problem.question, problem)
    return list(found.values())


def _sum(rng: random.Random) -> Problem:
    a, b = rng.randint(1, 9), rng.randint(1, 99)
    return Problem(f"{a} + {b}", f"{a} + {b} = {a + b}")


TABLES = ["customers", "orders", "products", "payments", "employees", "suppliers", "shipments", "invoices"]
COLUMNS = ["name", "city", "country", "status", "amount", "quantity", "price", "created_at"]
COLUMNS += ["email", "region"]
TYPES = {"amount": "INTEGER", "quantity": "INTEGER", "price": "REAL", "created_on": "DATE"}


def _query(rng: random.Random) -> Problem:
    """A schema of eight tables and a question about one of them."""
    tables = {table: rng.sample(COLUMNS, 8) for table in rng.sample(TABLES, 8)}
    schema = "\n".join(
        f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, "
        + ", ".join(f"{column} {TYPES.get(column, 'TEXT')}" for column in columns)
        + ");"
        for table, columns in tables.items()
    )
    table, columns = rng.choice(list(tables.items()))
    shown, asked = rng.sample(columns, 2)
    value = rng.randint(1, 99)
    question = f"Which {shown} do the {table} have whose {asked} is {value}?"
    task = "Write one SQLite query that answers the question. Use no other tables and columns than these, "
    task += "and give the query alone, in one line, without a word about it."
    return Problem(
        f"{task}\n{schema}\nQuestion: {question}\nSQL:",
        f"SELECT {shown} FROM {table} WHERE {asked} = {value};",  # noqa: S608 - nobody runs it
    )


def endless_model(name: str) -> Path:
    """The model of a preset, made once, with an end token that is never sampled: every response is as long
    as it may be, and both sides generate and train the same number of tokens."""
    store = Store(shared.KEEP)

    def build(new: Path) -> None:
        if name == "nano":
            nano.save(nano.create(seed=0), new)
        else:
            params, context = compose(name, "arithmetic", "grpo"), Context(scratch=store.scratch("model"))
            make_model(Job(params, 0, {}, new, context))
            _never_stop(new)

    target = shared.KEEP / f"{name}-endless"
    with store.lock(target.name):
        if not target.is_dir():
            store.put(target, build)
    return target


def _never_stop(folder: Path) -> None:
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    end = next(token["id"] for token in added if token["content"] == NEVER_SAMPLED)
    for name, value in (("config", end), ("generation_config", end), ("tokenizer_config", NEVER_SAMPLED)):
        path = folder / f"{name}.json"
        content = json.loads(path.read_text())
        content["eos_token" if name == "tokenizer_config" else "eos_token_id"] = value
        path.write_text(json.dumps(content, indent=2) + "\n")
