"""SQL answers: 1 for a query whose result is that of the gold query, else 0 with the reason.

The right answer is ``{"database": "<id>", "query": "SELECT ..."}`` as JSON. Databases are found through
``databases.json`` in the directory of the problems: ``{id: {"path": ..., "sha256": ..., "bytes": ...}}``,
paths relative to it or absolute.
"""

from __future__ import annotations

import hashlib
import json
import re
import resource
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from tasks.rewards.base import Bounds, Verdict, answer_begins
from tasks.rewards.sql_compare import bird_equal, multiset_equal, spider_equal
from tasks.rewards.sql_result import Cache, DatabaseTrouble, Limits, QueryError, Result
from tasks.rewards.sql_run import Database, plain
from tasks.rewards.sql_text import find_query, orders, problem_of, without_distinct

__all__ = ["database_path"]

DATABASES = "databases.json"
_OPEN_AT_ONCE = 16
_FILES_AT_ONCE = 64
_THIS_YEAR = re.compile(r"YEAR\s*\(\s*CURDATE\s*\(\s*\)\s*\)\s*", re.IGNORECASE)


class Config(Bounds, Limits):
    """How queries are read, run and compared."""

    timeout_seconds: Annotated[float, Field(gt=0.0)] = 10.0
    """Time for one answer, both queries together; a judge that takes longer is killed and replaced."""
    comparison: Literal["multiset", "spider", "bird"] = "multiset"
    """Which results are the same: our rule, or that of the Spider or the BIRD benchmark."""
    columns: Literal["in_order", "any_order"] = "in_order"
    """``multiset``: whether the columns must come in the gold query's order."""
    float_tolerance: Annotated[float, Field(ge=0.0, lt=0.1)] = 1e-9
    """``multiset``: largest difference of equal numbers, times max(1, magnitude)."""
    keep_distinct: bool = False
    """``spider``: leave DISTINCT in both queries; the benchmark takes it out unless told otherwise."""
    max_answer_characters: PositiveInt = 65_536
    """Of a longer answer, only so many characters of its end are read."""
    verify_mib: PositiveInt = 256
    """A database up to this size is checked by its digest when a process first opens it, a larger one by its
    size alone."""
    cache_mib: PositiveInt = 64
    """Results that a process keeps, of gold queries and of answers each."""

    @model_validator(mode="after")
    def _time_for_both(self) -> Config:
        if self.timeout_seconds <= 2 * self.query_seconds:
            raise ValueError("task.reward.timeout_seconds must exceed twice task.reward.query_seconds")
        return self


class _Databases:
    """The databases that one process has open, and the results that it keeps."""

    def __init__(self, root: Path, config: Config) -> None:
        self._root, self._config = root, config
        self._listed: dict[str, Any] | None = None
        self._open: dict[str, Database] = {}
        """The one used last stands last."""
        most = config.cache_mib * 2**20
        self._gold: Cache[Result] = Cache(most)
        # of what fails the words alone: an error holds the frames that it came through
        self._given: Cache[Result | str] = Cache(most)

    def gold(self, database: str, query: str) -> Result:
        """The gold query's result. Raises ``QueryError`` and ``DatabaseTrouble``."""
        found = self._gold.get((database, query))
        if found is None:
            found = self._database(database).run(query)
            self._gold.put((database, query), found, found.size + 1024)
        return found

    def given(self, database: str, query: str) -> Result:
        """The result of an answer's query. Raises ``QueryError``, a kept one too, and ``DatabaseTrouble``."""
        found = self._given.get((database, query))
        if found is None:
            opened = self._database(database)
            answer_begins()
            try:
                found = opened.run(query)
            except QueryError as error:
                if not error.certain:
                    raise
                found = str(error)
            size = found.size if isinstance(found, Result) else len(found)
            self._given.put((database, query), found, size + 1024 + len(query))
        if isinstance(found, str):
            raise QueryError(found)
        return found

    def _database(self, name: str) -> Database:
        if (opened := self._open.pop(name, None)) is None:
            if len(self._open) >= _OPEN_AT_ONCE:
                self._open.pop(next(iter(self._open))).close()
            opened = Database(self._checked(name), self._config)
        self._open[name] = opened
        return opened

    def _checked(self, name: str) -> Path:
        if self._listed is None:
            self._listed = _listed(self._root)
        return database_path(self._root, name, self._config.verify_mib, self._listed)


