"""Which servers there are: those that are named, those in a file, those that a DNS name stands for."""

from __future__ import annotations

import logging
import socket
import urllib.parse
from pathlib import Path

from params.address import DNS, BadLine, listed
from params.base import BadInput
from params.engine import Engine

log = logging.getLogger(__name__)
NO_ADDRESS = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
"""What a resolver says of a name that stands for nothing now; other errors say nothing of the name."""


class Roster:
    """The list of servers, which may be another at each look."""

    def __init__(self, settings: Engine) -> None:
        self._named = settings.servers
        self._path = Path(settings.servers_file).expanduser() if settings.servers_file else None
        self._lines: tuple[str, ...] = ()
        self._resolved: dict[str, tuple[str, ...]] = {}
        self._noted: set[str] = set()

    @property
    def changes(self) -> bool:
        """Whether it may be another later."""
        return self._path is not None or any(map(_is_name, self._named))

    @property
    def source(self) -> str:
        """Where it stands, for a message."""
        names = ["engine.servers " + ", ".join(self._named)] if self._named else []
        return " and ".join(names + ([f"engine.servers_file {self._path}"] if self._path else []))

    def look(self) -> tuple[str, ...]:
        """The addresses of now, ``http://HOST:PORT``, each once; may take as long as a resolver does.

        Of what cannot be read or resolved for a while, those of before. What is wrong is noted once.
        """
        wrong: set[str] = set()
        if self._path is not None:
            try:
                self._lines, bad = read(self._path)
                wrong |= {str(line) for line in bad}
            except BadInput as unread:
                wrong.add(f"{unread}; those of before are used")
        found: dict[str, None] = {}
        for address in (*self._named, *self._lines):
            found |= dict.fromkeys(self._resolve(address, wrong) if _is_name(address) else [address])
        for line in sorted(wrong - self._noted):
            log.warning("%s", line)
        self._noted = wrong
        return tuple(found)

    def _resolve(self, address: str, wrong: set[str]) -> tuple[str, ...]:
        parts = urllib.parse.urlsplit(address)
        try:
            answers = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno in NO_ADDRESS:
                self._resolved[address] = ()
            else:
                words = str(error.strerror).lower()
                wrong.add(f"{address}: not resolved: {words}; the addresses of before are used")
        else:
            hosts = sorted({str(answer[4][0]) for answer in answers})
            self._resolved[address] = tuple(
                f"http://[{host}]:{parts.port}" if ":" in host else f"http://{host}:{parts.port}"
                for host in hosts
            )
        return self._resolved.get(address, ())


def read(path: Path) -> tuple[tuple[str, ...], list[BadLine]]:
    """The addresses in a file, and the lines that hold none; raises ``BadInput`` where it cannot be read."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        words = getattr(error, "strerror", None) or "is no text"
        raise BadInput(
            f"engine.servers_file {path}: {words.lower()}; expected a file with one address a line"
        ) from None
    return listed(text, f"engine.servers_file {path}")


def check(settings: Engine) -> None:
    """Raises ``BadInput`` for a file of servers that cannot be read or has a line that is no address."""
    if settings.servers_file:
        _, bad = read(Path(settings.servers_file).expanduser())
        for line in bad:
            raise BadInput(str(line))


def _is_name(address: str) -> bool:
    return address.startswith(DNS)
