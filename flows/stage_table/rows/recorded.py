"""A run that learns from what another run has sampled: its rollouts are taken over, none is sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flows.stage_table.stage_def import MODEL, PROBLEMS, StageDef
from params.schema import Params

ROWS = ()


def rows_of(params: Params, table: Mapping[str, StageDef]) -> tuple[StageDef, ...]:
    """The rollout of such a run."""
    return (_recorded(table["rollout"]),) if params.rollout.recorded else ()


def _recorded(rollout: StageDef) -> StageDef:
    return replace(
        rollout,
        function="tasks.rollout.recorded_round:recorded_round",
        summary="answers of another run, with rewards",
        reads=("rollout.recorded", "rollout.top_logprobs", "rollout.entropy", "rollout.temperature"),
        reads_more=lambda params: (),
        inputs={"model": MODEL, "problems": PROBLEMS},
        outside=_of_round,
        libraries=("pyarrow",),
        keeps_answers=False,
    )


def _of_round(params: Params, round: int) -> dict[str, str]:
    return {"recorded": f"runs/{params.rollout.recorded}/round-{round:02d}/rollout"}
