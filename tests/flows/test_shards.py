"""A rollout in shards on Ray workers: equal rows, also when a worker is killed on the way."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from flows.execution.ray_cluster import cluster_of, require_ray
from params.base import BadInput
from params.load import compose
from tasks.artefacts.tables import read_table
from tests.flows.conftest import NANO, Workspace, events, kill_tree, outcomes
from tests.flows.ray_nodes import NOT_PERMITTED

SHARDS = ["--set", "rollout.shards=2", "--set", "rounds=1"]


def rows(workspace: Workspace, name: str, round: int = 1) -> pa.Table:
    place = workspace.root / "runs" / name / f"round-{round:02}" / "rollout"
    return read_table(place / "rollouts.parquet")


def samplers(parent: int) -> list[psutil.Process]:
    """The Ray workers of this run that sample."""
    found = []
    for one in psutil.Process(parent).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # they come and go; a zombie counts as gone
            if "ray::ShardActor.make" in " ".join(one.cmdline()):
                found.append(one)
    return found


@pytest.fixture
def short() -> Iterator[str]:
    """A directory for Ray, whose sockets want short paths."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield folder


def test_without_ray_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    params = compose("nano", "arithmetic", "grpo", ["rollout.shards=2"])
    with pytest.raises(BadInput, match=r"^rollout\.shards: Ray is not installed; .*-e '\.\[ray\]'"):
        require_ray(params)
    require_ray(compose("nano", "arithmetic", "grpo"))


def test_without_ray_a_run_ends_before_a_server_is_started(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[[list[str], str], None]
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "ray" else there(name, *a)
    )
    refused(["run", *NANO, "--set", "rollout.shards=2"], "rollout.shards: Ray is not installed")


def test_ranks_are_placed_on_a_cluster_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    params = compose("nano", "arithmetic", "grpo", ["update.machines=2", "update.placed_by=ray"])
    with pytest.raises(BadInput, match=r"^update\.placed_by: ray: .* has one node; expected RAY_ADDRESS"):
        require_ray(params)


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    cluster = cluster_of(compose("nano", "arithmetic", "grpo", ["rollout.shards=2"]), tmp_path, tmp_path)
    assert cluster is not None
    with pytest.raises(BadInput, match=rf"^RAY_ADDRESS={address}: no Ray answers"):
        cluster.each([{}, {}], lambda done: None)


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.timeout(600)
def test_a_killed_worker_costs_time_and_nothing_else(empty: Workspace, tmp_path: Path, short: str) -> None:
    pytest.importorskip("ray")
    empty.environment |= {"RAY_TMPDIR": short}
    empty.call("run", "--name", "alone", *NANO, "--set", "rounds=1")
    for path in (empty.root / "artefacts").glob("rollout-*"):
        path.rename(tmp_path / path.name)
    process = empty.start("run", "--name", "it", "--json", *NANO, *SHARDS)
    killed = 0
    try:
        while not killed and process.poll() is None:
            for worker in samplers(process.pid)[:1]:
                os.kill(worker.pid, signal.SIGKILL)
                killed = worker.pid
            time.sleep(0.02)
        out, err = process.communicate(timeout=400)
    finally:
        kill_tree(process)
    assert process.returncode == 0, err
    assert killed
    assert outcomes(events(out))["round-01/rollout"] == "made"
    same(rows(empty, "alone"), rows(empty, "it"))
    assert not list((empty.root / "artefacts").glob("shard-*"))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_episodes_in_shards_are_the_same(empty: Workspace, tmp_path: Path, short: str) -> None:
    pytest.importorskip("ray")
    empty.environment |= {"RAY_TMPDIR": short}
    guess = ("--task", "guess", "--set", "rollout.max_response_tokens=24", "--set", "task.train_count=24")
    empty.call("run", "--name", "alone", *NANO, *guess, "--set", "rounds=1")
    for path in (empty.root / "artefacts").glob("rollout-*"):
        path.rename(tmp_path / path.name)
    empty.call("run", "--name", "it", *NANO, *guess, *SHARDS)
    alone = rows(empty, "alone")
    assert pc.any(pc.greater(pc.list_value_length(alone["turn_rewards"]), 1)).as_py()
    same(alone, rows(empty, "it"))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_shards_of_the_next_round_are_sampled_beside_the_update(
    empty: Workspace, tmp_path: Path, short: str
) -> None:
    pytest.importorskip("ray")
    empty.environment |= {"RAY_TMPDIR": short}
    lag = ("--set", "rollout.lag=1")  # so that the base model samples both rounds
    empty.call("run", "--name", "alone", *NANO, *lag, "--set", "rollout.overlap=false")
    for path in (empty.root / "artefacts").glob("rollout-*"):
        path.rename(tmp_path / path.name)
    said = events(empty.call("run", "--name", "it", "--json", *NANO, *lag, *SHARDS[:2]).stdout)
    order = [(e["event"], e["place"]) for e in said if e["event"] in ("begin", "stage")]
    assert order.index(("begin", "round-02/rollout")) < order.index(("stage", "round-01/update"))
    for number in (1, 2):
        same(rows(empty, "alone", number), rows(empty, "it", number))


