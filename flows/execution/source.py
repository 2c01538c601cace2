"""The source that a stage stands on: which modules it imports, however deep, and a digest of what they say.

The digest is of the syntax tree without what only people read, docstrings and a method's labels: comments,
layout, quotes and trailing commas do not count, and the Python versions that the project supports agree.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from params import user_code
from tasks.artefacts.artefact import canonical

ROOT = Path(__file__).parents[2]
OURS = ("algorithms", "tasks")
"""Packages whose source counts. ``params`` says what may be chosen; what was chosen is in the fingerprint."""


Stamp = tuple[int, int, int]
"""A file's inode, its size and when it was written."""


class SourceTree:
    """The modules below ``root``, and those of packages of the user's own. Each file is read once."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._files: dict[str, Path | None] = {}
        self._trees: dict[str, ast.Module] = {}
        self._imports: dict[str, tuple[str, ...]] = {}
        self._digests: dict[str, str] = {}
        self._written: dict[str, Stamp] = {}

    def file(self, name: str) -> Path:
        """The file of a module; raises ``ModuleNotFoundError``."""
        path = self._find(name)
        if path is None:
            raise ModuleNotFoundError(name)
        return path

    def closure(self, roots: Iterable[str]) -> tuple[str, ...]:
        """The modules of ours, and of the packages that the roots are of, that the roots import, sorted."""
        waiting = list(roots)
        packages = {*OURS, *(name.partition(".")[0] for name in waiting)}
        found: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name not in found and name.partition(".")[0] in packages and self._find(name) is not None:
                found.add(name)
                waiting += self._imported(name)
        return tuple(sorted(found))

    def digests(self, names: Iterable[str]) -> dict[str, str]:
        """A digest of what each of these modules says."""
        return {name: self._digest(name) for name in names}

    def edited(self, names: Iterable[str]) -> str | None:
        """The first of these modules that says something else by now than when it was read; None where none
        does. A file that was not written since is not read again."""
        return next((name for name in names if self._is_edited(name)), None)

    def _is_edited(self, name: str) -> bool:
        digest = self._digest(name)
        try:
            stamp = _stamp(self.file(name))
            if stamp == self._written[name]:
                return False
            if _digest_of(ast.parse(self.file(name).read_bytes())) != digest:
                return True
        except (FileNotFoundError, SyntaxError):
            return True
        self._written[name] = stamp
        return False

    def _digest(self, name: str) -> str:
        if name not in self._digests:
            self._digests[name] = _digest_of(self._tree(name))
        return self._digests[name]

    def _find(self, name: str) -> Path | None:
        """Where a module lies, by its name: asking Python would import the packages above it, and torch."""
        if name not in self._files:
            path = self._root.joinpath(*name.split("."))
            own = next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)
            ours = name.partition(".")[0] in OURS
            self._files[name] = own if own or ours else user_code.file_of(name)
        return self._files[name]

    def _tree(self, name: str) -> ast.Module:
        if name not in self._trees:
            self._written[name] = _stamp(self.file(name))  # before the text: what is newer is looked at again
            self._trees[name] = ast.parse(self.file(name).read_bytes())
        return self._trees[name]

    def _imported(self, name: str) -> tuple[str, ...]:
        """What a module imports, but for type checkers: modules, and names that may be some."""
        if name not in self._imports:
            names: set[str] = set()
            for statement in _run(self._tree(name)):
                if isinstance(statement, ast.Import):
                    names.update(alias.name for alias in statement.names)
                elif isinstance(statement, ast.ImportFrom) and (module := self._from(name, statement)):
                    names.add(module)
                    names.update(f"{module}.{alias.name}" for alias in statement.names)
            packages = {name.rpartition(".")[0] for name in names if "." in name}
            self._imports[name] = tuple(sorted(names | packages))
        return self._imports[name]

    def _from(self, name: str, statement: ast.ImportFrom) -> str:
        """The module from which the module ``name`` imports; empty where there is none."""
        if not statement.level:
            return statement.module or ""
        package = name.split(".")
        up = statement.level - (self.file(name).name == "__init__.py")
        above = package[: max(0, len(package) - up)]
        return ".".join([*above, *filter(None, [statement.module])]) if above else ""


def _stamp(path: Path) -> Stamp:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _digest_of(tree: ast.Module) -> str:
    return hashlib.sha256(canonical(_plain(tree))).hexdigest()


def _plain(value: Any) -> Any:
    """A node as JSON. Fields that hold nothing are left out: newer Pythons have more of them."""
    if isinstance(value, ast.AST):
        found = {name: _plain(item) for name, item in ast.iter_fields(value)}
        return {"is": type(value).__name__, **{k: v for k, v in found.items() if v not in (None, [])}}
    if isinstance(value, list):
        return [_plain(item) for item in value if not _is_for_people(item)]
    if isinstance(value, str | int | bool) or value is None:
        return value
    return repr(value)  # floats, bytes, complex numbers, Ellipsis


def _is_for_people(node: Any) -> bool:
    """A docstring, or the labels that a method gives its figures in the report."""
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Name) and target.id == "METRICS" for target in node.targets)
    match node:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
    return False


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below this one that may be run: not what ``if TYPE_CHECKING`` guards."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                continue
        yield child
        yield from _run(child)


SOURCE = SourceTree()
"""This installation's."""
