"""A boto3 client: endpoint, region and credentials by boto3's own chain, where nothing else is set."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from params.store import StoreSettings

QUICK_ATTEMPTS = 3
"""What botocore tries by itself, within seconds; a whole transfer is tried again above it."""


def connect(store: StoreSettings) -> Any:
    """A client for S3, to be shared by threads. Raises what botocore raises."""
    session = boto3.session.Session(profile_name=store.profile, region_name=store.region)
    client = _client(session, store, store.addressing)
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    if store.addressing == "auto" and not host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        client.close()
        client = _client(session, store, "path")
    return client


def _client(session: boto3.session.Session, store: StoreSettings, addressing: str) -> Any:
    options = Config(
        retries={"mode": "standard", "total_max_attempts": QUICK_ATTEMPTS},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=2 * store.workers + 2,
        s3={"addressing_style": addressing},
        # Trailing checksums are not understood by every store; Content-MD5 is, and digests are our own.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    # Elsewhere than at Amazon a region is a formality that signing needs.
    region = store.region or session.region_name or "us-east-1"
    return session.client("s3", endpoint_url=store.endpoint_url, region_name=region, config=options)
