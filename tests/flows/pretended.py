"""A runner whose stages write small files, for what becomes of artefacts."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.execution.making import Makers
from flows.execution.runner import Runner
from flows.stage_table.stages import Node, plan
from params.schema import Params
from tasks.artefacts.artefact import EVERYTHING, MOMENTS, Artefact, source_of
from tasks.artefacts.record import Step
from tasks.core.context import Context

LEAST = "keep={optimiser: last, policies: [last, best], rollouts: last, teachers: last}"
WEIGHTS = "adapter/adapter_model.safetensors"


class Small(Makers):
    """Makes what a runner that pretends says."""

    def make(self, runner: Runner, node: Node, fingerprint: str, out: Path) -> dict[str, Any]:
        assert isinstance(runner, Pretending)
        return runner.fill(node, out)


class Pretending(Runner):
    """A real runner whose stages write small files, called as the real ones, and look at what they read."""

    scores: tuple[float, ...] = (0.5,)
    salt = ""
    """Makes other files of the same."""

    def identify(self, node: Node) -> str:
        digests = {name: artefact.digest for name, artefact in self.inputs(node).items()}
        return hashlib.sha256(repr((node.place, sorted(digests.items()))).encode()).hexdigest()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.makers = Small(self.context, None)

    def fill(self, node: Node, out: Path) -> dict[str, Any]:
        """Write the files; what the manifest says."""
        role, inputs = node.stage.role, self.inputs(node)
        for each in inputs.values():
            each.check(lacking=() if role.makes_policy else (MOMENTS,))
        (out / "metrics.json").write_text("{}")
        if node.stage.name == "evaluate":
            score = {"mean_at_n": {"value": self.scores[node.round % len(self.scores)]}}
            (out / "scores.json").write_text(json.dumps(score))
        for name in (MOMENTS, "weights.safetensors") if role.makes_policy else ("a.parquet", "a.safetensors"):
            (out / name).write_text(f"{node.place} {name}{self.salt}")
        facts = {"role": role, "round": node.round, "seed": 0, "params": {}, "code": {}, "versions": {}}
        return {**facts, "measured": {}, "inputs": {name: source_of(each) for name, each in inputs.items()}}

    def whole_run(self) -> Pretending:
        for node in plan(self.params):
            node = replace(node, stage=replace(node.stage, refuses=""))
            self.settle(node, self.identify(node))
        self.finish()
        return self


def run(root: Path, name: str, params: Params, scores: list[float], salt: str = "") -> Pretending:
    with Context(scratch=root / "scratch") as context:
        runner = Pretending(root, name, params, context)
        runner.scores, runner.salt = tuple(scores), salt
        return runner.whole_run()


def lost(runner: Pretending, step: Step) -> set[str]:
    """The files of a step's artefact that are gone, from the run's directory or from the cache."""
    places = (runner.directory / step.place, runner.store.path(step.stage, step.fingerprint))
    found = [Artefact.open(where, lacking=EVERYTHING) for where in places]
    assert all((each.path / "metrics.json").exists() for each in found)
    return {name for each in found for name in each.manifest.files if not (each.path / name).exists()}


def files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for part in ("artefacts", "runs")
        for path in sorted((root / part).rglob("*"))
        if path.is_file() and path.name not in ("run.json", "steps.jsonl")
    }


def restored(root: Path, params: Params, place: str, salt: str = "") -> Pretending:
    with Context(scratch=root / "scratch") as context:
        runner = Pretending(root, "it", params, context)
        runner.salt = salt
        for node in plan(params):
            runner.take(node)
        runner.show_whole(place)
    return runner
