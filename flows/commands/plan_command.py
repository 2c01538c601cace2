"""``ostinato plan``: what a round takes on a machine, and how a run would go. Heavy imports wait."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import typer

from flows.commands.options import SetOption
from params.base import BadInput

USUAL = {"model": "smollm2-135m", "task": "arithmetic", "method": "grpo", "gpus": 0}


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

    asked = PlanOptions(model, task, method, settings or [], gpus, gpu, price, prompt, response)
    more = {
        "--like": like,
        "--servers": servers,
        "--server-speeds": _numbers("--server-speeds", server_speeds),
        "--tokens-per-second": _positive("--tokens-per-second", tokens_per_second),
        "--step-seconds": _numbers("--step-seconds", step_seconds, 2, zero=True),
        "--update-seconds": _positive("--update-seconds", update_seconds),
        "--learned-tokens-per-second": _positive("--learned-tokens-per-second", learned),
        "--lengths": _numbers("--lengths", lengths, 2, zero=True),
        "--losses-per-hour": _positive("--losses-per-hour", losses, zero=True),
        "--back-after": _positive("--back-after", back_after, zero=True),
        "--cores": cores,
        "--seed": seed,
    }
    if simulate:
        _told(asked, more, as_json)
        return
    usual = {"--losses-per-hour": 0.0, "--back-after": 60.0, "--seed": 0}
    if given := [name for name, value in more.items() if value not in (usual.get(name), None, ())]:
        raise BadInput(f"{given[0]}: says something of a simulation; expected --simulate beside it")
    raise typer.Exit(run_plan(asked, as_json))


def _told(asked: Any, more: dict[str, Any], as_json: bool) -> None:
    from flows.simulator.ask import SimulateOptions, simulate
    from flows.simulator.told import told

    like, servers, speeds = more["--like"], more["--servers"], more["--server-speeds"]
    if like and (other := [name for name, value in USUAL.items() if getattr(asked, name) != value]):
        raise BadInput(f"--{other[0]}: --like {like} says it; expected one of the two")
    if asked.price is not None:
        raise BadInput("--price: a simulation has no cost; expected none with --simulate")
    if servers and speeds and servers != len(speeds):
        raise BadInput(f"--servers {servers}: {len(speeds)} are in --server-speeds; expected as many")
    step = more["--step-seconds"]
    if step and more["--tokens-per-second"]:
        raise BadInput("--step-seconds: --tokens-per-second says the same; expected one of the two")
    if step and not sum(step):
        raise BadInput("--step-seconds: a step of no time; expected one part above 0")
    if more["--update-seconds"] and more["--learned-tokens-per-second"]:
        raise BadInput("--update-seconds: --learned-tokens-per-second says the same; expected one of the two")
    if more["--lengths"] and more["--lengths"][0] < 1:
        raise BadInput(f"--lengths: a mean of {more['--lengths'][0]:g} tokens; expected 1 or more")
    found = simulate(SimulateOptions(asked, *more.values()))
    print(json.dumps(found) if as_json else told(found))


def _positive(option: str, value: float | None, zero: bool = False) -> float | None:
    if value is not None and not (math.isfinite(value) and (value > 0 or (zero and value == 0))):
        raise BadInput(f"{option} {value:g}: expected a number {'of 0 or more' if zero else 'above 0'}")
    return value


def _numbers(
    option: str, text: str | None, count: int | None = None, zero: bool = False
) -> tuple[float, ...]:
    """Numbers with commas between; none where nothing was said."""
    if text is None:
        return ()
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or (count and len(found) != count):
        raise BadInput(f"{option} {text}: expected {count or 'some'} numbers with commas between")
    for value in found:
        _positive(option, value, zero)
    return found
