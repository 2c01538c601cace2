"""For tests of a reward of one's own: it is judged as in a run, in a process of its own with its bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from params.base import Choice
from tasks.rewards.base import Verdict
from tasks.rewards.judge import Judge


def verdicts(
    reward: str,
    pairs: Iterable[tuple[str, str]],
    options: Mapping[str, Any] | None = None,
    root: Path | None = None,
) -> list[Verdict]:
    """What ``reward`` (``package.module:function`` or a name such as ``math``) says of each (gold, answer).

    ``options`` are those of ``task.reward``, such as ``timeout_seconds``; ``root`` is the directory of the
    problems, for a judge that reads it. Raises ``BadInput`` and ``JudgeFailure``.
    """
    judge = Judge(Choice.model_validate({"name": reward, **(options or {})}), root=root)
    try:
        return judge.judge(list(pairs))
    finally:
        judge.close()


def check(
    reward: str,
    cases: Iterable[tuple[str, str, float | None]],
    options: Mapping[str, Any] | None = None,
    root: Path | None = None,
) -> None:
    """Compare with the expected reward of each (gold, answer, expected); None where the reward is to fail.

    Raises ``AssertionError`` that lists every difference.
    """
    rows = list(cases)
    found = verdicts(reward, [(gold, answer) for gold, answer, _ in rows], options, root)
    wrong = [
        f"gold {gold!r}, answer {answer!r}: {verdict.reward} ({verdict.error}); expected {expected}"
        for (gold, answer, expected), verdict in zip(rows, found, strict=True)
        if verdict.reward != expected
    ]
    if wrong:
        raise AssertionError(f"{reward}: {len(wrong)} of {len(rows)} differ\n" + "\n".join(wrong))
