"""What a second vLLM server brings, and what `ostinato plan --simulate` says of it beforehand.

    python benchmarks/servers.py                nano, servers of a core each

One run is sampled by one server. From it the simulator tells how long the sampling of a round takes with two;
then another is started beside it, and the same run is made with both. The simulator takes the servers to have
cores of their own. On two cores the run's own processes (requests, judging, Prefect's server) need part of
what the second server has: ``shortest_on_these_cores`` is a round's processor time, all processes together,
over the cores.
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

import psutil
import shared
from cpu_times import CpuTimes
from lost_servers import ONE_SMALL_ROUND, Pool, sampled
from overlap import updates

from tasks.artefacts.record import Record
from tasks.core.json_process import environment

OWN = "the run"


def predicted(home: Path, servers: int) -> float:
    """Seconds of a round's rollout with so many servers, told from a run of one."""
    command = [sys.executable, "-m", "flows.cli", "plan", "--simulate", "--like", "it", "--json"]
    told = subprocess.run(
        [*command, "--servers", str(servers)],
        env=environment(OSTINATO_HOME=str(home)), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(json.loads(told.stdout)["chosen"]["stage_seconds"]["rollout"])


def worked(pool: Pool) -> float:
    """Seconds of processor time that servers have taken."""
    found = 0.0
    for server in pool.servers:
        process = psutil.Process(server.process.pid)
        times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
        found += sum(each.user + each.system for each in times)
    return found


def run(home: Path, settings: list[str], pool: Pool) -> dict[str, float]:
    """Make a run by the pool's servers; of its rounds, means."""
    command = [sys.executable, "-m", "flows.cli", "run", "--model", "nano", "--task", "sums", "--name", "it"]
    command += [part for setting in settings for part in ("--set", setting)]
    directory = home / "runs" / "it"

    times, before = CpuTimes({}, OWN, lambda: updates(directory)), worked(pool)
    times.run(command, environment(OSTINATO_HOME=str(home), OMP_NUM_THREADS="1"))
    rounds = updates(directory)
    took = [step.seconds for step in Record.read(directory).steps if step.stage == "rollout"]
    # The first round apart, in which the run opens its model; servers' evaluations are small.
    own = times.between(1, rounds)[OWN] / (rounds - 1)
    servers = (worked(pool) - before) / rounds
    return {
        "rollout_seconds": mean(took),
        "processor_seconds_of_the_run": own,
        "processor_seconds_of_servers": servers,
        "shortest_on_these_cores": (own + servers) / len(os.sched_getaffinity(0)),
    }


def main() -> None:
    parser = shared.parser(__doc__)
    sizes = ["rounds=4", "rollout.problems_per_round=128", "rollout.samples_per_problem=64"]
    sizes += ["evaluate.every=4", "task.held_out_count=16", "model.warm_start_steps=100"]
    parser.add_argument("--settings", nargs="*", default=sizes)
    chosen = shared.arguments(parser, settings=[*shared.TINY, "engine.name=server"])
    cores = (sorted(os.sched_getaffinity(0)) * 2)[:2]
    made = dict[str, dict[str, float]]()
    with tempfile.TemporaryDirectory() as scratch:
        homes = [Path(scratch) / name for name in ("model", "one", "two")]
        sampled(homes[0], [*chosen.settings, *ONE_SMALL_ROUND])  # for its model
        pool = Pool(Path(scratch), homes[0] / "runs" / "it" / "model", Path(scratch) / "servers.txt")
        settings = [*chosen.settings, "engine.name=server", f"engine.servers_file={pool.file}", "threads=1"]
        try:
            for home, core in zip(homes[1:], cores, strict=True):
                pool.start(core, threading.Event())
                pool.write([server.address for server in pool.servers])
                made[home.name] = run(home, settings, pool)
        finally:
            pool.close()
        told = {f"predicted_of_{home.name}": predicted(homes[1], n) for n, home in enumerate(homes[1:], 1)}
    for name, figures in made.items():
        shared.show(f"{name}: a round", figures)
    one, two = (made[home.name]["rollout_seconds"] for home in homes[1:])
    result = {**told, "predicted_of_measured": told["predicted_of_two"] / two, "times_as_fast": one / two}
    shared.show("a round's rollout", result)
    print(json.dumps({**made, **result}))


if __name__ == "__main__":
    main()