@contextlib.contextmanager
def two_nodes(workspace: Workspace, short: str, *more: str) -> Iterator[list[int]]:
    """Ray nodes with a CPU each, which runs of the workspace join; the processes of their raylets."""
    pytest.importorskip("ray")
    workspace.environment |= {"RAY_TMPDIR": short}
    nodes = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("ray_nodes.py")), *more],
        env=workspace.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert nodes.stdout is not None
    try:
        line = nodes.stdout.readline()
        if not line and nodes.wait(60) == NOT_PERMITTED:
            pytest.skip("this user may make no mount namespace")
        assert line, "the nodes ended before they were up"
        said = json.loads(line)
        workspace.environment |= {"RAY_ADDRESS": said["address"]}
        yield said["raylets"]
    finally:
        kill_tree(nodes)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_node_that_dies_costs_time_and_nothing_else(empty: Workspace, tmp_path: Path, short: str) -> None:
    empty.call("run", "--name", "alone", *NANO, "--set", "rounds=1")
    for path in (empty.root / "artefacts").glob("rollout-*"):
        path.rename(tmp_path / path.name)
    with two_nodes(empty, short) as raylets:
        process = empty.start("run", "--name", "it", "--json", *NANO, *SHARDS)
        try:
            held = wait_for(lambda: [one for one in raylets if samplers(one)], 2, process)
            os.kill(held[1], signal.SIGKILL)
            out, err = process.communicate(timeout=400)
        finally:
            kill_tree(process)
    assert process.returncode == 0, err
    assert outcomes(events(out))["round-01/rollout"] == "made"
    same(rows(empty, "alone"), rows(empty, "it"))
    assert not list((empty.root / "artefacts").glob("shard-*"))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_node_that_does_not_see_the_workspace_is_named(empty: Workspace, short: str) -> None:
    with two_nodes(empty, short, "--unshared", str(empty.root)):
        ended = empty.call("run", "--name", "it", *NANO, *SHARDS, code=2)
    said = ended.stderr.strip().splitlines()
    assert len(said) == 1
    assert "does not see the workspace" in said[0]
    assert not list((empty.root / "artefacts").glob("shard-*"))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_ray_places_the_ranks_of_another_machine(empty: Workspace, tmp_path: Path, short: str) -> None:
    one = [*NANO, "--set", "rounds=1"]
    empty.call("run", "--name", "alone", *one, "--set", "update.ranks=2", "--set", "threads=2")
    (made,) = (empty.root / "artefacts").glob("update-*")
    there = made.rename(tmp_path / made.name)
    placed = ["--set", "update.machines=2", "--set", "update.placed_by=ray"]
    with two_nodes(empty, short):
        said = events(empty.call("run", "--name", "it", "--json", *one, *placed).stdout)
    assert outcomes(said)["round-01/update"] == "made"
    weights = [path.relative_to(there) for path in there.rglob("*.safetensors")]
    assert weights
    for path in weights:
        assert (there / path).read_bytes() == (made / path).read_bytes()


def wait_for(found: Callable[[], list[int]], count: int, process: subprocess.Popen[str]) -> list[int]:
    """What is ``found`` once it is so many; the process still runs."""
    while len(now := found()) < count:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    return now


def same(alone: pa.Table, sharded: pa.Table) -> None:
    """Equal, but for the last digits of log-probabilities."""
    exact = [name for name in alone.column_names if name != "behaviour_logp"]
    assert sharded.select(exact).equals(alone.select(exact))
    one, two = (pc.list_flatten(t["behaviour_logp"]).drop_null().to_numpy() for t in (alone, sharded))
    assert two == pytest.approx(one, abs=1e-5)
