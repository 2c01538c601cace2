"""A run that goes on round by round until it has spent its budget."""

from __future__ import annotations

from flows.execution.runner import Runner
from flows.stage_table.stages import plan
from params.budget import Budget
from params.schema import Params
from tasks.report.cost import spent


def spend(runner: Runner, budget: Budget) -> None:
    """Settle round after round, then measure the last policy; the run's parameters then say its rounds.

    What a round cost stands in its artefacts. A run that is resumed or repeated adds up the same numbers, and
    ends with the same round. The rounds that the parameters came with are the most that it takes.
    """
    most = runner.params.rounds
    for round in range(1, most + 1):
        runner.plan_for(round)
        for node in plan(_rounds(runner.params, min(round + 1, most))):
            if node.round <= round and node.place not in runner.done:
                runner.settle(node, runner.fingerprint(node))
        cost = spent(artefact.manifest for artefact in runner.done.values())
        if budget.reached(round, cost.tokens, cost.seconds):
            break
    for node in plan(runner.params):  # the last policy is measured, whatever round it is of
        if node.place not in runner.done:
            runner.settle(node, runner.fingerprint(node))


def _rounds(params: Params, rounds: int) -> Params:
    return params.model_copy(update={"rounds": rounds})
