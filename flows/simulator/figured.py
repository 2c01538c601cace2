"""The speeds of a machine that nothing was measured on: as ``ostinato plan`` reckons them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flows.planner import capacity
from flows.planner.plan import PlanOptions, machine_of, machine_use, shape_of, work_of
from flows.simulator.pool import StepTime
from flows.simulator.speeds import TURN_SECONDS, Series, Speeds
from flows.stage_table.stages import table_of
from params.base import BadInput
from params.schema import Params

SPREAD = 8
"""Responses side by side between which a step's two parts are told apart."""


@dataclass(frozen=True)
class Figured:
    """What the planner says."""

    speeds: Speeds
    mean: float
    """Tokens of a response."""
    servers: int
    side_by_side: int


def figured(asked: PlanOptions, params: Params, apart: bool) -> Figured:
    """For a round of these parameters. ``apart``: the engine has devices of its own, those of
    ``engine.gpus`` or, with servers, ``engine.tensor_parallel`` a server; the trainer has all others.

    Raises ``BadInput`` where no server holds the model.
    """
    shape, (machine, _) = shape_of(asked.model), machine_of(asked.gpu if asked.gpus else "cpu")
    work, assumed = work_of(asked, params)
    own = len(params.engine.gpus) or params.engine.tensor_parallel
    for_engine = own if apart and asked.gpus else asked.gpus
    elsewhere = apart and not params.engine.gpus
    for_trainer = asked.gpus if elsewhere or not apart else asked.gpus - for_engine
    if asked.gpus and for_trainer < 1:
        raise BadInput(f"--gpus {asked.gpus}: engine.gpus leaves none to the trainer; expected more")
    engine_use = machine_use(params, shape, work, machine, for_engine)
    engine_work = replace(work, problems=1, samples=work.sequences) if elsewhere else work
    found = capacity.decoding(shape, engine_work, machine, engine_use)
    if found is None:
        raise BadInput(f"--model {asked.model}: no server holds its weights within engine.memory_fraction")
    trainer_use = machine_use(params, shape, work, machine, for_trainer)
    merged = not (asked.gpus and params.update.adapter == "lora")
    update = capacity.update_seconds(shape, work, machine, trainer_use)
    rest = {"rollout": capacity.hand_over_seconds(shape, machine, trainer_use, merged)}
    rest |= {row.name: update for row in table_of(params).values() if row.makes_policies()}
    step = _step(shape, work, machine, engine_use, found)
    sources = {"step": "figured by ostinato plan", "stages": "figured by ostinato plan"}
    speeds = Speeds(
        step=step,
        rest={name: Series({1: seconds}) for name, seconds in rest.items()},
        sampling={"evaluate": Series({0: _evaluation(params, work, step, found.side_by_side)})},
        around={"update": Series({1: machine.round_seconds})},
        turn=TURN_SECONDS,
        learned={1: work.tokens},
        sources=sources | {"lengths": "; ".join(each for each in assumed if "response" in each)},
    )
    return Figured(speeds, work.response, found.servers, found.side_by_side)


def _step(
    shape: capacity.Shape,
    work: capacity.Work,
    machine: capacity.Machine,
    use: capacity.MachineUse,
    found: capacity.Decoding,
) -> StepTime:
    """The line through the planner's step with as many responses as a server decodes, and with few."""
    few = max(1, found.side_by_side // SPREAD)
    narrow = capacity.decoding(shape, work, machine, replace(use, max_sequences=few))
    each = 0.0
    if narrow is not None and narrow.side_by_side < found.side_by_side:
        each = max(0.0, found.step - narrow.step) / (found.side_by_side - narrow.side_by_side)
    fixed = max(0.0, found.step - each * found.side_by_side)
    rate = found.devices_a_server * machine.peak * machine.prefill_share
    return StepTime(fixed, found.step / found.side_by_side if not fixed else each, _prompt(work, shape, rate))


def _prompt(work: capacity.Work, shape: capacity.Shape, rate: float) -> float:
    return 2.0 * work.prompt * shape.linear / rate


def _evaluation(params: Params, work: capacity.Work, step: StepTime, side_by_side: int) -> float:
    """Of one server: the held-out problems' answers, as long as the round's."""
    answers = params.task.held_out_count * (params.evaluate.samples_per_problem + params.evaluate.greedy)
    return answers * work.response / step.rate(min(answers, side_by_side))
