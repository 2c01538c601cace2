"""How a round grows: time and memory with responses, their length, the prompt, the group, the problems, the
buffer, the rounds that a run has behind it and the artefacts of other runs beside it.

    python benchmarks/growth.py
    python benchmarks/growth.py --axes problems buffer

Each point is a process of its own: `nano` in float32 with the transformers engine and one thread, whose
third round is measured (rollout, replay and update), but for four. `problems`: the stages that read a file
of so many and draw a round from it. `buffer`: the replay stage over a buffer of so many rows, and the read
that an update begins with. `rounds`: a whole run that finds everything in the cache (`cached_run.py`).
`artefacts`: a run of 30 rounds whose stages do hardly anything, in a workspace with so many rollouts. The
exponent e, of n^e, is that between the two largest sizes; n log n has 1 + 1 / ln n, 1.1 for these.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shared
import torch
from cached_run import quick, run

from flows.execution.validation import chosen as composed
from params.schema import Replay
from tasks.artefacts.artefact import MANIFEST, Artefact, seal, write_json
from tasks.artefacts.role import Role
from tasks.artefacts.tables import REPLAY, ROLLOUTS, read_table, write_table
from tasks.core.context import Context
from tasks.core.stage import Job
from tasks.replay import replay as replay_stage

SIZES: dict[str, tuple[int, ...]] = {
    "responses": (64, 128, 256, 512),
    "length": (16, 32, 64, 128),
    "prompt": (25, 50, 100, 200),
    "group": (8, 16, 32, 64),
    "problems": (1_000, 10_000, 100_000),
    "buffer": (10_000, 100_000, 1_000_000),
    "rounds": (30, 100, 300),
    "artefacts": (1_000, 10_000, 100_000),
}
ROUND = (
    "model.warm_start_steps=2",
    "model.context=512",
    "engine.name=transformers",
    "rounds=3",
    "task.held_out_count=4",
    "task.reward={name: similarity}",
    "evaluate.bootstrap_samples=20",
    "evaluate.every=3",
    "rollout.max_response_tokens=16",
)


def of_round(root: Path, *settings: str) -> float:
    """Seconds of round 3's stages."""
    made = run(root, composed("nano", "sums", "dyjr", [*ROUND, "replay.admit=all", *settings]))
    stages = (made / "round-03" / name for name in ("rollout", "replay", "update"))
    return sum(Artefact.open(stage, check=False).manifest.measured["seconds"] for stage in stages)


def problems_file(root: Path, count: int, words: int) -> str:
    """A task of ``count`` problems, questions of so many words."""
    path = root / "problems.jsonl"
    lines = (
        json.dumps({"id": str(n), "question": " ".join([f"{n}", *["and"] * words]), "answer": str(n % 10)})
        for n in range(count)
    )
    path.write_text("\n".join(lines) + "\n")
    return f"task.problems={{name: jsonl, path: {path}}}"


def responses(root: Path, size: int) -> float:
    return of_round(root, f"rollout.problems_per_round={size // 8}", "rollout.samples_per_problem=8")


def length(root: Path, size: int) -> float:
    return of_round(root, f"rollout.max_response_tokens={size}", "rollout.problems_per_round=8")


