"""Golden policies: four short runs end with the bytes that they have always ended with.

``golden.json`` holds digests for each machine that they were recorded on: another processor or another
torch may round differently, and there the test says so and is skipped. ``-m tests.flows.test_golden``
records those of the machine that it runs on. A change that is meant to move numbers does so, takes the
other machines' out (their runs would end otherwise too) and tells of it in CHANGELOG.md.
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.artefacts.record import Record
from tests.flows.conftest import NANO, Workspace, kill_inside

GOLDEN = Path(__file__).with_name("golden.json")
SETTINGS = [*NANO, "--set", "rounds=3"]
WEIGHTS = ("adapter/adapter_model.safetensors", "optimizer.safetensors")


def machine() -> dict[str, str]:
    """What the last bits of a sum depend on."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith(("model name", "model\t"))]
    return {
        "processor": " ".join(dict.fromkeys(names)) or platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        **{name: metadata.version(name) for name in ("torch", "transformers", "peft", "numpy")},
    }


def digest(workspace: Workspace, name: str) -> str:
    """Of the last policy's weights and of its optimiser, where it keeps one."""
    directory = workspace.root / "runs" / name
    folder = directory / Record.read(directory).policies()[-1].place
    found = hashlib.sha256()
    for file in (folder / part for part in WEIGHTS):
        found.update(file.read_bytes() if file.exists() else b"")
    return found.hexdigest()


def recorded() -> list[dict[str, Any]]:
    return list(json.loads(GOLDEN.read_text()))


def expected() -> dict[str, str]:
    """The digests of this machine; of several machines that differ, the nearest says how."""
    here = machine()
    differences = []
    for one in recorded():
        differs = sorted(name for name, value in here.items() if one["machine"][name] != value)
        if not differs:
            return dict(one["policies"])
        differences.append(differs)
    pytest.skip(f"recorded with another {', '.join(min(differences, key=len))}")


def test_the_golden_file_names_the_four_runs_of_each_machine_once() -> None:
    machines = [one["machine"] for one in recorded()]
    assert machines
    assert all(machines.count(one) == 1 for one in machines)
    for one in recorded():
        assert set(one["policies"]) == {"grpo", "dyjr", "echorl", "erpd"}
        assert set(one["machine"]) == set(machine())


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.parametrize("method", ["grpo", "dyjr", "echorl"])
def test_numbers_do_not_move(empty: Workspace, method: str) -> None:
    wanted = expected()[method]
    empty.call("run", "--name", method, "--method", method, *SETTINGS)
    assert digest(empty, method) == wanted


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.timeout(900)
def test_nor_do_those_of_erpd_killed_in_each_of_its_stages(empty: Workspace) -> None:
    wanted = expected()["erpd"]
    command = ["run", "--name", "erpd", "--method", "erpd", *SETTINGS]
    for stage in ("teach", "validate", "signal", "distil", "evaluate_teacher"):
        kill_inside(empty.start(*command, "--json"), stage, 0.3)
    empty.call(*command)
    assert digest(empty, "erpd") == wanted


if __name__ == "__main__":
    import os
    import tempfile

    from tests.flows.conftest import environment_of

    with tempfile.TemporaryDirectory() as folder:
        made = Workspace(Path(folder), environment_of(Path(folder), dict(os.environ)))
        policies = {}
        for each in ("grpo", "dyjr", "echorl", "erpd"):
            made.call("run", "--name", each, "--method", each, *SETTINGS)
            policies[each] = digest(made, each)
        others = [one for one in recorded() if one["machine"] != machine()]
        golden = [*others, {"machine": machine(), "policies": policies}]
        GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
