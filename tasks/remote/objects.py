"""Objects named by their SHA-256 in a bucket: sent and fetched in parts, side by side, and verified.

Nothing counts until it is verified. What was sent is compared by the entity tag, which for most stores is an
MD5 of what they keep; where it is something else, the object is read back. What was fetched is compared by
its SHA-256. Parts that are there already, of an earlier attempt or another process, are not sent or fetched
again.
"""

from __future__ import annotations

import hashlib
import random
import time
from base64 import b64encode
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from params.errors import OstinatoError
from params.store import StoreSettings
from tasks.artefacts.artefact import File
from tasks.remote.client import connect
from tasks.remote.errors import RemoteDamaged
from tasks.remote.parts import Partial, entity_tag, parts_of
from tasks.remote.trouble import RAISED, absent, garbled, passing, spoken

MOST_PARTS = 10_000
PAUSE = 0.2
"""Seconds before the second attempt; each further pause is twice as long, up to 5 seconds."""

ResultT = TypeVar("ResultT")
Moved = Callable[[int], None]
"""Is told of bytes that went over the line."""


class Wrong(OstinatoError):
    """What arrived is not what was sent, or is not there; worth another attempt."""


@dataclass(frozen=True)
class Listed:
    """An object in a listing."""

    key: str
    bytes: int
    etag: str
    written: float
    """Seconds since 1970."""


