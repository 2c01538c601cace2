"""Where a workspace keeps artefacts beside itself."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from params.base import BadInput, validate
from params.store import StoreSettings
from tasks.artefacts.artefact import write_json

ADDRESS = "OSTINATO_REMOTE"
"""The environment's variable for the address."""


def path_of(root: Path) -> Path:
    """Where the workspace keeps the settings."""
    return root / ".ostinato" / "remote.json"


def settings_of(
    root: Path, given: StoreSettings | None = None, url: str | None = None
) -> StoreSettings | None:
    """What is set, from the strongest: ``url``, ``given`` (``store`` of a run's parameters), the environment,
    the workspace. None where no address is set. Raises ``BadInput``, also where there is nothing to share."""
    merged = _kept(root)
    if os.environ.get(ADDRESS):
        validate(StoreSettings, {"url": os.environ[ADDRESS]}, ADDRESS)
        merged["url"] = os.environ[ADDRESS]
    merged |= given.model_dump(exclude_defaults=True) if given else {}
    merged |= {"url": url} if url else {}
    found = validate(StoreSettings, merged)
    if found.share and not found.url:
        raise BadInput(
            f"store.share: no remote is set; expected `ostinato remote s3://BUCKET/PREFIX`, {ADDRESS} or "
            "store.url"
        )
    return found if found.url else None


def needed(root: Path, url: str | None = None) -> StoreSettings:
    """``settings_of``; raises ``BadInput`` where no address is set."""
    found = settings_of(root, url=url)
    if found is None:
        raise BadInput(
            f"no remote is set; expected `ostinato remote s3://BUCKET/PREFIX` once in this workspace, "
            f"{ADDRESS}, or --remote"
        )
    return found


def set_remote(root: Path, values: dict[str, Any]) -> StoreSettings:
    """Keep the settings in the workspace, if they work: an object is written, read and removed."""
    chosen = {key: value for key, value in values.items() if value is not None}
    settings = validate(StoreSettings, chosen)
    from tasks.remote.remote import Remote  # boto3 takes a second

    with Remote(settings) as remote:
        remote.check()
    path_of(root).parent.mkdir(parents=True, exist_ok=True)
    write_json(path_of(root), settings.model_dump(exclude_defaults=True))
    return settings


def _kept(root: Path) -> dict[str, Any]:
    path = path_of(root)
    if not path.exists():
        return {}
    try:
        kept = json.loads(path.read_text())
    except ValueError:
        raise BadInput(f"{path}: not JSON; set it anew with `ostinato remote`") from None
    return kept if isinstance(kept, dict) else {}
