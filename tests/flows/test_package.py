"""What `python -m build` makes carries all that a run needs, away from the source."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.flows.conftest import ROOT, Workspace, environment_of, outcomes

PACKAGES = ("algorithms", "flows", "params", "tasks")
BUILD = (
    "import sys; from setuptools import build_meta as made; print(getattr(made, sys.argv[1])(sys.argv[2]))"
)


def built(source: Path, what: str, out: Path) -> Path:
    """The archive that setuptools makes of ``source``, as the front end ``build`` asks for it."""
    command = [sys.executable, "-c", BUILD, what, str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120, check=True)
    return out / done.stdout.splitlines()[-1]


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
