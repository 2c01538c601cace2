"""``ostinato prove``: the promises about bytes, tried on this machine."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from flows.commands.options import JsonOption, SetOption


class What(StrEnum):
    """Which promise."""

    RESUME = "resume"
    CACHE = "cache"
    DRIVERS = "drivers"


def add_to(app: typer.Typer) -> None:
    """Make it a command of the program."""
    app.command()(prove)


def prove(
    what: Annotated[
        What, typer.Argument(help="Kills at random moments, flipped bits, or Prefect against DVC.")
    ],
    settings: SetOption = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the moments and the bits.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Try what is promised of a small run's bytes; presets change by --set method=erpd, and the like.

    Exit code 1 where something differs.
    """
    from flows.execution.proofs import PROOFS

    def tell(text: str) -> None:
        print(f"{what}: {text}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="ostinato-prove-", ignore_cleanup_errors=True) as folder:
        found = list(PROOFS[what](Path(folder), settings or [], seed, tell))
    if as_json:
        print(json.dumps([{**asdict(trial), "holds": trial.holds} for trial in found]))
    else:
        table = Table(box=None, pad_edge=False)
        for heading in ("what happened", "artefacts compared", "the same bytes", ""):
            table.add_column(heading, overflow="fold")
        for trial in found:
            same = f"{trial.compared - len(trial.differ)} of {trial.compared}"
            wrong = "; ".join(filter(None, (trial.more, ", ".join(trial.differ))))
            table.add_row(
                trial.what, str(trial.compared), same, "holds" if trial.holds else f"broken: {wrong}"
            )
        Console().print(table)
    raise typer.Exit(int(not all(trial.holds for trial in found)))
