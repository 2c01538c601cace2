"""Two machines' workspaces, and pauses too short to wait for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.artefacts.store import Store
from tasks.remote import objects


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PAUSE", 0.001)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.001)


@pytest.fixture
def here(tmp_path: Path) -> Store:
    (tmp_path / "here").mkdir()
    return Store(tmp_path / "here")


@pytest.fixture
def there(tmp_path: Path) -> Store:
    (tmp_path / "there").mkdir()
    return Store(tmp_path / "there")
