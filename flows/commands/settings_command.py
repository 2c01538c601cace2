"""``ostinato settings``: every key, its value and its meaning."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from flows.commands.options import JsonOption, MethodOption, ModelOption, SetOption, TaskOption
from params.base import BadInput, nearest
from params.described import NEEDED, Described, described, plain

HEAD = """# Settings

Every key of a run, its default and its meaning, as `ostinato settings --markdown` writes them. Presets
choose others: `ostinato settings rollout --task sql --method dapo` tells what a run would have. What a part
takes, an objective, a replay method, a source of problems or a reward, stands on the pages of
[methods](methods/README.md) and tasks.
"""


def list_settings(
    section: Annotated[
        str | None, typer.Argument(metavar="SECTION", help="Only these: update, evaluate.sets.")
    ] = None,
    model: ModelOption = "smollm2-135m",
    task: TaskOption = "arithmetic",
    method: MethodOption = "grpo",
    settings: SetOption = None,
    as_json: JsonOption = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="A page of the defaults, without presets.")
    ] = False,
) -> None:
    """Every key that may be set, with its value under these presets and what it means."""
    from params.load import compose
    from params.schema import Params

    chosen = None if markdown else compose(model, task, method, settings or [])
    rows = list(described(Params, chosen))
    if section is not None:
        known = rows
        rows = [row for row in known if f"{row.key}.".startswith(f"{section}.")]
        if not rows:
            names = {
                name for row in known for name in itertools.accumulate(row.key.split("."), "{}.{}".format)
            }
            raise BadInput(f"{section}: no such key{nearest(section, names)}")
    if markdown:
        print(page(rows), end="")
    elif as_json:
        for row in rows:
            print(json.dumps({"key": row.key, "value": plain(row.value), "meaning": row.meaning}))
    else:
        width = max(len(row.key) for row in rows)
        for row in rows:
            print(f"{row.key:{width}}  {shown(row.value)}")
            if row.meaning:
                print(f"{'':{width}}    {row.meaning}")


def page(rows: Sequence[Described]) -> str:
    """A table for each section, as Markdown."""
    parts = [HEAD]
    for name, group in itertools.groupby(sorted(rows, key=lambda row: "." in row.key), _section):
        heading = f"## `{name}`" if name else "## The run"
        lines = [f"| `{row.key}` | {_cell(shown(row.value))} | {_cell(row.meaning)} |" for row in group]
        parts.append("\n".join([heading, "", "| key | default | meaning |", "|---|---|---|", *lines, ""]))
    return "\n".join(parts)


def _section(row: Described) -> str:
    return row.key.partition(".")[0] if "." in row.key else ""


def shown(value: Any) -> str:
    """A value as one would write it after ``--set``."""
    if value is NEEDED:
        return "(needed)"
    made = plain(value)
    return made if isinstance(made, str) else json.dumps(made, ensure_ascii=False)


def _cell(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")
