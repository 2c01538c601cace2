"""Machines that share a bucket and a comparison: each stage is made once, whichever of them dies."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.execution import remote_cache
from flows.execution.remote_cache import RemoteCache
from params.base import BadInput
from params.store import StoreSettings
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.store import Store
from tasks.core.context import Context
from tasks.remote.claims import Claim
from tasks.remote.errors import Elsewhere, RemoteDamaged, RemoteTrouble, Unreachable
from tests.buckets import Bucket, proxied
from tests.flows.conftest import Workspace, environment_of, events, kill_tree
from tests.flows.test_compare_run import TINY
from tests.flows.test_deploy import ask, deployed, ended_run, until
from tests.tasks.remote.machines import artefact

ASKED = [
    *("compare", "--methods", "grpo,drpo", "--seeds", "2", "--budget", "rounds=1", "--name", "two", "--json"),
    *("--workers", "1", "--set", "store.share=true", *TINY),
]


@pytest.fixture
def machines(tmp_path: Path, shared_bucket: Bucket) -> tuple[Workspace, Workspace]:
    """Two workspaces with nothing in them and one bucket."""
    found = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        settings = shared_bucket.environment | {"OSTINATO_REMOTE": shared_bucket.url}
        found.append(Workspace(tmp_path / name, environment_of(tmp_path / name, settings)))
    return found[0], found[1]


def made(said: list[dict[str, Any]]) -> int:
    return sum(event["made"] for event in said if event["event"] == "run")


def result(workspace: Workspace) -> Any:
    """The summary without what differs by machine: where stages came from, and how long all took."""
    return plain(json.loads((workspace.root / "comparisons/two/summary.json").read_text()))


def plain(found: Any) -> Any:
    own = ("made", "cached", "seconds", "stages", "orchestration")
    if isinstance(found, dict):
        return {key: plain(value) for key, value in found.items() if key not in own}
    return [plain(each) for each in found] if isinstance(found, list) else found


def stages(bucket: Bucket) -> list[str]:
    return list(bucket.keys("some/where/artefacts/"))


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.timeout(600)
def test_two_machines_make_each_stage_once_and_end_with_the_same_page(
    machines: tuple[Workspace, Workspace], shared_bucket: Bucket
) -> None:
    processes = [machine.start(*ASKED) for machine in machines]
    said = []
    for process in processes:
        out, err = process.communicate(timeout=500)
        assert process.returncode == 0, err
        said.append(events(out))
    assert made(said[0]) + made(said[1]) == len(stages(shared_bucket))
    assert min(made(said[0]), made(said[1])) > 0
    fingerprints = [key.split("/")[-2] for key in stages(shared_bucket)]
    assert len(set(fingerprints)) == len(fingerprints)
    assert result(machines[0]) == result(machines[1])
    assert not shared_bucket.keys("some/where/claims/")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_machine_that_is_killed_loses_its_claim_and_the_other_goes_on(
    machines: tuple[Workspace, Workspace], shared_bucket: Bucket
) -> None:
    one, other = machines
    dying = one.start(*ASKED, "--set", "store.lease=3")
    while not (claims := shared_bucket.keys("some/where/claims/")) or len(stages(shared_bucket)) < 3:
        assert dying.poll() is None
        time.sleep(0.02)
    os.kill(dying.pid, signal.SIGKILL)
    kill_tree(dying)
    assert claims
    there = len(stages(shared_bucket))
    said = events(other.call(*ASKED, "--set", "store.lease=3").stdout)
    assert made(said) == len(stages(shared_bucket)) - there
    assert not shared_bucket.keys("some/where/claims/")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_worker_that_dies_leaves_its_study_to_the_next(
    machines: tuple[Workspace, Workspace], shared_bucket: Bucket, prefect_server: dict[str, str]
) -> None:
    """The deployment ``pooled``, its flow run killed with its worker, and started anew on another machine."""
    for machine in machines:
        machine.environment |= prefect_server
    settings = ["store.share=true", "store.lease=3", "model.warm_start_steps=2"]
    wanted = {"parameters": {"study": "smoke", "seeds": 1, "settings": settings, "workers": 1}}
    with deployed(machines[0]) as worker:
        found = ask(machines[0], "deployments/name/lab/pooled")
        first = ask(machines[0], f"deployments/{found['id']}/create_flow_run", wanted)
        until(lambda: shared_bucket.keys("some/where/claims/") and len(stages(shared_bucket)) > 2)
        kill_tree(worker)
    assert ask(machines[0], f"flow_runs/{first['id']}")["state_type"] == "RUNNING", (
        "nobody can have said more"
    )
    crashed = {"state": {"type": "CRASHED", "name": "Crashed"}, "force": True}
    ask(machines[0], f"flow_runs/{first['id']}/set_state", crashed)
    there = len(stages(shared_bucket))
    with deployed(machines[1]):
        second = ask(machines[1], f"deployments/{found['id']}/create_flow_run", wanted)
        ended = until(lambda: ended_run(machines[1], second), patience=400)
    log = (machines[1].root / "worker.log").read_text()
    assert ended["state_type"] == "COMPLETED", log[-3000:]
    summary = json.loads((machines[1].root / "comparisons/smoke/summary.json").read_text())
    assert summary["stages"]["made"] == len(stages(shared_bucket)) - there
    assert not shared_bucket.keys("some/where/claims/")


@pytest.fixture
def sharing(tmp_path: Path, shared_bucket: Bucket) -> Iterator[Callable[..., RemoteCache]]:
    """A machine's side of a bucket that is shared."""
    remote_cache._CLAIMING.clear()
    contexts = ExitStack()

    def build(name: str, notes: list[str], patience: float | None = None, **more: Any) -> RemoteCache:
        (tmp_path / name).mkdir(exist_ok=True)
        settings = StoreSettings(**shared_bucket.settings(share=True, **{"lease": 1.0, **more}).model_dump())
        context = contexts.enter_context(Context(scratch=tmp_path))
        return RemoteCache(Store(tmp_path / name), settings, context, notes.append, patience)

    with contexts:
        yield build


