"""Options and arguments that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

ModelOption = Annotated[str, typer.Option("--model", help="A preset, a YAML file, a folder or a hub name.")]
TaskOption = Annotated[str, typer.Option("--task", help="A preset or a YAML file.")]
MethodOption = Annotated[str, typer.Option("--method", help="A preset or a YAML file.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one parameter; repeatable.")
]
NameOption = Annotated[
    str | None, typer.Option("--name", help="Of the run, under runs/; by default METHOD-TASK-MODEL.")
]
EngineOption = Annotated[
    str | None,
    typer.Option("--engine", help="What samples: vllm, transformers, server, or auto (vllm if here)."),
]
RunArgument = Annotated[str, typer.Argument(metavar="NAME", help="The run's name, under runs/.")]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Runs at a time: by default one a GPU, or two of a thread each."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON lines on standard output, for machines.")]
