"""Where Prefect keeps its things and how it behaves; set before it is imported."""

from __future__ import annotations

import base64
import os
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlsplit

from params.base import BadInput
from tasks.core.addresses import shown


def workspace() -> Path:
    """The directory that holds ``artefacts/`` and ``runs/``: ``OSTINATO_HOME``, or the current one."""
    return Path(os.environ.get("OSTINATO_HOME", ".")).resolve()


def prepare_prefect(root: Path, log_level: str = "CRITICAL") -> None:
    """Give Prefect a home inside the workspace, unless a person chose one, and say how much it logs.

    Without an API address a run shares in the workspace's own server: see ``process.own_server``.
    """
    home = root / ".ostinato" / "prefect"
    defaults = {
        "PREFECT_HOME": str(home),
        "PREFECT_LOCAL_STORAGE_PATH": str(home / "storage"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": log_level,
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_CLI_PROMPT": "false",
        "DO_NOT_TRACK": "1",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    if "PREFECT_API_URL" in os.environ:
        _ask_server(os.environ["PREFECT_API_URL"])


def _ask_server(address: str) -> None:
    """Raise ``BadInput`` unless a Prefect server answers there."""
    bare = shown(address)  # what is printed; and urllib takes no user in an address
    try:
        asked = urllib.request.Request(f"{bare}/health", headers=_login(address))  # noqa: S310 - a person's own
        with urllib.request.urlopen(asked, timeout=10) as reply:  # noqa: S310
            healthy = reply.status == 200 and reply.read().strip() == b"true"
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise BadInput(
            f"PREFECT_API_URL={bare}: no Prefect server answers ({reason}); start one "
            "(prefect server start), or unset it and the run starts its own"
        ) from None
    if not healthy:
        raise BadInput(f"PREFECT_API_URL={bare}: something else answers there; expected Prefect's /api")


def _login(address: str) -> dict[str, str]:
    """The header for the user and the password in an address; raises ``ValueError`` where it is none."""
    parts = urlsplit(address)
    if parts.username is None:
        return {}
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}


def prepare_threads() -> None:
    """Let torch's threads sleep when they wait for long; set before it is imported.

    By default they spin. On cores that anything else uses, a spinning thread holds up the very thread that it
    waits for: an update of 4 seconds took 35. Without any spinning, waking them for every small operation
    costs half as much time again; some ten microseconds bridge the gap between two operations.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def under_dvc() -> bool:
    """Whether a DVC stage runs this process. Then there is no Prefect and no call to DVC."""
    return "DVC_STAGE" in os.environ
