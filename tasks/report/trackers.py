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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from params.base import BadInput
from tasks.artefacts.artefact import write_json
from tasks.artefacts.record import Record

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


def track(directory: Path, names: Sequence[str]) -> None:
    """Hand every figure of the run in ``directory`` to these trackers."""
    with Trackers(directory, names) as trackers:
        trackers.tell()


class Trackers:
    """The trackers of a run, each opened when there is first something to tell."""

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        """Raises ``BadInput`` for one that is not installed."""
        check(names)
        self._directory, self._names = directory, names
        self._open: dict[str, Sink] = {}

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: object) -> None:
        for sink in self._open.values():
            sink.close()

    def tell(self, until: int | None = None) -> None:
        """Every round that has not been told yet, up to ``until`` or all.

        Where a round that was told has other stages by now, the tracker's run begins anew.
        """
        if not self._names:
            return
        record = Record.read(self._directory)
        rounds = {r: v for r, v in figures(self._directory).items() if until is None or r <= until}
        current = {str(round): _stages(record, round) for round in rounds}
        states = self._states()
        for name in self._names:
            state = states.get(name)
            if state is None or any(current.get(r, made) != made for r, made in state["told"].items()):
                self._close(name)
                state = states[name] = {"run": secrets.token_hex(4), "told": {}, "began": False}
            new = {round: values for round, values in rounds.items() if str(round) not in state["told"]}
            if new:
                if name not in self._open:
                    self._open[name] = SINKS[name](self._directory, record, state)
                for round, values in new.items():
                    self._open[name].log(round, values)
                state["told"] |= {str(round): current[str(round)] for round in new}
                write_json(self._directory / STATE, states)

    def _states(self) -> dict[str, Any]:
        path = self._directory / STATE
        return json.loads(path.read_text()) if path.is_file() else {}

    def _close(self, name: str) -> None:
        if name in self._open:
            self._open.pop(name).close()


def _stages(record: Record, round: int) -> str:
    """What was made in a round, as one digest."""
    made = sorted(step.fingerprint for step in record.steps if step.round == round)
    return hashlib.sha256("".join(made).encode()).hexdigest()[:16]


def figures(directory: Path) -> Steps:
    """Every finite figure of every round, as ``STAGE/NAME``."""
    from tasks.report.curves import figures_of  # scipy: a second that a run without trackers need not wait

    found: Steps = {}
    for metric, by_round in sorted(figures_of(directory).items()):
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
