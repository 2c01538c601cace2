"""Calls of a user's reward function as its own trainer would call it, and what it returns as verdicts."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from tasks.core.numbers import LARGEST
from tasks.rewards.base import Group, Verdict
from tasks.rewards.signatures import Signature, StyleName

Function = Callable[..., Any]


def _ours(
    function: Function, signature: Signature, more: Mapping[str, Any], messages: Any, name: str, group: Group
) -> list[Verdict]:
    verdicts = []
    for answer in group.answers:
        found = _run(function, gold=group.gold, answer=answer.text, **more)
        verdict = found if isinstance(found, Verdict) else Verdict(found)
        if isinstance(found, Verdict) and found.reward is None:
            verdicts.append(Verdict(None, str(found.error or f"{name} gave no reward and no reason")))
            continue
        judged = _number(verdict.reward, name, "a number or a Verdict")
        said = judged.error if judged.reward is None else verdict.error
        notes = plain(verdict.notes) if isinstance(verdict.notes, Mapping) else None
        verdicts.append(Verdict(judged.reward, None if said is None else str(said), notes=notes))
    return verdicts


def _verl(
    function: Function, signature: Signature, more: Mapping[str, Any], messages: Any, name: str, group: Group
) -> list[Verdict]:
    """Answer by answer; what a mapping holds beside its score are notes."""
    columns = group.columns
    model = columns.get("reward_model")
    offered = {
        "data_source": columns.get("data_source", group.source),
        "ground_truth": model.get("ground_truth", group.gold) if isinstance(model, dict) else group.gold,
        "extra_info": columns.get("extra_info") or {},
        **more,
    }
    verdicts = []
    for answer in group.answers:
        values = {"solution_str": answer.said, **offered}
        taken = {key: values[key] for key in values if key in signature.names or signature.rest}
        found = _run(function, **taken)
        if isinstance(found, Mapping):
            if "score" not in found:
                said = ", ".join(map(str, found))[:60]
                verdicts.append(Verdict(None, f"{name} returned no 'score' but {said or 'nothing'}"))
                continue
            rest = {str(key): plain(value) for key, value in found.items() if key != "score"}
            judged = _number(found["score"], name, "a number as score")
            verdicts.append(Verdict(judged.reward, judged.error, notes=rest or None))
        else:
            verdicts.append(_number(found, name, "a number or a mapping with score"))
    return verdicts


def _trl(
    function: Function,
    signature: Signature,
    more: Mapping[str, Any],
    messages: bool | None,
    name: str,
    group: Group,
) -> list[Verdict]:
    """All at once. ``trainer_state`` has ``global_step`` alone, the round."""
    count = len(group.answers)
    columns = {"question": group.question, "answer": group.gold, **group.columns}
    prompt = columns.pop("prompt", None)
    told = _is_messages(prompt) if messages is None else messages
    if told and not _is_messages(prompt):
        prompt = [{"role": "user", "content": group.prompt}]
    texts = [answer.said for answer in group.answers]
    ids = [list(answer.tokens) for answer in group.answers]
    notes: list[dict[str, Any]] = [{} for _ in group.answers]
    offered = {
        **{key: [value] * count for key, value in columns.items()},
        "prompts": [prompt if told or isinstance(prompt, str) else group.prompt] * count,
        "completions": [[{"role": "assistant", "content": text}] for text in texts] if told else texts,
        "completion_ids": ids,
        "trainer_state": SimpleNamespace(global_step=group.round),
        "log_extra": partial(_note_each, notes),
        "log_metric": partial(_note_all, notes),
        **more,
    }
    if "completions_ids" in signature.names:
        offered["completions_ids"] = ids
    return _several(_run(function, **signature.offered(offered)), notes, name)


def _openrlhf(
    function: Function, signature: Signature, more: Mapping[str, Any], messages: Any, name: str, group: Group
) -> list[Verdict]:
    """All at once; ``extra_logs`` are notes."""
    count = len(group.answers)
    offered = {
        "queries": [group.prompt + answer.said for answer in group.answers],
        "prompts": [group.prompt] * count,
        "labels": [group.columns.get("label", group.gold)] * count,
        **more,
    }
    found = _run(function, **signature.offered(offered))
    notes: list[dict[str, Any]] = [{} for _ in group.answers]
    if isinstance(found, Mapping):
        for key, value in dict(found.get("extra_logs") or {}).items():
            told = plain(value)
            if isinstance(told, list) and len(told) == count:
                _note_each(notes, key, told)
            else:
                _note_all(notes, key, told)
        found = found.get("rewards")
    return _several(found, notes, name)


CALLS: dict[StyleName, Callable[..., Sequence[Verdict]]] = {
    "ostinato": _ours,
    "trl": _trl,
    "verl": _verl,
    "openrlhf": _openrlhf,
}
"""By style; each called with the function, its signature, further arguments, whether it wants messages, its
name for messages, and the group."""


def plain(value: Any) -> Any:
    """A value as JSON, tensors and arrays as lists; what is none of it as text."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _run(function: Function, **arguments: Any) -> Any:
    """What it returns, at once or when it is awaited."""
    found = function(**arguments)
    return asyncio.run(_awaited(found)) if inspect.isawaitable(found) else found


async def _awaited(found: Any) -> Any:
    return await found


def _several(found: Any, notes: list[dict[str, Any]], name: str) -> list[Verdict]:
    """A verdict for each; None means that the reward does not apply. Raises ``ValueError``."""
    rewards = found.tolist() if hasattr(found, "tolist") else found
    if not isinstance(rewards, list | tuple):
        raise ValueError(f"{name} returned {_kind(found)}; expected a list of {len(notes)} numbers")
    if len(rewards) != len(notes):
        raise ValueError(f"{name} returned {len(rewards)} rewards for {len(notes)} answers")
    judged = [Verdict(None) if each is None else _number(each, name, "a number or None") for each in rewards]
    return [
        Verdict(one.reward, one.error, notes=note or None) for one, note in zip(judged, notes, strict=True)
    ]


def _number(value: Any, name: str, expected: str) -> Verdict:
    if hasattr(value, "tolist"):
        value = value.tolist()
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return Verdict(None, f"{name} returned {_kind(value)}; expected {expected}")
    if isinstance(value, str | bytes) or not math.isfinite(number):
        return Verdict(None, f"{name} returned {_kind(value)}; expected a finite number")
    if abs(number) > LARGEST:
        return Verdict(None, f"{name} returned {number:g}; expected a number that float32 holds")
    return Verdict(number)


def _note_each(notes: list[dict[str, Any]], column: str, values: Any) -> None:
    """TRL's ``log_extra``: a value for each answer."""
    told = plain(values)
    if not isinstance(told, list) or len(told) != len(notes):
        raise ValueError(f"log_extra('{column}') was given {_kind(values)}; expected a list of {len(notes)}")
    for note, value in zip(notes, told, strict=True):
        note[str(column)] = value


def _note_all(notes: list[dict[str, Any]], name: str, value: Any) -> None:
    """TRL's ``log_metric``: a figure of the whole call."""
    for note in notes:
        note[str(name)] = plain(value)


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(e, dict) and "role" in e for e in value)


def _kind(value: object) -> str:
    return repr(value)[:40] if isinstance(value, float) else f"a {type(value).__name__}"
