"""``ostinato plan``: what a round takes on a machine, and how a run would go. Heavy imports wait."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.options import SetOption
from params.base import BadInput

if TYPE_CHECKING:
    from flows.simulator.options import SimulateOptions


def plan_round(
    model: Annotated[str, typer.Option("--model", help="A shape such as 7b, or a folder.")] = "smollm2-135m",
    gpus: Annotated[int, typer.Option("--gpus", min=0, help="How many; 0: the measured CPU machine.")] = 0,
    gpu: Annotated[str, typer.Option("--gpu", help="h100, h200, a100 or l40s.")] = "h100",
    task: Annotated[str, typer.Option("--task", help="A preset or a YAML file.")] = "arithmetic",
    method: Annotated[str, typer.Option("--method", help="A preset or a YAML file.")] = "grpo",
    settings: SetOption = None,
    prompt: Annotated[int | None, typer.Option("--prompt-tokens", min=1, help="Of a prompt.")] = None,
    response: Annotated[
        float | None, typer.Option("--response-tokens", min=1, help="Of a response, on average.")
    ] = None,
    price: Annotated[float | None, typer.Option("--price", min=0, help="Of a device for an hour.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="How a whole run would go, stage by stage.")
    ] = False,
    like: Annotated[
        str | None,
        typer.Option("--like", metavar="RUN", help="Simulate with this run's settings and speeds."),
    ] = None,
    servers: Annotated[int | None, typer.Option("--servers", min=1, help="That sample, each apart.")] = None,
    server_speeds: Annotated[
        str | None, typer.Option("--server-speeds", metavar="A,B", help="Of each server; 1: the usual.")
    ] = None,
    tokens_per_second: Annotated[
        float | None, typer.Option("--tokens-per-second", help="Of one server with its share of a round.")
    ] = None,
    step_seconds: Annotated[
        str | None,
        typer.Option("--step-seconds", metavar="FIXED,EACH", help="A step: FIXED + EACH·responses."),
    ] = None,
    update_seconds: Annotated[float | None, typer.Option("--update-seconds", help="Of an update.")] = None,
    learned: Annotated[
        float | None, typer.Option("--learned-tokens-per-second", help="Of an update, response tokens.")
    ] = None,
    lengths: Annotated[
        str | None, typer.Option("--lengths", metavar="MEAN,SIGMA", help="Of responses: log-normal, cut.")
    ] = None,
    losses: Annotated[float, typer.Option("--losses-per-hour", help="Of one server.")] = 0.0,
    back_after: Annotated[float, typer.Option("--back-after", help="Seconds a lost server is away.")] = 60.0,
    cores: Annotated[
        int | None,
        typer.Option("--cores", min=0, help="That stages share; 0: none; else this machine's."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the simulation's draws.")] = 0,
) -> None:
    """Memory, time and cost of a round on a machine that one may not have; --simulate: a run on paper."""
    from flows.planner.plan import PlanOptions, run_plan
    from flows.simulator.options import SimulateOptions, numbers

    asked = SimulateOptions(
        PlanOptions(model, task, method, settings or [], gpus, gpu, price, prompt, response),
        like=like,
        servers=servers,
        server_speeds=numbers("--server-speeds", server_speeds),
        tokens_per_second=tokens_per_second,
        step_seconds=numbers("--step-seconds", step_seconds, 2),
        update_seconds=update_seconds,
        learned_tokens_per_second=learned,
        lengths=numbers("--lengths", lengths, 2),
        losses_per_hour=losses,
        back_after=back_after,
        cores=cores,
        seed=seed,
    )
    if simulate:
        asked.check()
        _tell(asked, as_json)
        return
    if given := asked.given():
        raise BadInput(f"{given[0]}: says something of a simulation; expected --simulate beside it")
    raise typer.Exit(run_plan(asked.plan, as_json))


def _tell(asked: SimulateOptions, as_json: bool) -> None:
    from flows.simulator.ask import simulate
    from flows.simulator.told import told

    found = simulate(asked)
    print(json.dumps(found) if as_json else told(found))
