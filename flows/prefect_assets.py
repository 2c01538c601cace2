"""Artefacts as Prefect's assets: an event when one is made, of the resource that is its address.

Prefect emits ``prefect.asset.materialization.succeeded`` when a task that names assets is done, and nothing
where it has the task's result. So a stage's task names its artefact only where that is to be made.
"""

from __future__ import annotations

from pathlib import Path

from prefect.assets import Asset
from prefect.assets.core import AssetProperties
from pydantic import ValidationError

from flows.execution.runner import Runner
from flows.stage_table.stages import Node
from params.store import StoreSettings
from tasks.artefacts.record import Step

REFUSED = frozenset("\n\r\t\0 #?&%\"'<>[]{}|\\^`")
"""What Prefect allows in no asset's key."""


def made_by(runner: Runner, node: Node, identity: str) -> list[Asset]:
    """What the stage makes, at its place in the cache."""
    path = runner.store.path(node.stage.name, identity)
    return at_path(path, f"{runner.name}/{node.place}", node.stage.summary)


def read_by(runner: Runner, node: Node) -> list[Asset]:
    """What the stage reads."""
    return [asset for artefact in runner.inputs(node).values() for asset in at_path(artefact.path)]


def at_path(path: Path, name: str | None = None, description: str | None = None) -> list[Asset]:
    """A file or a folder on this machine."""
    path = path.absolute()
    return _asset(f"file://{path}", name, path.as_uri(), description)


def in_bucket(settings: StoreSettings, run: str, step: Step) -> list[Asset]:
    """A run's artefact in a bucket: its manifest there."""
    address = f"{settings.url}".rstrip("/")
    key = f"{address}/artefacts/{step.stage}/{step.fingerprint}/{step.digest}.json"
    return _asset(key, f"{run}/{step.place}", key, None)


def _asset(address: str, name: str | None, url: str, description: str | None) -> list[Asset]:
    """The asset with that address for a key, as far as Prefect allows it; none where it allows none."""
    key = "".join("_" if character in REFUSED else character for character in address)
    try:
        if name is None:
            return [Asset(key=key)]
        return [Asset(key=key, properties=AssetProperties(name=name, url=url, description=description))]
    except ValidationError:  # too long
        return []
