"""The house stays as it is laid out: imports point one way, packages are empty names, a file is one thing."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BELOW = {"artefacts", "core"}
"""What every package of tasks may stand on."""
TASKS = {
    "artefacts": set(),
    "core": {"artefacts"},
    "engines": {"policy"},
    "environments": {"rewards"},
    "erpd": {"engines", "evaluate", "policy", "rollout"},
    "evaluate": {"policy", "rollout", "stats"},
    "policy": set(),
    "prepare": {"policy", "problems"},
    "problems": {"rewards"},
    "remote": set(),
    "replay": {"rollout"},
    "report": {"evaluate", "problems", "stats", "update"},
    "rewards": set(),
    "rollout": {"engines", "environments", "policy", "problems", "rewards"},
    "sft": {"policy", "rollout"},
    "stats": set(),
    "update": {"policy", "replay", "rollout"},
}
"""A package of tasks, and which others it may import, beside ``BELOW``."""
FLOWS = {
    "environment": set(),
    "stage_table": set(),
    "planner": {"environment"},
    "process": {"environment"},
    "execution": {"environment", "planner", "process", "stage_table"},
    "simulator": {"environment", "execution", "planner", "stage_table"},
    "sync": {"environment", "execution"},
    "experiments": {"environment", "execution", "planner", "stage_table"},
    "dvc": {"execution", "experiments", "stage_table"},
    "prefect_assets": {"execution", "stage_table"},
    "prefect_hooks": {"environment", "execution", "prefect_assets", "sync"},
    "prefect_progress": {"execution"},
    "prefect_stages": {"execution", "prefect_assets", "prefect_progress", "stage_table"},
    "train": {
        *("environment", "execution", "prefect_assets", "prefect_hooks", "prefect_progress"),
        *("prefect_stages", "process", "stage_table", "sync"),
    },
    "compare_flow": {"experiments", "prefect_hooks"},
    "evaluate_flow": {
        *("environment", "execution", "prefect_hooks", "process", "stage_table", "sync", "train"),
    },
    "commands": {
        *("environment", "execution", "experiments", "planner", "process", "simulator", "stage_table"),
        *("sync", "train"),
    },
    "cli": {"commands", "dvc", "environment", "execution", "experiments", "process"},
}
"""The same for flows, which may import any package of tasks."""
ALLOWED = {
    "params": {"params"},
    "algorithms": {"algorithms", "params"},
    "tasks": {"tasks", "algorithms", "params"},
    "flows": {"flows", "tasks", "algorithms", "params"},
}
FORBIDDEN = {
    "params": {"prefect", "torch", "transformers", "dvc", "vllm"},
    "algorithms": {"prefect", "transformers", "dvc", "vllm", "peft", "datasets", "tokenizers"},
    "tasks": {"prefect"},
    "flows": set(),
}
MODULES = sorted(path for package in ALLOWED for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, anywhere in it."""
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)


def room(path: Path) -> str:
    """The package, or the module, that a file is of: the second part of its name."""
    return path.relative_to(ROOT).with_suffix("").parts[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    names = {name.partition(".")[0] for name in imported(path)}
    assert names & set(ALLOWED) <= ALLOWED[package]
    assert not names & FORBIDDEN[package]
    assert not names & {"pickle", "cloudpickle", "dill", "shelve"}


@pytest.mark.parametrize(("top", "arrows"), [("tasks", TASKS), ("flows", FLOWS)])
def test_packages_import_what_they_may(top: str, arrows: dict[str, set[str]]) -> None:
    below = BELOW if top == "tasks" else set()
    for path in (ROOT / top).rglob("*.py"):
        if path.name == "__init__.py":
            continue
        others = {name.split(".")[1] for name in imported(path) if name.startswith(f"{top}.")} - {room(path)}
        assert others <= arrows[room(path)] | below, f"{path.relative_to(ROOT)} imports {sorted(others)}"


@pytest.mark.parametrize("arrows", [TASKS, FLOWS])
def test_there_is_no_circle(arrows: dict[str, set[str]]) -> None:
    assert list(TopologicalSorter(arrows).static_order())


def test_packages_are_names_and_nothing_else() -> None:
    """A package that hands names on would drag all of itself into the digest of whatever imports it."""
    folders = {path.parent for path in MODULES}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []
    assert [path for path in MODULES if path.name == "__init__.py" and path.read_text().strip()] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_thing(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 350


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_error_of_ours_has_one_base(path: Path) -> None:
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    bases = [
        (node.name, getattr(builtins, ast.unparse(base), object)) for node in found for base in node.bases
    ]
    assert {name for name, base in bases if issubclass(base, BaseException)} <= {"OstinatoError"}
