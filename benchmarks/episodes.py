"""What a slow environment costs: a round of episodes whose environment takes a while, against an instant one.

    python benchmarks/episodes.py [--seconds 0.5] [--episodes 64] [--turns 3] [--turn-tokens 96]

nano babbles, and every call of the environment takes so long. Both sample the same tokens, in turn, in one
process; the ratio is of the least ``sampling_seconds`` of each. It says how much of the environments' time is
not hidden behind the turns of others. No episode is shorter than its own turns and calls: where they take
longer than all sampling (``--steps 60``, turns of three tokens) nothing can hide them.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import shared

from flows.execution.validation import chosen as composed
from params.base import Choice
from params.schema import Params
from tasks.artefacts.artefact import Artefact, seal
from tasks.artefacts.role import Role
from tasks.core.context import Context
from tasks.core.stage import Job, Stage
from tasks.prepare.model import model
from tasks.prepare.problems import problems
from tasks.rollout.rollout import rollout

FILE = """
import time

from tasks.environments.base import Turn


class Slow:
    def __init__(self, seconds, turns):
        self.seconds, self.turns = seconds, turns

    def start(self, problem):
        self.count = 0

    def step(self, said):
        time.sleep(self.seconds)
        self.count += 1
        return Turn(str(self.count), reward=0.0, done=self.count >= self.turns)
"""


class Stages:
    """Runs stages in folders of one directory."""

    def __init__(self, root: Path, context: Context) -> None:
        self._root, self._context, self._made = root, context, 0

    def run(self, stage: Stage, params: Params, **inputs: Artefact) -> Artefact:
        self._made += 1
        out = self._root / f"{self._made}"
        out.mkdir()
        measured = stage(Job(params, 1, inputs, out, self._context))
        role = Role(kind="sample", label="", time_of="sampling")
        facts = {"role": role, "round": 1, "seed": 0, "params": {}, "inputs": {}, "code": {}, "versions": {}}
        seal(out, stage="benchmark", fingerprint=out.name, measured=measured, **facts)
        return Artefact.open(out)


def with_environment(params: Params, seconds: float, turns: int) -> Params:
    choice = Choice(name="slow_game.py:Slow", seconds=seconds, turns=turns)
    return params.model_copy(update={"task": params.task.model_copy(update={"environment": choice})})


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--turn-tokens", type=int, default=96, help="at most")
    parser.add_argument("--steps", type=int, default=2, help="of nano's warm start: it learns to be brief")
    parser.add_argument("--repeats", type=int, default=3)
    chosen = shared.arguments(parser, seconds=0.05, episodes=8, turns=2, turn_tokens=4, repeats=1)
    tokens, samples = chosen.turns * (chosen.turn_tokens + 24), 4
    settings = (
        f"model.warm_start_steps={chosen.steps}",
        "engine.name=transformers",
        f"rollout.problems_per_round={max(2, chosen.episodes // samples)}",
        f"rollout.samples_per_problem={samples}",
        f"rollout.max_response_tokens={tokens}",
        f"model.context={tokens + 64}",
        f"task.episode.turns={chosen.turns + 1}",
        f"task.episode.turn_tokens={chosen.turn_tokens}",
    )
    params = composed("nano", "guess", "grpo", settings)
    with tempfile.TemporaryDirectory() as folder, Context(scratch=Path(folder)) as context:
        os.chdir(folder)
        Path("slow_game.py").write_text(FILE)
        stages = Stages(Path(folder), context)
        given = {"problems": stages.run(problems, params)}
        given["model"] = stages.run(model, params, **given)
        cases = {"instant": with_environment(params, 0.0, chosen.turns)}
        cases["slow"] = with_environment(params, chosen.seconds, chosen.turns)
        took: dict[str, list[float]] = {name: [] for name in cases}
        sampled = 0.0
        for _ in range(chosen.repeats):
            for name, case in cases.items():
                made = stages.run(rollout, case, **given)
                took[name].append(made.manifest.measured["sampling_seconds"])
                sampled = made.manifest.measured["sampled_tokens"]
    seconds = {name: min(values) for name, values in took.items()}
    result = {**seconds, "ratio": seconds["slow"] / seconds["instant"], "tokens": sampled}
    shared.show(f"{chosen.episodes} episodes of {chosen.turns} turns, tools of {chosen.seconds} s", result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
