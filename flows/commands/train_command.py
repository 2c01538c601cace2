"""Start the training flow from a terminal, watched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from rich.console import Console

from flows.commands.display import Lines, Quiet, Terminal
from flows.environment import workspace
from flows.execution.watch import Local, Watch, started_locally
from flows.process import output
from flows.process.own_server import OwnServer
from flows.stage_table.stages import plan
from flows.train import train
from params.schema import Params
from params.store import StoreSettings
from tasks.core.addresses import shown
from tasks.core.errors import StageFailure
from tasks.report.format import count

Presets = tuple[str, str, str, list[str]]
"""Model, task and method as given, and the settings."""


def train_watched(
    name: str,
    params: Params,
    presets: Presets,
    server: OwnServer | None,
    as_json: bool,
    kept_in: StoreSettings | None = None,
    publish: bool = False,
    accept: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Run the flow and show how it goes: live on a terminal, JSON lines where asked for, else quietly.
    ``kept_in``: the bucket to push the run to when it is done, tried already; None: it is not pushed.

    What libraries print goes to ``.ostinato/logs/NAME.log``, which the message of a failed stage names.
    """
    root, (model, task, method, settings) = workspace(), presets

    def go(watch: Watch) -> dict[str, Any]:
        if server:
            server.await_answer()
        with started_locally(Local(watch, params, accept, kept_in)):
            push = kept_in is not None
            return train(name, model, task, method, settings, push=push, publish=publish)

    with output.logged(root, name) as screen, _server_lost():
        if as_json:
            return go(Lines(screen.out))
        if not screen.err.isatty():
            rounds = count(params.rounds, "round")
            told = f"{name}: {rounds}; `ostinato status {name}` tells how far it is"
            print(told, file=screen.out, flush=True)
            return go(Quiet(screen.err))
        with Terminal(name, plan(params), Console(file=screen.err)) as terminal:
            return go(terminal)


@contextmanager
def _server_lost() -> Iterator[None]:
    """Raises ``StageFailure`` where Prefect gave its server up."""
    try:
        yield
    except (httpx.TransportError, RuntimeError) as error:
        lost = error if isinstance(error, httpx.TransportError) else error.__cause__ or error.__context__
        if not isinstance(lost, httpx.TransportError):
            raise
        where, why = shown(os.environ["PREFECT_API_URL"]), type(lost).__name__
        raise StageFailure(
            f"{where}: Prefect's server no longer answers ({why}); start it, and the same command goes on"
        ) from error
