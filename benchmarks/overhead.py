"""What caching and orchestration add: Prefect, fingerprints, manifests and digests around the stages' work.

    python benchmarks/overhead.py             a nano run in a temporary workspace, made, then from the cache
    python benchmarks/overhead.py --run demo  the same figures of a run that is there

Inside one run it compares the wall time of the flow with the time that the stage functions took themselves.
Prefect's start is reported beside it, since it is paid once a process and not once a stage.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import shared

from tasks.artefacts.artefact import Artefact
from tasks.artefacts.record import Record
from tasks.core.json_process import environment


def figures(directory: Path) -> dict[str, float]:
    """Seconds inside and around the stage functions of one run, from its record and manifests."""
    record = Record.read(directory)
    made = [step for step in record.steps if step.outcome == "made"]
    inside = {s.place: Artefact.open(directory / s.place).manifest.measured["stage_seconds"] for s in made}
    around = [step.seconds - inside[step.place] for step in made]
    work = sum(inside.values())
    return {
        "stages": len(record.steps),
        "made": len(made),
        "wall_seconds": record.seconds,
        "stage_seconds": work,
        "overhead_share": (record.seconds - work) / record.seconds,
        "overhead_ms_a_stage": 1000 * (record.seconds - work) / len(record.steps),
        "manifest_and_digest_ms_a_stage": 1000 * median(around) if around else 0.0,
    }


def timed(settings: list[str], home: Path) -> float:
    """Wall seconds of a nano run in its own process."""
    command = [sys.executable, "-m", "flows.cli", "run", "--name", "overhead", "--model", "nano"]
    command += [part for setting in settings for part in ("--set", setting)]
    began = time.perf_counter()
    subprocess.run(command, env=environment(OSTINATO_HOME=str(home)), check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--run", help="a finished run under runs/ of the workspace")
    eight = ["engine.name=transformers", "rounds=8", "evaluate.every=4", "task.held_out_count=32"]
    parser.set_defaults(settings=eight)
    chosen = shared.arguments(parser, settings=[*shared.TINY])
    result: dict[str, dict[str, float]] = {}
    if chosen.run:
        result[chosen.run] = figures(Path(os.environ.get("OSTINATO_HOME", ".")) / "runs" / chosen.run)
    else:
        with tempfile.TemporaryDirectory() as home:
            for title in ("made", "from cache"):
                seconds = timed(chosen.settings, Path(home))
                found = figures(Path(home) / "runs" / "overhead")
                result[title] = {**found, "start_and_report_seconds": seconds - found["wall_seconds"]}
    for title, values in result.items():
        shared.show(title, values)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
