"""Which large files of a run's rounds stay: the rule, which looks at no disk."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from flows.stage_table.stages import Node
from params.keep import Keep
from tasks.artefacts.artefact import MOMENTS
from tasks.artefacts.record import Step
from tasks.artefacts.role import Role

Part = Literal["policies", "optimiser", "rollouts", "teachers"]
"""A kind of large files, called as in ``keep``."""
EVERY_PART: frozenset[Part] = frozenset({"policies", "optimiser", "rollouts", "teachers"})
SUFFIXES = (".safetensors", ".parquet")
"""Of large files. All others stay: metrics, states, configurations."""
Parts = frozenset[Part]


def part_of(role: Role, file: str) -> Part | None:
    """What a file of a round's artefact counts as; None for one that always stays, such as every file of an
    evaluation."""
    weights, table = (file.endswith(suffix) for suffix in SUFFIXES)
    if role.makes_policy:
        if not weights:
            return None
        return "optimiser" if file == MOMENTS else "policies"
    if role.kind not in ("sample", "learn"):
        return None
    return "teachers" if weights else "rollouts" if table else None


def best_round(scores: Mapping[int, float]) -> int | None:
    """The round of the policy with the highest score, the first of several; None where none has one. As
    rounds are added it changes to the newest one or not at all: what it asks for is never gone."""
    return min(scores, key=lambda round: (-scores[round], round), default=None)


def staying(keep: Keep, round: int, last: int, best: int | None) -> Parts:
    """What stays of a round, of a run whose last policy is of round ``last``, for its own sake."""
    newest = round >= last
    policy = newest or round == best or keep.wants(round)
    found: dict[Part, bool] = {
        "policies": policy,
        "optimiser": policy and (newest or keep.optimiser == "all"),
        "rollouts": newest or keep.rollouts == "all",
        "teachers": newest or keep.teachers == "all",
    }
    return frozenset(part for part, stays in found.items() if stays)


def still_read(nodes: Iterable[Node], done: Collection[str]) -> dict[str, Parts]:
    """What stages that are not done will read, by place. Moments are read by what makes a policy alone."""
    found: dict[str, Parts] = {}
    for node in nodes:
        if node.place not in done:
            parts = EVERY_PART if node.stage.role.makes_policy else EVERY_PART - {"optimiser"}
            for place in node.inputs.values():
                found[place] = found.get(place, frozenset()) | parts
    return found


def going(
    keep: Keep, steps: Sequence[Step], scores: Mapping[int, float], needed: Mapping[str, Parts]
) -> dict[str, Parts]:
    """What a run can do without, by place: of rounds that it has finished, what ``keep`` does not name and
    nothing will read. ``scores`` are the held-out ones of the policies by round."""
    made = [step.round for step in steps if step.role.makes_policy and step.round]
    last, best = max(made, default=0), best_round({r: scores[r] for r in made if r in scores})
    found = {}
    for step in steps:
        if step.round:
            stays = staying(keep, step.round, last, best) | needed.get(step.place, frozenset())
            if parts := EVERY_PART - stays:
                found[step.place] = parts
    return found
