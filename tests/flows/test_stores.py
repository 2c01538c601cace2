"""Push and pull, and a remote behind the cache, through the command line and a server that speaks S3."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tasks.artefacts.record import Record
from tests.buckets import KEY, SECRET, Bucket, by_chance, proxied
from tests.flows.conftest import NANO, Workspace, events, outcomes


def use(workspace: Workspace, bucket: Bucket, address: str = "") -> Workspace:
    """Point a workspace at the bucket, as an operator's environment does."""
    workspace.environment |= bucket.environment | {"OSTINATO_REMOTE": bucket.url}
    if address:
        workspace.environment["AWS_ENDPOINT_URL_S3"] = address
    return workspace


def last(text: str) -> dict[str, object]:
    return dict(events(text)[-1])


def test_a_pushed_run_is_pulled_whole_and_nothing_moves_twice(
    copied: Workspace, empty: Workspace, bucket: Bucket
) -> None:
    use(copied, bucket), use(empty, bucket)
    said = last(copied.call("push", "it", "--json").stdout)
    assert said["event"] == "pushed"
    assert said["bytes"]
    pulled = last(empty.call("pull", "it", "--json").stdout)
    assert pulled["bytes"] == said["bytes"]
    assert empty.policy() == copied.policy()
    states = json.loads(empty.call("status", "it", "--json").stdout)["stages"]
    assert {row["state"] for row in states} == {"done"}
    assert "0 files sent (0.0 MiB)" in copied.call("push", "it").stdout
    assert "0 files fetched (0.0 MiB)" in empty.call("pull", "it").stdout


def test_a_push_that_cannot_work_is_told_before_anything_runs(empty: Workspace, bucket: Bucket) -> None:
    use(empty, bucket).environment["OSTINATO_REMOTE"] = "s3://no-such-bucket-here/x"
    run = ("run", "--name", "it", "--push", *NANO)
    assert "s3://no-such-bucket-here/x/check: no such bucket" in empty.call(*run, code=1).stderr
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del empty.environment[name]
    assert "no credentials" in empty.call(*run, code=1).stderr
    assert not (empty.root / "artefacts").exists()
    assert not (empty.root / ".ostinato" / "prefect").exists()


@pytest.mark.long
@pytest.mark.ci
def test_what_one_machine_computed_is_a_hit_for_the_other(
    copied: Workspace, empty: Workspace, bucket: Bucket
) -> None:
    """Two workspaces with a Prefect home of their own, one bucket, one Prefect server, a bad line."""
    use(copied, bucket).call("push", "it")
    with proxied(bucket.endpoint, by_chance(("500", "reset", "truncate", "garble answer"))) as proxy:
        said = use(empty, bucket, proxy.address).run()
        assert proxy.harmed
    assert set(outcomes(said).values()) == {"cached"}
    assert {e["place"] for e in said if e["event"] == "fetched"} == set(outcomes(said))
    assert empty.policy() == copied.policy()


@pytest.mark.long
@pytest.mark.ci
def test_a_remote_in_trouble_is_a_note_and_not_the_end(copied: Workspace, bucket: Bucket) -> None:
    """Nobody answers; then a wrong object lies there."""
    before = copied.policy()
    use(copied, bucket).call("push", "it")
    forget(copied, "round-02/update")
    copied.environment["AWS_ENDPOINT_URL_S3"] = "http://127.0.0.1:9"
    said = copied.run()
    assert [e["text"] for e in said if e["event"] == "note" and "cannot be reached" in e["text"]]
    assert outcomes(said)["round-02/update"] == "made"
    fingerprint = forget(copied, "round-02/update")
    copied.environment["AWS_ENDPOINT_URL_S3"] = bucket.endpoint
    manifest = next(iter(bucket.keys(f"some/where/artefacts/update/{fingerprint}")))
    files = json.loads(bucket.get(manifest))["files"]
    bucket.put(f"some/where/objects/{files['optimizer.safetensors']['sha256']}", b"wrong")
    said = copied.run()
    assert [e["text"] for e in said if e["event"] == "note" and "going on without it" in e["text"]]
    assert outcomes(said)["round-02/update"] == "made"
    assert copied.policy() == before
    assert last(copied.call("push", "it", "--json").stdout)["sent"] == 1, "the wrong object is made good"


