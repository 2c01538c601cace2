"""Servers that a test starts, stops and asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.artefacts.artefact import Artefact
from tests.tasks.engines.server_world import World


@pytest.fixture
def world(tiny_model: Artefact, tmp_path: Path) -> Iterator[World]:
    made = World(tiny_model, tmp_path)
    yield made
    made.close()
