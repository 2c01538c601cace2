"""What replay adds to a round: the updates of a finished run again, with its replay and without.

    ostinato run --method dyjr --name dyjr
    python benchmarks/replay.py runs/dyjr            # --every 3: of every third round, from round 2 on

Both updates of a round take the same rollouts and begin from the same policy; what differs is the term on
replayed answers. A round is its rollout, as the run measured it, its replay stage, and an update.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import shared
import torch
from cached_run import run

from flows.execution.validation import chosen as composed
from params.schema import Params
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.record import Record
from tasks.core.context import Context
from tasks.core.stage import Job
from tasks.update.update import update


def measure(directory: Path, every: int) -> dict[str, float]:
    """Seconds of all rounds that were looked at, and tokens."""
    params = Params.model_validate(Record.read(directory).params)
    method = params.method.model_copy(update={"replay": None})
    ways = {"replay": params, "plain": params.model_copy(update={"method": method})}
    if params.threads:
        torch.set_num_threads(params.threads)
    names = (
        "rollout",
        "replay stage",
        "replay",
        "plain",
        "fresh",
        "replayed",
        "replay tokens",
        "plain tokens",
    )
    found = dict.fromkeys(names, 0.0)
    with tempfile.TemporaryDirectory() as folder, Context(scratch=Path(folder)) as context:
        for count, round in enumerate([2, *range(2, params.rounds + 1, every)]):
            here, before = (directory / f"round-{number:02d}" for number in (round, round - 1))
            inputs = {name: Artefact.open(here / name, check=False) for name in ("rollout", "replay")}
            found_here = {"rollout": _seconds(inputs["rollout"]), "replay stage": _seconds(inputs["replay"])}
            inputs["policy"] = Artefact.open(before / "update", check=False)
            inputs["model"] = Artefact.open(directory / "model", check=False)
            for way, chosen in ways.items():
                out = Path(folder) / f"{way}-{count}"
                out.mkdir()
                measured = update(Job(chosen, round, inputs, out, context))
                found_here[way] = measured["seconds"]
                said = json.loads((out / "metrics.json").read_text())
                found_here[f"{way} tokens"] = said["trained_tokens"]
                if way == "replay":
                    found_here |= {"fresh": said["tokens"], "replayed": said["replayed_tokens"]}
            if count:  # the first warms up
                found = {name: found[name] + found_here[name] for name in found}
    return found


def _seconds(artefact: Artefact) -> float:
    return artefact.manifest.measured["seconds"]


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("run", type=Path, nargs="?", help="a finished run; --tiny makes one")
    parser.add_argument("--every", type=int, default=3)
    chosen = shared.arguments(parser)
    if not (chosen.run or chosen.tiny):
        shared.refuse("no run is named; expected one such as runs/dyjr, or --tiny")
    with tempfile.TemporaryDirectory() as folder:
        settings = [*shared.TINY, "replay.admit=all"]
        made = chosen.run or run(Path(folder), composed("nano", "sums", "dyjr", settings))
        found = measure(made, chosen.every)
    plain = found["rollout"] + found["plain"]
    with_replay = found["rollout"] + found["replay stage"] + found["replay"]
    print(f"rollouts {found['rollout']:.1f} s, replay stages {found['replay stage']:.2f} s")
    print(f"updates  {found['plain']:.1f} s without, {found['replay']:.1f} s with replay")
    print(f"replayed {found['replayed'] / found['fresh']:.1%} of the fresh tokens")
    for way in ("plain", "replay"):
        per_token = 1e3 * found[way] / max(found[f"{way} tokens"], 1.0)
        print(f"{way:8} {found[f'{way} tokens']:.0f} trained tokens, {per_token:.2f} ms each")
    print(f"rounds   {with_replay / plain:.3f} times as long with replay")
    print(json.dumps({**found, "ratio": with_replay / plain}))


if __name__ == "__main__":
    main()
