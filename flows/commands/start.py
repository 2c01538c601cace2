"""Start a run as its words on the command line say, and tell how it went."""

from __future__ import annotations

import json
from dataclasses import dataclass

from flows.environment import prepare_prefect, workspace
from flows.process.own_server import own_server
from tasks.artefacts.store import Store


@dataclass(frozen=True)
class Words:
    """What names a run on the command line."""

    model: str
    task: str
    method: str
    settings: tuple[str, ...]
    """``KEY=VALUE``, in their order."""
    name: str | None = None
    accept: tuple[str, ...] = ()
    """Places whose artefacts may have been made by another state of the source."""


def start(words: Words, as_json: bool, push: bool = False, publish: bool = False) -> None:
    """Check everything, then train; a line of verdict at the end, or JSON lines. Raises ``BadInput``, and
    ``RemoteTrouble`` where the bucket that it is to be pushed to lets nobody in."""
    from flows.execution.accepted_code import check_places
    from flows.execution.ray_cluster import require_ray
    from flows.execution.validation import check_free, chosen, run_name
    from flows.stage_table.stages import plan
    from flows.sync.destination import destination

    presets = (words.model, words.task, words.method)
    changes = list(words.settings)
    params, name = chosen(*presets, changes), run_name(words.name, *presets)
    check_places(words.accept, plan(params))
    require_ray(params)
    check_free(Store(workspace()), name)  # before a server is started, and told of a run that failed
    kept_in = destination(params, push, publish)
    prepare_prefect(workspace())
    server = own_server()
    from flows.commands.train_command import train_watched

    given = (*presets, changes)
    summary = train_watched(name, params, given, server, as_json, kept_in, publish, words.accept)
    if as_json:
        print(json.dumps({"event": "finished", **summary}))
    else:
        print(summary["verdict"])
        print(f"Report: {summary['report']}")
