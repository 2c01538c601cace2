"""What servers that are killed, stopped, struck off and added cost a run's sampling.

    python benchmarks/lost_servers.py           nano, two vLLM servers, a core each

The same run twice, sampled by vLLM servers that a file lists. In the second, one server after the other is
killed, stopped (SIGSTOP) or struck off the list, the kinds by turns, at seeded times; a new one is started in
its place and listed when it serves. The ideal is the first run's sampling by the servers that are well at
each moment: as many server-seconds. ``of_the_ideal`` is the server-seconds that were there while the second
run sampled over those; the goal is 1.5 at most. Every answer of the first run is looked for in the second.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import shared

from params.base import BadInput
from tasks.artefacts.record import Record
from tasks.core.json_process import environment
from tasks.engines.base import EngineFailure
from tasks.engines.http import Client, Lost
from tasks.engines.vllm_launch import free_port

KINDS = ("kill", "stop", "strike")
ONE_SMALL_ROUND = (
    *("engine.name=transformers", "rounds=1", "evaluate.every=1"),
    *("rollout.problems_per_round=2", "rollout.samples_per_problem=2"),
)
LOOK_SECONDS = 0.1
LEAVING_SECONDS = 5.0
"""After which a server that is struck off has ended what it held, and is ended."""


@dataclass
class Server:
    """One vLLM server on a core of its own."""

    process: subprocess.Popen[bytes]
    address: str
    log: Path
    began: float = 0.0
    """When it served, on the monotonic clock."""
    ended: float = float("inf")


@dataclass
class Pool:
    """Servers, and the file that lists them."""

    home: Path
    model: Path
    file: Path
    servers: list[Server] = field(default_factory=list)
    """All that there ever were."""

    def start(self, core: int, ended: threading.Event) -> Server:
        """A server that serves, unless ``ended`` first; raises ``RuntimeError`` where it dies instead."""
        port = free_port()
        log = self.home / f"server-{len(self.servers)}.log"
        command = ["taskset", "--cpu-list", str(core), sys.executable, "-m", "flows.cli", "engine", "serve"]
        command += ["--model", "nano", "--folder", str(self.model), "--port", str(port)]
        env = environment(OSTINATO_HOME=str(self.home), VLLM_CPU_OMP_THREADS_BIND=str(core))
        with log.open("wb") as said:
            process = subprocess.Popen(command, env=env, stdout=said, stderr=said, start_new_session=True)
        server = Server(process, f"http://127.0.0.1:{port}", log)
        self.servers.append(server)
        client = Client(server.address, None)
        while not ended.wait(LOOK_SECONDS):
            with suppress(Lost, EngineFailure):
                client.get("/health", 5.0)
                server.began = time.monotonic()
                break
            if process.poll() is not None:
                raise RuntimeError(f"a server ended as it started:\n{log.read_text()[-2000:]}")
        return server

    def write(self, addresses: Sequence[str]) -> None:
        beside = self.file.with_suffix(".new")
        beside.write_text("".join(f"{address}\n" for address in addresses))
        beside.replace(self.file)

    def well(self, first: float, last: float) -> float:
        """Server-seconds between two moments."""
        parts = (min(last, s.ended) - max(first, s.began) for s in self.servers if s.began)
        return sum(max(0.0, part) for part in parts)

    def close(self) -> None:
        for server in self.servers:
            with suppress(ProcessLookupError):  # its group has ended with it
                os.killpg(server.process.pid, signal.SIGKILL)
            server.process.wait()


def disturb(pool: Pool, held: list[Server], every: float, ended: threading.Event, done: list[str]) -> None:
    """Do something to one server after the other, and start another in its place, until the run has ended."""
    chance = random.Random(1)
    while not ended.wait(chance.uniform(0.5, 1.5) * every):
        core = len(done) % len(held)
        kind = KINDS[len(done) % len(KINDS)]
        server = held[core]
        done.append(kind)
        server.ended = time.monotonic()
        if kind == "strike":
            pool.write([other.address for other in held if other is not server])
            ended.wait(LEAVING_SECONDS)
        os.killpg(server.process.pid, signal.SIGSTOP if kind == "stop" else signal.SIGKILL)
        held[core] = pool.start(core, ended)
        pool.write([other.address for other in held])


def sampled(home: Path, settings: Sequence[str], name: str = "it") -> list[tuple[float, float]]:
    """Make a run; from when to when, on the monotonic clock, each of its rollouts was made."""
    command = [sys.executable, "-m", "flows.cli", "run", "--model", "nano", "--task", "sums", "--name", name]
    command += [part for setting in settings for part in ("--set", setting)]
    spans: list[tuple[float, float]] = []
    seen = 0
    with subprocess.Popen(command, env=environment(OSTINATO_HOME=str(home), OMP_NUM_THREADS="1")) as process:
        while (code := process.poll()) is None:
            time.sleep(LOOK_SECONDS)
            with suppress(BadInput):  # before it has begun
                steps, now = Record.read(home / "runs" / name).steps, time.monotonic()
                spans += [(now - s.seconds, now) for s in steps[seen:] if s.stage == "rollout"]
                seen = len(steps)
    if code:
        raise subprocess.CalledProcessError(code, command)
    return spans


def same_rows(one: Path, other: Path) -> dict[str, float]:
    """How many answers of the two runs are equal to the token, of the first round and of all."""
    found: list[tuple[int, int]] = []
    for place in sorted((one / "runs" / "it").glob("round-*/rollout")):
        tables = [
            home / "runs" / "it" / place.parent.name / "rollout" / "rollouts.parquet" for home in (one, other)
        ]
        first, second = (
            pq.read_table(t, columns=["response_ids"])["response_ids"].to_pylist() for t in tables
        )
        found.append((sum(map(list.__eq__, first, second)) if len(first) == len(second) else 0, len(first)))
    return {
        "answers": sum(count for _, count in found),
        "same_answers_of_the_first_round": found[0][0] / found[0][1],
        "same_answers": sum(equal for equal, _ in found) / sum(count for _, count in found),
    }


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between two disturbances, about")
    sizes = ["rounds=5", "rollout.problems_per_round=128", "rollout.samples_per_problem=64"]
    sizes += ["evaluate.every=5", "task.held_out_count=16", "model.warm_start_steps=100"]
    parser.add_argument("--settings", nargs="*", default=sizes)
    chosen = shared.arguments(parser, settings=[*shared.TINY, "engine.name=server"], every=1.0)
    result = dict[str, dict[str, float]]()
    with tempfile.TemporaryDirectory() as scratch:
        homes = [Path(scratch) / name for name in ("model", "undisturbed", "disturbed")]
        sampled(homes[0], [*chosen.settings, *ONE_SMALL_ROUND])  # for its model
        pool = Pool(Path(scratch), homes[0] / "runs" / "it" / "model", Path(scratch) / "servers.txt")
        settings = [*chosen.settings, "engine.name=server", f"engine.servers_file={pool.file}", "threads=1"]
        cores = sorted(os.sched_getaffinity(0))
        try:
            with ThreadPoolExecutor() as hands:
                held = list(hands.map(lambda core: pool.start(core, threading.Event()), cores))
            pool.write([server.address for server in held])
            for home, title in zip(homes[1:], ("undisturbed", "disturbed"), strict=True):
                ended, done = threading.Event(), list[str]()
                with ThreadPoolExecutor() as hands:
                    if title == "disturbed":
                        hand = hands.submit(disturb, pool, held, chosen.every, ended, done)
                    try:
                        spans = sampled(home, settings)
                    finally:
                        ended.set()
                if title == "disturbed":
                    hand.result()
                result[title] = {
                    "disturbances": len(done),
                    "sampling_seconds": sum(last - first for first, last in spans),
                    "server_seconds": sum(pool.well(first, last) for first, last in spans),
                }
                shared.show(title, result[title])
        finally:
            pool.close()
        result["rows"] = same_rows(*homes[1:])
    plain, hit = result["undisturbed"], result["disturbed"]
    result["ratio"] = {
        "of_the_ideal": hit["server_seconds"] / plain["server_seconds"],
        "times_as_long": hit["sampling_seconds"] / plain["sampling_seconds"],
    }
    shared.show("rows", result["rows"])
    shared.show("ratio", result["ratio"])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
