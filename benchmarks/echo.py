"""What the echo costs a round: sampling and update with EchoRL against the same without, side by side.

    python benchmarks/echo.py                                    SmolLM2-135M, the arithmetic task
    python benchmarks/echo.py --model nano --task columns --set engine.name=transformers

Sampling is measured with and without entropies, and the update with GRPO alone, with the echo of stored
entropies and with that of a forward pass, on rollouts whose rewards are set: in `mixed` groups every other
answer is right, in `right` groups all are, where GRPO alone computes nothing. Calls alternate, the first of
each warms up and is left out, the figures are medians. A round is a rollout and an update; what the echo adds
is a share of it where groups are mixed, and seconds where all agree. Before the figures a line says whether
the preset, with stored entropies, keeps to its bound.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from uuid import uuid4

import pyarrow as pa
import shared
import torch

from flows.execution.validation import chosen as composed
from params.schema import Params
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.role import Role
from tasks.artefacts.store import Store
from tasks.artefacts.tables import read_table, write_table
from tasks.core.context import Context
from tasks.core.stage import Job, Stage
from tasks.prepare.model import model as make_model
from tasks.prepare.problems import problems as make_problems
from tasks.rollout.rollout import rollout
from tasks.update.update import update

LIMIT = 0.03
"""Of a round of mixed groups: the most that the echo of stored entropies may add."""

ECHO = "method.terms=[{name: echorl, entropy: %s}]"


def made(store: Store, fill: Callable[[Path], dict[str, float]]) -> Artefact:
    """An artefact that is never found again."""
    facts = {"round": 1, "seed": 0, "params": {}, "inputs": {}, "code": {}, "versions": {}}
    facts["role"] = Role(kind="sample", label="rollouts")
    return store.make("benchmark", uuid4().hex, lambda out: {**facts, "measured": fill(out)})


def staged(store: Store, stage: Stage, params: Params, context: Context, **inputs: Artefact) -> Artefact:
    """The artefact of a stage, in round 1."""
    return made(store, lambda out: stage(Job(params, 1, inputs, out, context)))


def rewarded(store: Store, sampled: Artefact, right: bool) -> Artefact:
    """The same rollouts with every answer right, or every other one."""
    table = read_table(sampled.file("rollouts.parquet"))
    reward = [float(right or sample % 2 == 0) for sample in table["sample"].to_pylist()]
    place = table.column_names.index("reward")
    table = table.set_column(place, table.schema.field("reward"), pa.array(reward, pa.float32()))

    def fill(out: Path) -> dict[str, float]:
        write_table(out / "rollouts.parquet", table)
        return {}

    return made(store, fill)


def measure(model: str, task: str, settings: Sequence[str], repeats: int) -> dict[str, float]:
    """Median seconds of each way."""
    ways = {
        "plain": composed(model, task, "grpo", settings),
        "stored": composed(model, task, "grpo", [*settings, "rollout.entropy=true", ECHO % "stored"]),
        "policy": composed(model, task, "grpo", [*settings, ECHO % "policy"]),
    }
    if ways["plain"].threads:
        torch.set_num_threads(ways["plain"].threads)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        store = Store(Path(name))
        plain, stored = (Context(scratch=store.scratch(way)) for way in ("plain", "stored"))
        with plain, stored:
            given = {"problems": staged(store, make_problems, ways["plain"], plain)}
            given["model"] = staged(store, make_model, ways["plain"], plain, **given)
            for _ in range(repeats + 1):
                for way, context in (("plain", plain), ("stored", stored)):
                    sampled = staged(store, rollout, ways[way], context, **given)
                    found.setdefault(f"rollout {way}", []).append(sampled.manifest.measured["seconds"])
                for kind in ("mixed", "right"):
                    inputs = {"model": given["model"], "rollout": rewarded(store, sampled, kind == "right")}
                    for way, params in ways.items():
                        done = staged(store, update, params, plain, **inputs)
                        found.setdefault(f"{kind} {way}", []).append(done.manifest.measured["seconds"])
    return {name: median(seconds[1:]) for name, seconds in found.items()}


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--task", default="arithmetic")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--repeats", type=int, default=5)
    chosen = shared.arguments(parser, model="nano", task="sums", settings=[*shared.TINY], repeats=1)
    seconds = measure(chosen.model, chosen.task, chosen.settings, chosen.repeats)
    print(f"{'groups':8}{'entropies':11}{'rollout s':>11}{'update s':>10}{'echo adds':>18}")
    added = {}
    for kind in ("mixed", "right"):
        base = seconds["rollout plain"] + seconds[f"{kind} plain"]
        for way in ("plain", "stored", "policy"):
            sampling = seconds["rollout stored" if way == "stored" else "rollout plain"]
            learning = seconds[f"{kind} {way}"]
            more = sampling + learning - base
            added[f"{kind} {way}"] = more / base if kind == "mixed" else more
            told = f"{100 * more / base:.1f} % of a round" if kind == "mixed" else f"{more:.2f} s"
            print(f"{kind:8}{way:11}{sampling:11.2f}{learning:10.2f}{'' if way == 'plain' else told:>18}")
    share = added["mixed stored"]
    kept = "at most" if share <= LIMIT else "more than"
    print(f"mixed groups, stored entropies: {100 * share:.1f} % of a round, {kept} {100 * LIMIT:g} %")
    print(json.dumps({"model": chosen.model, "seconds": seconds, "added": added}))


if __name__ == "__main__":
    main()
