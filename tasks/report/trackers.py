"""A run's figures for TensorBoard, Weights & Biases, MLflow, Trackio or DVCLive, from what its stages wrote.

The files stay the source: a tracker gets each round from them when it has ended; nothing is read back.
``trackers.json`` in the run's directory says which rounds were told: a run that was interrupted goes on in
the same tracker's run. Addresses and keys are the tracker's own affair (``WANDB_API_KEY``,
``MLFLOW_TRACKING_URI``).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import secrets
import shutil
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from params.base import BadInput
from tasks.artefacts.artefact import write_json
from tasks.artefacts.record import Record
from tasks.core.addresses import shown

PROJECT = "ostinato"
MODULES = {
    "tensorboard": "tensorboardX",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "trackio": "trackio",
    "dvclive": "dvclive",
}
"""What a tracker is imported as, and installed as."""

STATE = "trackers.json"
"""In a run's directory: of each tracker its run, and what it was told."""

ANY = (ImportError, OSError, RuntimeError, ValueError, LookupError)
"""What any library may raise whose server, key or file is at fault."""
ERRORS = {
    "wandb": ("wandb.errors", "Error"),
    "mlflow": ("mlflow.exceptions", "MlflowException"),
    "trackio": ("httpx", "HTTPError"),
    "dvclive": ("dvclive.error", "DvcLiveError"),
}
"""The base of a tracker's own errors."""
LONGEST = 200
"""Characters of what it says."""
Note = Callable[[str], None]

Steps = dict[int, dict[str, float]]
"""Figures by name, by round."""


def check(names: Sequence[str]) -> None:
    """Raise ``BadInput`` for a tracker that is not installed, or that would change a person's repository."""
    for name in names:
        if importlib.util.find_spec(MODULES[name]) is None:
            raise BadInput(f"trackers: {name} is not installed; `pip install {MODULES[name]}` brings it")
    here = (Path.cwd(), *Path.cwd().parents)
    git = next((folder for folder in here if (folder / ".git").exists()), None)
    if "dvclive" in names and git and not any((folder / ".dvc").exists() for folder in here):
        raise BadInput(f"trackers: dvclive would begin a DVC repository in {git}; `dvc init` there first")


def _printed(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def track(directory: Path, names: Sequence[str], note: Note = _printed) -> None:
    """Hand every figure of the run in ``directory`` to these trackers."""
    with Trackers(directory, names, note) as trackers:
        trackers.tell()


class Trackers:
    """The trackers of a run, each opened when there is first something to tell. What troubles one is a note
    and not the end of a run: it is told the same again after the next round."""

    def __init__(self, directory: Path, names: Sequence[str], note: Note = _printed) -> None:
        """``note``: is told of the first trouble with each. Raises ``BadInput`` for one that is not
        installed."""
        check(names)
        self._directory, self._names, self._note = directory, names, note
        self._open: dict[str, Sink] = {}
        self._troubled: set[str] = set()

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._open):
            self._close(name)

    def tell(self, until: int | None = None) -> None:
        """Every round that has not been told yet, up to ``until`` or all.

        Where a round that was told has other stages by now, the tracker's run begins anew.
        """
        if not self._names:
            return
        record, states = Record.read(self._directory), self._states()
        current = {r: made for r, made in _stages(record).items() if until is None or r <= until}
        for name in self._names:
            state = states.get(name)
            if state is None or any(current.get(int(r), m) != m for r, m in state["told"].items()):
                self._close(name)
                states[name] = {"run": secrets.token_hex(4), "told": {}, "began": False}
        new = {name: [r for r in current if str(r) not in states[name]["told"]] for name in self._names}
        values = figures(self._directory, {round for rounds in new.values() for round in rounds})
        for name in self._names:
            if rounds := [round for round in values if round in new[name]]:
                with self._heard(name):
                    sink = self._sink(name, record, states[name])
                    for round in rounds:
                        sink.log(round, values[round])
                        states[name]["told"][str(round)] = current[round]
                write_json(self._directory / STATE, states)

    def _states(self) -> dict[str, Any]:
        path = self._directory / STATE
        return json.loads(path.read_text()) if path.is_file() else {}

    def _sink(self, name: str, record: Record, state: dict[str, Any]) -> Sink:
        if name not in self._open:
            self._open[name] = SINKS[name](self._directory, record, state)
        return self._open[name]

    def _close(self, name: str) -> None:
        if name in self._open:
            with self._heard(name):
                self._open.pop(name).close()

    @contextmanager
    def _heard(self, name: str) -> Iterator[None]:
        """A tracker that raises is noted once, and opened anew when it is next told something."""
        try:
            yield
        except _troubles(name) as trouble:
            if name not in self._troubled:
                said = " ".join(shown(str(trouble)).split())[:LONGEST]
                self._note(
                    f"trackers: {name}: {type(trouble).__name__}: {said}; the run goes on, and it is told "
                    "what it lacks after a later round, or when the run is started again"
                )
            self._troubled.add(name)
            self._close(name)


def _troubles(name: str) -> tuple[type[Exception], ...]:
    """What a tracker raises when it, its server, its key or its file is at fault."""
    module, base = ERRORS.get(name, ("", ""))
    with suppress(ImportError):
        own = getattr(importlib.import_module(module), base, None) if module else None
        if isinstance(own, type) and issubclass(own, Exception):
            return (*ANY, own)
    return ANY


