"""What a second vLLM server brings, and what `ostinato plan --simulate` says of it beforehand.

    python benchmarks/servers.py                nano, servers of a core each

One run is sampled by one server. From it the simulator tells how long the sampling of a round takes with two;
then another is started beside it, and the same run is made with both. On two cores the run's own process and
Prefect's server take their part of what the second server has, which the simulator does not know.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from statistics import mean

import shared
from lost_servers import ONE_SMALL_ROUND, Pool, sampled

from tasks.core.json_process import environment


def predicted(home: Path, servers: int) -> float:
    """Seconds of a round's rollout with so many servers, told from a run of one."""
    command = [sys.executable, "-m", "flows.cli", "plan", "--simulate", "--like", "it", "--json"]
    told = subprocess.run(
        [*command, "--servers", str(servers)],
        env=environment(OSTINATO_HOME=str(home)), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(json.loads(told.stdout)["chosen"]["stage_seconds"]["rollout"])


def main() -> None:
    parser = shared.parser(__doc__)
    sizes = ["rounds=4", "rollout.problems_per_round=128", "rollout.samples_per_problem=64"]
    sizes += ["evaluate.every=4", "task.held_out_count=16", "model.warm_start_steps=100"]
    parser.add_argument("--settings", nargs="*", default=sizes)
    chosen = shared.arguments(parser, settings=[*shared.TINY, "engine.name=server"])
    cores = (sorted(os.sched_getaffinity(0)) * 2)[:2]
    result = dict[str, float]()
    with tempfile.TemporaryDirectory() as scratch:
        homes = [Path(scratch) / name for name in ("model", "one", "two")]
        sampled(homes[0], [*chosen.settings, *ONE_SMALL_ROUND])  # for its model
        pool = Pool(Path(scratch), homes[0] / "runs" / "it" / "model", Path(scratch) / "servers.txt")
        settings = [*chosen.settings, "engine.name=server", f"engine.servers_file={pool.file}", "threads=1"]
        try:
            for home, core in zip(homes[1:], cores, strict=True):
                pool.start(core, threading.Event())
                pool.write([server.address for server in pool.servers])
                spans = sampled(home, settings)
                result[f"rollout_seconds_of_{home.name}"] = mean(last - first for first, last in spans)
        finally:
            pool.close()
        result["predicted_of_one"] = predicted(homes[1], 1)
        result["predicted_of_two"] = predicted(homes[1], 2)
    result["predicted_of_measured"] = result["predicted_of_two"] / result["rollout_seconds_of_two"]
    result["times_as_fast"] = result["rollout_seconds_of_one"] / result["rollout_seconds_of_two"]
    shared.show("a round's rollout", result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
