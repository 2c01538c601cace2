"""What running a query gives, why it may give nothing, and the limits that it runs under."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import Field, PositiveFloat, PositiveInt

from params.base import Config
from params.errors import OstinatoError

Row = tuple[Any, ...]
"""Values as SQLite gives them: None, int, float, str or bytes."""


class Limits(Config):
    """The bounds of one query."""

    query_seconds: PositiveFloat = 3.0
    """Processor time for one query."""
    max_steps: PositiveInt = 50_000_000
    """Instructions of SQLite's virtual machine for one query: the same on every machine."""
    max_rows: PositiveInt = 100_000
    """Rows of a result."""
    result_mib: PositiveInt = 32
    """A result in memory, in MiB: 64 bytes per value, and the length of its texts and blobs."""
    max_value_bytes: Annotated[int, Field(ge=1000, le=2**30)] = 2**20
    """Longest text, blob or row that a query may read or make, in bytes."""
    max_query_characters: PositiveInt = 20_000
    """A longer query is wrong unread."""
    heap_mib: Annotated[int, Field(ge=8)] = 256
    """SQLite's own memory, over all open databases, in MiB."""


@dataclass(frozen=True)
class Result:
    """The rows of a query, in the order in which it gave them."""

    columns: int
    rows: list[Row]
    size: int
    """Bytes in memory, about."""


class QueryError(OstinatoError):
    """The query is at fault: SQLite refuses it, or it exceeds its limits."""

    def __init__(self, reason: str, certain: bool = True) -> None:
        super().__init__(reason)
        self.certain = certain
        """Whether it would fail like this every time."""


class DatabaseTrouble(OstinatoError):
    """The database is at fault: it is missing, damaged, or not what the list says."""


ValueT = TypeVar("ValueT")


class Cache(Generic[ValueT]):
    """Values by key, the least recently used leaving once their sizes exceed ``most``."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[Any, tuple[ValueT, int]] = OrderedDict()
        self._size = 0

    def get(self, key: Any) -> ValueT | None:
        """The value, which is then the most recently used."""
        if key not in self._held:
            return None
        self._held.move_to_end(key)
        return self._held[key][0]

    def put(self, key: Any, value: ValueT, size: int) -> None:
        """Keep a value of that size, unless it alone is too large."""
        if size > self._most or key in self._held:
            return
        self._held[key] = (value, size)
        self._size += size
        while self._size > self._most:
            self._size -= self._held.popitem(last=False)[1][1]
