"""The commands about machines: ranks on another, and a server on one. Heavy imports wait."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

engines = typer.Typer(help="What samples text, on machines of its own.", no_args_is_help=True)

SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one parameter; repeatable.")
]


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
