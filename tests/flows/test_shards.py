"""A rollout in shards on Ray workers: equal rows, also when a worker is killed on the way."""

from __future__ import annotations

import importlib.util
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from flows.execution.ray_cluster import require_ray
from params.base import BadInput
from params.load import compose
from tasks.artefacts.tables import read_table
from tests.flows.conftest import NANO, Workspace, events, kill_tree, outcomes

SHARDS = ["--set", "rollout.shards=2", "--set", "rounds=1"]


def rows(workspace: Workspace, name: str) -> pa.Table:
    return read_table(workspace.root / "runs" / name / "round-01" / "rollout" / "rollouts.parquet")


def samplers(parent: int) -> list[psutil.Process]:
    """The Ray workers of this run that sample."""
    found = []
    for one in psutil.Process(parent).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # they come and go; a zombie counts as gone
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


def same(alone: pa.Table, sharded: pa.Table) -> None:
    """Equal, but for the last digits of log-probabilities."""
    exact = [name for name in alone.column_names if name != "behaviour_logp"]
    assert sharded.select(exact).equals(alone.select(exact))
    one, two = (pc.list_flatten(t["behaviour_logp"]).drop_null().to_numpy() for t in (alone, sharded))
    assert two == pytest.approx(one, abs=1e-5)
