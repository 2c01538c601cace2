"""A database as a tool, for Text-to-SQL: queries are run on it, read-only, before the answer is given.

The database is the one of the problem's right answer, opened as the judge does (``tasks.rewards.sql_run``).
What a query does to the process around it is bounded by the limits of the episode.
"""

from __future__ import annotations

import json
from pathlib import Path

from tasks.rewards.sql import database_path
from tasks.rewards.sql_result import Limits, QueryError
from tasks.rewards.sql_run import Database, plain
from tasks.rewards.sql_text import problem_of


class SqlAgent:
    """Runs queries. Its tool is called as small models call a block of SQL by themselves."""

    def __init__(self, rows: int = 5, cell_characters: int = 40, query_seconds: float = 1.0) -> None:
        self._rows, self._cell = rows, cell_characters
        self._limits = Limits(query_seconds=query_seconds, max_rows=10_000, result_mib=8, heap_mib=64)

    def reset(self, answer: str, folder: str) -> None:
        """Open the database of a problem."""
        self._last: str | None = None
        self._database = Database(database_path(Path(folder), json.loads(answer)["database"]), self._limits)

    def sql(self, query: str) -> str:
        """Run one SELECT on the database and see its rows, or what is wrong. Your last query is your answer.

        Args:
            query: the query
        """
        self._last = query
        query = query.strip().rstrip(";")
        if (refused := problem_of(query)) is not None:
            return f"Error: {refused}"
        try:
            found = self._database.run(query)
        except QueryError as error:
            return f"Error: {error}"
        shown = [" | ".join(self._shown(value) for value in row) for row in plain(found.rows[: self._rows])]
        more = len(found.rows) - len(shown)
        return "\n".join([*(shown or ["no rows"]), *([f"... {more} more rows"] if more else [])])

    def get_answer(self) -> str | None:
        """The last query, whatever was said after it; None where there was none."""
        return None if self._last is None else f"```sql\n{self._last}\n```"

    def _shown(self, value: object) -> str:
        text = "NULL" if value is None else f"{len(value)} bytes" if isinstance(value, bytes) else str(value)
        return text if len(text) <= self._cell else text[: self._cell] + "..."


ENVIRONMENT = SqlAgent
