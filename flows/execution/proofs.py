"""What a run promises, tried: killed anywhere, damaged anywhere or driven by DVC, it ends in the same bytes.

Each trial is a small run in a workspace of its own, through the command line, against one that nothing
happened to.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from flows.execution.runner import run_directory
from tasks.artefacts.artefact import EVERYTHING, MANIFEST, Artefact
from tasks.artefacts.record import Record
from tasks.core.errors import StageFailure

NAME = "it"
SMALL = (
    *("model=nano", "task=sums", "method=dyjr", "engine.name=transformers", "model.warm_start_steps=40"),
    *("rounds=2", "threads=1", "task.train_count=64", "task.held_out_count=8"),
    *("rollout.problems_per_round=4", "rollout.samples_per_problem=4", "rollout.max_response_tokens=12"),
    "evaluate.bootstrap_samples=50",
)
"""A whole run in seconds: presets and settings."""


@dataclass(frozen=True)
class Trial:
    """One thing that happened to a run."""

    what: str
    """In words: ``killed in update after 0.4 s``."""
    compared: int
    """Artefacts that were compared with those of the run that nothing happened to."""
    differ: tuple[str, ...]
    """The places of those that are not the same."""
    more: str = ""
    """What else is wrong, in words."""

    @property
    def holds(self) -> bool:
        """Whether everything is as it was promised."""
        return self.compared > 0 and not self.differ and not self.more


class Place:
    """A workspace in which small runs are made."""

    def __init__(self, root: Path, settings: Sequence[str]) -> None:
        self.root = root
        root.mkdir(parents=True)
        presets = {pair.partition("=")[0]: pair.partition("=")[2] for pair in SMALL[:3]}
        chosen = [pair for pair in settings if pair.partition("=")[0] in presets]
        presets |= dict(pair.split("=", 1) for pair in chosen)
        others = [*SMALL[3:], *(pair for pair in settings if pair not in chosen)]
        self.words = [f"--{name}={value}" for name, value in presets.items()]
        self.words += [f"--set={pair}" for pair in others]
        self._environment = {**os.environ, "OSTINATO_HOME": str(root), "OMP_NUM_THREADS": "1"}
        self._environment["DVC_NO_ANALYTICS"] = "1"

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command of ostinato, in a session of its own."""
        return self._process(sys.executable, "-m", "flows.cli", *words)

    def run(self) -> list[dict[str, Any]]:
        """The run from where it is to its end; its events. Raises ``StageFailure``."""
        return list(
            _events(self._ended(self.start("run", "--name", NAME, "--json", *self.words)).splitlines())
        )

    def dvc(self) -> None:
        """The same by ``dvc repro``. Raises ``StageFailure``."""
        self._ended(self._process(sys.executable, "-m", "dvc", "init", "-q", "--no-scm"))
        self._ended(self.start("dvc", "--name", NAME, *self.words))
        self._ended(self._process(sys.executable, "-m", "dvc", "repro"))

    def made(self) -> dict[str, Artefact]:
        """The artefacts of the run by place, each checked byte by byte, as far as ``keep`` left it."""
        directory, steps = run_directory(self.root, NAME), Record.read(run_directory(self.root, NAME)).steps
        return {step.place: Artefact.open(directory / step.place, lacking=EVERYTHING) for step in steps}

    def _process(self, *command: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self._environment,
            stdout=pipe,
            stderr=pipe,
            text=True,
            start_new_session=True,
        )

    def _ended(self, process: subprocess.Popen[str]) -> str:
        out, err = process.communicate()
        if process.returncode:
            raise StageFailure(
                f"{self.root}: a small run ended with {process.returncode}: {err.strip()[-300:]}"
            )
        return out


