"""Running an untrusted query on a SQLite database: it reads that database and does nothing else.

The connection is read-only and immutable, refuses to write (``query_only``), and asks an authorizer before
anything is prepared: reading the database's own tables and calling functions from a list are allowed, all
else is denied. Functions that depend on chance are not on the list: the same answer has the same reward.
Time, steps, rows, bytes and memory are bounded; sorting happens in memory, so no file is made. What one
instruction of SQLite may cost beyond that, or its planner, is bounded by the process around it.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from tasks.rewards.sql_result import DatabaseTrouble, Limits, QueryError, Result, Row

_NAMES = """
-> ->> abs acos acosh asin asinh atan atan2 atanh avg ceil ceiling char coalesce concat concat_ws cos
cosh count cume_dist current_date current_time current_timestamp date datetime degrees dense_rank exp
first_value floor format glob group_concat hex if ifnull iif instr json json_array
json_array_length json_each json_extract json_group_array json_group_object json_insert json_object
json_patch json_quote json_remove json_replace json_set json_tree json_type json_valid julianday lag
last_value lead length like likelihood likely ln log log10 log2 lower ltrim match max min mod
nth_value ntile nullif octet_length percent_rank pi pow power printf quote radians rank regexp
replace round row_number rtrim sign sin sinh soundex sqlite_version sqrt strftime string_agg
substr substring sum tan tanh time timediff total trim trunc typeof unhex unicode unixepoch
unlikely upper zeroblob
"""
FUNCTIONS = frozenset(_NAMES.split())
"""What a query may call, of the functions that SQLite has built in."""

_TABLE_FUNCTIONS = frozenset({"json_each", "json_tree"})
_SCHEMAS = frozenset({"sqlite_master", "sqlite_schema", "sqlite_temp_master", "sqlite_temp_schema"})
_STEPS_PER_CHECK = 5_000
_LIMITS = {
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_COLUMN: 500,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 200_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 64,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 500,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 10,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_DAMAGE = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_FORMAT,
}


class Database:
    """One database, open until it is let go. Not for two threads."""

    def __init__(self, path: Path, limits: Limits) -> None:
        """Open and lock down. Raises ``DatabaseTrouble`` for what is no readable SQLite database."""
        self._limits = limits
        self._timer = _Timer(limits)
        uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
        try:
            self._connection = sqlite3.connect(uri, uri=True, isolation_level=None, cached_statements=0)
            self._prepare(self._connection)
        except sqlite3.Error as error:
            raise DatabaseTrouble(str(error)) from error

    def run(self, query: str) -> Result:
        """The result of one SELECT. Raises ``QueryError`` or ``DatabaseTrouble``.

        Text that is not UTF-8 comes with surrogate escapes.
        """
        if len(query) > self._limits.max_query_characters:
            raise QueryError(f"a query of more than {self._limits.max_query_characters} characters")
        self._timer.start()
        try:
            with closing(self._connection.execute(query)) as cursor:
                return self._fetch(cursor)
        except MemoryError:
            raise QueryError(f"more than {self._limits.heap_mib} MiB of memory") from None
        except (sqlite3.Warning, sqlite3.ProgrammingError, UnicodeError, ValueError) as error:
            raise QueryError(_short(error)) from None
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in _DAMAGE:
                raise DatabaseTrouble(str(error)) from error
            if code == sqlite3.SQLITE_INTERRUPT:
                raise self._timer.verdict() from None
            raise QueryError(_short(error)) from None

    def close(self) -> None:
        """Let go of its file; a connection, part of a cycle, would keep it until the next collection."""
        self._connection.close()

    def _fetch(self, cursor: sqlite3.Cursor) -> Result:
        columns = len(cursor.description or ())
        most, limits = self._limits.result_mib * 2**20, self._limits
        rows: list[Row] = []
        size = 0
        for row in cursor:
            size += 64 * columns + sum(len(value) for value in row if isinstance(value, str | bytes))
            rows.append(row)
            if len(rows) > limits.max_rows:
                raise QueryError(f"more than {limits.max_rows} rows")
            if size > most:
                raise QueryError(f"a result of more than {limits.result_mib} MiB")
        return Result(columns, rows, size)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Set what the authorizer would deny, then set the limits and the authorizer."""
        heap = self._limits.heap_mib * 2**20
        for setting in (
            "query_only = 1", "temp_store = 2", "trusted_schema = 0", "cell_size_check = 1", "mmap_size = 0",
            "cache_size = -4096", f"soft_heap_limit = {heap // 2}", f"hard_heap_limit = {heap}",
        ):  # fmt: skip
            connection.execute(f"PRAGMA {setting}").close()
        for function in _TABLE_FUNCTIONS:  # declared once per connection, which the authorizer would deny
            connection.execute(f"SELECT 1 FROM {function}('[]')").close()  # noqa: S608
        names = connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        tables = {name.lower() for (name,) in names}
        modules = {name for (name,) in connection.execute("SELECT lower(name) FROM pragma_module_list")}
        connection.text_factory = lambda text: text.decode(errors="surrogateescape")
        for limit, most in _LIMITS.items():
            connection.setlimit(limit, most)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, self._limits.max_value_bytes)
        connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 4 * self._limits.max_query_characters)
        connection.set_progress_handler(self._timer.check, _STEPS_PER_CHECK)
        connection.set_authorizer(_Authorizer(tables, modules))


class _Authorizer:
    """What a statement may do: select, recurse, read this database's tables, call known functions."""

    def __init__(self, tables: set[str], modules: set[str]) -> None:
        self._tables = tables | _SCHEMAS | _TABLE_FUNCTIONS
        self._modules = modules - self._tables

    def __call__(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        if action == sqlite3.SQLITE_FUNCTION:
            allowed = (second or "").lower() in FUNCTIONS
        elif action == sqlite3.SQLITE_READ:
            allowed = self._readable((first or "").lower(), second)
        else:
            allowed = action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE)
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    def _readable(self, table: str, column: str | None) -> bool:
        if table in self._tables:
            return True
        # A reference to no column at all is asked for under the name of a common table, too.
        return not column and table not in self._modules and not table.startswith("pragma_")


class _Timer:
    """Counts a query's steps and its processor time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.start()

    def start(self) -> None:
        self._checks = 0
        self._began = time.thread_time()

    def check(self) -> bool:
        self._checks += 1
        return self._too_many() or time.thread_time() - self._began > self._limits.query_seconds

    def verdict(self) -> QueryError:
        if self._too_many():
            return QueryError(f"more than {self._limits.max_steps} steps")
        return QueryError(f"more than {self._limits.query_seconds:g} s", certain=False)

    def _too_many(self) -> bool:
        return self._checks * _STEPS_PER_CHECK > self._limits.max_steps


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200].encode(errors="backslashreplace").decode()


def plain(rows: list[Row]) -> list[Row]:
    """The rows with bytes that are no UTF-8 dropped from their texts."""
    return [tuple(_dropped(value) if isinstance(value, str) else value for value in row) for row in rows]


def _dropped(text: str) -> str:
    return text.encode(errors="surrogateescape").decode(errors="ignore")
