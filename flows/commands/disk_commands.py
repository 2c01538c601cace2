"""``ostinato du`` and ``ostinato gc``: what a workspace holds, and freeing what nothing names any more."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from flows.commands.options import JsonOption
from flows.environment import workspace
from flows.execution.disk import busy, collect, freed, garbage, total, uses
from flows.process import output
from params.base import BadInput
from tasks.artefacts.store import Store
from tasks.report.format import count

STAGES_SHOWN = 3
DropOption = Annotated[
    list[str] | None,
    typer.Option("--drop", metavar="RUN", help="Give up a run, and what only it names; repeatable."),
]


def add_to(app: typer.Typer) -> None:
    """Make these commands of the program."""
    for command in (du, gc, restore):
        app.command()(command)


def du(as_json: JsonOption = False) -> None:
    """What each run takes on disk, and which stages take most of it."""
    store = Store(workspace())
    found, whole = uses(store), total(store)
    if as_json:
        print(json.dumps({"bytes": whole, "uses": [asdict(use) for use in found]}))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "size", "alone", "most of it"):
        table.add_column(heading, justify="right" if heading in ("size", "alone") else "left")
    for use in found:
        stages = list(use.stages.items())[:STAGES_SHOWN]
        most = ", ".join(f"{stage or 'report'} {_size(size)}" for stage, size in stages) if use.name else ""
        table.add_row(use.name or "[dim]in no run[/]", _size(use.bytes), _size(use.alone), most)
    Console().print(table)
    print(f"{_size(whole)} in all, each file once; `ostinato gc` says what can go")


def gc(
    drop: DropOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; otherwise it is only said.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Free what no run and no comparison names; by default only say what would go."""
    store = Store(workspace())
    if at_work := busy(store):
        raise BadInput(f"run {at_work[0]}: a process is at it; wait for it, and collect afterwards")
    found = garbage(store, drop or [])
    gained = freed(found)
    if yes:
        collect(store, found)
    if as_json:
        gone = [{"path": str(each.path), "why": each.why, "bytes": each.bytes} for each in found]
        print(json.dumps({"done": yes, "freed": gained, "gone": gone}))
        return
    if not found:
        print("nothing can go: runs and comparisons name all there is")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("goes" if not yes else "gone", "size", "why"):
        table.add_column(heading, justify="right" if heading == "size" else "left")
    for each in sorted(found, key=lambda each: -each.bytes):
        table.add_row(each.path.relative_to(store.root).as_posix(), _size(each.bytes), each.why)
    Console().print(table)
    left = sum(1 for path in store.artefacts.glob("*-*") if path not in {each.path for each in found})
    stays = (
        f"{count(left, 'artefact')} that runs, comparisons or judges need {'stays' if left == 1 else 'stay'}"
    )
    done = "freed" if yes else "would be freed"
    print(f"{_size(gained)} {done}; {stays}{'' if yes else '; --yes does it'}")


def restore(
    artefact: Annotated[
        str, typer.Argument(metavar="RUN/PLACE", help="Such as demo/round-03/update, as in `status`.")
    ],
) -> None:
    """Make an artefact whole again of which a run's keep has dropped files, with whatever that takes."""
    from flows.execution.restored import restore_artefact

    run, _, place = artefact.strip("/").partition("/")
    with output.logged(workspace(), run) as terminal:
        made = restore_artefact(run, place, lambda text: print(text, file=terminal.err, flush=True))
    print(f"{made.path}: whole")


def _size(bytes: int) -> str:
    return f"{bytes / 2**20:,.1f} MiB" if bytes < 2**30 else f"{bytes / 2**30:,.2f} GiB"
