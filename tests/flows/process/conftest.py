"""Workspaces whose runs use a server of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.flows.conftest import Workspace, environment_of


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Workspace]:
    """A fresh workspace for which nobody has named a Prefect server."""
    root = tmp_path / "alone"
    root.mkdir()
    environment = environment_of(root, {})
    environment.pop("PREFECT_API_URL", None)
    workspace = Workspace(root, environment)
    yield workspace
    for process in living(workspace):
        process.kill()


@pytest.fixture
def prefect_of() -> Callable[[Workspace], list[psutil.Process]]:
    """The servers that runs of a workspace have started."""
    return lambda workspace: [p for p in living(workspace) if "flows.process.keeper" in _command(p)]


def living(workspace: Workspace) -> list[psutil.Process]:
    """Every process that works for a workspace."""
    found = []
    for process in psutil.process_iter():
        try:
            home = process.environ().get("OSTINATO_HOME")
            if home == str(workspace.root) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:  # gone, or somebody else's
            continue
    return found


def _command(process: psutil.Process) -> list[str]:
    """Its command line; none of one that has just ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # a zombie counts as one
        return []
