"""Two machines share an update: network namespaces of their own, joined by one virtual cable."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from params.update import Update
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.store import Store
from tasks.core.errors import StageFailure
from tasks.update.update import update
from tests.conftest import RunStage
from tests.tasks.update.test_ranks import ROOT, Rollouts, family, rollouts, settings, wait_until

__all__ = ["rollouts"]
HERE, THERE = "10.213.77.1", "10.213.77.2"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def other_machine() -> Iterator[str]:
    """The name of a namespace that reaches this one's ``HERE``, and nothing else."""
    name, cable = f"ostinato-{os.getpid()}", f"ost{os.getpid() % 10**6}"
    try:
        ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no network namespaces can be made here")
    try:
        ip("link", "add", cable, "type", "veth", "peer", "name", "veth0", "netns", name)
        ip("addr", "add", f"{HERE}/30", "dev", cable)
        ip("link", "set", cable, "up")
        for words in (("addr", "add", f"{THERE}/30", "dev", "veth0"), ("link", "set", "veth0", "up")):
            ip("-n", name, *words)
        ip("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        ip("netns", "del", name)  # and the cable with it


@contextlib.contextmanager
def joined(namespace: str, root: Path, log: Path) -> Iterator[subprocess.Popen[str]]:
    """``ostinato ranks`` on the other machine."""
    command = ["ip", "netns", "exec", namespace, sys.executable, "-m", "flows.cli", "ranks", "two"]
    environment = {**os.environ, "OSTINATO_HOME": str(root), "PYTHONPATH": str(ROOT)}
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=out, stderr=out, text=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


@pytest.mark.long
@pytest.mark.ci
def test_two_machines_give_what_two_ranks_of_one_give(
    tiny_model: Artefact,
    rollouts: Rollouts,
    run_stage: RunStage,
    context: Any,
    tmp_path: Path,
    other_machine: str,
) -> None:
    inputs = [rollouts(1), rollouts(2)]

    def two_rounds(**more: Any) -> list[Artefact]:
        made: list[Artefact] = []
        for number, rollout in enumerate(inputs, start=1):
            given = {"model": tiny_model, "rollout": rollout, "policy": made[-1] if made else None}
            params = settings(**more).model_copy(update={"threads": 2 // more.get("machines", 1)})
            made.append(run_stage(update, params, number, **given))  # a thread a rank, here as there
        return made

    expected = two_rounds(ranks=2)
    context.close()
    root = tmp_path / "workspace"
    root.mkdir()
    context.scratch = Store(root).scratch("run-two")
    log = tmp_path / "machine.log"
    with joined(other_machine, root, log):
        found = two_rounds(ranks=1, machines=2, meeting=f"{HERE}:29517")
        for one, other in zip(found, expected, strict=True):
            for name in (name for name in one.manifest.files if name.endswith(".safetensors")):
                assert one.file(name).read_bytes() == other.file(name).read_bytes()
        assert "1 ranks started" in log.read_text()
        (first,) = (each for each in family(context.scratch) if each.cmdline()[-1] == "0")
        first.kill()  # the launcher of the first machine, whatever the reason
        with pytest.raises(StageFailure, match="the launcher ended with signal 9"):
            run_stage(
                update,
                settings(1, machines=2, meeting=f"{HERE}:29517"),
                3,
                model=tiny_model,
                rollout=rollouts(3),
                policy=found[-1],
            )
        wait_until(lambda: "The run's ranks ended" in log.read_text())
    wait_until(lambda: not family(context.scratch))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"machines": 2}, "goes with update.machines above 1"),
        ({"meeting": "10.0.0.1:29500"}, "goes with update.machines above 1"),
        ({"machines": 2, "meeting": "10.0.0.1"}, "expected HOST:PORT"),
        ({"placed_by": "ray"}, "expected null, or update.machines above 1"),
        ({"machines": 2, "placed_by": "ray", "offload": True}, "expected update.ranks 1 on one machine"),
        (
            {"machines": 2, "meeting": "10.0.0.1:29500", "offload": True},
            "expected update.ranks 1 on one machine",
        ),
    ],
)
def test_machines_that_cannot_meet_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Update.model_validate(given)
