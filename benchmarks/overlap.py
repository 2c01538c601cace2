"""What it buys to sample the next round while this one is learned from.

    python benchmarks/overlap.py                      nano, a core each, as many epochs as balance the two
    python benchmarks/overlap.py --model smollm2-135m --task arithmetic --settings ...

One run with a lag of one, its stages one after the other, and the same run with them side by side: the same
digests, and rounds an hour of both, without the first two rounds, in which engines start. Each stage has one
thread, so that the second core is what the overlap adds. Beside the seconds of the stages stands the
processor time of all that a round needs, Prefect's server and the judge too: no order of stages makes a
round shorter than that divided by the cores. And beside the overlapped run what `ostinato plan --simulate`
says of it from the other, before it is made.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import shared
from cpu_times import CpuTimes

from params.base import BadInput
from tasks.artefacts.record import Record, Step
from tasks.core.json_process import environment

SKIPPED = 2
"""Rounds at the beginning that are not counted."""
PARTS = {"lane_worker": "engine", "rewards.worker": "judge", "process.keeper": "prefect_server"}
"""What a process is called whose command line holds that."""
REST = "flow"


def run(home: Path, chosen: shared.argparse.Namespace, overlap: bool) -> tuple[Record, CpuTimes]:
    """The record of a run in an empty workspace, and what its processes worked by its updates."""
    directory = home / "runs" / "it"
    times = CpuTimes(PARTS, REST, lambda: updates(directory))
    settings = [*chosen.settings, "rollout.lag=1", f"rollout.overlap={str(overlap).lower()}", "threads=1"]
    command = [sys.executable, "-m", "flows.cli", "run", "--name", "it"]
    command += ["--model", chosen.model, "--task", chosen.task]
    command += [part for setting in settings for part in ("--set", setting)]
    times.run(command, environment(OSTINATO_HOME=str(home), OMP_NUM_THREADS="1"))
    return Record.read(directory), times


def predicted(home: Path) -> float:
    """Seconds of a round side by side, from the first policy to the last, told from the run without."""
    command = [sys.executable, "-m", "flows.cli", "plan", "--simulate", "--like", "it"]
    command += ["--set", "rollout.overlap=true", "--json"]
    told = subprocess.run(
        command, env=environment(OSTINATO_HOME=str(home)), capture_output=True, text=True, check=True
    )
    return float(json.loads(told.stdout)["chosen"]["round_seconds"])


def _all_rounds(record: Record) -> float:
    ends = sorted(step.elapsed for step in record.policies())
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def updates(directory: Path) -> int:
    """How many updates the run has recorded."""
    try:
        return len(Record.read(directory).policies())
    except BadInput:  # it has not begun
        return 0


def figures(record: Record, times: CpuTimes) -> dict[str, float]:
    """Seconds of a round, what it is made of, and the processor time that it takes."""
    rounds = [step for step in record.steps if step.round > SKIPPED]
    updates = sorted(step.elapsed for step in record.policies() if step.round >= SKIPPED)
    each = (updates[-1] - updates[0]) / (len(updates) - 1)
    policies = len(record.policies())
    worked = times.between(policies - len(updates) + 1, policies)
    worked = {name: seconds / (len(updates) - 1) for name, seconds in worked.items()}
    return {
        "rounds": len(updates) - 1,
        "seconds_a_round": each,
        "rounds_an_hour": 3600 / each,
        "engine_seconds_a_round": _mean(rounds, "engine", len(updates) - 1),
        "trainer_seconds_a_round": _mean(rounds, "trainer", len(updates) - 1),
        **{f"processor_seconds_of_{name}": seconds for name, seconds in worked.items()},
        "processor_seconds_a_round": sum(worked.values()),
        "shortest_round_on_these_cores": sum(worked.values()) / len(os.sched_getaffinity(0)),
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
            record, times = run(Path(home) / str(overlap), chosen, overlap)
            title = "side by side" if overlap else "one after the other"
            result[title] = figures(record, times)
            digests.append({step.place: step.digest for step in record.steps})
            shared.show(title, result[title])
        foreseen, took = predicted(Path(home) / "False"), _all_rounds(record)
    one, beside = result.values()
    best = one["engine_seconds_a_round"] + one["trainer_seconds_a_round"]
    best /= max(one["engine_seconds_a_round"], one["trainer_seconds_a_round"])
    ratio = {
        "times_the_rounds": beside["rounds_an_hour"] / one["rounds_an_hour"],
        "at_most": best,
        "same_digests": float(digests[0] == digests[1]),
    }
    simulated = {
        "seconds_a_round_predicted": foreseen,
        "measured": took,
        "predicted_of_measured": foreseen / took,
    }
    shared.show("ratio", ratio)
    shared.show("simulated", simulated)
    print(json.dumps({**result, "ratio": ratio, "simulated": simulated}))


if __name__ == "__main__":
    main()
