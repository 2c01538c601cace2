"""Rows of a local file, by its suffix: JSON lines, JSON, CSV or Parquet, each row with its place."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from params.base import BadInput, nearest
from tasks.problems.final_answers import in_digits

Row = tuple[str, Any]
"""Where a row stands, for messages, and what it holds."""


def rows_of(path: Path, where: str) -> Iterator[Row]:
    """The rows of a local file, by its suffix, each with its place. Raises ``BadInput``."""
    readers = {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise BadInput(f"{path}: expected a file that ends in {', '.join(readers)}")
    if path.is_dir():
        raise BadInput(f"{path}: a folder; expected a file ({where})")
    if not path.is_file():
        raise BadInput(f"{path}: no such file ({where})")
    return readers[suffix](path)


def cell_text(value: Any, column: str, place: str) -> str:
    """What a cell holds as text without space around it, a number in digits; raises ``BadInput``."""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
        if not number.is_finite():
            raise BadInput(f"{place}: '{column}' is {value}; expected text or a finite number")
        return in_digits(number)
    if not isinstance(value, str):
        shown = "nothing" if value is None else f"{value!r:.60}"
        raise BadInput(f"{place}: '{column}' is {shown}; expected text or a number")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadInput(
            f"{place}: '{column}' holds half a character (a lone surrogate); expected text"
        ) from None
    return value.strip()


def cell_texts(row: dict[str, Any], column: str, place: str) -> list[str]:
    """The texts of a cell that holds a text, a list of texts or nothing; raises ``BadInput``."""
    if column not in row:
        raise BadInput(f"{place}: no '{column}'{nearest(column, [str(key) for key in row if key])}")
    value = row[column]
    values = value if isinstance(value, list) else [value]
    found = [cell_text(one, column, place) for one in values if one is not None]
    return [text for text in found if text]


def _jsonl(path: Path) -> Iterator[Row]:
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if line.strip():
            yield f"{path}:{number}", _parsed(line, f"{path}:{number}")


def _json(path: Path) -> Iterator[Row]:
    content = _parsed(path.read_bytes(), str(path))
    if not isinstance(content, list):
        raise BadInput(f"{path}: expected a list of objects, found {type(content).__name__}")
    for number, row in enumerate(content, start=1):
        yield f"{path}: row {number}", row


def _parsed(data: bytes, place: str) -> Any:
    try:
        return json.loads(data, object_pairs_hook=partial(_object, place))
    except UnicodeDecodeError:
        raise BadInput(f"{place}: not UTF-8; expected JSON") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadInput(f"{place}: not JSON ({error}); expected an object") from None
    except ValueError:  # what else Python refuses: a whole number of more than 4,300 digits
        raise BadInput(
            f"{place}: a whole number of more than {sys.get_int_max_str_digits()} digits; expected fewer"
        ) from None


def _object(place: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _refuse_twice([key for key, _ in pairs], place)
    return dict(pairs)


def _refuse_twice(names: Sequence[str], place: str) -> None:
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise BadInput(f"{place}: '{twice[0]}' is there twice; expected each name once")


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # Python's own is 131,072 characters
    line = 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            _refuse_twice(reader.fieldnames or (), f"{path}:1")
            for row in reader:
                line = reader.line_num
                place = f"{path}:{line}"
                if None in row:
                    raise BadInput(
                        f"{place}: expected {len(reader.fieldnames or ())} cells, as in the header"
                    )
                yield place, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInput(f"{path}, after line {line}: not CSV in UTF-8 ({error})") from None


def _parquet(path: Path) -> Iterator[Row]:
    try:
        content = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path}: not Parquet ({str(error).splitlines()[0]})") from None
    _refuse_twice(content.column_names, str(path))
    for index, field in enumerate(content.schema):
        if field.type in (pa.float16(), pa.float32()):  # 0.1 as it was written, not as the nearest double
            written = content.column(index).cast(pa.string()).cast(pa.float64())
            content = content.set_column(index, field.name, written)
    for number, row in enumerate(content.to_pylist(), start=1):
        yield f"{path}: row {number}", row
