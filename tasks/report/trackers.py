"""A run's figures for TensorBoard, Weights & Biases or MLflow, written from what its stages left on disk.

The files stay the source: a tracker is written from them when a run ends, and nothing is read back. Addresses
and keys are the tracker's own affair (``WANDB_API_KEY``, ``MLFLOW_TRACKING_URI``).
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from params.base import BadInput
from tasks.artefacts.record import Record

PROJECT = "ostinato"
MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
"""What a tracker is imported as, and installed as."""

Steps = dict[int, dict[str, float]]
"""Figures by name, by round."""


def check(names: Sequence[str]) -> None:
    """Raise ``BadInput`` for a tracker that is not installed."""
    for name in names:
        if importlib.util.find_spec(MODULES[name]) is None:
            raise BadInput(f"trackers: {name} is not installed; `pip install {MODULES[name]}` brings it")


def track(directory: Path, names: Sequence[str]) -> None:
    """Hand every figure of the run in ``directory`` to these trackers."""
    if not names:
        return
    check(names)
    record = Record.read(directory)
    steps = figures(directory)
    for name in names:
        WRITERS[name](directory, record, steps)


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


def _tensorboard(directory: Path, record: Record, steps: Steps) -> None:
    """Event files in ``DIRECTORY/tensorboard``, in place of what was there."""
    board: Any = importlib.import_module("tensorboardX")
    place = directory / "tensorboard"
    shutil.rmtree(place, ignore_errors=True)
    with board.SummaryWriter(logdir=str(place), write_to_disk=True) as writer:
        writer.add_text("command", f"`{record.command}`", 0)
        for round, values in steps.items():
            for name, value in values.items():
                writer.add_scalar(name, value, round)


def _wandb(directory: Path, record: Record, steps: Steps) -> None:
    """A run of the project ``ostinato``."""
    wandb: Any = importlib.import_module("wandb")
    with wandb.init(
        project=PROJECT, name=record.name, config=record.params, dir=str(directory), reinit="finish_previous"
    ) as run:
        for round, values in steps.items():
            run.log(values, step=round)


def _mlflow(directory: Path, record: Record, steps: Steps) -> None:
    """A run of the experiment ``ostinato``."""
    mlflow: Any = importlib.import_module("mlflow")
    mlflow.set_experiment(PROJECT)
    with mlflow.start_run(run_name=record.name):
        mlflow.set_tag("command", record.command)
        for round, values in steps.items():
            safe = {name.replace("@", "_at_"): value for name, value in values.items()}  # it takes no @
            mlflow.log_metrics(safe, step=round)


WRITERS: dict[str, Callable[[Path, Record, Steps], None]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
