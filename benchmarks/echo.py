"""What the echo costs a round: sampling and update with EchoRL against the same without, side by side.

    python benchmarks/echo.py                                    SmolLM2-135M, the arithmetic task
    python benchmarks/echo.py --model nano --task columns --set engine.name=transformers

Sampling is measured with and without entropies, and the update with GRPO alone, with the echo of stored
entropies and with that of a forward pass, on rollouts whose rewards are set: in `mixed` groups every other
answer is right, in `right` groups all are, where GRPO alone computes nothing. Calls alternate, the first of
each warms up and is left out, the figures are medians. A round is a rollout and an update.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # as the command line sets it, before torch is imported
import pyarrow as pa
import torch

from flows.execution.validation import settled
from params.load import compose
from params.schema import Params
from tasks.artefacts.artefact import Artefact, seal
from tasks.artefacts.role import Role
from tasks.artefacts.tables import read_table, write_table
from tasks.core.context import Context
from tasks.core.stage import Job, Stage
from tasks.prepare.model import model as make_model
from tasks.prepare.problems import problems as make_problems
from tasks.rollout.rollout import rollout
from tasks.update.update import update

ECHO = "method.terms=[{name: echorl, entropy: %s}]"


class Bench:
    """Runs stages into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0

    def run(self, stage: Stage, params: Params, context: Context, **inputs: Artefact) -> Artefact:
        """The finished artefact of a stage, in round 1."""
        out = self.place()
        measured = stage(Job(params=params, round=1, inputs=inputs, out=out, context=context))
        return sealed(out, measured)

    def place(self) -> Path:
        """A new directory."""
        self._count += 1
        out = self._folder / f"artefact-{self._count}"
        out.mkdir()
        return out

    def rewarded(self, made: Artefact, right: bool) -> Artefact:
        """The same rollouts with every answer right, or every other one."""
        table = read_table(made.file("rollouts.parquet"))
        reward = [float(right or sample % 2 == 0) for sample in table["sample"].to_pylist()]
        place = table.column_names.index("reward")
        table = table.set_column(place, table.schema.field("reward"), pa.array(reward, pa.float32()))
        out = self.place()
        write_table(out / "rollouts.parquet", table)
        return sealed(out, {})


def sealed(folder: Path, measured: dict[str, float]) -> Artefact:
    """A folder as an artefact."""
    seal(
        folder,
        stage="benchmark",
        role=Role(kind="sample", label="rollouts"),
        round=1,
        fingerprint=folder.name,
        seed=0,
        params={},
        inputs={},
        code="",
        versions={},
        measured=measured,
    )
    return Artefact.open(folder)


def measure(model: str, task: str, settings: Sequence[str], repeats: int) -> dict[str, float]:
    """Median seconds of each way."""
    ways = {
        "plain": settled(compose(model, task, "grpo", settings)),
        "stored": settled(compose(model, task, "grpo", [*settings, "rollout.entropy=true", ECHO % "stored"])),
        "policy": settled(compose(model, task, "grpo", [*settings, ECHO % "policy"])),
    }
    if ways["plain"].threads:
        torch.set_num_threads(ways["plain"].threads)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = Bench(folder)
        scratch = [folder / "scratch-plain", folder / "scratch-stored"]
        for place in scratch:
            place.mkdir()
        with Context(scratch=scratch[0]) as plain, Context(scratch=scratch[1]) as stored:
            given = {"problems": bench.run(make_problems, ways["plain"], plain)}
            given["model"] = bench.run(make_model, ways["plain"], plain, **given)
            for _ in range(repeats + 1):
                for way, context in (("plain", plain), ("stored", stored)):
                    made = bench.run(rollout, ways[way], context, **given)
                    found.setdefault(f"rollout {way}", []).append(made.manifest.measured["seconds"])
                for kind in ("mixed", "right"):
                    rewarded = bench.rewarded(made, kind == "right")
                    for way, params in ways.items():
                        done = bench.run(update, params, plain, model=given["model"], rollout=rewarded)
                        found.setdefault(f"{kind} {way}", []).append(done.manifest.measured["seconds"])
    return {name: median(seconds[1:]) for name, seconds in found.items()}


def main() -> None:
    """Print a table and a line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--task", default="arithmetic")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    seconds = measure(chosen.model, chosen.task, chosen.settings, chosen.repeats)
    print(f"{'groups':8}{'entropies':11}{'rollout s':>11}{'update s':>10}{'round':>8}")
    rounds = {}
    for kind in ("mixed", "right"):
        base = seconds["rollout plain"] + seconds[f"{kind} plain"]
        for way in ("plain", "stored", "policy"):
            sampling = seconds["rollout stored" if way == "stored" else "rollout plain"]
            learning = seconds[f"{kind} {way}"]
            rounds[f"{kind} {way}"] = (sampling + learning) / base
            print(f"{kind:8}{way:11}{sampling:11.2f}{learning:10.2f}{rounds[f'{kind} {way}']:8.3f}")
    print(json.dumps({"model": chosen.model, "seconds": seconds, "rounds": rounds}))


if __name__ == "__main__":
    main()
