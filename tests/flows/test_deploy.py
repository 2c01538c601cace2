"""Deployments on a real server: checked at the door, one run a GPU, a word when one fails."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow

from flows.commands.deploy import checked
from flows.compare_flow import compare, lab
from flows.evaluate_flow import evaluate
from flows.prefect_hooks import tell_failure
from flows.train import train
from params.base import BadInput
from tests.buckets import Bucket
from tests.flows.conftest import NANO, ROOT, Workspace, kill_tree
from tests.flows.test_stores import use


def test_the_deployments_of_the_repository_are_right() -> None:
    assert set(checked(ROOT / "prefect.yaml")) == {"nightly", "weekly", "pooled", "on-demand"}


@pytest.mark.parametrize("one", [train, evaluate, compare, lab], ids=lambda one: one.name)
def test_every_flow_tells_of_its_failure(one: Flow[..., Any]) -> None:
    assert tell_failure in one.on_failure_hooks
    assert tell_failure in one.on_crashed_hooks


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"parameters": {"modle": "nano"}}, "no parameter modle; did you mean 'model'"),
        ({"parameters": {"name": "Not Plain"}}, "name: String should match pattern"),
        ({"parameters": {"settings": ["seed"]}}, "settings.0: String should match pattern"),
        ({"parameters": {"settings": ["update.leraning_rate=1"]}}, "did you mean 'learning_rate'"),
        ({"parameters": {"model": "nanno"}}, "did you mean 'nano'"),
        ({"parameters": {"push": "perhaps"}}, "push: Input should be a valid boolean"),
        (
            {"entrypoint": "flows/compare_flow.py:lab", "parameters": {"study": "smok"}},
            "lab smok: no such study; did you mean 'smoke'",
        ),
        (
            {
                "entrypoint": "flows/compare_flow.py:lab",
                "parameters": {"study": "smoke", "settings": ["store.shaer=true"]},
            },
            "did you mean 'share'",
        ),
        ({"entrypoint": "flows/train.py:trian"}, "no flow at its entrypoint"),
        ({"entrypoint": "flows/train.py:STAGES"}, "no flow at its entrypoint"),
        ({"entrypoint": "/../train.py:train"}, "no flow at its entrypoint"),
        ({"entrypoint": 3}, "deployments.0.entrypoint: input should be a valid string, got 3"),
        ({"parameters": ["model"]}, "deployments.0.parameters: input should be a valid dictionary"),
    ],
)
def test_wrong_parameters_are_refused_in_one_line(tmp_path: Path, entry: dict[str, Any], said: str) -> None:
    path = tmp_path / "prefect.yaml"
    whole = {"name": "it", "entrypoint": "flows/train.py:train", **entry}
    path.write_text(json.dumps({"deployments": [whole]}))
    with pytest.raises(BadInput, match=said) as info:
        checked(path)
    assert "\n" not in str(info.value)
    assert str(path) in str(info.value)


def ask(workspace: Workspace, path: str, body: Any = None) -> Any:
    """A request to the Prefect server."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{workspace.environment['PREFECT_API_URL']}/{path}", data, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as reply:
        return json.loads(reply.read() or b"null")