def database_path(root: Path, name: str, verify_mib: int = 0, listed: dict[str, Any] | None = None) -> Path:
    """Where a database of the problems in ``root`` lies, checked by its digest up to ``verify_mib``, beyond
    that by its size. Raises ``DatabaseTrouble``."""
    listed = _listed(root) if listed is None else listed
    if name not in listed:
        raise DatabaseTrouble(f"not in {DATABASES}")
    entry = listed[name]
    path: Path = root / entry["path"]
    try:
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise DatabaseTrouble(f"{entry['path']} has {size} bytes; expected {entry['bytes']}")
        if size <= verify_mib * 2**20:
            with path.open("rb") as handle:
                if hashlib.file_digest(handle, "sha256").hexdigest() != entry["sha256"]:
                    raise DatabaseTrouble(f"{entry['path']} is not the file that {DATABASES} lists")
    except OSError as error:
        raise DatabaseTrouble(f"{entry['path']}: {error.strerror}") from error
    return path


_databases: _Databases | None = None


def enter(root: Path | None, config: Config) -> None:
    """Called once in each judging process, before anything is judged: ``root`` has the list of databases."""
    global _databases  # noqa: PLW0603 - one judge a process
    _databases = _Databases(root, config) if root is not None else None


def confine() -> None:
    """Limits for the whole process, beyond those of every judge: few files, no processes."""
    for kind, most in ((resource.RLIMIT_NOFILE, _FILES_AT_ONCE), (resource.RLIMIT_NPROC, 0)):
        resource.setrlimit(kind, (most, most))


def judge(gold: str, answer: str, config: Config) -> Verdict:
    """Whether ``answer`` holds a query with the result of the one in ``gold``."""
    if _databases is None:
        return Verdict(None, "no databases: the judge was given no directory of problems")
    try:
        database, right = _read_gold(gold)
    except ValueError as error:
        return Verdict(None, f"cannot read the right answer: {error}")
    given = find_query(answer[-config.max_answer_characters :])
    if given is None:
        return Verdict(0.0, "no query in the answer")
    if len(given) > config.max_query_characters:
        return Verdict(0.0, f"a query of more than {config.max_query_characters} characters")
    try:
        return _compared(_databases, database, right, given, config)
    except DatabaseTrouble as trouble:
        return Verdict(None, f"database {database}: {trouble}")


def _compared(databases: _Databases, database: str, right: str, given: str, config: Config) -> Verdict:
    """Run both queries. Raises ``DatabaseTrouble``."""
    if config.comparison == "spider":
        right, given = _as_spider(right, config), _as_spider(given, config)
    try:
        expected = databases.gold(database, right)
    except QueryError as error:
        return Verdict(None, f"the gold query fails on database {database}: {error}")
    if (refused := problem_of(given)) is not None:
        return Verdict(0.0, refused)
    try:
        return Verdict(float(_equal(expected, databases.given(database, given), right, config)))
    except QueryError as error:
        return Verdict(0.0, str(error))


def _equal(gold: Result, given: Result, query: str, config: Config) -> bool:
    if config.comparison == "bird":
        return bird_equal(gold.rows, given.rows)
    if config.comparison == "spider":
        # Their rule: the words anywhere in the gold query, in a subquery too.
        return spider_equal(plain(gold.rows), plain(given.rows), "order by" in query.lower())
    if gold.columns != given.columns:
        return False
    any_columns = config.columns == "any_order"
    return multiset_equal(gold.rows, given.rows, orders(query), config.float_tolerance, any_columns)


def _as_spider(query: str, config: Config) -> str:
    """What the benchmark's script does to both queries before it runs them."""
    for apart, together in (("> =", ">="), ("< =", "<="), ("! =", "!=")):
        query = query.replace(apart, together)
    query = query if config.keep_distinct else without_distinct(query)
    return _THIS_YEAR.sub("2020", query)


@lru_cache(maxsize=4096)
def _read_gold(gold: str) -> tuple[str, str]:
    """Database and query. Raises ``ValueError``."""
    try:
        content = json.loads(gold)
    except (json.JSONDecodeError, RecursionError):
        raise ValueError(f"'{gold[:80]}' is not JSON") from None
    if not isinstance(content, dict):
        raise ValueError("expected an object with database and query")
    for key in ("database", "query"):
        if not isinstance(content.get(key), str):
            raise ValueError(f"its '{key}' is missing or no text")
    return content["database"], content["query"]


def _listed(root: Path) -> dict[str, Any]:
    path = root / DATABASES
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise DatabaseTrouble(f"{path}: {error.strerror}") from error
    except ValueError:
        raise DatabaseTrouble(f"{path} is not JSON") from None
    keys = {"path": str, "sha256": str, "bytes": int}
    entries = content.values() if isinstance(content, dict) else ()
    whole = isinstance(content, dict) and all(
        isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in keys.items())
        for entry in entries
    )
    if not whole:
        raise DatabaseTrouble(f"{path}: expected path, sha256 and bytes for each database")
    return dict(content)
