"""``ostinato rescore`` and ``what-if``: a run that begins with what another run has made."""

from __future__ import annotations

import re
import shlex
import sys
from typing import Annotated

import typer

from flows.commands.options import JsonOption, NameOption, SetOption
from flows.commands.start import Words, start
from flows.environment import workspace
from flows.execution.runner import run_directory, spelled
from params.base import BadInput
from tasks.artefacts.record import Record

OfRun = Annotated[str, typer.Argument(metavar="RUN", help="Under runs/.")]


def add_to(app: typer.Typer) -> None:
    """Make these commands of the program."""
    app.command()(rescore)
    app.command("what-if")(what_if)


def rescore(
    run: OfRun,
    reward: Annotated[str, typer.Option("--reward", help="As task.reward: a name, or {name: ..., ...}.")],
    name: NameOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """A run's answers judged by another reward, and what follows from that (docs/caching.md)."""
    of = words_of(run)
    changes = (*of.settings, f"task.reward={reward}", *(settings or []))
    _branch(Words(of.model, of.task, of.method, changes, name or _named(run, reward)), as_json)


def what_if(
    run: OfRun,
    method: Annotated[str, typer.Option("--method", help="A preset or a YAML file.")],
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="How many of the run's; by default all.")
    ] = None,
    name: NameOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Another method on the rollouts of a run, and how far off-policy it gets (docs/caching.md)."""
    from flows.commands.off_policy import tell_off_policy

    of, record = words_of(run), Record.read(run_directory(workspace(), run))
    kept = tuple(each for each in of.settings if not each.startswith(("method.", "rounds=")))
    have = len({step.round for step in record.steps if step.stage == "rollout"})
    said = (f"rollout.recorded={run}", f"rounds={rounds or have}", *(settings or []))
    branch = Words(of.model, of.task, method, (*kept, *said), name or _named(run, method))
    _branch(branch, as_json)
    tell_off_policy(str(branch.name), as_json)


def words_of(run: str) -> Words:
    """What started a run. Raises ``BadInput`` where that was no ``ostinato run``."""
    record = Record.read(run_directory(workspace(), run))
    words = shlex.split(record.command)
    if words[:2] != ["ostinato", "run"]:
        raise BadInput(f"{run}: made by `{record.command}`; expected a run of `ostinato run`")
    found = {"model": "smollm2-135m", "task": "arithmetic", "method": "grpo"}
    settings = []
    for option, value in zip(words[2:], [*words[3:], ""], strict=True):
        if option == "--set":
            settings.append(value)
        elif option.removeprefix("--") in found and option.startswith("--"):
            found[option.removeprefix("--")] = value
    return Words(found["model"], found["task"], found["method"], tuple(settings), run)


def _branch(words: Words, as_json: bool) -> None:
    presets = ["--model", words.model, "--task", words.task, "--method", words.method]
    settings = [part for setting in words.settings for part in ("--set", setting)]
    print(spelled(["run", *presets, "--name", str(words.name), *settings]), file=sys.stderr)
    start(words, as_json)


def _named(run: str, other: str) -> str:
    """What a branch is called: by its run, and by the name that stands in ``other``."""
    found = re.search(r"name:\s*['\"]?([\w.:-]+)", other)
    return re.sub(r"[^a-z0-9._-]+", "-", f"{run}-{found[1] if found else other}".lower()).strip("-.")[:80]
