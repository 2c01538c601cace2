"""``ostinato why``: what a run would make, and what sets it apart from what is in the cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.environment import workspace
from flows.execution.differences import TO_BE_MADE, Cause
from flows.execution.explain import Explained, Explaining
from flows.execution.runner import run_directory
from flows.execution.validation import settled
from flows.stage_table.stages import plan
from params.base import BadInput, nearest
from params.load import changed
from tasks.artefacts.record import Record
from tasks.artefacts.store import Store
from tasks.report.format import count

SHORT = 12
"""Characters of a digest that are told."""
LONGEST = 60
"""Characters of a value."""


def why(text: str, settings: Sequence[str], as_json: bool) -> None:
    """Print why the stages of a run, or one of them as ``RUN/PLACE``, were made, or will be where it goes on
    with these settings. Raises ``BadInput``."""
    name, _, place = text.strip("/").partition("/")
    record = Record.read(run_directory(workspace(), name))
    params = settled(changed(record.parameters(), settings))
    stages = plan(params)
    if place and place not in stages.nodes:
        raise BadInput(f"{text}: no stage '{place}' in this run{nearest(place, stages.nodes)}")
    explaining = Explaining(Store(workspace()), stages)
    if place:
        _one(explaining.origin(place), as_json)
    else:
        _all(name, list(explaining.stages.values()), as_json)


def _all(name: str, stages: Sequence[Explained], as_json: bool) -> None:
    making = [each for each in stages if each.state == "to make"]
    if as_json:
        print(json.dumps({"name": name, "stages": [_plain(each) for each in stages]}))
        return
    print(f"{name}: {len(stages) - len(making)} of {count(len(stages), 'stage')} are in the cache")
    if not making:
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("to make", "why", ""):
        table.add_column(heading, overflow="fold")
    for each in making:
        rest = f"and {len(each.causes) - 1} more" if len(each.causes) > 1 else ""
        rest = "its answers are there: only judged" if each.answers else rest
        table.add_row(each.place, escape(_said(each.causes[0])), rest)
    Console().print(table)
    print(f"`ostinato why {name}/{making[0].place}` tells all of a stage")


def _one(stage: Explained, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_plain(stage)))
        return
    state = "in the cache; it was made" if stage.state == "cached" else "to be made"
    if stage.nearest is None:
        print(f"{stage.place}: {state}: {'; '.join(map(_said, stage.causes))}")
        return
    print(
        f"{stage.place}: {state}, since it differs from the nearest there is, {stage.nearest.path.name}, in"
    )
    for cause in stage.causes:
        print(f"  {_said(cause)}")
    if stage.answers is not None:
        print(f"The answers of {stage.answers.path.name} are judged anew; none is sampled.")


def _said(cause: Cause) -> str:
    """A cause in words."""
    match cause.kind:
        case "new":
            return "there is no other of its stage and round"
        case "damaged":
            return cause.name
        case "parameter" | "library":
            return f"{cause.kind} {cause.name}: {_value(cause.before)} → {_value(cause.now)}"
        case "input" if cause.now == TO_BE_MADE:
            return f"input {cause.name}: to be made itself"
        case _:
            return f"{cause.kind} {cause.name}: {_change(cause)}"


def _change(cause: Cause) -> str:
    if cause.before is None:
        return "was not there"
    if cause.now is None:
        return "is not there any more"
    return f"changed ({cause.before[:SHORT]} → {cause.now[:SHORT]})"


def _value(value: Any) -> str:
    text = "none" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _plain(stage: Explained) -> dict[str, Any]:
    return {
        "place": stage.place,
        "stage": stage.stage,
        "state": stage.state,
        "nearest": stage.nearest and stage.nearest.path.name,
        "answers": stage.answers and stage.answers.path.name,
        "causes": [asdict(cause) for cause in stage.causes],
    }
