"""Runs that are there, side by side on the page of a comparison: each an arm of one seed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from flows.environment import workspace
from flows.execution.runner import run_directory, spelled
from flows.experiments.comparison import write_outcomes
from params.base import BadInput
from params.comparison import NAME, Arm, Comparison
from tasks.artefacts.record import Record

LONGEST = 60
"""Characters of a name that is made of the runs'."""


def side_by_side(runs: Sequence[str], name: str | None, baseline: str | None) -> Path:
    """Write ``comparisons/NAME`` of finished runs; its place.

    Differences are paired by held-out problem; over seeds nothing can be said, for each has one. Raises
    ``BadInput`` where a run is not there or not finished, or their held-out problems differ.
    """
    from tasks.report.comparison.data import Outcome

    if len(set(runs)) < 2 or len(set(runs)) != len(runs):
        raise BadInput(f"--runs {','.join(runs)}: expected two runs at least, each once")
    root, records = workspace(), {}
    for each in runs:
        records[each] = Record.read(run_directory(root, each))
        if not records[each].finished:
            raise BadInput(f"--runs: {each} is not finished; `{records[each].command}` finishes it")
    asked = {each: _problems(record) for each, record in records.items()}
    first = runs[0]
    for each in runs[1:]:
        if asked[each] != asked[first]:
            raise BadInput(f"--runs: {each} has other problems than {first}; expected the same")
    if baseline is not None and baseline not in runs:
        raise BadInput(f"--baseline {baseline}: not among the runs")
    called = name or "-and-".join(map(_arm, runs))[:LONGEST].strip("-.")
    if not NAME.fullmatch(called):
        raise BadInput(f"--name {called}: expected lower-case letters, digits, dots, dashes, underscores")
    comparison = Comparison(
        title=", ".join(runs),
        question="What sets these runs apart?",
        arms={_arm(each): Arm() for each in runs},
        baseline=_arm(baseline or first),
        seeds=1,
        rounds=max(int(record.params["rounds"]) for record in records.values()),
        confidence=float(records[first].params["evaluate"]["confidence"]),
    )
    outcomes = [
        Outcome(_arm(each), 0, run_directory(root, each), int(record.params["rounds"]), False)
        for each, record in records.items()
    ]
    words = ["compare", "--runs", ",".join(runs), "--name", called]
    words += ["--baseline", baseline] if baseline else []
    told = [
        {"name": each, "arm": _arm(each), "seed": 0, "outcome": "finished", "why": "", "made": 0, "cached": 0}
        | {"seconds": round(record.seconds, 2)}
        for each, record in records.items()
    ]
    facts = {"name": called, "command": spelled(words), "runs": told}
    return write_outcomes(root, comparison, outcomes, facts, 0.0)


def _arm(run: str) -> str:
    """What a run is called on the page: an earlier one of a name is ``demo-1``, not ``demo~1``."""
    return run.replace("~", "-")


def _problems(record: Record) -> str:
    made = next((step.digest for step in record.steps if step.stage == "problems"), None)
    if made is None:
        raise BadInput(f"--runs: {record.name} has no problems to train on; expected runs that were trained")
    return made


def names_of(text: str) -> tuple[str, ...]:
    """Runs with commas between."""
    return tuple(part.strip() for part in re.split(",", text) if part.strip())
