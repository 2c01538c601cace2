"""``ostinato deploy``: the deployments of prefect.yaml, their parameters checked, on a server."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.exceptions import ParameterTypeError
from pydantic import ConfigDict, Field

from flows.execution.validation import run_name, settled
from params.base import BadInput, Config, nearest, validate
from params.load import compose, read_yaml


class Deployment(Config):
    """What is checked of a deployment; Prefect knows the rest."""

    model_config = ConfigDict(extra="allow")
    name: str
    entrypoint: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class _File(Config):
    model_config = ConfigDict(extra="allow")
    deployments: tuple[Deployment, ...] = ()


def deploy(root: Path, names: list[str]) -> str:
    """Register the deployments called ``names``, or all, and say what was done. Raises ``BadInput``."""
    path = root / "prefect.yaml"
    deployments = checked(path)
    unknown = next((name for name in names if name not in deployments), None)
    if unknown:
        raise BadInput(f"{path}: no deployment {unknown}{nearest(unknown, deployments)}")
    if "PREFECT_API_URL" not in os.environ:
        raise BadInput(
            "deploy: PREFECT_API_URL is not set; start a server (`prefect server start`) and export "
            "PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    wanted = [part for name in names for part in ("--name", name)] or ["--all"]
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", *wanted]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BadInput(f"prefect deploy: {_reason(done.stdout + done.stderr)}")
    return f"deployed: {', '.join(names or deployments)}"


def checked(path: Path) -> dict[str, Deployment]:
    """The deployments by name, after each was held against its flow and the schema. Raises ``BadInput``."""
    found = {}
    for entry in validate(_File, read_yaml(path), str(path)).deployments:
        where = f"{path}: {entry.name}"
        module, _, name = entry.entrypoint.partition(".py:")
        try:
            flow = getattr(importlib.import_module(module.replace("/", ".")), name)
        except (ModuleNotFoundError, AttributeError, TypeError):
            flow = None
        if not isinstance(flow, Flow):
            raise BadInput(f"{where}: no flow at its entrypoint; expected FILE.py:FLOW")
        given = entry.parameters
        strange = next((key for key in given if key not in flow.parameters.properties), None)
        if strange:
            raise BadInput(f"{where}: no parameter {strange}{nearest(strange, flow.parameters.properties)}")
        try:
            flow.validate_parameters(given)
            _try(flow.name, given)
        except (ParameterTypeError, BadInput) as error:
            raise BadInput(f"{where}: {' '.join(str(error).split())}") from None
        found[entry.name] = entry
    return found


def _try(flow: str, given: dict[str, Any]) -> None:
    """What the flow checks first, now: presets that exist, settings that the schema knows."""
    if flow == "train":
        model, task, method = (given.get(key, default) for key, default in DEFAULTS.items())
        settled(compose(model, task, method, given.get("settings") or []))  # the data is where it runs
        run_name(given.get("name"), model, task, method)
    if flow == "compare":
        from flows.experiments.comparison import work_of_methods
        from params.compare_options import CompareOptions

        work_of_methods(CompareOptions(**{"settings": [], **given}))
    if flow == "lab":
        from flows.experiments.comparison import work_of_study

        arms = ",".join(given.get("arms") or []) or None
        work_of_study(given["study"], given.get("seeds"), arms, given.get("settings") or [], 1)


DEFAULTS = {"model": "smollm2-135m", "task": "arithmetic", "method": "grpo"}


def _reason(text: str) -> str:
    plain = re.sub(r"[│╭╮╰╯─]+", " ", text)
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return " ".join(lines[-3:]) or "failed without a word"