def forget(workspace: Workspace, place: str) -> str:
    """Remove an artefact from the run and the cache; its fingerprint."""
    folder = workspace.root / "runs" / "it" / place
    fingerprint = str(json.loads((folder / "manifest.json").read_text())["fingerprint"])
    shutil.rmtree(workspace.root / "artefacts" / f"{Path(place).name}-{fingerprint[:20]}")
    shutil.rmtree(folder)
    return fingerprint


def test_a_remote_is_set_once_in_a_workspace_if_it_works(copied: Workspace, bucket: Bucket) -> None:
    copied.environment |= bucket.environment
    del copied.environment["AWS_ENDPOINT_URL_S3"]
    assert "no remote is set" in copied.call("push", "it", code=2).stderr
    where = ("--endpoint-url", bucket.endpoint)
    refused = copied.call("remote", "s3://no-such-bucket-here", *where, code=1)
    assert "s3://no-such-bucket-here/check: no such bucket" in refused.stderr
    assert "no remote is set" in copied.call("remote").stdout
    copied.call("remote", bucket.url, *where)
    assert bucket.url in copied.call("remote").stdout
    copied.call("push", "it")
    assert not bucket.keys("some/where/check")


def test_bad_names_and_places_are_one_line(copied: Workspace, bucket: Bucket) -> None:
    use(copied, bucket)
    assert "no such run" in copied.call("push", "nothing", code=2).stderr
    assert "holds no run 'nothing'" in copied.call("pull", "nothing", code=2).stderr
    copied.call("push", "it")
    other = Record.read(copied.root / "runs" / "it")
    other.steps[-1].digest = "0" * 64
    other.write(copied.root / "runs" / "it")
    assert "is another run than the remote's" in copied.call("pull", "it", code=2).stderr


@pytest.mark.long
@pytest.mark.ci
def test_no_credential_is_written_or_said(copied: Workspace, empty: Workspace, bucket: Bucket) -> None:
    """Planted ones; everything printed and every file, in the workspaces and in the bucket, is searched."""
    token = "planted-session-token"
    for workspace in (use(copied, bucket), use(empty, bucket)):
        workspace.environment["AWS_SESSION_TOKEN"] = token
        workspace.environment["PREFECT_LOGGING_LEVEL"] = "DEBUG"
    said = [copied.call("push", "it"), empty.call("pull", "it"), copied.call("remote")]
    forget(empty, "round-02/update")
    said.append(empty.call("run", "--name", "it", *NANO))
    for code in ("AccessDenied", "ExpiredToken", "SignatureDoesNotMatch"):
        with proxied(bucket.endpoint, lambda exchange, code=code: (403, code)) as proxy:  # type: ignore[misc]
            said.append(use(copied, bucket, proxy.address).call("push", "it", code=1))
    said.append(copied.call("push", "it", "--remote", f"s3://{KEY}:{SECRET}@{bucket.name}/x", code=2))
    said.append(copied.call("remote", bucket.url, "--endpoint-url", f"http://{KEY}:{SECRET}@host", code=2))
    written = [p.read_bytes() for w in (copied, empty) for p in w.root.rglob("*") if p.is_file()]
    written += [bucket.get(key) for key in sorted(bucket.keys())]
    written += [text.encode() for done in said for text in (done.stdout, done.stderr)]
    assert len(written) > 100
    for secret in (KEY, SECRET, token):
        assert not any(secret.encode() in content for content in written), secret


def test_settings_are_stronger_the_nearer_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.execution.remote_settings import path_of, settings_of
    from params.store import StoreSettings

    monkeypatch.delenv("OSTINATO_REMOTE", raising=False)
    assert settings_of(tmp_path) is None
    path_of(tmp_path).parent.mkdir()
    path_of(tmp_path).write_text('{"url": "s3://workspace/a", "region": "eu-north-1"}')

    def address(given: StoreSettings | None = None, url: str | None = None) -> str | None:
        found = settings_of(tmp_path, given, url)
        assert found is not None
        assert found.region == "eu-north-1"
        return found.url

    assert address() == "s3://workspace/a"
    monkeypatch.setenv("OSTINATO_REMOTE", "s3://environment/a")
    assert address() == "s3://environment/a"
    assert address(StoreSettings(url="s3://parameters/a")) == "s3://parameters/a"
    assert address(StoreSettings(url="s3://parameters/a"), "s3://command/a") == "s3://command/a"
