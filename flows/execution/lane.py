"""A process of a run's own in which the stages of one resource are made, beside those of the others.

It keeps what stages keep (engine, model, judge) from one to the next. The stage is the same function on the
same artefacts, so what it makes is the same.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.execution.overlap import Share
from params.base import BadInput
from params.errors import OstinatoError
from params.schema import Params
from tasks.core.errors import StageFailure
from tasks.core.json_process import JsonProcess, ProcessFailure, environment
from tasks.core.stage import Job

Tell = Callable[[str, int, int, dict[str, float]], None]


class GivenUp(OstinatoError):
    """The run ends before this stage is made."""


class Lane:
    """One process, started with its first stage."""

    def __init__(self, root: Path, scratch: Path, log: Path, share: Share) -> None:
        """``root``: the workspace; ``log``: where the process prints; ``share``: its part of the machine."""
        self._root, self._scratch, self._log, self._share = root, scratch, log, share
        self._process: JsonProcess | None = None
        self._given_up = threading.Event()

    def make(self, stage: str, params: Params, job: Job) -> dict[str, float]:
        """Have the stage of that name fill ``job.out``; what it measured of itself. ``params``: the whole
        run's, of which the stage takes its view. Raises what the stage raises, as far as that is ours, and
        ``StageFailure`` where the process ended."""
        order = {
            "do": "make",
            "stage": stage,
            "params": params.model_dump(mode="json"),
            "round": job.round,
            "inputs": {name: str(made.path.absolute()) for name, made in job.inputs.items()},
            "out": str(job.out.absolute()),
            "fingerprint": job.fingerprint,
            "answers": job.answers and str(job.answers.path.absolute()),
        }
        try:
            answer = self._ask(order, job.context.tell, job.context.note)
        except ProcessFailure as failure:
            if self._given_up.is_set():
                raise GivenUp(f"{stage}: given up") from None
            raise StageFailure(f"{stage} of round {job.round}: {failure}") from None
        measured: dict[str, float] = answer
        return measured

    def whole(self) -> None:
        """The artefact of the last stage is whole: see ``Context.whole``."""
        if self._process is not None and self._process.alive:
            self._process.send({"do": "whole"})

    def give_up(self) -> None:
        """End the process; a stage that is being made in it is not."""
        self._given_up.set()
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """End the process, and what its stages kept."""
        if self._process is not None:
            self._process.close()

    def _ask(self, order: dict[str, Any], tell: Tell, note: Callable[[str], None]) -> Any:
        process = self._started()
        process.send(order)
        while True:
            message = process.receive()
            match message:
                case {"tell": [activity, done, total, facts]}:
                    tell(activity, done, total, facts)
                case {"note": text}:
                    note(text)
                case {"bad_input": text}:
                    raise BadInput(text)
                case {"failed": text}:
                    raise StageFailure(text)
                case {"ok": answer}:
                    return answer
                case _:
                    raise StageFailure(f"{self._log}: {message!r} is no message of a stage")

    def _started(self) -> JsonProcess:
        if self._process is None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            self._process = JsonProcess(
                self._log.stem,
                [sys.executable, "-m", "flows.execution.lane_worker", str(os.getpid())],
                environment(),
                self._log,
            )
            self._process.send(
                {
                    "do": "open",
                    "root": str(self._root.absolute()),
                    "scratch": str(self._scratch.absolute()),
                    "threads": self._share.threads,
                    "cores": self._share.cores,
                }
            )
        return self._process
