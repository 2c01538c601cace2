"""Looking at what is there: a run's stages, an artefact's history, the last policy as a plain folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from flows.environment import workspace
from flows.execution.runner import run_directory
from flows.stage_table.stages import Node, plan
from params.base import BadInput
from tasks.artefacts.artefact import EVERYTHING, Artefact, Damaged, replace_file
from tasks.artefacts.record import Record, Step
from tasks.artefacts.store import Store
from tasks.artefacts.tables import read_table
from tasks.report.format import count
from tasks.report.run.state import rewrite_state, state
from tasks.rollout.transcripts import as_records, headline, transcript

MARKS = {"done": "green", "stale": "yellow", "damaged": "red", "to do": "dim"}


def status_of(name: str, as_json: bool) -> None:
    """Print the state of every stage of a run, each artefact checked byte by byte. The page of a run that no
    process is making any more is made to say so."""
    directory = run_directory(workspace(), name)
    record = Record.read(directory)
    params = record.parameters()
    stages, known = plan(params), {step.place: step for step in record.steps}
    rows = [_state(directory, node, known.get(node.place)) for node in stages]
    running = not record.finished and Store(workspace()).held(f"run-{name}")
    stopped = None if running else record.stopped
    if not running:
        rewrite_state(directory)
    if as_json:
        why = stopped and stopped.model_dump(mode="json")
        told = {"name": name, "finished": record.finished, "running": running, "stopped": why}
        print(json.dumps({**told, "stages": rows}))
        return
    table = Table(title=escape(f"{name}: {record.command}"), title_justify="left", box=None, pad_edge=False)
    for heading in ("stage", "state", "last", "seconds", "fingerprint", "what"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left")
    for row in rows:
        mark = MARKS[row["state"]]
        seconds = f"{row['seconds']:.1f}" if row["seconds"] is not None else ""
        cells = (row["place"], f"[{mark}]{row['state']}[/]", row["outcome"], seconds, row["fingerprint"][:12])
        table.add_row(*cells, row["why"] or stages.table[row["stage"]].summary)
    Console().print(table)
    if stopped:
        print(state(record).line)
    done = sum(row["state"] == "done" for row in rows)
    print(f"{done} of {len(rows)} stages done; `{record.command}` goes on from here")


def write_report(name: str) -> Path:
    """Write the page of a run; it loads itself anew while a process is making the run."""
    from tasks.report.run.page import write

    directory = run_directory(workspace(), name)
    finished = Record.read(directory).finished
    return write(directory, None if finished else Store(workspace()).holder(f"run-{name}"))


def list_runs(as_json: bool) -> None:
    """Print every run of the workspace, the newest last, and its state: of one whose record cannot be read,
    why."""
    store = Store(workspace())
    rows = [_run_row(store, path.parent) for path in (workspace() / "runs").glob("*/run.json")]
    rows.sort(key=lambda row: (row["started"], row["name"]))
    if as_json:
        print(json.dumps({"runs": rows}))
        return
    if not rows:
        print(f"no runs under {workspace() / 'runs'} yet; `ostinato run` makes one")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "state", "rounds", "seconds", "started"):
        table.add_column(heading, justify="right" if heading in ("rounds", "seconds") else "left")
    for row in rows:
        told = (row[str(column.header)] for column in table.columns)
        table.add_row(*("" if each is None else escape(str(each)) for each in told))
    Console().print(table)
    print("`ostinato status NAME` tells a run's stages and its command")


def _run_row(store: Store, directory: Path) -> dict[str, Any]:
    try:
        record = Record.read(directory)
    except BadInput as error:
        unknown = {"seconds": None, "rounds": None, "started": "", "command": ""}
        return {"name": directory.name, "state": str(error), **unknown}
    state = "finished" if record.finished else f"{count(len(record.steps), 'stage')} done"
    state = "running" if store.held(f"run-{record.name}") else state
    facts = {"rounds": record.params.get("rounds"), "started": record.started, "command": record.command}
    return {"name": record.name, "state": state, "seconds": round(record.seconds, 1), **facts}


def _state(directory: Path, node: Node, known: Step | None) -> dict[str, Any]:
    state, why = "done", ""
    try:
        artefact = Artefact.open(directory / node.place, lacking=EVERYTHING)
        if gone := [artefact.manifest.files[name].bytes for name in artefact.dropped]:
            why = f"{count(len(gone), 'file')} dropped, as keep says ({sum(gone) / 2**20:,.1f} MiB)"
        if known is None or artefact.fingerprint != known.fingerprint:
            state, why = "stale", "of an earlier run with other parameters"
    except (FileNotFoundError, NotADirectoryError):
        state = "to do"
    except Damaged as damage:
        state, why = "damaged", str(damage)
    return {
        "place": node.place,
        "stage": node.stage.name,
        "state": state,
        "outcome": known.outcome if known else "",
        "seconds": known.seconds if known else None,
        "fingerprint": known.fingerprint if known else "",
        "why": why,
    }


def _artefact(text: str) -> Artefact:
    root = workspace()
    path = next((p for p in (Path(text), root / "runs" / text, root / text) if p.is_dir()), None)
    if path is None:
        raise BadInput(
            f"{text}: no such artefact; expected a path, or RUN/PLACE such as demo/round-01/update"
        )
    return Artefact.needed(path, "run the command that made it again, and it is made again", EVERYTHING)


def show_episodes(text: str, first: int, out: Path | None) -> None:
    """Print the ``first`` so many answers of a rollout or an evaluation turn by turn, and write all of them
    to ``out`` as JSON lines."""
    if out is not None and out.exists():
        raise BadInput(f"--out {out}: exists already; expected a file that does not")
    if out is not None and not out.absolute().parent.is_dir():
        raise BadInput(f"--out {out}: no such directory")
    artefact = _artefact(text)
    tables = [name for name in ("rollouts.parquet", "answers.parquet") if name in artefact.manifest.files]
    if not tables:
        raise BadInput(f"{text}: holds no answers; expected a rollout or an evaluation")
    table = read_table(artefact.file(tables[0]))
    for row in table.slice(0, first).to_pylist():
        print(f"--- {headline(row)}")
        print(transcript(row["trace"]) if row["trace"] else "(of one turn; the report shows what was said)")
    if out is not None:
        lines = "".join(json.dumps(record) + "\n" for record in as_records(table))
        replace_file(out, lines)
        print(f"{out}: {len(table)} answers with messages, ids, loss_mask and logprobs")


def show_artefact(text: str, as_json: bool) -> None:
    """Print what an artefact is, what it holds and what it was made of, back to the problems."""
    root, artefact = workspace(), _artefact(text)
    if as_json:
        print(artefact.manifest.model_dump_json(indent=1))
        return
    manifest = artefact.manifest
    console = Console()
    console.print(f"[bold]{manifest.stage}[/] of round {manifest.round}, fingerprint {manifest.fingerprint}")
    files = Table(box=None, pad_edge=False)
    for heading in ("file", "bytes", "sha256"):
        files.add_column(heading, justify="right" if heading == "bytes" else "left")
    for name, file in manifest.files.items():
        gone = " (dropped)" if name in artefact.dropped else ""
        files.add_row(name + gone, f"{file.bytes:,}", file.sha256[:16])
    console.print(files)
    console.print("measured:", ", ".join(f"{k} {v:,.4g}" for k, v in sorted(manifest.measured.items())))
    console.print("versions:", ", ".join(f"{k} {v}" for k, v in sorted(manifest.versions.items())))
    console.print("parameters:")
    console.print_json(json.dumps(manifest.params))
    console.print(_history(Store(root), artefact, Tree("made of"), set()))


def _history(store: Store, artefact: Artefact, tree: Tree, seen: set[str]) -> Tree:
    for name, source in artefact.manifest.inputs.items():
        label = f"{name}: {source.stage} {source.fingerprint[:12]} (content {source.digest[:12]})"
        if source.fingerprint in seen:
            tree.add(f"{label} [dim]as above[/]")
            continue
        seen.add(source.fingerprint)
        try:
            below = Artefact.open(store.path(source.stage, source.fingerprint), check=False)
        except (FileNotFoundError, Damaged):
            tree.add(f"{label} [yellow]not in the cache[/]")
            continue
        _history(store, below, tree.add(f"{label}, round {below.manifest.round}"), seen)
    return tree
