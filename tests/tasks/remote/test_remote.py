"""Artefacts in a bucket, through a server that speaks S3: whole, verified, and never sent twice."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import psutil
import pytest

from tasks.artefacts.record import Record
from tasks.artefacts.store import Store
from tasks.remote import remote as remote_module
from tasks.remote.errors import RemoteDamaged, RemoteTrouble
from tasks.remote.remote import Remote
from tests.buckets import Bucket, Exchange, by_chance, proxied
from tests.tasks.remote.machines import MIB, artefact, at, pulled, some_bytes, tree

SHAPES: dict[str, dict[str, bytes]] = {
    "small": {"a.json": b"{}", "adapter/b.bin": some_bytes(1000)},
    "an empty file": {"empty": b"", "more": b"x"},
    "the same twice": {"one": b"same", "two": b"same"},
    "exactly a part": {"whole": some_bytes(5 * MIB)},
    "several parts": {"large": some_bytes(10 * MIB + 3)},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_what_was_pushed_is_pulled_byte_for_byte(
    bucket: Bucket, here: Store, there: Store, shape: str
) -> None:
    made = artefact(here, SHAPES[shape])
    with Remote(bucket.settings()) as remote:
        said = remote.push([made])
        assert said["bytes"] == sum(len(v) for v in set(SHAPES[shape].values()))
        assert tree(pulled(remote, made, there).path) == tree(made.path)
    assert not any((there.root / ".ostinato" / "downloads").iterdir())
    assert all(key.startswith("some/where/") for key in sorted(bucket.keys()))


def test_a_second_push_and_a_second_machine_send_nothing(bucket: Bucket, here: Store, there: Store) -> None:
    files = {"large": some_bytes(6 * MIB), "small": b"s"}
    made = artefact(here, files)
    with proxied(bucket.endpoint, lambda exchange: None) as proxy:
        with Remote(bucket.settings(endpoint_url=proxy.address)) as remote:
            remote.push([made])
            sent = proxy.sent()
            again = remote.push([made])
            assert (again["sent"], again["announced"], again["bytes"]) == (0, 0, 0)
        with Remote(bucket.settings(endpoint_url=proxy.address)) as remote:
            remote.push([artefact(there, files)])
        assert proxy.sent() == sent


def test_nothing_is_announced_before_all_its_files_are_there(bucket: Bucket, here: Store) -> None:
    made = artefact(here, {f"f{i}": some_bytes(100, i) for i in range(6)})
    order: list[str] = []

    def watch(exchange: Exchange) -> None:
        if exchange.method == "PUT":
            order.append(exchange.path)

    with (
        proxied(bucket.endpoint, watch) as proxy,
        Remote(bucket.settings(endpoint_url=proxy.address)) as remote,
    ):
        remote.push([made])
    assert len(order) == 7
    assert "/artefacts/update/" in order[-1]
    assert all("/objects/" in path for path in order[:-1])


@pytest.mark.parametrize("kinds", [("500", "reset"), ("truncate", "garble answer"), ("garble request",)])
def test_a_bad_line_loses_and_tears_nothing(
    bucket: Bucket, here: Store, there: Store, kinds: tuple[str, ...]
) -> None:
    """A fifth of the requests is harmed, both ways."""
    several = [
        artefact(here, {f"f{j}": some_bytes(500, 9 * i + j) for j in range(9)} | {"large": large})
        for i, large in enumerate((b"", some_bytes(6 * MIB)))
    ]
    with proxied(bucket.endpoint, by_chance(kinds)) as proxy:
        with Remote(bucket.settings(endpoint_url=proxy.address)) as remote:
            remote.push(several)
            for made in several:
                assert tree(pulled(remote, made, there).path) == tree(made.path)
        assert len(proxy.harmed) >= 5
    for key in bucket.keys("some/where/objects/"):
        assert hashlib.sha256(bucket.get(key)).hexdigest() == key.rpartition("/")[2]


def test_a_broken_multipart_upload_goes_on_where_it_broke(bucket: Bucket, here: Store) -> None:
    made = artefact(here, {"large": some_bytes(16 * MIB)})
    settings = bucket.settings(workers=1, attempts=1)

    def harm(exchange: Exchange) -> tuple[int, str] | None:
        return (403, "AccessDenied") if "partNumber=3" in exchange.path else None

    with proxied(bucket.endpoint, harm) as proxy, at(proxy, settings) as remote:
        with pytest.raises(RemoteTrouble, match="access denied"):
            remote.push([made])
        assert not bucket.keys("some/where/artefacts")
    with proxied(bucket.endpoint, lambda exchange: None) as proxy:
        with at(proxy, settings) as remote:
            remote.push([made])
        parts = [path for method, path, _ in proxy.log if method == "PUT" and "partNumber=" in path]
    again = {path.partition("partNumber=")[2][0] for path in parts}
    assert "3" in again
    assert again <= {"3", "4"}, "the first two parts were there"
    assert bucket.get(f"some/where/objects/{made.manifest.files['large'].sha256}") == some_bytes(16 * MIB)


def test_a_broken_download_goes_on_where_it_broke(bucket: Bucket, here: Store, there: Store) -> None:
    made = artefact(here, {"large": some_bytes(16 * MIB)})
    settings = bucket.settings(workers=1, attempts=1)
    with Remote(settings) as remote:
        remote.push([made])

    def harm(exchange: Exchange) -> tuple[int, str] | None:
        return (403, "AccessDenied") if "/objects/" in exchange.path and exchange.number == 4 else None

    denied = pytest.raises(RemoteTrouble, match="access denied")
    with proxied(bucket.endpoint, harm) as proxy, at(proxy, settings) as remote, denied:
        pulled(remote, made, there)
    assert there.find("update", made.fingerprint) is None
    with proxied(bucket.endpoint, lambda exchange: None) as proxy:
        with at(proxy, settings) as remote:
            assert tree(pulled(remote, made, there).path) == tree(made.path)
        assert proxy.gets("/objects/") <= 2, "two of the four parts were here"


def test_each_file_is_asked_for_once_however_many_artefacts_come(
    bucket: Bucket, here: Store, there: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [artefact(here, {"a": bytes([n]), "b": bytes([n, n])}, identity=str(n)) for n in range(5)]
    with Remote(bucket.settings()) as remote:
        remote.push(made)
        jobs: list[object] = []
        submit = remote._bucket.side_by_side

        def counted(each: Iterable[Callable[[], object]]) -> list[object]:
            listed = list(each)
            jobs.extend(listed)
            return submit(listed)

        monkeypatch.setattr(remote._bucket, "side_by_side", counted)
        assert remote.pull([each.manifest for each in made], there)["artefacts"] == 5
    assert len(jobs) == 10
    for each in made:
        assert there.find("update", each.fingerprint) is not None


def test_what_another_process_has_taken_meanwhile_is_fetched_again(
    bucket: Bucket, here: Store, there: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, place = artefact(here, {"a": b"a", "b": b"b"}), remote_module._placed
    taken = [made.manifest.files["b"].sha256]

    def taking(store: Store, *each: Any) -> bool:
        while taken:
            (store.downloads() / taken.pop()).unlink()
        return place(store, *each)

    monkeypatch.setattr(remote_module, "_placed", taking)
    with Remote(bucket.settings()) as remote:
        remote.push([made])
        assert tree(pulled(remote, made, there).path) == tree(made.path)


def test_a_wrong_part_of_a_broken_download_is_not_trusted(bucket: Bucket, here: Store, there: Store) -> None:
    made = artefact(here, {"large": some_bytes(6 * MIB)})
    with Remote(bucket.settings()) as remote:
        remote.push([made])
        sha = made.manifest.files["large"].sha256
        (there.downloads() / f"{sha}.part").write_bytes(bytes(6 * MIB))
        (there.downloads() / f"{sha}.parts").write_text(f"{6 * MIB} {5 * MIB}\n0\n{5 * MIB}\n")
        assert tree(pulled(remote, made, there).path) == tree(made.path)


def test_a_file_system_without_locks_is_an_error_that_leaves_no_file_open(
    bucket: Bucket, here: Store, there: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = artefact(here, {"a": b"a"})

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with Remote(bucket.settings(attempts=1)) as remote:
        remote.push([made])
        with monkeypatch.context() as patch:
            patch.setattr("fcntl.flock", refuse)
            with pytest.raises(OSError, match="No locks available"):
                pulled(remote, made, there)
        assert not [file.path for file in psutil.Process().open_files() if file.path.endswith(".part")]
        assert tree(pulled(remote, made, there).path) == tree(made.path)


def test_a_wrong_object_is_noticed_and_made_good(bucket: Bucket, here: Store, there: Store) -> None:
    made = artefact(here, {"a": some_bytes(1000), "b": b"b"})
    key = f"some/where/objects/{made.manifest.files['a'].sha256}"
    with Remote(bucket.settings(attempts=2)) as remote:
        remote.push([made])
        for wrong in (b"", some_bytes(999), some_bytes(1000, seed=5)):
            bucket.put(key, wrong)
            with pytest.raises(RemoteDamaged, match=r"do not match its digest|bytes came; expected"):
                pulled(remote, made, there)
            assert there.find("update", made.fingerprint) is None
            assert remote.push([made])["sent"] == 1
            assert bucket.get(key) == some_bytes(1000)
        (manifest,) = bucket.keys("some/where/artefacts")
        bucket.put(manifest, bucket.get(manifest)[:-9])
        with pytest.raises(RemoteDamaged):
            remote.find("update", made.fingerprint)
        assert remote.push([made])["announced"] == 1
        assert tree(pulled(remote, made, there).path) == tree(made.path)


def test_two_publishers_of_one_fingerprint_keep_both(bucket: Bucket, here: Store, there: Store) -> None:
    """An engine may make other bytes of the same fingerprint; a run finds its own again."""
    mine = artefact(here, {"answers": b"mine"}, "rollout", identity="same")
    yours = artefact(there, {"answers": b"yours"}, "rollout", identity="same")
    assert mine.fingerprint == yours.fingerprint
    with Remote(bucket.settings()) as remote:
        remote.push([mine])
        remote.push([yours])
        found = remote.find("rollout", mine.fingerprint)
        assert found is not None
        assert found.digest == mine.digest, "the first that was published"
        for made in (mine, yours):
            exact = remote.manifest("rollout", made.fingerprint, made.digest)
            assert exact is not None
            assert exact.digest == made.digest


def test_a_record_comes_back_as_it_was(bucket: Bucket) -> None:
    record = Record(name="it", command="ostinato run", params={"seed": 1}, started="2026-01-01")
    with Remote(bucket.settings(attempts=1)) as remote:
        assert remote.record("it") is None
        remote.write_record(record)
        assert remote.record("it") == record
        bucket.put("some/where/runs/it.json", b"{}")
        with pytest.raises(RemoteDamaged):
            remote.record("it")
