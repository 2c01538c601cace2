"""A run that goes on round by round until it has spent its budget."""

from __future__ import annotations

from collections.abc import Iterable

from flows.execution.runner import Runner
from flows.stage_table.stages import Node, plan
from params.budget import Budget
from tasks.report.cost import spent


def spend(runner: Runner, budget: Budget) -> None:
    """Settle round after round, then measure the last policy; the run's parameters then say its rounds.

    What a round cost stands in its artefacts. A run that is resumed or repeated adds up the same numbers, and
    ends with the same round. The rounds that the parameters came with are the most that it takes.
    """
    most = runner.params.rounds
    by_round: dict[int, list[Node]] = {}
    for node in plan(runner.params):
        by_round.setdefault(node.round, []).append(node)
    for round in range(1, most + 1):
        runner.plan_for(round)
        _settle(runner, [*(by_round.get(0, ()) if round == 1 else ()), *by_round[round]])
        cost = spent(artefact.manifest for artefact in runner.done.values())
        if budget.reached(round, cost.tokens, cost.seconds):
            break
    _settle(runner, plan(runner.params))  # the last policy is measured, whatever round it is of


def _settle(runner: Runner, nodes: Iterable[Node]) -> None:
    for node in nodes:
        if node.place not in runner.done:
            runner.settle(node, runner.identify(node))
