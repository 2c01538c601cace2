"""Trackers get what the artefacts hold, and one that is not here is told of in one line."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from flows.execution.fingerprint import parameters_read
from flows.stage_table.stages import plan
from params.base import BadInput
from params.load import compose
from tasks.report.trackers import check, figures, track
from tests.tasks.report.synthetic_run import SyntheticRun


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    """What TensorBoard reads: length, checksum, event, checksum, and so on."""
    (file,) = folder.iterdir()
    data, found = file.read_bytes(), {}
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + size])
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found[value.tag, event.step] = value.simple_value
        data = data[16 + size :]
    return found


def test_tensorboard_holds_every_figure_of_every_round(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path / "it", rounds=4).write()
    for _ in range(2):  # a run that is made again takes the place of its events
        track(run, ("tensorboard",))
    read = scalars(run / "tensorboard")
    known = {(name, round): v for round, values in figures(run).items() for name, v in values.items()}
    assert read == {key: pytest.approx(value, rel=1e-6) for key, value in known.items()}
    scores = json.loads((run / "round-04/evaluate/scores.json").read_text())
    assert read["evaluate/pass_at.4", 4] == pytest.approx(scores["pass_at"]["4"]["value"])
    assert ("update/loss", 3) in read


def test_no_tracker_writes_nothing(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path / "it", rounds=1).write()
    before = sorted(path.name for path in run.iterdir())
    track(run, ())
    assert sorted(path.name for path in run.iterdir()) == before


def test_one_that_is_not_installed_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, package in (("wandb", "wandb"), ("mlflow", "mlflow"), ("tensorboard", "tensorboardX")):
        with pytest.raises(BadInput, match=f"{name} is not installed; `pip install {package}` brings it"):
            check([name])


def test_trackers_are_in_no_fingerprint() -> None:
    plain = compose("nano", "sums", "grpo")
    tracked = compose("nano", "sums", "grpo", ["trackers=[tensorboard, wandb]"])
    assert tracked.trackers == ("tensorboard", "wandb")
    for stage in {node.stage.name: node.stage for node in plan(plain)}.values():
        assert parameters_read(stage, tracked) == parameters_read(stage, plain)
