"""Where artefacts are kept beside this machine. Part of no fingerprint: it changes nothing that is made."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator

from params.base import Config

SHORTEST_LEASE = 1.0
"""Seconds: a claim is renewed several times within its lease, each time by a request to the bucket."""
LONGEST_LEASE = 86400.0
"""Seconds: nobody waits longer for a machine that has died."""
ADDRESS = re.compile(r"s3://(?P<bucket>[a-zA-Z0-9][a-zA-Z0-9._-]{1,62})(?:/(?P<key>[^?#]*))?")
ENDPOINT = re.compile(r"https?://(?:[a-zA-Z0-9._-]+|\[[0-9a-fA-F:]+\])(?::\d+)?(?:/[^@?#]*)?")


class StoreSettings(Config):
    """An S3 bucket, or a part of one. Credentials have no place here: they come from boto3's chain."""

    url: str | None = None
    """``s3://BUCKET/PREFIX``; null: ``OSTINATO_REMOTE``, or what ``ostinato remote`` set in the workspace."""
    endpoint_url: str | None = None
    """Of MinIO, Ceph, Swift and the like; null: boto3's (``AWS_ENDPOINT_URL_S3``, ``~/.aws/config``)."""
    region: str | None = None
    """Of the bucket; null: boto3's."""
    profile: str | None = None
    """A profile of ``~/.aws/config``; null: boto3's."""
    addressing: Literal["auto", "path", "virtual"] = "auto"
    """How a bucket is spelled in a request; ``auto``: in the path, except for Amazon's own endpoints."""
    workers: PositiveInt = 8
    """Transfers side by side."""
    part_mib: Annotated[int, Field(ge=5, le=512)] = 16
    """MiB that are sent or fetched in one request, and again after it broke."""
    attempts: PositiveInt = 5
    """Attempts at one request, and then at one whole file, with growing pauses between them."""
    share: bool = False
    """Whether this machine makes a stage only where no other one does that shares the remote, which it claims
    there first, and sends what it made at once. The same command on several machines then splits the work."""
    lease: Annotated[float, Field(ge=SHORTEST_LEASE, le=LONGEST_LEASE)] = 60.0
    """Seconds after which the claim of a machine that died may be taken by another."""

    @field_validator("url")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        # What is wrong is not repeated: an address with a secret in it would be printed.
        if value is not None and not ADDRESS.fullmatch(value):
            raise ValueError("store.url: expected s3://BUCKET/PREFIX, without credentials")
        return value

    @field_validator("endpoint_url")
    @classmethod
    def _is_endpoint(cls, value: str | None) -> str | None:
        if value is not None and not ENDPOINT.fullmatch(value):
            raise ValueError("store.endpoint_url: expected http(s)://HOST:PORT, without credentials")
        return value


def split(url: str) -> tuple[str, str]:
    """Bucket and key (or prefix) of an ``s3://`` address; raises ``ValueError``."""
    found = ADDRESS.fullmatch(url)
    if found is None:
        raise ValueError(url)
    return found["bucket"], (found["key"] or "").strip("/")
