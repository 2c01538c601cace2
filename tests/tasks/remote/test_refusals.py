"""What a bucket refuses, and what is refused of it, in one line."""

from __future__ import annotations

import shutil

import pytest

from params.base import BadInput, validate
from params.store import StoreSettings
from tasks.artefacts.artefact import Damaged, Source
from tasks.artefacts.store import Store
from tasks.remote.errors import RemoteDamaged, RemoteTrouble
from tasks.remote.remote import Remote
from tests.buckets import Bucket, Exchange, proxied
from tests.tasks.remote.machines import MIB, artefact, at, pulled, some_bytes


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((403, "AccessDenied"), "access denied"),
        ((403, "InvalidAccessKeyId"), "access denied"),
        ((400, "ExpiredToken"), "credentials have expired"),
        ((507, "InsufficientStorage"), "full or its quota used up"),
        ((413, "EntityTooLarge"), "full or its quota used up"),
        ((507, "XMinioStorageFull"), "full or its quota used up"),
        ((404, "NoSuchBucket"), "no such bucket"),
        ((503, "SlowDown"), r"the store answered SlowDown \(503\)"),
    ],
)
def test_what_a_store_refuses_is_one_clear_line(
    bucket: Bucket, here: Store, answer: tuple[int, str], said: str
) -> None:
    made = artefact(here, {"a": b"a", "b": b"b"})

    def harm(exchange: Exchange) -> tuple[int, str] | None:
        return answer if exchange.method == "PUT" and "/objects/" in exchange.path else None

    where = f"^s3://{bucket.name}/some/where/objects/[0-9a-f]+: "
    refused = pytest.raises(RemoteTrouble, match=f"{where}.*{said}")
    with proxied(bucket.endpoint, harm) as proxy, at(proxy, bucket.settings(attempts=2)) as remote:
        with refused as info:
            remote.push([made])
        assert not bucket.keys("some/where/artefacts")
    assert "\n" not in str(info.value)


def test_a_bucket_that_is_not_there(bucket: Bucket, here: Store) -> None:
    with Remote(bucket.settings(url="s3://no-such-bucket-here/x")) as remote:
        with pytest.raises(RemoteTrouble, match="no such bucket"):
            remote.check()
        with pytest.raises(RemoteTrouble, match="no such bucket"):
            remote.find("update", "0" * 64)


def test_an_endpoint_where_nobody_answers(bucket: Bucket) -> None:
    nobody = bucket.settings(endpoint_url="http://127.0.0.1:9")
    unreachable = r"cannot be reached \(EndpointConnectionError\)"
    with Remote(nobody) as remote, pytest.raises(RemoteTrouble, match=unreachable):
        remote.check()


def test_no_credentials(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with Remote(bucket.settings()) as remote, pytest.raises(RemoteTrouble, match="no credentials"):
        remote.check()
    with pytest.raises(RemoteTrouble, match="no credentials"):
        Remote(bucket.settings(profile="nobody"))


def test_a_manifest_that_reaches_outside_its_folder_is_refused(
    bucket: Bucket, here: Store, there: Store
) -> None:
    made = artefact(here, {"a": b"a"})
    outside = made.manifest.model_copy(update={"files": {"../../a": made.manifest.files["a"]}})
    with Remote(bucket.settings(attempts=1)) as remote:
        remote.push([made])
        (key,) = bucket.keys("some/where/artefacts")
        bucket.put(key, outside.to_bytes())
        with pytest.raises(RemoteDamaged, match="no artefact may hold"):
            remote.find("update", made.fingerprint)


@pytest.mark.parametrize(
    "stranger",
    [
        Source(stage="../../victim/site", fingerprint="0" * 64, digest="0" * 64),
        Source(stage="update", fingerprint="../" * 20, digest="0" * 64),
        Source(stage="update", fingerprint="0" * 64, digest="../x"),
    ],
)
@pytest.mark.parametrize("field", ["inputs", "answers"])
def test_a_manifest_whose_inputs_lie_outside_the_workspace_is_refused(
    bucket: Bucket, here: Store, field: str, stranger: Source
) -> None:
    """What it was made of is pulled too, to a place that its name says."""
    made = artefact(here, {"a": b"a"})
    more = {field: {"policy": stranger} if field == "inputs" else stranger}
    with Remote(bucket.settings(attempts=1)) as remote:
        remote.push([made])
        (key,) = bucket.keys("some/where/artefacts")
        bucket.put(key, made.manifest.model_copy(update=more).to_bytes())
        with pytest.raises(RemoteDamaged, match="what no artefact is called"):
            remote.find("update", made.fingerprint)


@pytest.mark.parametrize("name", [("../../victim/site", "0" * 64), ("/tmp/x", "0" * 64), ("a", "/" * 64)])
def test_the_cache_gives_no_place_outside_itself(here: Store, name: tuple[str, str]) -> None:
    with pytest.raises(Damaged, match="is no name of an artefact"):
        here.path(*name)


@pytest.mark.parametrize("name", ["url", "endpoint_url"])
@pytest.mark.parametrize(
    "value", ["s3://key:hush-hush@bucket/x", "https://key:hush-hush@host", "http://key:hush/hush@host", ""]
)
def test_an_address_with_credentials_is_refused_and_not_repeated(name: str, value: str) -> None:
    with pytest.raises(BadInput, match=f"store.{name}: expected .* without credentials") as info:
        validate(StoreSettings, {name: value})
    assert "hush" not in str(info.value)


def test_a_disk_without_room_is_said_before_anything_is_fetched(
    bucket: Bucket, here: Store, there: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = artefact(here, {"a": some_bytes(1000)})
    with Remote(bucket.settings()) as remote:
        remote.push([made])
        full = shutil.disk_usage(there.root)._replace(free=256 * MIB)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
        with pytest.raises(BadInput, match="256 MiB free"):
            pulled(remote, made, there)
