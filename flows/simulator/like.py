"""The speeds of an earlier run, from what its artefacts say of themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flows.execution.runner import run_directory
from flows.simulator.lengths import Lengths, Measured
from flows.simulator.pool import Groups, Servers, StepTime, sample
from flows.simulator.speeds import TURN_SECONDS, Series, Speeds
from params.base import BadInput
from params.schema import Params
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.record import Record, Step
from tasks.artefacts.tables import read_table, sampled_lengths

ROLLOUT = "rollout"
TABLE = "rollouts.parquet"
Made = Sequence[tuple[Step, Mapping[str, float]]]
"""The steps of a run whose artefacts are there, and what each measured of itself."""


@dataclass(frozen=True)
class Earlier:
    """What an earlier run tells of the next."""

    params: Params
    speeds: Speeds
    lengths: Lengths


def earlier(root: Path, name: str, servers_of: Callable[[Params], Servers]) -> Earlier:
    """Of the run of that name. ``servers_of`` says with which servers a run samples.

    Raises ``BadInput`` where there is no such run, the answers of none of its rollouts are there, or it
    sampled none of them.
    """
    directory = run_directory(root, name)
    record = Record.read(directory)
    params = record.parameters()
    found = {step.place: _opened(directory / step.place, name) for step in record.steps}
    made = [(step, has.manifest.measured) for step in record.steps if (has := found[step.place])]
    lengths = {
        step.round: _lengths(has)
        for step in record.steps
        if step.stage == ROLLOUT and (has := found[step.place]) and TABLE not in has.dropped
    }
    if not lengths:
        raise BadInput(f"--like {name}: the answers of none of its rollouts are there; expected some")
    rollouts = {step.round: of for step, of in made if step.stage == ROLLOUT and step.round in lengths}
    took = {round: seconds for round, of in rollouts.items() if (seconds := of.get("sampling_seconds"))}
    if not took:
        raise BadInput(f"--like {name}: its rollouts are another run's answers; expected its own")
    rounds, servers = sorted(took), servers_of(params)
    step = fitted([as_groups(lengths[round]) for round in rounds], [took[round] for round in rounds], servers)
    everything = np.concatenate([group for groups in lengths.values() for group in groups])
    others = [(step, measured) for step, measured in made if step.stage != ROLLOUT]
    speeds = Speeds(
        step=step,
        rest=_series(made, _rest),
        sampling=_series(others, lambda measured: measured.get("sampling_seconds", 0.0)),
        sampled_by=sum(servers.speeds),
        around=_around(record.steps, made),
        turn=TURN_SECONDS,
        learned={round: float(sum(group.sum() for group in groups)) for round, groups in lengths.items()},
        sources=_sources(
            name, record, rounds, float((everything >= params.rollout.max_response_tokens).mean())
        ),
    )
    return Earlier(params, speeds, Lengths(float(everything.mean()), measured=lengths))


def fitted(rounds: Sequence[Groups], seconds: Sequence[float], servers: Servers) -> StepTime:
    """The step whose rounds take so long: by least squares, neither part below 0, and then so that all
    rounds together take as long as they did, each part in the proportion that was found."""
    units = (StepTime(1.0, 0.0), StepTime(0.0, 1.0))
    design = np.array([[sample(groups, unit, servers).seconds for unit in units] for groups in rounds])
    took = np.array(seconds)
    fixed, each = np.linalg.lstsq(design, took, rcond=None)[0]
    if min(fixed, each) < 0:
        alone = [float(part @ took / (part @ part)) for part in design.T]
        misses = [float(np.square(took - of * part).sum()) for of, part in zip(alone, design.T, strict=True)]
        fixed, each = (alone[0], 0.0) if misses[0] < misses[1] else (0.0, alone[1])
    step = StepTime(float(fixed), float(each))
    return step.scaled(float(took.sum()) / sum(sample(groups, step, servers).seconds for groups in rounds))


def as_groups(lengths: Measured) -> Groups:
    """As the servers are given them."""
    return [group.tolist() for group in lengths]


def _opened(path: Path, name: str) -> Artefact | None:
    try:
        return Artefact.open(path, check=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BadInput(f"--like {name}: {path}: {error.strerror}") from None


def _lengths(rollout: Artefact) -> Measured:
    answers = read_table(rollout.file(TABLE), ["group", "response_ids", "sampled"])
    groups, lengths = answers["group"].to_numpy(), sampled_lengths(answers).to_numpy().astype(np.int64)
    return [lengths[groups == group] for group in np.unique(groups)]


def _rest(measured: Mapping[str, float]) -> float:
    return max(0.0, measured["stage_seconds"] - measured.get("sampling_seconds", 0.0))


def _series(made: Made, of: Callable[[Mapping[str, float]], float]) -> dict[str, Series]:
    found: dict[str, dict[int, float]] = {}
    for step, measured in made:
        found.setdefault(step.stage, {})[step.round] = of(measured)
    return {stage: Series(by_round) for stage, by_round in found.items()}


def _around(steps: Sequence[Step], made: Made) -> dict[str, Series]:
    """What passed beside the stages: where they took turns, from the end of one to the end of the next."""
    gaps = {
        step.place: step.elapsed - before for step, before in zip(steps, _ends_before(steps), strict=True)
    }
    turns = all(gaps[step.place] > step.seconds - 1e-3 for step in steps)
    known = [(step, measured) for step, measured in made if step.outcome == "made"]
    found: dict[str, dict[int, float]] = {}
    for step, measured in known:
        whole = gaps[step.place] if turns else step.seconds
        found.setdefault(step.stage, {})[step.round] = max(0.0, whole - measured["stage_seconds"])
    return {stage: Series(by_round) for stage, by_round in found.items()}


def _ends_before(steps: Sequence[Step]) -> list[float]:
    return [0.0, *(step.elapsed for step in steps[:-1])]


def _sources(name: str, record: Record, rounds: Sequence[int], cut: float) -> dict[str, str]:
    overlapped = any(step.waited_for for step in record.steps)
    beside = ", where stages ran beside one another" if overlapped else ""
    return {
        "step": f"fitted to {len(rounds)} rollouts of {name}{beside}",
        "stages": f"measured in {name}{beside}",
        "lengths": f"those of {name}, {cut:.0%} of them as long as its limit",
    }
