"""What it buys to sample the next round while this one is learned from.

    python benchmarks/overlap.py                      nano, a core each, as many epochs as balance the two
    python benchmarks/overlap.py --model smollm2-135m --task arithmetic --settings ...

One run with a lag of one, its stages one after the other, and the same run with them side by side: the same
digests, and rounds an hour of both, without the first two rounds, in which engines start. Each stage has one
thread, so that the second core is what the overlap adds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import shared

from tasks.artefacts.record import Record, Step
from tasks.core.json_process import environment

SKIPPED = 2
"""Rounds at the beginning that are not counted."""


def run(home: Path, chosen: shared.argparse.Namespace, overlap: bool) -> Record:
    """The record of a run in an empty workspace."""
    settings = [*chosen.settings, "rollout.lag=1", f"rollout.overlap={str(overlap).lower()}", "threads=1"]
    command = [sys.executable, "-m", "flows.cli", "run", "--name", "it"]
    command += ["--model", chosen.model, "--task", chosen.task]
    command += [part for setting in settings for part in ("--set", setting)]
    subprocess.run(command, env=environment(OSTINATO_HOME=str(home), OMP_NUM_THREADS="1"), check=True)
    return Record.read(home / "runs" / "it")


def figures(record: Record) -> dict[str, float]:
    """Seconds of a round, and what it is made of."""
    rounds = [step for step in record.steps if step.round > SKIPPED]
    updates = sorted(step.elapsed for step in record.policies() if step.round >= SKIPPED)
    each = (updates[-1] - updates[0]) / (len(updates) - 1)
    return {
        "rounds": len(updates) - 1,
        "seconds_a_round": each,
        "rounds_an_hour": 3600 / each,
        "engine_seconds_a_round": _mean(rounds, "engine", len(updates) - 1),
        "trainer_seconds_a_round": _mean(rounds, "trainer", len(updates) - 1),
    }


def _mean(steps: list[Step], resource: str, rounds: int) -> float:
    return sum(s.seconds for s in steps if s.role.resource == resource and s.stage != "evaluate") / rounds


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--task", default="sums")
    balanced = [
        *("engine.name=transformers", "rounds=10", "evaluate.every=10", "task.held_out_count=8"),
        "model.warm_start_steps=100",
        *("rollout.problems_per_round=128", "rollout.samples_per_problem=16", "update.epochs=2"),
    ]
    parser.add_argument("--settings", nargs="*", default=balanced)
    chosen = shared.arguments(parser, settings=[*shared.TINY, "rounds=4"])
    result, digests = dict[str, dict[str, float]](), list[dict[str, str]]()
    with tempfile.TemporaryDirectory() as home:
        for overlap in (False, True):
            record = run(Path(home) / str(overlap), chosen, overlap)
            title = "side by side" if overlap else "one after the other"
            result[title] = figures(record)
            digests.append({step.place: step.digest for step in record.steps})
            shared.show(title, result[title])
    one, beside = result.values()
    best = one["engine_seconds_a_round"] + one["trainer_seconds_a_round"]
    best /= max(one["engine_seconds_a_round"], one["trainer_seconds_a_round"])
    ratio = {
        "times_the_rounds": beside["rounds_an_hour"] / one["rounds_an_hour"],
        "at_most": best,
        "same_digests": float(digests[0] == digests[1]),
    }
    shared.show("ratio", ratio)
    print(json.dumps({**result, "ratio": ratio}))


if __name__ == "__main__":
    main()
