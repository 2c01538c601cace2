"""A second judge over each round's answers, in a run with the section ``audit``."""

from __future__ import annotations

from flows.stage_table.stage_def import (
    ADAPTER,
    MODEL,
    PROBLEMS,
    SAMPLERS,
    LiveColumn,
    StageDef,
    StageInput,
)
from params.views import of_audit
from tasks.artefacts.role import Role

ROWS = (
    StageDef(
        name="audit",
        function="tasks.rollout.audit:audit",
        role=Role(kind="judge", label="audit"),
        summary="a second judge's verdicts on the answers",
        reads=("seed", "model", "task.prompt", "task.on_long_prompt", "rollout", "audit", *ADAPTER),
        inputs={"model": MODEL, "problems": PROBLEMS, "rollout": StageInput("rollout")},
        when=lambda params: params.audit is not None,
        view=of_audit,
        task_at="audit",
        parts=("task.problems", "task.reward", "task.prompt"),
        libraries=SAMPLERS,
        columns=(LiveColumn("agreement", "agreement", "{:.1%}"),),
    ),
)
