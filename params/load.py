"""Parameters from presets: ``base`` under a model, a task and a method, under ``--set key=value``."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import yaml

from params.base import BadInput, nearest, validate
from params.layers import merge
from params.schema import Params

PRESETS = Path(__file__).parent
KINDS = ("models", "tasks", "methods")
_SHORT = {"problems": ("task",), "reward": ("task",), "prompt": ("task",), "sets": ("evaluate",)}
"""First parts of a setting's key that are short for a longer one: ``problems.path``."""


def presets(kind: str) -> list[str]:
    """The names of the presets of one kind: ``models``, ``tasks`` or ``methods``."""
    return sorted(path.stem for path in (PRESETS / kind).glob("*.yaml"))


def compose(model: str, task: str, method: str, settings: Iterable[str] = ()) -> Params:
    """Lay presets over each other, later ones winning, and check the result.

    ``model``, ``task`` and ``method`` name presets or YAML files of one's own; ``model`` may also be a
    folder or a hub name (anything with a slash). Raises ``BadInput``.
    """
    merged = read_yaml(PRESETS / "base.yaml")
    for kind, name in zip(KINDS, (model, task, method), strict=True):
        merged = merge(merged, _preset(kind, name), Params.model_fields)
    for setting in settings:
        if setting.strip().startswith("distil.") and not merged.get("distil"):
            raise BadInput(
                f"--set {setting}: method {method} has no phases to distil in; expected --method erpd or "
                "another of its presets, or distil={} before it"
            )
        merged = merge(merged, read_setting(setting), Params.model_fields)
    return validate(Params, merged)


def changed(params: Params, settings: Iterable[str]) -> Params:
    """Complete parameters with settings laid over them. Raises ``BadInput``."""
    merged = params.model_dump(mode="json")
    for setting in settings:
        merged = merge(merged, read_setting(setting), Params.model_fields)
    return validate(Params, merged)


def read_params(path: Path) -> Params:
    """Parameters from one complete file, such as the ``params.yaml`` that DVC tracks. Raises ``BadInput``."""
    try:
        return validate(Params, read_yaml(path))
    except BadInput as error:
        raise error if str(error).startswith(str(path)) else BadInput(f"{path}: {error}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises ``BadInput`` that names the file and the line."""
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path}: not text; expected YAML in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise BadInput(f"{path}{line}: {getattr(error, 'problem', None) or 'not valid YAML'}") from None
    if not isinstance(content or {}, dict):
        raise BadInput(f"{path}: expected keys and values, found a {type(content).__name__}")
    return content or {}


def _preset(kind: str, name: str) -> dict[str, Any]:
    if name in presets(kind):
        return read_yaml(PRESETS / kind / f"{name}.yaml")
    if Path(name).suffix in (".yaml", ".yml"):
        return read_yaml(Path(name))
    if kind == "models" and ("/" in name or Path(name).is_dir()):
        return {"model": {"source": name}}
    raise BadInput(f"--{kind[:-1]} {name}: no such preset{nearest(name, presets(kind))}")


def read_setting(text: str) -> dict[str, Any]:
    """``key.below=value`` as nested mappings, the value read as YAML. Raises ``BadInput``.

    ``problems.``, ``reward.`` and ``prompt.`` are short for ``task.problems.`` and so on, ``sets.`` for
    ``evaluate.sets.``.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BadInput(f"--set {text}: expected key=value, such as update.learning_rate=1e-4")
    path = [*_SHORT.get(key.strip().partition(".")[0], ()), *key.strip().split(".")]
    content = _value(text, value, _kinds(path))
    for part in reversed(path):
        content = {part: content}
    return dict(content)


def _value(text: str, value: str, kinds: set[Any]) -> Any:
    """What a person wrote, for a parameter of one of these types; text is taken as it stands."""
    written = value.strip()
    quoted = len(written) > 1 and written[0] == written[-1] and written[0] in "\"'"
    if str in kinds and not quoted:
        return None if NoneType in kinds and written in ("null", "~") else value
    try:
        content = _number(yaml.safe_load(value))
    except yaml.YAMLError:
        if kinds:
            raise BadInput(f"--set {text}: '{value}' is not a YAML value") from None
        return value
    # an option that only its part knows: "Answer: " is a text and no mapping
    return value if not kinds and isinstance(content, dict) and written[0] != "{" else content


def _kinds(path: list[str]) -> set[Any]:
    """The types that a parameter may have; none where only the part that it is an option of knows them."""
    here: Any = Params
    for part in path:
        section = next((kind for kind in _alternatives(here) if hasattr(kind, "model_fields")), None)
        if section is None or part not in section.model_fields:
            return set()
        here = section.model_fields[part].annotation
    return _alternatives(here)


def _alternatives(kind: Any) -> set[Any]:
    return set(get_args(kind)) if get_origin(kind) in (Union, UnionType) else {kind}


def _number(value: Any) -> Any:
    """YAML 1.1 reads ``1e-4`` as text; a person means the number."""
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value
