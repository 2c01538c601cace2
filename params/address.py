"""Addresses of servers, as a person gives them."""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence


def addresses(given: Sequence[str]) -> tuple[str, ...]:
    """Each as ``http://HOST:PORT``; raises ``ValueError`` for what is no such address, or comes twice."""
    found = tuple(map(_address, given))
    twice = next((one for one in found if found.count(one) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} comes twice; expected each server once")
    return found


def _address(given: str) -> str:
    expected = "expected http://HOST:PORT"
    parts = urllib.parse.urlsplit(given.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{given!r} is no address; {expected}")
    if parts.username or parts.password:  # which logs and manifests would show
        raise ValueError(f"an address with a password; {expected}, and the key in OSTINATO_ENGINE_KEY")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"{given!r} goes on after the port; {expected}")
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"{given!r} has no valid port; {expected}") from None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "")
