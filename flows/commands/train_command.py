"""Start the training flow from a terminal, watched."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console

from flows.commands.display import Lines, Quiet, Terminal
from flows.execution.watch import Local, Watch, started_locally
from flows.stage_table.stages import plan
from flows.train import train
from params.schema import Params
from tasks.report.format import count

Presets = tuple[str, str, str, list[str]]
"""Model, task and method as given, and the settings."""


def train_watched(
    name: str, params: Params, presets: Presets, as_json: bool, push: bool = False, publish: bool = False
) -> dict[str, Any]:
    """Run the flow and show how it goes: live on a terminal, JSON lines where asked for, else quietly."""

    def go(watch: Watch) -> dict[str, Any]:
        model, task, method, settings = presets
        with started_locally(Local(watch, params)):
            return train(name, model, task, method, settings, push=push, publish=publish)

    if as_json:
        return go(Lines())
    if not sys.stderr.isatty():
        rounds = count(params.rounds, "round")
        print(f"{name}: {rounds}; `ostinato status {name}` tells how far it is", flush=True)
        return go(Quiet())
    with Terminal(name, plan(params), Console(stderr=True)) as terminal:
        return go(terminal)
