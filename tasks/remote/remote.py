"""Artefacts and runs in a bucket.

    PREFIX/objects/SHA256                         a file, by content
    PREFIX/artefacts/STAGE/FINGERPRINT/DIGEST.json  the manifest, as it lies in the artefact; written last
    PREFIX/thinned/STAGE/FINGERPRINT/DIGEST.json  the same of one that was sent thinned, and what it lacked
    PREFIX/runs/NAME.json                         the record of a run; written after its artefacts
    PREFIX/claims/STAGE/FINGERPRINT.json          who makes that artefact now, see ``claims``

Every key but the last three kinds is determined by what lies under it, and a manifest is written when all its
files are there. So two that publish the same artefact write the same bytes, and nobody ever sees half of one,
whatever the store promises about concurrent writes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath

from params.store import StoreSettings, split
from tasks.artefacts.artefact import (
    EVERYTHING,
    MANIFEST,
    THINNED,
    Artefact,
    Damaged,
    File,
    Manifest,
    Source,
    Thinning,
    write_manifest,
)
from tasks.artefacts.digests import file_digest
from tasks.artefacts.record import Record, Step
from tasks.artefacts.store import Store
from tasks.remote.claims import Contest, Owner
from tasks.remote.conditional import ConditionalObjects
from tasks.remote.errors import RemoteDamaged
from tasks.remote.objects import Bucket
from tasks.remote.progress import Progress, Tell, silent

DIGEST = re.compile(r"[0-9a-f]{64}")
ThinnedManifest = tuple[Manifest, Thinning]
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


class Remote:
    """A part of a bucket, in which artefacts are kept as in a workspace. Close it after use."""

    def __init__(self, settings: StoreSettings, tell: Tell = silent) -> None:
        assert settings.url is not None
        bucket, self._prefix = split(settings.url)
        self.url = settings.url.rstrip("/")
        self._bucket = Bucket(settings, bucket)
        self.tell = tell
        """``tell(activity, done, total, facts)``, in bytes."""

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give connections and threads back."""
        self._bucket.close()

    def push(self, artefacts: Sequence[Artefact], reread: bool = False) -> dict[str, int]:
        """Send what is not there, or is there and wrong. ``reread``: read every object back to find out.

        Answers ``artefacts``, ``sent`` (files) and ``bytes`` (that went over the line). Raises
        ``RemoteTrouble``; what was sent until then is not sent again.
        """
        files = {
            file.sha256: (artefact.path / name, file)
            for artefact in artefacts
            for name, file in _left(artefact.manifest, artefact.thinned).items()
        }
        held = self._bucket.side_by_side(
            partial(self._bucket.holds, self._object(sha), *found, reread) for sha, found in files.items()
        )
        missing = [found for found, there in zip(files.values(), held, strict=True) if not there]
        progress = Progress("sending", sum(file.bytes for _, file in missing), self.tell)
        self._bucket.side_by_side(
            partial(self._bucket.send, self._object(file.sha256), path, file, progress.moved)
            for path, file in missing
        )
        written = self._bucket.side_by_side(partial(self._announce, artefact) for artefact in artefacts)
        return {
            "artefacts": len(artefacts),
            "announced": sum(written),
            "sent": len(missing),
            "bytes": progress.done,
        }

    def find(self, stage: str, fingerprint: str) -> Manifest | None:
        """What is there under a fingerprint: where several were published, the first."""
        if not (PLAIN.fullmatch(stage) and DIGEST.fullmatch(fingerprint)):
            return None
        listed = self._bucket.list(self._manifest(stage, fingerprint, ""))
        for entry in sorted(listed, key=lambda entry: (entry.written, entry.key)):
            digest = PurePosixPath(entry.key).stem
            found = self.manifest(stage, fingerprint, digest) if DIGEST.fullmatch(digest) else None
            if found is not None:
                return found
        return None

    def manifest(self, stage: str, fingerprint: str, digest: str) -> Manifest | None:
        """The manifest of that artefact; None where there is none. Raises ``RemoteDamaged``."""
        key = self._manifest(stage, fingerprint, digest)

        def parse(data: bytes) -> Manifest:
            try:
                found = Manifest.from_bytes(data, Path(PurePosixPath(key).name))
            except Damaged as damage:
                raise ValueError(str(damage)) from None
            _check_names(found, (stage, fingerprint, digest))
            return found

        return self._bucket.read(key, parse)

    def manifests(self, sources: Sequence[Source]) -> list[Manifest | None]:
        """``manifest`` of each, in their order."""
        return self._bucket.side_by_side(
            partial(self.manifest, source.stage, source.fingerprint, source.digest) for source in sources
        )

    def thinned(self, source: Source) -> ThinnedManifest | None:
        """The manifest of an artefact that was sent thinned, and what it lacked; None where there is none."""
        names = (source.stage, source.fingerprint, source.digest)
        where = Path(f"{source.digest}.json")

        def parse(data: bytes) -> ThinnedManifest:
            said = json.loads(data)
            try:
                found = Manifest.from_bytes(said["manifest"].encode(), where)
                thinning = Thinning.from_bytes(said["thinned"].encode(), where)
            except (Damaged, KeyError, AttributeError, TypeError) as damage:
                raise ValueError(str(damage)) from None
            _check_names(found, names)
            if thinning.digest != found.digest:
                raise ValueError("it speaks of another artefact")
            return found, thinning

        return self._bucket.read(self._thinned(*names), parse)

    def pull(
        self, manifests: Sequence[Manifest], store: Store, thinned: Sequence[ThinnedManifest] = ()
    ) -> dict[str, int]:
        """Bring artefacts into the cache, each verified, and whole but for what ``thinned`` ones lack. Raises
        ``RemoteTrouble``.

        What broke off is kept and not fetched again.
        """
        waiting: list[tuple[Manifest, Thinning | None]] = [*((each, None) for each in manifests), *thinned]
        files = {file.sha256: file for each in waiting for file in _left(*each).values()}
        total = sum(file.bytes for file in files.values())
        store.need(total, "fetch what is wanted")
        downloads, progress = store.downloads(), Progress("fetching", total, self.tell)

        def fetch(sha: str, file: File) -> None:
            place = downloads / sha
            if not place.exists():
                good = partial(_has_digest, sha)
                self._bucket.fetch(self._object(sha), place, file.bytes, good, progress.moved)

        self._bucket.side_by_side(partial(fetch, sha, file) for sha, file in files.items())
        for each in waiting:
            while not _placed(store, *each, downloads):
                own = _left(*each).values()
                self._bucket.side_by_side(partial(fetch, file.sha256, file) for file in own)
        for sha in files:
            (downloads / sha).unlink(missing_ok=True)
        return {"artefacts": len(waiting), "fetched": len(files), "bytes": progress.done}

    def contest(self, stage: str, fingerprint: str, workspace: str, lease: float) -> Contest:
        """The way to the claim on making that artefact; ``workspace``: its identity; ``lease``: seconds."""
        owner, objects = Owner.here(workspace), ConditionalObjects(self._bucket)
        return Contest(objects, self._key(f"claims/{stage}/{fingerprint}.json"), owner, lease)

    def knows_claims(self) -> bool:
        """Whether the store keeps to the conditions that claims need; tried. Raises ``RemoteTrouble``."""
        return ConditionalObjects(self._bucket).understood(self._key("claims/check-"))

    def write_record(self, record: Record) -> None:
        """Publish the record of a run, after its artefacts."""
        self._bucket.write(self._run(record.name), (record.model_dump_json(indent=1) + "\n").encode())

    def record(self, name: str) -> Record | None:
        """The record of the run called ``name``; None where there is none. Raises ``RemoteDamaged``."""

        def parse(data: bytes) -> Record:
            record = Record.model_validate_json(data)
            if record.name != name or not all(_sound(step) for step in record.steps):
                raise ValueError("it is no record of that run")
            return record

        return self._bucket.read(self._run(name), parse)

    def check(self) -> None:
        """Write, list, read and remove an object; raises ``RemoteTrouble`` for what is not allowed."""
        key = self._key("check")
        self._bucket.write(key, b"ostinato\n")
        self._bucket.list(key)
        self._bucket.delete(key)

    def _announce(self, artefact: Artefact) -> bool:
        """Write the manifest; False where it is there already."""
        names = (artefact.manifest.stage, artefact.fingerprint, artefact.digest)
        with suppress(RemoteDamaged):
            if self.manifest(*names) is not None:
                return False
        if lacking := artefact.thinned:
            said = {
                "manifest": (artefact.path / MANIFEST).read_text(),
                "thinned": lacking.to_bytes().decode(),
            }
            self._bucket.write(self._thinned(*names), json.dumps(said).encode())
            return True
        self._bucket.write(self._manifest(*names), (artefact.path / MANIFEST).read_bytes())
        return True

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _object(self, sha: str) -> str:
        return self._key(f"objects/{sha}")

    def _manifest(self, stage: str, fingerprint: str, digest: str) -> str:
        ending = f"{digest}.json" if digest else ""
        return self._key(f"artefacts/{stage}/{fingerprint}/{ending}")

    def _thinned(self, stage: str, fingerprint: str, digest: str) -> str:
        return self._key(f"thinned/{stage}/{fingerprint}/{digest}.json")

    def _run(self, name: str) -> str:
        return self._key(f"runs/{name}.json")


