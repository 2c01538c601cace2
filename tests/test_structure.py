"""The house stays as it is laid out: imports point one way, and no file grows beyond one thing."""

from __future__ import annotations

import ast
import builtins
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            names.add(statement.module.partition(".")[0])
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    names = imported(path)
    assert names & set(ALLOWED) <= ALLOWED[package]
    assert not names & FORBIDDEN[package]
    assert not names & {"pickle", "cloudpickle", "dill", "shelve"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_thing(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 350


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_error_of_ours_has_one_base(path: Path) -> None:
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    bases = {ast.unparse(base): node.name for node in found for base in node.bases}
    foreign = {
        name for base, name in bases.items() if issubclass(getattr(builtins, base, object), BaseException)
    }
    assert foreign <= {"OstinatoError"}
