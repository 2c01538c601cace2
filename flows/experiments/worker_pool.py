"""The worker processes of a comparison: runs are handed out, events come back, a dead worker is replaced."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.execution.runner import spelled
from params.comparison import Trial
from tasks.core.device import VISIBLE, visible_gpus
from tasks.core.json_process import JsonProcess, ProcessFailure, environment

Event = dict[str, Any]
ELSEWHERE = "elsewhere"
"""How an attempt at a run ends whose next stage another machine makes."""
PATIENCE = 2.0
"""For how many leases to wait in such a run, once no other run is left to begin: a machine that died is found
out after one."""
COMMAND = (sys.executable, "-m", "flows.experiments.worker")


@dataclass
class Run:
    """A run of the study, as far as it is."""

    trial: Trial
    outcome: str = "waiting"
    """``waiting``, ``running``, and in the end ``finished``, ``diverged`` or ``failed``."""
    why: str = ""
    """Of one that is not finished, in one line."""
    stages: dict[str, str] = field(default_factory=dict)
    """By place, whether the stage was ``made`` or ``cached``."""
    began: float = 0.0
    seconds: float = 0.0

    @property
    def made(self) -> int:
        """Stages that were made."""
        return list(self.stages.values()).count("made")

    @property
    def cached(self) -> int:
        """Stages that were found."""
        return len(self.stages) - self.made

    def take(self, event: Event) -> None:
        """Note what happened."""
        if event["event"] == "begin":
            self.outcome, self.began = "running", time.monotonic()
        elif event["event"] == "stage":
            self.stages.setdefault(event["place"], event["outcome"])
        elif event["event"] == "end":
            away = event["outcome"] == ELSEWHERE
            self.outcome, self.why = ("waiting", "") if away else (event["outcome"], event["why"])
            self.seconds += time.monotonic() - self.began

    def facts(self) -> dict[str, Any]:
        """As ``summary.json`` and ``--json`` tell it."""
        told = {"name": self.trial.name, "arm": self.trial.arm, "seed": self.trial.seed}
        counts = {"made": self.made, "cached": self.cached, "seconds": round(self.seconds, 2)}
        return {**told, "outcome": self.outcome, "why": self.why, **counts}


class Turns:
    """Which run is next. One that another machine is at comes again when no other is left to begin."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._fresh, self._later = deque(runs), deque[Run]()
        self._lock = threading.Lock()

    def next(self) -> tuple[Run, float] | None:
        """A run, and for how many leases to wait for another machine in it; None: there is none left."""
        with self._lock:
            if self._fresh:
                return self._fresh.popleft(), 0.0
            return (self._later.popleft(), PATIENCE) if self._later else None

    def again(self, run: Run) -> None:
        """Another machine is at it."""
        with self._lock:
            self._later.append(run)


class WorkerPool:
    """Makes runs in ``count`` processes, each with one thread here that feeds it."""

    def __init__(self, root: Path, name: str, runs: Sequence[Run], count: int) -> None:
        self._root = root
        self._logs = root / ".ostinato" / "comparisons" / name
        self._logs.mkdir(parents=True, exist_ok=True)
        self._turns = Turns(runs)
        self._events: queue.SimpleQueue[tuple[Run, Event] | None] = queue.SimpleQueue()
        self._processes: dict[int, JsonProcess] = {}
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._serve, args=(index,), daemon=True, name=f"lab-{index}")
            for index in range(min(count, len(runs)))
        ]

    def __enter__(self) -> WorkerPool:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        for process in list(self._processes.values()):
            process.kill()
        for thread in self._threads:
            thread.join()

    def events(self) -> Iterator[tuple[Run, Event]]:
        """What happens, as it happens and already noted in its run, until every run has its ``end``."""
        ended = 0
        while ended < len(self._threads):
            item = self._events.get()
            if item is None:
                ended += 1
            else:
                run, event = item
                run.take(event)
                yield run, event

    def _serve(self, index: int) -> None:
        """One thread: give its process one run after the other. However it ends, it says so: ``events`` waits
        for that."""
        try:
            while not self._stopping:
                turn = self._turns.next()
                if turn is None:
                    break
                run, patience = turn
                for event in self._events_of(index, run.trial, patience):
                    self._events.put((run, event))
                    if event["event"] == "end" and event["outcome"] == ELSEWHERE:
                        self._turns.again(run)
            process = self._processes.get(index)
            if process is not None:
                process.close(0.0)
        finally:
            self._events.put(None)

    def _events_of(self, index: int, trial: Trial, patience: float) -> Iterator[Event]:
        """``_make``; a run for which the system has no process or file has failed, and the next may not."""
        try:
            yield from self._make(index, trial, patience)
        except OSError as error:
            yield {"event": "end", "outcome": "failed", "why": f"the system refused its process: {error}"}

    def _make(self, index: int, trial: Trial, patience: float) -> Iterator[Event]:
        yield {"event": "begin"}
        process = self._processes.get(index)
        if process is None or not process.alive:
            if process is not None:
                process.close(0.0)
            process = self._processes[index] = self._start(index)
        if self._stopping:
            process.kill()
        try:
            process.send(order(trial, patience))
            ended = False
            while not ended:
                event = process.receive()
                ended = event["event"] == "end"
                yield event
        except ProcessFailure as failure:
            yield self._died(index, process, failure)

    def _start(self, index: int) -> JsonProcess:
        self._log(index).unlink(missing_ok=True)
        command = [*COMMAND, str(self._root), str(os.getpid())]
        settings, gpus = {"OMP_NUM_THREADS": "1"}, visible_gpus()
        if gpus:
            settings[VISIBLE] = gpus[index % len(gpus)]
        return JsonProcess(f"worker {index}", command, environment(**settings), self._log(index))

    def _died(self, index: int, process: JsonProcess, failure: ProcessFailure) -> Event:
        process.close(0.0)
        last = f": {failure.last_words}" if failure.last_words else ""
        kept = self._logs / f"died-{process.pid}.log"
        if not self._stopping:
            self._log(index).rename(kept)
        why = f"its process died ({failure.ended}){last} (see {kept})"
        return {"event": "end", "outcome": "failed", "why": why}

    def _log(self, index: int) -> Path:
        return self._logs / f"worker-{index}.log"


def workers_here() -> int:
    """How many runs this machine should make at a time: one a GPU, two on processors."""
    return len(visible_gpus()) or 2


def order(trial: Trial, patience: float) -> dict[str, Any]:
    """A run as a worker takes it; ``patience``: for how many leases to wait for another machine."""
    model, task, method = trial.presets
    named = ["--model", model, "--task", task, "--method", method, "--name", trial.name]
    settings = [part for setting in trial.settings for part in ("--set", setting)]
    return {
        "name": trial.name,
        "params": trial.params.model_dump(mode="json"),
        "budget": trial.budget.model_dump() if trial.budget else None,
        "patience": patience,
        "command": spelled(["run", *named, *settings]),
    }
