"""Calls of tools: what a tool is, as chat templates read it, and which calls a text of a model's holds."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}
TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
MISTRAL = re.compile(r"\[TOOL_CALLS\]\s*(.*)", re.DOTALL)
FENCED = re.compile(r"```([\w-]+)[ \t]*\n(.*?)(?:\n```|```|\Z)", re.DOTALL)
ARGUMENT = re.compile(r"^\s+(\w+)\s*(?:\([^)]*\))?\s*:\s*(.+)$", re.MULTILINE)
MOST = 16
"""Calls of one turn."""


@dataclass(frozen=True)
class Call:
    """One call, or what is wrong with it."""

    name: str
    arguments: dict[str, Any]
    wrong: str | None = None


def schema(name: str, tool: Callable[..., Any]) -> dict[str, Any]:
    """A tool as chat templates read it, by its signature and its docstring (Google's style)."""
    text = inspect.getdoc(tool) or name
    what, _, rest = text.partition("Args:")
    said = dict(ARGUMENT.findall("\n" + rest.partition("Returns:")[0]))
    hints = get_type_hints(tool)
    properties, needed = {}, []
    for each in inspect.signature(tool).parameters.values():
        kind = hints.get(each.name, str)
        found = next((TYPES[k] for k in (kind, *get_args(kind)) if k in TYPES), "string")
        properties[each.name] = {"type": found, "description": said.get(each.name, "").strip()}
        if each.default is each.empty:
            needed.append(each.name)
    parameters = {"type": "object", "properties": properties, "required": needed}
    facts = {"name": name, "description": " ".join(what.split()), "parameters": parameters}
    return {"type": "function", "function": facts}


def described(tools: Sequence[dict[str, Any]]) -> str:
    """Tools and how to call them by fenced blocks, as a system message."""
    lines = ["You can call tools: write a block that begins with ``` and the tool's name, and end your turn."]
    for tool in tools:
        facts = tool["function"]
        names = list(facts["parameters"]["properties"])
        body = names[0].upper() if len(names) == 1 else json.dumps(dict.fromkeys(names, "..."))
        lines.append(f"{facts['description']}\n```{facts['name']}\n{body}\n```")
    return "\n".join(lines)


def calls_in(text: str, raw: str, tools: Sequence[dict[str, Any]], fenced: bool) -> list[Call]:
    """The calls of a turn in order: ``text`` without special tokens, ``raw`` with them.

    By the template: ``<tool_call>`` blocks (Hermes, Qwen), ``[TOOL_CALLS]`` (Mistral), or a turn that is one
    JSON object with a tool's name (Llama). Fenced: blocks with a tool's name.
    """
    known = {tool["function"]["name"]: tool["function"]["parameters"]["properties"] for tool in tools}
    if fenced:
        blocks = [(name, body) for name, body in FENCED.findall(text) if name in known]
        return [_fenced(name, body, list(known[name])) for name, body in blocks[:MOST]]
    tagged = TAGGED.findall(raw)
    if tagged:
        return [_call(body, known) for body in tagged[:MOST]]
    listed = MISTRAL.search(raw)
    if listed:
        found = _json(listed.group(1).partition("</s>")[0].strip())
        return [_of(each, known) for each in (found if isinstance(found, list) else [found])][:MOST]
    stripped = text.strip()
    alone = _json(stripped) if stripped.startswith("{") else None
    name = alone.get("name") if isinstance(alone, dict) else None
    return [_of(alone, known)] if isinstance(name, str) and name in known else []


def _fenced(name: str, body: str, arguments: list[str]) -> Call:
    if len(arguments) == 1:
        return Call(name, {arguments[0]: body.strip()})
    found = _json(body) if body.strip() else {}
    return Call(name, found) if isinstance(found, dict) else Call(name, {}, "expected a JSON object")


def _call(body: str, known: dict[str, Any]) -> Call:
    return _of(_json(body.strip()), known)


def _of(found: Any, known: dict[str, Any]) -> Call:
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return Call("", {}, "expected a JSON object with name and arguments")
    name, given = found["name"], found.get("arguments", found.get("parameters", {}))
    given = _json(given) if isinstance(given, str) else given
    if name not in known:
        return Call(name, {}, f"no tool '{name[:40]}'; there are {', '.join(known)}")
    return Call(name, given) if isinstance(given, dict) else Call(name, {}, "expected arguments by name")


def _json(text: str) -> Any:
    """What it says; None for what is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
