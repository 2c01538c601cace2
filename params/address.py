"""Addresses of servers, as a person gives them."""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass

DNS = "dns://"
"""Before a name that stands for any number of servers, and their port."""


@dataclass(frozen=True)
class BadLine:
    """A line that holds no address."""

    file: str
    line: int
    """From 1."""
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}"


def listed(text: str, file: str) -> tuple[tuple[str, ...], list[BadLine]]:
    """The servers in a text, one a line, ``#`` before comments, each once; and the lines that hold none."""
    found: dict[str, None] = {}
    bad = []
    for number, line in enumerate(text.splitlines(), 1):
        given = line.partition("#")[0].strip()
        try:
            if given:
                found[_server(given)] = None
        except ValueError as error:
            bad.append(BadLine(file, number, str(error)))
    return tuple(found), bad


def servers(given: Sequence[str]) -> tuple[str, ...]:
    """As ``addresses``, and ``dns://NAME:PORT`` beside them."""
    return _once(tuple(map(_server, given)))


def addresses(given: Sequence[str]) -> tuple[str, ...]:
    """Each as ``http://HOST:PORT``; raises ``ValueError`` for what is no such address, or comes twice."""
    return _once(tuple(map(_address, given)))


def _once(found: tuple[str, ...]) -> tuple[str, ...]:
    twice = next((one for one in found if found.count(one) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} comes twice; expected each server once")
    return found


def _server(given: str) -> str:
    given = given.strip()
    if not given.startswith(DNS):
        return _address(given, "expected http://HOST:PORT, or dns://NAME:PORT")
    # a name is looked up as it stands: what is no host name resolves to nothing
    host = _address("http://" + given.removeprefix(DNS), "expected dns://NAME:PORT").removeprefix("http://")
    if not urllib.parse.urlsplit(f"//{host}").port:
        raise ValueError(f"{given!r} has no port; expected dns://NAME:PORT")
    return DNS + host


def _address(given: str, expected: str = "expected http://HOST:PORT") -> str:
    try:
        parts = urllib.parse.urlsplit(given.strip())
    except ValueError:  # brackets that do not close
        raise ValueError(f"{given!r} is no address; {expected}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{given!r} is no address; {expected}")
    if parts.username or parts.password:  # which logs and manifests would show
        raise ValueError(f"an address with a password; {expected}, and the key in OSTINATO_ENGINE_KEY")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"{given!r} goes on after the port; {expected}")
    try:
        parts.hostname.encode("idna")
    except UnicodeError:  # an empty label, or one of more than 63 letters, which no resolver takes
        raise ValueError(f"{given!r} has no valid host name; {expected}") from None
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"{given!r} has no valid port; {expected}") from None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "")
