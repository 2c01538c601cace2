"""A page is one file that needs no network: what it shows and what it offers to save is inside it."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tasks.report.format import count, duration, number, percent, points

HERE = Path(__file__).parent


def rendered(template: str, style: str, script: str, **said: Any) -> str:
    """The template with our own style and script; no other script may run."""
    return (
        environment()
        .get_template(template)
        .render(
            style=Markup(style),  # noqa: S704 - our own
            script=Markup(script),  # noqa: S704 - our own
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            **said,
        )
    )


def environment() -> Environment:
    """Where templates are found; whatever they are told is escaped."""
    made = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        percent=percent, number=number, duration=duration, points=points, count=count, saved=saved
    )
    return made


def asset(name: str) -> str:
    """A file of ours that goes into the page."""
    return (HERE / name).read_text()


def csv_text(lines: Iterable[Iterable[Any]]) -> str:
    """A table as a file, its header first; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def saved(text: str, kind: str) -> str:
    """A file as an address that the page itself holds."""
    return f"data:{kind};charset=utf-8,{quote(text)}"
