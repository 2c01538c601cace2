"""Base models and data sets that lie in a bucket: known by entity tags, fetched when a stage reads them."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path, PurePosixPath

from params.base import BadInput
from params.store import StoreSettings, split
from tasks.artefacts.artefact import canonical
from tasks.remote.objects import Bucket, Listed
from tasks.remote.parts import entity_tag
from tasks.remote.progress import Progress, Tell


class RemoteInput:
    """A file, or all that lies below a prefix. Raises ``BadInput`` where there is nothing."""

    def __init__(self, settings: StoreSettings, url: str) -> None:
        name, self._key = split(url)
        self._url = url
        self._bucket = Bucket(settings, name)
        found = [entry for entry in self._bucket.list(self._key) if _below(entry.key, self._key)]
        if not found:
            raise BadInput(f"{url}: nothing is there; expected a file, or a folder of them")
        self._entries = {self._place(entry): entry for entry in found}

    def identity(self) -> dict[str, str]:
        """Entity tag and bytes of each object, by address: what a fingerprint holds of them."""
        return {self._bucket.at(e.key): f"{e.etag} {e.bytes}" for e in self._entries.values()}

    def bring(self, folder: Path, tell: Tell) -> Path:
        """The file, or the folder, below ``folder``, fetched unless it is there. Raises ``RemoteTrouble``."""
        facts = hashlib.sha256(canonical(self.identity())).hexdigest()[:20]
        here = folder / facts
        missing = {name: entry for name, entry in self._entries.items() if not (here / name).exists()}
        progress = Progress("fetching", sum(entry.bytes for entry in missing.values()), tell)

        def fetch(name: str, entry: Listed) -> None:
            good = partial(self._is, entry)
            self._bucket.fetch(entry.key, here / name, entry.bytes, good, progress.moved, entry.etag)

        self._bucket.side_by_side(partial(fetch, name, entry) for name, entry in missing.items())
        return here / PurePosixPath(self._key).name

    def close(self) -> None:
        """Give connections and threads back."""
        self._bucket.close()

    def _place(self, entry: Listed) -> str:
        """Below the last part of the address, whose name matters: a file's suffix says how it is read."""
        below = entry.key.removeprefix(self._key)
        if ".." in PurePosixPath(below).parts or "\\" in below:
            raise BadInput(f"{self._url}: holds {entry.key!r}, which leads out of its folder")
        return PurePosixPath(self._key).name + below

    def _is(self, entry: Listed, path: Path) -> bool:
        """Whether the file is the object, where the entity tag tells: it does not where a store encrypts."""
        if "-" not in entry.etag:
            tag = entity_tag(path, entry.bytes, max(entry.bytes, 1))
            return tag == entry.etag or self._encrypted(entry)
        part = int(self._bucket.head(entry.key, PartNumber=1)["ContentLength"])
        return (
            part in (0, entry.bytes)
            or entity_tag(path, entry.bytes, part) == entry.etag
            or self._encrypted(entry)
        )

    def _encrypted(self, entry: Listed) -> bool:
        return str(self._bucket.head(entry.key).get("ServerSideEncryption", "")).startswith("aws:")


def _below(key: str, prefix: str) -> bool:
    return key == prefix or (key.startswith(f"{prefix}/") and not key.endswith("/"))
