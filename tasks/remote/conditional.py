"""Small objects that are written on a condition: only where there is none yet, only over what was read.

Amazon S3 has both since November 2024, and so have MinIO, Ceph and R2; a store that knows neither either
refuses the request or, worse, ignores the condition. Hence ``understood``, which tries it.
"""

from __future__ import annotations

import uuid
from typing import Any, Protocol

from botocore.exceptions import ClientError

from tasks.remote.errors import RemoteTrouble
from tasks.remote.objects import Bucket
from tasks.remote.trouble import absent

NOT_SO = (409, 412)
"""The condition does not hold; or somebody else wrote at the same moment, of whom one wins."""


class Conditional(Protocol):
    """Objects with compare-and-swap. A tag is another one with every content."""

    def get(self, key: str) -> tuple[bytes, str] | None:
        """The content and its tag; None where there is none."""

    def create(self, key: str, data: bytes) -> str | None:
        """Write it where there is none: its tag; None where there is one."""

    def replace(self, key: str, data: bytes, tag: str) -> str | None:
        """Write it over the content with that tag: the new one; None where there is another, or none."""

    def delete(self, key: str) -> None:
        """Remove it, whatever it is."""


class ConditionalObjects:
    """Those of a bucket. Raises ``RemoteTrouble``. May be used from several threads."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def get(self, key: str) -> tuple[bytes, str] | None:
        """The content and its entity tag; None where there is none."""

        def get() -> tuple[bytes, str] | None:
            try:
                found = self._bucket.client.get_object(Bucket=self._bucket.bucket, Key=key)
                return bytes(found["Body"].read()), str(found["ETag"])
            except ClientError as error:
                if absent(error):
                    return None
                raise

        return self._bucket.persist(self._bucket.at(key), get)

    def create(self, key: str, data: bytes) -> str | None:
        """Write it where there is none: its entity tag; None where there is one."""
        return self._put(key, data, IfNoneMatch="*")

    def replace(self, key: str, data: bytes, tag: str) -> str | None:
        """Write it over the content with that tag: the new one; None where there is another, or none."""
        return self._put(key, data, IfMatch=tag)

    def delete(self, key: str) -> None:
        """Remove it, whatever it is."""
        self._bucket.delete(key)

    def understood(self, prefix: str) -> bool:
        """Whether the store keeps to conditions: tried with an object of its own, which is removed."""
        key = f"{prefix}{uuid.uuid4().hex}"
        try:
            tag = self.create(key, b"1")
            return (
                tag is not None
                and self.create(key, b"2") is None
                and (second := self.replace(key, b"3", tag)) is not None
                and self.replace(key, b"4", tag) is None
                and self.get(key) == (b"3", second)
            )
        except RemoteTrouble as trouble:
            if not trouble.unknown:
                raise
            return False
        finally:
            self.delete(key)

    def _put(self, key: str, data: bytes, **condition: str) -> str | None:
        def put() -> str | None:
            where: dict[str, Any] = {"Bucket": self._bucket.bucket, "Key": key, "Body": data}
            try:
                return str(self._bucket.client.put_object(**where, **condition)["ETag"])
            except ClientError as error:
                status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
                if status not in NOT_SO and not absent(error):
                    raise
            # An earlier attempt, of which no answer came, may be what stands there now.
            found = self.get(key)
            return found[1] if found and found[0] == data else None

        return self._bucket.persist(self._bucket.at(key), put)