def until(happens: Any, patience: float = 240) -> Any:
    """What ``happens()`` answers, once it answers something."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if found := happens():
            return found
        time.sleep(0.3)
    raise AssertionError("it did not happen")


def prefect(workspace: Workspace, *arguments: str) -> str:
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=workspace.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@contextmanager
def deployed(workspace: Workspace) -> Iterator[subprocess.Popen[str]]:
    """The deployments of the repository, and a worker that runs them in the workspace; its log is
    ``worker.log`` there."""
    workspace.environment |= {
        "PREFECT_HOME": str(workspace.root / "home"),
        "PREFECT_LOCAL_STORAGE_PATH": str(workspace.root / "results"),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    prefect(workspace, "work-pool", "create", "ostinato", "--type", "process", "--overwrite")
    said = subprocess.run(
        [sys.executable, "-m", "flows.cli", "deploy"],
        cwd=ROOT,
        env=workspace.environment,
        capture_output=True,
        text=True,
    )
    assert "deployed: nightly, weekly, pooled, on-demand" in said.stdout, said.stderr
    worker = subprocess.Popen(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", "ostinato", "--type", "process"],
        cwd=ROOT,
        env=workspace.environment,
        stdout=(workspace.root / "worker.log").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    try:
        yield worker
    finally:
        kill_tree(worker)


def ended_run(workspace: Workspace, run: Any) -> Any:
    """The flow run as it is now, if it is over."""
    now = ask(workspace, f"flow_runs/{run['id']}")
    return now if now["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.timeout(600)
def test_an_evaluation_on_demand_of_a_run_that_only_the_bucket_has(
    copied: Workspace, empty: Workspace, bucket: Bucket
) -> None:
    """Deployed as written, run by a worker; a run with wrong parameters is refused when it is asked for."""
    use(copied, bucket).call("push", "it")
    use(empty, bucket)
    with deployed(empty):
        found = ask(empty, "deployments/name/evaluate/on-demand")
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(empty, f"deployments/{found['id']}/create_flow_run", {"parameters": {"run": "No Such Name"}})
        assert refused.value.code == 409
        for name in ("train/nightly", "compare/weekly"):
            other = ask(empty, f"deployments/name/{name}")
            assert other["schedules"]
            assert other["concurrency_limit"] == 1 or other["global_concurrency_limit"]["limit"] == 1
        wanted = {"run": "it", "round": 1, "settings": ["evaluate.samples_per_problem=6", "threads=1"]}
        run = ask(empty, f"deployments/{found['id']}/create_flow_run", {"parameters": wanted})
        ended = until(lambda: ended_run(empty, run))
    assert ended["state_type"] == "COMPLETED", (
        ended["state"],
        (empty.root / "worker.log").read_text()[-3000:],
    )
    place = empty.root / "runs" / "it-evaluated" / "round-01" / "evaluate"
    assert json.loads((place / "manifest.json").read_text())["params"]["evaluate"]["samples_per_problem"] == 6
    assert empty.policy() == copied.policy()


@pytest.fixture
def listener() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An address on loopback, and what is posted there."""
    heard: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", heard
    server.shutdown()
    server.server_close()


@pytest.mark.long
@pytest.mark.ci
def test_a_failure_is_told_and_a_success_is_not(
    copied: Workspace, listener: tuple[str, list[dict[str, Any]]]
) -> None:
    address, heard = listener
    script = (
        "from prefect.blocks.notifications import CustomWebhookNotificationBlock as Hook;"
        f"Hook(name='ops', url={address!r}, json_data={{'title': '{{{{subject}}}}', 'text': '{{{{body}}}}'}})"
        ".save('ops', overwrite=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=copied.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    copied.environment["OSTINATO_NOTIFY"] = "custom-webhook/ops"
    copied.run()
    assert not heard
    copied.environment["OSTINATO_GPU_SLOT"] = "no-such-slot"
    refused = copied.call("run", "--name", "it", *NANO, code=2)
    assert "no concurrency limit 'no-such-slot'; expected one, by `prefect gcl create" in refused.stderr
    assert [message["title"] for message in heard] == ["ostinato: train it failed"]
    assert "no-such-slot" in heard[0]["text"]


@pytest.mark.long
@pytest.mark.ci
def test_a_run_waits_for_its_gpu(prepared: Workspace) -> None:
    """Somebody else holds the slot; the run begins when it is free, and gives it back."""
    limit = {"name": "gpu-test", "limit": 1, "active": True, "active_slots": 1}
    ask(prepared, "v2/concurrency_limits/", limit)
    prepared.environment["OSTINATO_GPU_SLOT"] = "gpu-test"
    process = prepared.start("run", "--name", "waits", "--json", *NANO)
    try:
        running = {"flow_runs": {"name": {"any_": ["waits"]}, "state": {"type": {"any_": ["RUNNING"]}}}}
        until(lambda: ask(prepared, "flow_runs/filter", running))
        assert process.poll() is None
        assert not (prepared.root / "runs" / "waits").exists()
        ask(prepared, "v2/concurrency_limits/decrement", {"names": ["gpu-test"], "slots": 1})
        out, err = process.communicate(timeout=240)
    finally:
        kill_tree(process)
    assert process.returncode == 0, err
    assert '"finished"' in out
    assert until(lambda: ask(prepared, "v2/concurrency_limits/gpu-test"))["active_slots"] == 0