def silent(*_: Any) -> None:
    pass


def test_what_fails_on_one_machine_is_free_for_the_other(
    sharing: Callable[..., RemoteCache], tmp_path: Path, shared_bucket: Bucket
) -> None:
    notes: list[str] = []
    one, other = sharing("one", notes), sharing("other", notes, patience=0.0)
    thing = artefact(Store(tmp_path / "one"), {"a": b"1"})
    names = ("update", thing.fingerprint)

    def fail() -> Artefact:
        with pytest.raises(Elsewhere, match="makes it"):
            other.make_once(*names, silent, lambda: thing)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        one.make_once(*names, silent, fail)
    found, new = other.make_once(*names, silent, lambda: thing)
    assert new
    assert found == thing
    assert not shared_bucket.keys("some/where/claims/")
    found, new = sharing("third", notes).make_once(*names, silent, lambda: pytest.fail("made twice"))
    assert not new
    assert found.digest == thing.digest
    assert notes == []


def test_who_waits_gets_what_was_made_and_says_for_whom_it_waits(
    sharing: Callable[..., RemoteCache], tmp_path: Path
) -> None:
    notes: list[str] = []
    thing = artefact(Store(tmp_path / "one"), {"a": b"1"})
    names = ("update", thing.fingerprint)
    one, other = sharing("one", notes), sharing("other", notes)
    said: list[str] = []
    settings = one._settings
    assert settings is not None
    claim = one._claim(settings, *names, silent)
    assert isinstance(claim, Claim)

    def tell(activity: str, done: int, total: int, facts: dict[str, float]) -> None:
        if activity.startswith("waiting"):
            said.append(activity)
            one._send(thing, silent)
            claim.remove()

    found, new = other.make_once(*names, tell, lambda: pytest.fail("made twice"))
    assert not new
    assert found.digest == thing.digest
    assert said[0].endswith(f", process {os.getpid()}")


def test_without_conditional_writes_that_is_said_once_and_what_is_made_is_sent(
    sharing: Callable[..., RemoteCache], tmp_path: Path, shared_bucket: Bucket
) -> None:
    notes: list[str] = []
    with proxied(shared_bucket.endpoint, lambda exchange: "ignore conditions") as proxy:
        cache = sharing("one", notes, endpoint_url=proxy.address)
        for content in (b"1", b"2"):
            thing = artefact(Store(tmp_path / "one"), {"a": content}, identity=repr(content))
            assert cache.make_once("update", thing.fingerprint, silent, lambda made=thing: made) == (
                thing,
                True,
            )
    assert len(stages(shared_bucket)) == 2
    (note,) = notes
    assert "knows no conditional writes" in note


def test_without_a_network_each_machine_goes_on_by_itself(
    sharing: Callable[..., RemoteCache], tmp_path: Path
) -> None:
    notes: list[str] = []
    cache = sharing("one", notes, endpoint_url="http://127.0.0.1:9")
    thing = artefact(Store(tmp_path / "one"), {"a": b"1"})
    assert cache.make_once("update", thing.fingerprint, silent, lambda: thing) == (thing, True)
    assert len(notes) == 1
    assert "cannot be reached" in notes[0]
    assert "going on without it" in notes[0]


def test_a_remote_that_was_out_of_reach_is_asked_again_after_a_while(
    sharing: Callable[..., RemoteCache],
    tmp_path: Path,
    shared_bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One name that is not found for a moment does not switch sharing off for the rest of a run."""
    notes: list[str] = []
    away = [True]
    thing = artefact(Store(tmp_path / "one"), {"a": b"1"})
    names = ("update", thing.fingerprint)
    assert sharing("one", notes)._send(thing, silent)
    with proxied(shared_bucket.endpoint, lambda exchange: "reset" if away else None) as proxy:
        cache = sharing("other", notes, endpoint_url=proxy.address, attempts=1)
        assert cache.fetch(*names, silent) is None
        asked = len(proxy.log)
        assert cache.fetch(*names, silent) is None
        assert len(proxy.log) == asked, "it is left alone meanwhile"
        away.clear()
        monkeypatch.setattr(remote_cache, "REST", 0.0)
        found = cache.fetch(*names, silent)
    assert found is not None
    assert found.digest == thing.digest
    (note,) = notes
    assert note.endswith("going on without it for 5 minutes")


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (Unreachable("no way there"), True),
        (RemoteDamaged("half of it"), True),
        (RemoteTrouble("no credentials"), False),
        (BadInput("no such run"), False),
    ],
)
def test_a_push_is_tried_again_where_that_may_help(error: Exception, again: bool) -> None:
    from flows.prefect_hooks import _network

    assert _network(None, None, SimpleNamespace(result=lambda raise_on_failure: error)) is again


def test_to_share_needs_a_remote(tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    workspace = Workspace(tmp_path / "alone", environment_of(tmp_path / "alone", {}))
    assert "store.share: no remote is set; expected" in workspace.call(*ASKED, code=2).stderr