def prompt(root: Path, size: int) -> float:
    return of_round(
        root, problems_file(root, 40, size // 4), "task.train_count=32", "rollout.problems_per_round=8"
    )


def group(root: Path, size: int) -> float:
    return of_round(root, f"rollout.samples_per_problem={size}", "rollout.problems_per_round=8")


def problems(root: Path, size: int) -> float:
    """Reading them, and a round's choice among them."""
    settings = (
        problems_file(root, size, 4),
        f"task.train_count={size - 4}",
        "rollout.problems_per_round=2",
        "rollout.samples_per_problem=2",
    )
    began = time.perf_counter()
    made = run(root, composed("nano", "sums", "grpo", [*ROUND, "rounds=1", *settings]))
    stages = [made / "problems", made / "round-01" / "rollout"]
    told = sum(Artefact.open(stage, check=False).manifest.measured.get("seconds", 0.0) for stage in stages)
    return told or time.perf_counter() - began


def buffer(root: Path, size: int) -> float:
    """A round's replay stage over a buffer of ``size`` rows, and the read that an update begins with."""
    params = composed("nano", "sums", "dyjr", [*ROUND, f"replay.capacity={2 * size}", "replay.max_age=100"])
    fresh = rows(512, 4).select(ROLLOUTS.names).cast(ROLLOUTS)
    before, rollout, out = root / "before", root / "rollout", root / "out"
    for folder in (before, rollout, out):
        folder.mkdir()
    empty = replay_stage.opened(None, Replay())
    write_table(before / replay_stage.BUFFER, rows(size, 1).cast(REPLAY))
    write_table(before / replay_stage.RESULTS, empty.results)
    write_json(before / replay_stage.STATE, {"started": 1, "reference_entropy": None})
    write_table(rollout / "rollouts.parquet", fresh)
    for stage, folder in (("replay", before), ("rollout", rollout)):
        seal(
            folder,
            stage=stage,
            role=Role(kind="learn", label=stage),
            round=3,
            fingerprint=stage,
            seed=0,
            params={},
            inputs={},
            code={},
            versions={},
            measured={},
        )
    inputs = {"replay": Artefact.open(before), "rollout": Artefact.open(rollout)}
    with Context(scratch=root) as context:
        began = time.perf_counter()
        replay_stage.replay(Job(params, 4, inputs, out, context))
        read_table(out / replay_stage.BUFFER)
        return time.perf_counter() - began


def rows(count: int, round: int) -> pa.Table:
    """Right answers of four tokens, eight to a problem."""
    place = np.arange(count, dtype=np.int32)
    ends = pa.array(np.arange(0, 4 * count + 1, 4, dtype=np.int32))

    def lists(values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(ends, values)

    def same(value: object, kind: pa.DataType) -> pa.Array:
        return pa.repeat(pa.scalar(value, kind), count)

    known = {
        "problem_id": pc.cast(pa.array(place // 8 + 100_000_000 * round), pa.string()),
        "group": pa.array(place // 8),
        "sample": pa.array(place % 8),
        "prompt_ids": lists(same_long(count, 5)),
        "response_ids": lists(same_long(count, 6)),
        "behaviour_logp": lists(pc.cast(same_long(count, -1), pa.float32())),
        "finish_reason": same("stop", pa.string()),
        "reward": same(1.0, pa.float32()),
        "policy": same("policy", pa.string()),
        "round": same(round, pa.int32()),
        "seed": pa.array(place.astype(np.int64)),
        "group_accuracy": same(1.0, pa.float32()),
        "admitted_as": same("all", pa.string()),
    }
    arrays = [known.get(field.name, pa.nulls(count, field.type)) for field in REPLAY]
    return pa.Table.from_arrays(arrays, schema=REPLAY)


def same_long(count: int, value: int) -> pa.Array:
    return pa.array(np.full(4 * count, value, dtype=np.int32))


def rounds(root: Path, size: int) -> float:
    """The second pass finds all of the first."""
    params = composed("nano", "sums", "grpo", [*ROUND, f"rounds={size}", "evaluate.every=1"])
    run(root, params, quick)
    began = time.perf_counter()
    run(root, params, quick)
    return time.perf_counter() - began


def artefacts(root: Path, size: int) -> float:
    """Others' rollouts are a manifest each, of inputs that nobody asks for."""
    settings = [*ROUND, "evaluate.every=30"]
    first = run(root, composed("nano", "sums", "grpo", [*settings, "rounds=1"]), quick)
    made = Artefact.open(first / "round-01" / "rollout", check=False)
    said = (made.path / MANIFEST).read_text()
    for source in made.manifest.inputs.values():
        said = said.replace(source.digest, source.digest[::-1])
    for number in range(size):
        folder = root / "artefacts" / f"rollout-{number:020x}"
        folder.mkdir()
        (folder / MANIFEST).write_text(said)
    began = time.perf_counter()
    run(root, composed("nano", "sums", "grpo", [*settings, "rounds=30", "seed=1"]), quick)
    return time.perf_counter() - began


AXES: dict[str, Callable[[Path, int], float]] = {
    each.__name__: each for each in (responses, length, prompt, group, problems, buffer, rounds, artefacts)
}
assert AXES.keys() == SIZES.keys()


def point(axis: str, size: int) -> None:
    """Print seconds, and how much memory the process ever held, in MiB."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        seconds = AXES[axis](Path(folder), size)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "mib": peak}))


def measured(axis: str, size: int) -> dict[str, float]:
    """A point, in a process of its own."""
    command = [sys.executable, __file__, "--point", axis, str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        shared.refuse(f"{axis} {size}: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def exponent(sizes: list[int], values: list[float]) -> float:
    """Between the last two."""
    return math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2])


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--point", nargs=2, metavar=("AXIS", "SIZE"), help="one point, in this process")
    chosen = shared.arguments(parser, axes=["responses", "buffer"])
    if chosen.point:
        point(chosen.point[0], int(chosen.point[1]))
        return
    result: dict[str, dict[str, float]] = {}
    for axis in chosen.axes:
        sizes = [16, 32] if chosen.tiny else list(SIZES[axis])
        found = [measured(axis, size) for size in sizes]
        seconds, mib = ([each[key] for each in found] for key in ("seconds", "mib"))
        result[axis] = {
            **{f"seconds at {size}": value for size, value in zip(sizes, seconds, strict=True)},
            **{f"MiB at {size}": value for size, value in zip(sizes, mib, strict=True)},
            "exponent of time": exponent(sizes, seconds),
            "exponent of memory": exponent(sizes, mib),
        }
        shared.show(axis, result[axis])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
