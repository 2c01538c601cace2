"""A deployment with a cron schedule fires on a real server."""

from __future__ import annotations

import importlib
import json
import time
import urllib.request
from typing import Any

import pytest
import yaml

from tests.flows.conftest import NANO, ROOT, Workspace, kill_tree


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.timeout(420)
def test_a_served_deployment_fires_on_its_cron_schedule(copied: Workspace) -> None:
    """Every minute; the run finds its stages in the cache, so the schedule is what is tested."""
    copied.environment["PREFECT_RUNNER_POLL_FREQUENCY"] = "1"
    process = copied.start("serve", "--name", "it", "--cron", "* * * * *", *NANO)
    try:
        run = _first_finished(copied.environment["PREFECT_API_URL"], process)
    finally:
        kill_tree(process)
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert run["auto_scheduled"]
    assert run["parameters"]["name"] == "it"
    artifacts = _ask(copied.environment["PREFECT_API_URL"], "artifacts/filter", {})
    assert {"it-rounds", "it-report"} <= {artifact["key"] for artifact in artifacts}


def test_serve_without_a_server_says_what_to_do(copied: Workspace) -> None:
    del copied.environment["PREFECT_API_URL"]
    refused = copied.call("serve", "--model", "nano", "--engine", "transformers", code=2)
    assert "PREFECT_API_URL is not set" in refused.stderr


def test_the_file_of_deployments_names_the_flow_and_a_cron_line() -> None:
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    scheduled = {each["name"]: bool(each["schedules"]) for each in content["deployments"]}
    assert scheduled == {"nightly": True, "weekly": True, "pooled": False, "on-demand": False}
    for deployment in content["deployments"]:
        file, _, name = deployment["entrypoint"].partition(":")
        flow = getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), name)
        assert all(schedule["cron"] for schedule in deployment["schedules"])
        assert set(deployment["parameters"]) <= set(flow.parameters.properties)
        flow.validate_parameters(deployment["parameters"])


def _first_finished(address: str, process: Any, patience: float = 300) -> dict[str, Any]:
    end = time.monotonic() + patience
    wanted = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}}}
    known = {run["id"] for run in _ask(address, "flow_runs/filter", wanted)}
    while time.monotonic() < end:
        assert process.poll() is None, process.stderr.read()
        new = [run for run in _ask(address, "flow_runs/filter", wanted) if run["id"] not in known]
        if new:
            return dict(new[0])
        time.sleep(1)
    raise AssertionError("no scheduled run finished")


def _ask(address: str, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    request = urllib.request.Request(
        f"{address}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        return list(json.load(reply))
