"""The worker processes of a laboratory: runs are handed out, events come back, a dead worker is replaced."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.execution.runner import spelled
from params.comparison import Trial

Event = dict[str, Any]
ROOT = Path(__file__).parents[2]
PATIENCE = 10.0
"""Seconds that a process may take to end once its output has ended."""


@dataclass
class Run:
    """A run of the study, as far as it is."""

    trial: Trial
    outcome: str = "waiting"
    """``waiting``, ``running``, and in the end ``finished``, ``diverged`` or ``failed``."""
    why: str = ""
    """Of one that is not finished, in one line."""
    made: int = 0
    """Stages that were made."""
    cached: int = 0
    """Stages that were found."""
    began: float = 0.0
    seconds: float = 0.0

    def take(self, event: Event) -> None:
        """Note what happened."""
        if event["event"] == "begin":
            self.outcome, self.began = "running", time.monotonic()
        elif event["event"] == "stage":
            made = event["outcome"] == "made"
            self.made, self.cached = self.made + made, self.cached + (not made)
        elif event["event"] == "end":
            self.outcome, self.why = event["outcome"], event["why"]
            self.seconds = time.monotonic() - self.began

    def facts(self) -> dict[str, Any]:
        """As ``summary.json`` and ``--json`` tell it."""
        told = {"name": self.trial.name, "arm": self.trial.arm, "seed": self.trial.seed}
        counts = {"made": self.made, "cached": self.cached, "seconds": round(self.seconds, 2)}
        return {**told, "outcome": self.outcome, "why": self.why, **counts}


class Crew:
    """Makes runs in ``count`` processes, each with one thread here that feeds it.

    The thread, not the caller, starts the process: on Linux it dies with the thread that started it.
    """

    def __init__(self, root: Path, name: str, runs: Sequence[Run], count: int) -> None:
        self._root = root
        self._logs = root / ".ostinato" / "comparisons" / name
        self._logs.mkdir(parents=True, exist_ok=True)
        self._waiting: queue.SimpleQueue[Run] = queue.SimpleQueue()
        for run in runs:
            self._waiting.put(run)
        self._events: queue.SimpleQueue[tuple[Run, Event] | None] = queue.SimpleQueue()
        self._processes: dict[int, subprocess.Popen[str]] = {}
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._serve, args=(index,), daemon=True, name=f"lab-{index}")
            for index in range(min(count, len(runs)))
        ]

    def __enter__(self) -> Crew:
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
        """One thread: give its process one run after the other."""
        while not self._stopping:
            try:
                run = self._waiting.get_nowait()
            except queue.Empty:
                break
            for event in self._make(index, run.trial):
                self._events.put((run, event))
        process = self._processes.get(index)
        if process is not None:
            process.kill()
            process.communicate()
        self._events.put(None)

    def _make(self, index: int, trial: Trial) -> Iterator[Event]:
        process = self._processes.get(index)
        if process is None or process.poll() is not None:
            process = self._processes[index] = self._start(index)
        if self._stopping:
            process.kill()
        assert process.stdin is not None
        assert process.stdout is not None
        yield {"event": "begin"}
        try:
            process.stdin.write(json.dumps(order(trial)) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            yield self._died(index, process)
            return
        for line in process.stdout:
            event = json.loads(line)
            yield event
            if event["event"] == "end":
                return
        yield self._died(index, process)

    def _start(self, index: int) -> subprocess.Popen[str]:
        search = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with self._log(index).open("w") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "flows.experiments.worker", str(self._root), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # an interrupt is for us: we end them
            )

    def _died(self, index: int, process: subprocess.Popen[str]) -> Event:
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        said = self._log(index).read_text(errors="replace").strip().splitlines()
        last = f": {said[-1].strip()}" if said else ""
        kept = self._logs / f"died-{process.pid}.log"
        if not self._stopping:
            self._log(index).rename(kept)
        return {"event": "end", "outcome": "failed", "why": f"its process died ({how}){last} (see {kept})"}

    def _log(self, index: int) -> Path:
        return self._logs / f"worker-{index}.log"


def order(trial: Trial) -> dict[str, Any]:
    """A run as a worker takes it."""
    model, task, method = trial.presets
    named = ["--model", model, "--task", task, "--method", method, "--name", trial.name]
    settings = [part for setting in trial.settings for part in ("--set", setting)]
    return {
        "name": trial.name,
        "params": trial.params.model_dump(mode="json"),
        "budget": trial.budget.model_dump() if trial.budget else None,
        "command": spelled(["run", *named, *settings]),
    }
