"""The job templates of docs/pools: complete for their type of work pool, and taken by a Prefect server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.flows.conftest import ROOT, environment_of

POOLS = {"docker": "prefect-docker", "kubernetes": "prefect-kubernetes"}


def template(kind: str) -> Any:
    return json.loads((ROOT / "docs" / "pools" / f"{kind}.json").read_text())


@pytest.mark.parametrize("kind", POOLS)
def test_a_template_has_all_of_prefects_own_and_its_defaults_are_of_their_types(kind: str) -> None:
    place = resources.files("prefect.server.api") / "collections_data/views/aggregate-worker-metadata.json"
    own = json.loads(place.read_text())[POOLS[kind]][kind]["default_base_job_configuration"]
    ours = template(kind)
    assert set(ours["job_configuration"]) == set(own["job_configuration"])
    variables = ours["variables"]["properties"]
    assert set(variables) >= set(own["variables"]["properties"])
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(ours["job_configuration"])))
    assert used == set(variables)
    jsonschema.validate(
        {name: spec["default"] for name, spec in variables.items() if "default" in spec}, ours["variables"]
    )


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.parametrize("kind", POOLS)
def test_a_server_takes_the_template(kind: str, tmp_path: Path, prefect_server: dict[str, str]) -> None:
    name, file = f"ostinato-{kind}", str(ROOT / "docs" / "pools" / f"{kind}.json")
    command = [sys.executable, "-m", "prefect", "--no-prompt", "work-pool", "create", name, "--type", kind]
    done = subprocess.run(
        [*command, "--base-job-template", file],
        env=environment_of(tmp_path, prefect_server) | {"PREFECT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
