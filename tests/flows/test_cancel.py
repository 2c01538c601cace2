"""A run that a person cancels on the server: nothing of it is left, and the next one goes on where it was."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from tasks.artefacts.record import Record
from tests.flows.conftest import NANO, Workspace
from tests.flows.process.conftest import living
from tests.flows.test_deploy import ask, deployed, ended_run, until

REWARD = """
import os
import time


def right(gold, answer):
    while os.path.exists({hold!r}):
        time.sleep(0.05)
    return float(answer.strip() == gold)
"""
"""Judges only while a file is not there, so that a stage is in work for as long as a test wants."""


SLOT = "gpu-cancelled"


def settings(reward: str) -> list[str]:
    """Those of the short run, with this reward."""
    return [*(value for flag, value in pairwise(NANO) if flag == "--set"), reward]


def slots(workspace: Workspace) -> int:
    """How many runs hold the GPU."""
    return int(ask(workspace, f"v2/concurrency_limits/{SLOT}")["active_slots"])


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.timeout(300)
def test_a_cancelled_run_leaves_nothing_and_the_next_takes_over(
    prepared: Workspace, copied: Workspace, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    (tmp_path / "mine.py").write_text(REWARD.format(hold=str(hold)))
    asked = settings("task.reward={name: 'mine:right', timeout_seconds: 120}")
    for workspace in (prepared, copied):
        workspace.environment["PYTHONPATH"] += f":{tmp_path}"
    prepared.environment["OSTINATO_GPU_SLOT"] = SLOT
    ask(prepared, "v2/concurrency_limits/", {"name": SLOT, "limit": 1, "active": True})
    run = {"name": "it", "model": "nano", "settings": ["engine.name=transformers", *asked], "push": False}
    with deployed(prepared):
        deployment = ask(prepared, "deployments/name/train/nightly")["id"]
        create = f"deployments/{deployment}/create_flow_run"
        directory, building = prepared.root / "runs" / "it", prepared.root / ".ostinato" / "building"
        before = set(living(prepared))
        first = ask(prepared, create, {"parameters": run})
        until(lambda: (directory / "round-01" / "rollout").exists() or ended_run(prepared, first))
        hold.touch()
        until(
            lambda: [*building.glob("rollout-*"), *building.glob("evaluate-*")] or ended_run(prepared, first)
        )
        log = prepared.root / "worker.log"
        assert ended_run(prepared, first) is None, log.read_text()[-3000:]
        assert slots(prepared) == 1
        until(lambda: len(set(living(prepared)) - before) > 1, patience=30)  # the run and its judges
        ask(prepared, f"flow_runs/{first['id']}/set_state", {"state": {"type": "CANCELLING"}})
        ended = until(lambda: ended_run(prepared, first))
        assert ended["state_type"] == "CANCELLED", (ended["state"], log.read_text()[-3000:])
        until(lambda: not set(living(prepared)) - before, patience=60)
        assert "exited with status code: -9" not in log.read_text()  # it had thirty seconds to end by itself
        assert slots(prepared) == 0
        told = json.loads(prepared.call("status", "it", "--json").stdout)
        assert (told["running"], told["finished"]) == (False, False)
        assert told["stopped"]["said"] == "interrupted"
        done = {stage["place"] for stage in told["stages"] if stage["state"] == "done"}
        assert told["stopped"]["place"] not in done
        assert not list(building.iterdir())
        hold.unlink()
        second = ask(prepared, create, {"parameters": run})
        ended = until(lambda: ended_run(prepared, second))
        assert ended["state_type"] == "COMPLETED", (ended["state"], log.read_text()[-3000:])
    outcome = {step.place: step.outcome for step in Record.read(directory).steps}
    assert {place for place, was in outcome.items() if was == "cached"} == done
    assert slots(prepared) == 0
    copied.run("--set", asked[-1])
    assert prepared.policy() == copied.policy()
