"""The commands about machines: what one would take, and a server on one. Heavy imports wait."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

engines = typer.Typer(help="What samples text, on machines of its own.", no_args_is_help=True)

SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one parameter; repeatable.")
]


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
) -> None:
    """Memory, time and cost of a round on a machine that one may not have."""
    from flows.planner.plan import PlanOptions, run_plan

    asked = PlanOptions(model, task, method, settings or [], gpus, gpu, price, prompt, response)
    raise typer.Exit(run_plan(asked, as_json))


def join_ranks(
    name: Annotated[str, typer.Argument(help="Of the run, started on the first machine.")],
    machine: Annotated[int, typer.Option("--machine", min=1, help="Which this is; the first is 0.")] = 1,
) -> None:
    """The ranks of this machine in a run's updates over several; it stays until it is interrupted."""
    from flows.commands.join_ranks import serve_ranks

    serve_ranks(name, machine)


@engines.command("serve")
def serve_engine(
    model: Annotated[
        str, typer.Option("--model", help="A preset, a YAML file or a folder.")
    ] = "smollm2-135m",
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Of the weights to start from, such as runs/demo/model.")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8001,
    host: Annotated[str, typer.Option("--host", help="The address to listen at.")] = "127.0.0.1",
    settings: SetOption = None,
) -> None:
    """A vLLM server that runs with --engine server can use. Its key: OSTINATO_ENGINE_KEY."""
    from flows.commands.engine_server import serve_weights

    serve_weights(model, folder, host, port, settings or [])