def resume(folder: Path, settings: Sequence[str], seed: int, tell: Callable[[str], None]) -> Iterator[Trial]:
    """Kill a run in each of its stages at a random moment, each time go on, and compare at the end."""
    whole = Place(folder / "whole", settings)
    tell("a run that nothing happens to")
    whole.run()
    steps = Record.read(run_directory(whole.root, NAME)).steps
    seconds = {step.stage: step.seconds for step in steps}
    killed, chance, told = Place(folder / "killed", settings), random.Random(seed), []
    for stage, most in seconds.items():
        delay = chance.random() * most
        told.append(f"killed in {stage} after {delay:.2f} s")
        tell(told[-1])
        _kill_inside(killed.start("run", "--name", NAME, "--json", *killed.words), stage, delay)
    tell("the run goes on to its end")
    killed.run()
    left = list((killed.root / ".ostinato" / "building").iterdir())
    wrong = "half-made artefacts are left" if left else ""
    before, after = whole.made(), killed.made()
    if any(before[place].dropped != after[place].dropped for place in before.keys() & after.keys()):
        wrong = "keep has dropped other files"
    yield _compared("; ".join(told), before, after, wrong)


def cache(folder: Path, settings: Sequence[str], seed: int, tell: Callable[[str], None]) -> Iterator[Trial]:
    """Flip a bit in a file of every artefact, go on, and compare; then the same with nothing flipped."""
    place, chance = Place(folder / "harmed", settings), random.Random(seed)
    tell("a run that nothing happens to")
    place.run()
    before = place.made()
    found = _artefacts(place)
    tell(f"a bit is flipped in each of {len(found)} artefacts")
    for path in found:
        file = chance.choice([p for p in sorted(path.rglob("*")) if p.is_file() and p.stat().st_size])
        content = bytearray(file.read_bytes())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        file.write_bytes(bytes(content))
    said = place.run()
    noticed = sum(each["event"] == "note" and "making it again" in each["text"] for each in said)
    missed = f"{noticed} of {len(found)} damages were noticed" if noticed != len(found) else ""
    yield _compared(f"a bit flipped in each of {len(found)} artefacts", before, place.made(), missed)
    tell("the same command once more")
    again = _made_anew(place.run())
    yield _compared("the same command again", before, place.made(), again)


def drivers(folder: Path, settings: Sequence[str], seed: int, tell: Callable[[str], None]) -> Iterator[Trial]:
    """Run through Prefect and through DVC, and compare; then Prefect takes over what DVC made."""
    prefect, dvc = Place(folder / "prefect", settings), Place(folder / "dvc", settings)
    tell("through Prefect")
    prefect.run()
    tell("through DVC, a process a stage")
    dvc.dvc()
    yield _compared("through DVC, against Prefect", prefect.made(), dvc.made(), "")
    tell("through Prefect, where DVC has run")
    again = _made_anew(dvc.run())
    yield _compared("Prefect takes over what DVC made", prefect.made(), dvc.made(), again)


Proof = Callable[[Path, Sequence[str], int, Callable[[str], None]], Iterator[Trial]]
PROOFS: Mapping[str, Proof] = {"resume": resume, "cache": cache, "drivers": drivers}


def _compared(what: str, before: Mapping[str, Artefact], after: Mapping[str, Artefact], more: str) -> Trial:
    places = {*before, *after}
    same = {place for place in {*before} & {*after} if before[place].digest == after[place].digest}
    return Trial(what, len(places), tuple(sorted(places - same)), more)


def _made_anew(events: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong where stages were made that should have been found; empty where none was."""
    again = sum(each["event"] == "stage" and each["outcome"] == "made" for each in events)
    return f"made {again} stages anew" if again else ""


def _artefacts(place: Place) -> list[Path]:
    return sorted(path.parent for path in (place.root / "artefacts").glob(f"*/{MANIFEST}"))


def _events(lines: Iterator[str] | Sequence[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith("{"):
            yield json.loads(line)


def _kill_inside(process: subprocess.Popen[str], stage: str, delay: float) -> None:
    """SIGKILL a run with all that descends from it, ``delay`` seconds after that stage began."""
    assert process.stdout is not None
    for said in _events(iter(process.stdout.readline, "")):
        if said["event"] == "begin" and said["stage"] == stage:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=delay)
            break
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.pid, signal.SIGKILL)
    process.wait()
