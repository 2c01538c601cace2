"""Taking over a cached artefact in spite of a change of the source, where a person says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.execution.differences import differences
from flows.stage_table.stages import Plan
from params.base import BadInput, nearest
from tasks.artefacts.artefact import MANIFEST, Artefact, Damaged
from tasks.artefacts.store import Store, link_tree

ALL = "all"
"""In place of a stage's place."""


def check_places(places: Sequence[str], stages: Plan) -> None:
    """Raises ``BadInput`` for one that the run does not have."""
    for place in places:
        if place != ALL and place not in stages.nodes:
            raise BadInput(f"--accept-code {place}: no such stage in this run{nearest(place, stages.nodes)}")


def other_code(
    store: Store, stage: str, round: int, facts: Mapping[str, Any], inputs: Mapping[str, Artefact]
) -> tuple[Artefact, dict[str, str]] | None:
    """The newest whole artefact that differs in nothing but modules, and of those that differ what they were
    then; None where there is none."""
    digests = {name: artefact.digest for name, artefact in inputs.items()}
    for found in store.made_of.find(stage, round, set(digests.values())):
        causes = differences(facts, digests, found.manifest)
        if causes and all(cause.kind == "module" for cause in causes):
            try:
                found.check()
            except Damaged:
                continue
            return found, {cause.name: cause.before or "not there" for cause in causes}
    return None


def take_over(
    found: Artefact, modules: dict[str, str], facts: Mapping[str, Any], out: Path
) -> dict[str, Any]:
    """Its files into ``out``; what the manifest says: today's source, and for ever what it was made with."""
    link_tree(found.path, out)
    (out / MANIFEST).unlink()
    kept = found.manifest
    return {
        **{name: getattr(kept, name) for name in ("role", "round", "seed", "inputs", "measured", "answers")},
        "params": facts["params"],
        "code": facts["code"],
        "own_files": facts["files"],
        "versions": facts["versions"],
        "accepted": {**kept.accepted, **modules},
    }
