"""The environments of episodes, seen from a stage: each in a process of its own, all asked side by side."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from dataclasses import asdict
from typing import Any

from params.base import BadInput, Choice
from params.episode import Episode
from tasks.core.errors import StageFailure
from tasks.core.json_process import JsonProcess, ProcessFailure, environment
from tasks.environments.base import Problem
from tasks.environments.find import chosen_environment

START_SECONDS = 120.0
SPARE_SECONDS = 60.0
"""Beyond the time of a call, for the process that passes messages on."""


class Pool:
    """Asks environments by the numbers of their episodes; answers come in any order.

    ``tools`` are those of the class, as chat templates read them; none where it is not written as TRL's.
    """

    def __init__(self, choice: Choice, limits: Episode, fenced: bool) -> None:
        """Raises ``BadInput`` for a class that cannot be imported or does not take its options."""
        chosen_environment(choice)
        self._limits = limits
        options, how = json.dumps(choice.model_extra or {}), "fenced" if fenced else "template"
        given = [choice.name, options, limits.model_dump_json(), how, str(os.getpid())]
        self._process = JsonProcess(
            "environments",
            [sys.executable, "-P", "-m", "tasks.environments.worker", *given],
            environment(OMP_NUM_THREADS="1", PYTHONHASHSEED="0"),
        )
        said = self._receive(START_SECONDS)
        if "refused" in said:
            self.close()
            raise BadInput(said["refused"])
        self.tools: list[dict[str, Any]] = said["tools"]

    def start(self, name: int, problem: Problem) -> None:
        """Have an episode begin; the answer holds ``said``, what is to stand behind the user's message."""
        facts = asdict(problem)
        facts["folder"] = None if problem.folder is None else str(problem.folder.resolve())
        self._send({"id": name, "do": "start", "problem": facts})

    def step(self, name: int, said: str, raw: str) -> None:
        """Hand a turn on, without and with its special tokens; the answer holds ``messages``, ``reward``,
        ``done`` and ``calls``, and where it is done ``total`` and ``answer``."""
        self._send({"id": name, "do": "step", "said": said, "raw": raw})

    def finish(self, name: int) -> None:
        """Ask for the reward of an episode that ended at a limit; the answer holds ``total`` and ``answer``,
        what is to be judged."""
        self._send({"id": name, "do": "finish"})

    def end(self, name: int) -> None:
        """Let an episode's environment go; there is no answer."""
        self._send({"id": name, "do": "end"})

    def answer(self, seconds: float = math.inf) -> tuple[int, dict[str, Any]] | None:
        """The next answer, and whose it is, or None where none comes in ``seconds``; ``failed``, ``time`` or
        ``environment``, and ``why`` for one that failed. Asked only while answers are due. Raises
        ``StageFailure`` where all are gone."""
        patience = self._limits.call_seconds + SPARE_SECONDS
        if not self._process.ready(min(seconds, patience)) and time.monotonic() - self._heard < patience:
            return None
        said = self._receive(SPARE_SECONDS)
        return said.pop("id"), said

    def close(self) -> None:
        """End every environment."""
        self._process.close(0.0)

    def _send(self, message: dict[str, Any]) -> None:
        self._heard = time.monotonic()
        try:
            self._process.send(message, SPARE_SECONDS)
        except ProcessFailure as failure:
            raise StageFailure(str(failure)) from None

    def _receive(self, seconds: float) -> dict[str, Any]:
        try:
            said: dict[str, Any] = self._process.receive(seconds)
        except ProcessFailure as failure:
            raise StageFailure(str(failure)) from None
        self._heard = time.monotonic()
        return said
