"""How the time of a run that finds everything in the cache grows with its rounds, and that of planning one.

    python benchmarks/cached_run.py [--rounds 30 100 300] [--plan 1000]

A pass is a run's loop over its stages without Prefect: plan, fingerprint, find and verify, publish, record.
The artefacts are made before by the same loop: their fingerprints are right, their files small and of no
meaning. The ratio is the time of the last number of rounds over that of the one before; of the same size as
the ratio of the rounds where growth is linear. Figures are medians of passes in one process.
"""

from __future__ import annotations

import json
import tempfile
import timeit
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from statistics import median

import shared

from flows.execution.runner import Runner
from flows.execution.validation import chosen as composed
from flows.stage_table.stage_def import StageDef
from flows.stage_table.stages import Node, plan
from params.schema import Params
from tasks.artefacts.artefact import write_json
from tasks.artefacts.tables import ROLLOUTS, write_table
from tasks.core.context import Context
from tasks.core.stage import Job, Stage


class Quick(StageDef):
    """A stage with the fingerprint of the real one and hardly any work."""

    def load(self) -> Stage:
        def fill(job: Job) -> dict[str, float]:
            (job.out / "content").write_text(f"{self.name} {job.round}")
            if self.refuses:  # a run looks whether it can go on with what was made
                write_table(job.out / "rollouts.parquet", ROLLOUTS.empty_table())
                write_json(job.out / "metrics.json", {})
            return {}

        return fill


def quick(params: Params) -> list[Node]:
    """The plan with stages that are made in no time."""
    return [replace(node, stage=Quick(**vars(node.stage))) for node in plan(params)]


def run(root: Path, params: Params, nodes: Callable[[Params], Iterable[Node]] = plan) -> Path:
    """Every stage of a run, made or found, in this process; its directory."""
    with tempfile.TemporaryDirectory() as scratch, Context(scratch=Path(scratch)) as context:
        runner = Runner(root, f"rounds-{params.rounds}", params, context)
        for node in nodes(params):
            fingerprint = runner.identify(node)
            runner.settle(node, fingerprint, runner.find(node, fingerprint))
        runner.finish()
    return runner.directory


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall time of one call."""
    return median(timeit.repeat(work, "gc.enable()", number=1, repeat=repeats))


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--rounds", type=int, nargs="+", default=[30, 100, 300])
    parser.add_argument("--plan", type=int, default=1000, help="rounds of the run that is only planned")
    parser.add_argument("--method", default="grpo")
    parser.add_argument("--repeats", type=int, default=3)
    chosen = shared.arguments(parser, rounds=[2, 6], plan=100, repeats=1)
    params = composed("nano", "sums", chosen.method, shared.TINY)
    result: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for rounds in chosen.rounds:
            here, root = params.model_copy(update={"rounds": rounds}), Path(name)
            run(root, here, quick)
            took, stages = seconds(lambda: run(root, here), chosen.repeats), len(plan(here))  # noqa: B023
            result[f"{rounds} rounds"] = {"seconds": took, "milliseconds_a_stage": 1000 * took / stages}
            shared.show(f"{rounds} rounds, {stages} stages", result[f"{rounds} rounds"])
    passes = [values["seconds"] for values in result.values()]
    growth = {"ratio": passes[-1] / passes[-2], "of_the_rounds": chosen.rounds[-1] / chosen.rounds[-2]}
    here = params.model_copy(update={"rounds": chosen.plan})
    growth["planning_milliseconds"] = 1000 * seconds(lambda: plan(here), chosen.repeats)
    shared.show(f"growth, and planning {chosen.plan} rounds", growth)
    print(json.dumps({**result, **growth}))


if __name__ == "__main__":
    main()