class Bucket:
    """One bucket. May be used from several threads."""

    def __init__(self, store: StoreSettings, bucket: str) -> None:
        self.store, self.bucket = store, bucket
        self._part = store.part_mib * 2**20
        with spoken(self.at("")):
            self.client = connect(store)
            """boto3's, for what this class has no method for."""
        # Files wait for their parts, so the two cannot share threads.
        self._files = ThreadPoolExecutor(store.workers, thread_name_prefix="files")
        self._parts = ThreadPoolExecutor(store.workers, thread_name_prefix="parts")
        self._seen: set[tuple[str, str]] = set()
        self._known = False  # the credentials were good once

    def close(self) -> None:
        """Wait for what is under way and give the threads back."""
        self._files.shutdown(cancel_futures=True)
        self._parts.shutdown(cancel_futures=True)
        self.client.close()

    def at(self, key: str) -> str:
        """An address for messages."""
        return f"s3://{self.bucket}/{key}".rstrip("/")

    def side_by_side(self, jobs: Iterable[Callable[[], ResultT]]) -> list[ResultT]:
        """Run the jobs in threads; the first that fails ends the others that have not begun."""
        return run_all(self._files, jobs)

    def persist(self, what: str, action: Callable[[], ResultT]) -> ResultT:
        """``action``, again after a pause where it may succeed then. Raises ``RemoteTrouble``."""
        for attempt in range(self.store.attempts):
            if attempt:
                time.sleep(min(5.0, PAUSE * 2 ** (attempt - 1)) * (0.5 + random.random()))
            try:
                result = action()
                self._known = True
                return result
            except Wrong as wrong:
                last: Exception = RemoteDamaged(f"{what}: {wrong}, {attempt + 1} times over")
            except RAISED as error:
                if not (passing(error) or (self._known and garbled(error))):
                    with spoken(what):
                        raise
                last = error
        with spoken(what):
            raise last

    def read(self, key: str, parse: Callable[[bytes], ResultT]) -> ResultT | None:
        """A small object, parsed; None where there is none. ``parse`` raises ``ValueError`` for a bad one."""

        def get() -> ResultT | None:
            try:
                data = bytes(self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read())
            except ClientError as error:
                if absent(error):
                    return None
                raise
            try:
                return parse(data)
            except ValueError as error:
                raise Wrong(str(error)) from None

        return self.persist(self.at(key), get)

    def write(self, key: str, data: bytes) -> None:
        """Put a small object, and read it back."""

        def put() -> None:
            self._put(key, data)
            if self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read() != data:
                raise Wrong("what arrived is not what was sent")

        self.persist(self.at(key), put)

    def list(self, prefix: str) -> list[Listed]:
        """The objects whose keys begin with ``prefix``."""

        def pages() -> list[Listed]:
            found = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            return [
                Listed(o["Key"], o["Size"], o["ETag"].strip('"'), o["LastModified"].timestamp())
                for page in found
                for o in page.get("Contents", ())
            ]

        return self.persist(self.at(prefix), pages)

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        self.persist(self.at(key), lambda: self.client.delete_object(Bucket=self.bucket, Key=key))

    def holds(self, key: str, path: Path, file: File, read: bool = False) -> bool:
        """Whether the object is there and is the file. ``read``: do not take the entity tag's word."""

        def look() -> bool:
            try:
                head = self.client.head_object(Bucket=self.bucket, Key=key)
            except ClientError as error:
                if absent(error):
                    return False
                raise
            if head["ContentLength"] != file.bytes:
                return False
            etag = head["ETag"].strip('"')
            if not read and etag == entity_tag(path, file.bytes, self._part_of(file.bytes)):
                return True
            if not read and (key, etag) in self._seen:
                return True
            if self._digest(key) != file.sha256:
                return False
            self._seen.add((key, etag))
            return True

        return self.persist(self.at(key), look)

    def send(self, key: str, path: Path, file: File, moved: Moved) -> None:
        """Put a file, in parts where it is large, and make sure that it arrived."""

        def put() -> None:
            if file.bytes <= self._part_of(file.bytes):
                self._put(key, path.read_bytes())
                moved(file.bytes)
            else:
                try:
                    self._send_parts(key, path, file, moved)
                except ClientError as error:
                    # Another process that sent the same file completed it, or it was aborted.
                    if error.response.get("Error", {}).get("Code") not in ("NoSuchUpload", "InvalidPart"):
                        raise
            if not self.holds(key, path, file):
                raise Wrong("what arrived is not what was sent")

        self.persist(self.at(key), put)

    def fetch(
        self,
        key: str,
        place: Path,
        size: int,
        good: Callable[[Path], bool],
        moved: Moved,
        tag: str | None = None,
    ) -> None:
        """Bring an object of that size to ``place``, in parts, if it is ``good``, and has the entity tag.

        What an earlier attempt brought is kept.
        """

        def bring(arriving: Partial, start: int, stop: int) -> None:
            arriving.add(start, self._range(key, start, stop, size, tag))
            moved(stop - start)

        def get() -> None:
            with Partial(place, size, self._part_of(size)) as arriving:
                if not arriving.finished:
                    run_all(self._parts, [partial(bring, arriving, *part) for part in arriving.missing()])
                    if not arriving.finish(good):
                        raise Wrong("its bytes do not match its digest")

        self.persist(self.at(key), get)

    def head(self, key: str, **more: Any) -> dict[str, Any]:
        """What the store says of an object."""
        return self.persist(
            self.at(key), lambda: dict(self.client.head_object(Bucket=self.bucket, Key=key, **more))
        )

    def _range(self, key: str, start: int, stop: int, size: int, tag: str | None) -> bytes:
        if size == 0:
            return b""
        wanted: dict[str, Any] = {} if stop - start == size else {"Range": f"bytes={start}-{stop - 1}"}
        wanted |= {"IfMatch": f'"{tag}"'} if tag else {}

        def get() -> bytes:
            data = bytes(self.client.get_object(Bucket=self.bucket, Key=key, **wanted)["Body"].read())
            if len(data) != stop - start:
                raise Wrong(f"{len(data)} bytes came; expected {stop - start}")
            return data

        return self.persist(self.at(key), get)

    def _put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data, ContentMD5=_content_md5(data))

    def _send_parts(self, key: str, path: Path, file: File, moved: Moved) -> None:
        upload, there = self._unfinished(key)
        parts = list(enumerate(parts_of(file.bytes, self._part_of(file.bytes)), start=1))

        def send(number: int, start: int, stop: int) -> dict[str, Any]:
            with path.open("rb") as handle:
                handle.seek(start)
                data = handle.read(stop - start)
            tag = hashlib.md5(data, usedforsecurity=False).hexdigest()
            if there.get(number) != tag:
                tag = self.persist(self.at(key), lambda: self._send_part(key, upload, number, data))
                moved(stop - start)
            return {"PartNumber": number, "ETag": tag}

        listed = run_all(self._parts, [partial(send, number, *part) for number, part in parts])
        self.client.complete_multipart_upload(
            Bucket=self.bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": listed}
        )

    def _send_part(self, key: str, upload: str, number: int, data: bytes) -> str:
        where = {"Bucket": self.bucket, "Key": key, "UploadId": upload, "PartNumber": number}
        return str(self.client.upload_part(**where, Body=data, ContentMD5=_content_md5(data))["ETag"])

    def _unfinished(self, key: str) -> tuple[str, dict[int, str]]:
        """A multipart upload for the key and the tags of its parts: one that was left, or a new one."""
        found = self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=key)
        left = [u for u in found.get("Uploads", ()) if u["Key"] == key]
        if not left:
            begun = self.client.create_multipart_upload(Bucket=self.bucket, Key=key)
            return str(begun["UploadId"]), {}
        upload = max(left, key=lambda u: (u["Initiated"], u["UploadId"]))["UploadId"]
        pages = self.client.get_paginator("list_parts").paginate(Bucket=self.bucket, Key=key, UploadId=upload)
        there = [part for page in pages for part in page.get("Parts", ())]
        return upload, {part["PartNumber"]: part["ETag"].strip('"') for part in there}

    def _digest(self, key: str) -> str:
        body = self.client.get_object(Bucket=self.bucket, Key=key)["Body"]
        return hashlib.file_digest(body, "sha256").hexdigest()

    def _part_of(self, size: int) -> int:
        """Bytes in a part: as set, and more where there would be too many parts."""
        return max(self._part, -(-size // MOST_PARTS))


def run_all(pool: ThreadPoolExecutor, jobs: Iterable[Callable[[], ResultT]]) -> list[ResultT]:
    """Run the jobs in threads; the first that fails ends the others that have not begun, and is raised."""
    futures = [pool.submit(job) for job in jobs]
    _, left = wait(futures, return_when=FIRST_EXCEPTION)
    for future in left:
        future.cancel()
    wait(futures)
    return [future.result() for future in futures if not future.cancelled()]


def _content_md5(data: bytes) -> str:
    return b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