def _stages(record: Record) -> dict[int, str]:
    """What was made in each round, as one digest."""
    made: dict[int, list[str]] = {}
    for step in record.steps:
        made.setdefault(step.round, []).append(step.fingerprint)
    digests = {round: hashlib.sha256("".join(sorted(found)).encode()) for round, found in made.items()}
    return {round: digest.hexdigest()[:16] for round, digest in digests.items()}


def figures(directory: Path, rounds: Container[int] | None = None) -> Steps:
    """Every finite figure of every round, or of these, as ``STAGE/NAME``."""
    from tasks.report.curves import figures_of  # scipy: a second that a run without trackers need not wait

    found: Steps = {}
    for metric, by_round in sorted(figures_of(directory, rounds).items()):
        stage, _, name = metric.partition(".")
        for round, value in by_round.items():
            if value is not None:
                found.setdefault(round, {})[f"{stage}/{name}"] = value
    return dict(sorted(found.items()))


class Sink(Protocol):
    """One tracker's run."""

    def log(self, round: int, values: dict[str, float]) -> None:
        """The figures of a round."""

    def close(self) -> None:
        """Nothing more is told by this process."""


class TensorBoard:
    """Event files in ``DIRECTORY/tensorboard``; a run that begins anew takes the place of what was there."""

    def __init__(self, directory: Path, record: Record, state: dict[str, Any]) -> None:
        board: Any = importlib.import_module("tensorboardX")
        place = directory / "tensorboard"
        if not state["began"]:
            shutil.rmtree(place, ignore_errors=True)
        self._writer = board.SummaryWriter(logdir=str(place), write_to_disk=True)
        if not state["began"]:
            self._writer.add_text("command", f"`{record.command}`", 0)
        state["began"] = True

    def log(self, round: int, values: dict[str, float]) -> None:
        """A scalar for each figure."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, round)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class WandB:
    """A run of the project ``ostinato``, gone on with by its id."""

    def __init__(self, directory: Path, record: Record, state: dict[str, Any]) -> None:
        wandb: Any = importlib.import_module("wandb")
        self._run = wandb.init(
            project=PROJECT,
            id=state["run"],
            resume="allow",
            name=record.name,
            config=record.params,
            dir=str(directory),
            reinit="create_new",
        )

    def log(self, round: int, values: dict[str, float]) -> None:
        """All at once; a step that it has already is left as it is."""
        self._run.log(values, step=round)

    def close(self) -> None:
        """What is left is sent."""
        self._run.finish()


class MLflow:
    """A run of the experiment ``ostinato``, gone on with by the id that MLflow gave it."""

    def __init__(self, directory: Path, record: Record, state: dict[str, Any]) -> None:
        self._mlflow: Any = importlib.import_module("mlflow")
        client = self._mlflow.MlflowClient()
        if not state["began"]:
            experiment = self._mlflow.set_experiment(PROJECT).experiment_id
            run = client.create_run(experiment, run_name=record.name, tags={"command": record.command})
            state |= {"run": run.info.run_id, "began": True}
        client.update_run(state["run"], status="RUNNING")
        self._client, self._run = client, state["run"]

    def log(self, round: int, values: dict[str, float]) -> None:
        """A metric for each figure; it takes no @."""
        for name, value in values.items():
            self._client.log_metric(self._run, name.replace("@", "_at_"), value, step=round)

    def close(self) -> None:
        """It is over; a later process that goes on ends it again."""
        self._client.set_terminated(self._run)


class Trackio:
    """A run of the project ``ostinato``, gone on with by its name. An id stands in it, since Trackio resumes
    the latest run of a name, whoever made it."""

    def __init__(self, directory: Path, record: Record, state: dict[str, Any]) -> None:
        trackio: Any = importlib.import_module("trackio")
        self._run = trackio.init(
            project=PROJECT,
            name=f"{record.name}-{state['run']}",
            group=record.name,
            resume="allow",
            config=record.params,
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, round: int, values: dict[str, float]) -> None:
        """All at once."""
        self._run.log(values, step=round)

    def close(self) -> None:
        """What is left is written."""
        self._run.finish()


class DVCLive:
    """Plots, metrics and parameters in ``DIRECTORY/dvclive``, with a ``dvc.yaml`` that names them to DVC.

    A run that begins anew takes the place of what was there. No experiment is saved and no commit made."""

    def __init__(self, directory: Path, record: Record, state: dict[str, Any]) -> None:
        dvclive: Any = importlib.import_module("dvclive")
        place = directory / "dvclive"
        self._yaml = place / "dvc.yaml"
        if not state["began"]:
            shutil.rmtree(place, ignore_errors=True)
        self._live = dvclive.Live(
            dir=str(place),
            resume=state["began"],
            dvcyaml=str(self._yaml),
            save_dvc_exp=False,
            exp_name=record.name,
        )
        if not state["began"]:
            self._live.log_params(record.params)
        state["began"] = True

    def log(self, round: int, values: dict[str, float]) -> None:
        """A file for each figure, and the latest of all in one."""
        self._live.step = round
        for name, value in values.items():
            self._live.log_metric(name, value)
        self._yaml.unlink(missing_ok=True)  # DVCLive adds to what lies beside its own files
        self._live.sync()

    def close(self) -> None:
        """It is over."""
        self._yaml.unlink(missing_ok=True)
        self._live.end()


SINKS: dict[str, Callable[[Path, Record, dict[str, Any]], Sink]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
    "trackio": Trackio,
    "dvclive": DVCLive,
}
