"""``ostinato remote``, ``push``, ``pull`` and ``deploy``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.options import JsonOption, RunArgument
from flows.environment import prepare_prefect, workspace
from flows.execution.remote_settings import needed, set_remote, settings_of
from tasks.remote.progress import Tell, silent

RemoteOption = Annotated[
    str | None,
    typer.Option("--remote", metavar="s3://BUCKET/PREFIX", help="Instead of the workspace's own."),
]


def add_to(app: typer.Typer) -> None:
    """Make these commands of the program."""
    for command in (remote, push, pull, deploy):
        app.command()(command)


def remote(
    url: Annotated[str | None, typer.Argument(metavar="s3://BUCKET/PREFIX")] = None,
    endpoint_url: Annotated[
        str | None, typer.Option("--endpoint-url", help="Of MinIO, Ceph, Swift and the like.")
    ] = None,
    region: Annotated[str | None, typer.Option("--region", help="Of the bucket.")] = None,
    profile: Annotated[str | None, typer.Option("--profile", help="Of ~/.aws/config.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Set where this workspace keeps artefacts beside itself, if that works; or say what is set."""
    root = workspace()
    given = {"url": url, "endpoint_url": endpoint_url, "region": region, "profile": profile}
    found = set_remote(root, given) if any(given.values()) else settings_of(root)
    shown = found.model_dump(exclude_defaults=True) if found else {}
    if as_json:
        print(json.dumps(shown))
    elif shown:
        print(", ".join(f"{key} {value}" for key, value in shown.items()))
    else:
        print("no remote is set; `ostinato remote s3://BUCKET/PREFIX` sets one")


def push(
    name: RunArgument,
    url: RemoteOption = None,
    reread: Annotated[
        bool, typer.Option("--reread", help="Read every object back, and send again what is wrong.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Send a run, and every artefact that it stands on, to the remote. What is there is not sent again."""
    settings = needed(workspace(), url)
    from flows.sync.transfer import push_run

    with telling(as_json) as tell:
        said = push_run(workspace(), name, settings, tell, reread)
    _end("pushed", said, as_json)


def pull(name: RunArgument, url: RemoteOption = None, as_json: JsonOption = False) -> None:
    """Bring a run, and every artefact that it stands on, from the remote, each file verified."""
    settings = needed(workspace(), url)
    from flows.sync.transfer import pull_run

    with telling(as_json) as tell:
        said = pull_run(workspace(), name, settings, tell)
    _end("pulled", said, as_json)


def deploy(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Of prefect.yaml; by default all.")
    ] = None,
) -> None:
    """Register the deployments of prefect.yaml with the server at PREFECT_API_URL, checked."""
    prepare_prefect(workspace(), log_level="ERROR")
    from flows.commands.deploy import deploy as register

    print(register(Path.cwd(), names or []))


@contextmanager
def telling(as_json: bool) -> Iterator[Tell]:
    """How far a transfer is: a bar on a terminal, a JSON line a second where asked for, else nothing."""
    if as_json:
        yield _lines()
    elif not sys.stderr.isatty():
        yield silent
    else:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task("looking", total=None)
            yield lambda activity, done, total, facts: progress.update(
                bar, description=activity, completed=done, total=total
            )


def _lines() -> Tell:
    last = 0.0

    def tell(activity: str, done: int, total: int, facts: dict[str, float]) -> None:
        nonlocal last
        if time.monotonic() - last >= 1 or done == total:
            last = time.monotonic()
            print(json.dumps({"event": "progress", "activity": activity, "done": done, "total": total}))

    return tell


def _end(event: str, said: dict[str, Any], as_json: bool) -> None:
    from flows.sync.transfer import lines

    print(json.dumps({"event": event, **said}) if as_json else "\n".join(lines(said)))