def _left(manifest: Manifest, thinning: Thinning | None) -> dict[str, File]:
    """The files that were not dropped."""
    dropped = thinning.dropped if thinning else ()
    return {name: file for name, file in manifest.files.items() if name not in dropped}


def _check_names(found: Manifest, names: tuple[str, str, str]) -> None:
    """Raises ``ValueError`` where it is not the manifest of that stage, fingerprint and digest, lists what
    no artefact may hold, or names as an input what no artefact is called."""
    if (found.stage, found.fingerprint, found.digest) != names:
        raise ValueError("it is the manifest of another artefact")
    sources = (*found.inputs.values(), *((found.answers,) if found.answers else ()))
    if not (_called(*names) and all(_called(s.stage, s.fingerprint, s.digest) for s in sources)):
        raise ValueError("it names what no artefact is called")
    if not all(_inside(name) and DIGEST.fullmatch(f.sha256) for name, f in found.files.items()):
        raise ValueError("it lists what no artefact may hold")


def _placed(store: Store, manifest: Manifest, thinning: Thinning | None, downloads: Path) -> bool:
    """Build the artefact from files that are called by their digests: whole or not at all, and checked. False
    where one is not among the downloads. Raises ``Damaged``.
    """

    def build(new: Path) -> None:
        for name, file in _left(manifest, thinning).items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(downloads / file.sha256, path)
            except FileNotFoundError:
                raise  # another process took the same file and cleaned up
            except OSError:
                shutil.copyfile(downloads / file.sha256, path)
        if thinning is not None:
            (new / THINNED).write_bytes(thinning.to_bytes())
        write_manifest(new, manifest)
        Artefact.open(new, lacking=EVERYTHING)

    try:
        store.put(store.path(manifest.stage, manifest.fingerprint), build)
    except FileNotFoundError:
        return False
    return True


def _has_digest(sha: str, path: Path) -> bool:
    return file_digest(path) == sha


def _inside(name: str) -> bool:
    """Whether a name stays inside the folder that it is for: a bucket may have been written by anybody."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\\" not in name


def _called(stage: str, fingerprint: str, digest: str) -> bool:
    """Whether an artefact may be called so: each of them becomes part of a path."""
    return bool(PLAIN.fullmatch(stage) and DIGEST.fullmatch(fingerprint) and DIGEST.fullmatch(digest))


def _sound(step: Step) -> bool:
    return _inside(step.place) and _called(step.stage, step.fingerprint, step.digest)
