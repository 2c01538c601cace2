"""Weights sent over HTTP to servers that see no folder of ours: announced, then in parts, then named."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.engines.http import Client, Lost, Refused
from tasks.engines.weights_receiver import DIGEST_HEADER, ROUTE
from tasks.engines.weights_shelf import NAME, PART_BYTES, File, name_of

TRIES = 3
"""In which a part must come through unharmed, or a server's idea of what it holds must be ours."""
UNEXPECTED, HARMED = 409, 422
SEEN = 4
"""Folders whose digests are remembered."""


@dataclass(frozen=True)
class Parcel:
    """A folder of weights, ready to be sent."""

    folder: Path
    files: tuple[File, ...]
    name: str


class Sender:
    """Sends folders to any number of servers at the same time; the digests are computed once."""

    def __init__(self) -> None:
        self._parcels: dict[tuple[str, Path], Parcel] = {}
        self._lock = threading.Lock()

    def send(self, client: Client, folder: Path, name: str, seconds: float) -> str:
        """Have the server hold the weights in ``folder``, which are those called ``name`` here; what they are
        called there. Raises ``Lost``, and ``Refused`` where it does not take them.

        What an earlier call has brought, whole or in part, is not sent again.
        """
        parcel = self._parcel(folder, name)
        for _ in range(TRIES):
            told = [{"name": file.name, "size": file.size, "sha256": file.digest} for file in parcel.files]
            answer = client.post(ROUTE, {"files": told}, seconds)
            missing = answer.get("missing") if isinstance(answer, dict) else None
            if not isinstance(missing, dict):
                raise Lost(f"{client.address}: {ROUTE} answered without the bytes that are missing")
            try:
                for file in parcel.files:
                    if file.name in missing:
                        _send_file(client, parcel, file.name, int(missing[file.name]), seconds)
                return parcel.name
            except Refused as refusal:
                reason = str(refusal)
                if refusal.status not in (UNEXPECTED, HARMED):
                    raise
        raise Lost(f"{client.address}: the weights do not come through: {reason}")

    def _parcel(self, folder: Path, name: str) -> Parcel:
        with self._lock:
            found = self._parcels.get((name, folder)) or _parcel(folder)
            self._parcels[name, folder] = found
            while len(self._parcels) > SEEN:
                del self._parcels[next(iter(self._parcels))]
            return found


def _parcel(folder: Path) -> Parcel:
    paths = sorted(path for path in folder.iterdir() if NAME.fullmatch(path.name) and path.stat().st_size)
    files = []
    for path in paths:
        with path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        files.append(File(path.name, path.stat().st_size, digest))
    return Parcel(folder, tuple(files), name_of(files))


def _send_file(client: Client, parcel: Parcel, file: str, start: int, seconds: float) -> None:
    for first, data in _parts(parcel.folder / file, start):
        path = f"{ROUTE}/{parcel.name}/{file}/{first}"
        headers = {DIGEST_HEADER: hashlib.sha256(data).hexdigest()}
        client.send(path, data, headers, seconds)


def _parts(path: Path, start: int) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as opened:
        opened.seek(start)
        while data := opened.read(PART_BYTES):
            yield start, data
            start += len(data)
