"""Trackers get what the artefacts hold, and one that is not here is told of in one line."""

from __future__ import annotations

import importlib
import importlib.util
import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from flows.execution.fingerprint import parameters_read
from flows.stage_table.stages import plan
from params.base import BadInput
from params.load import compose
from tasks.report.trackers import Trackers, check, figures, track
from tests.tasks.report.synthetic_run import SyntheticRun


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    """What TensorBoard reads: length, checksum, event, checksum, and so on."""
    data, found = b"".join(file.read_bytes() for file in sorted(folder.iterdir())), {}
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + size])
        for value in event.summary.value:
            if value.HasField("simple_value"):
                assert (value.tag, event.step) not in found, "told twice"
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


class Heard:
    """Stands in for the module of a tracker that is not installed; notes what it was told."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[int, dict[str, float]]] = {}
        self.opened: list[str] = []

    def init(self, *, id: str, resume: str, **_: Any) -> Any:
        """As ``wandb.init``."""
        assert resume == "allow"
        self.opened.append(id)
        rounds = self.runs.setdefault(id, {})

        def log(values: dict[str, float], step: int) -> None:
            assert step not in rounds, "told twice"
            rounds[step] = values

        return SimpleNamespace(log=log, finish=lambda: None)

    def MlflowClient(self) -> Any:
        """As ``mlflow.MlflowClient``."""

        def create_run(experiment: str, **_: Any) -> Any:
            name = f"run-{len(self.runs)}"
            self.runs[name] = {}
            return SimpleNamespace(info=SimpleNamespace(run_id=name))

        def log_metric(run: str, name: str, value: float, step: int) -> None:
            assert "@" not in name
            assert name not in self.runs[run].setdefault(step, {}), "told twice"
            self.runs[run][step][name] = value

        return SimpleNamespace(
            create_run=create_run,
            log_metric=log_metric,
            update_run=lambda run, status: self.opened.append(run),
            set_terminated=lambda run: None,
        )

    def set_experiment(self, name: str) -> Any:
        """As ``mlflow.set_experiment``."""
        return SimpleNamespace(experiment_id=name)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    module = Heard()
    found, load = importlib.util.find_spec, importlib.import_module
    here = ("wandb", "mlflow")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name in here or found(name))
    monkeypatch.setattr("importlib.import_module", lambda name: module if name in here else load(name))
    return module


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_run_that_is_interrupted_goes_on_in_the_same_trackers_run(
    tmp_path: Path, heard: Heard, name: str
) -> None:
    run = SyntheticRun(tmp_path / "it", rounds=4).write()
    with Trackers(run, (name,)) as trackers:
        trackers.tell(1)
        trackers.tell(2)
    with Trackers(run, (name,)) as trackers:  # another process
        trackers.tell(3)
        trackers.tell()
    track(run, (name,))  # again from the cache: nothing is new
    (rounds,) = heard.runs.values()
    assert set(rounds) == {0, 1, 2, 3, 4}
    assert heard.opened == [heard.opened[0]] * 2
    plain = (
        {key.replace("@", "_at_") for key in figures(run)[4]} if name == "mlflow" else set(figures(run)[4])
    )
    assert set(rounds[4]) == plain


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_rounds_that_were_made_anew_begin_another_run(tmp_path: Path, heard: Heard, name: str) -> None:
    run = SyntheticRun(tmp_path / "it", rounds=2).write()
    track(run, (name,))
    steps = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    steps[-1]["fingerprint"] = "0" * 64
    (run / "steps.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    track(run, (name,))
    first, second = heard.runs.values()
    assert set(first) == set(second) == {0, 1, 2}


def test_tensorboard_hears_of_each_round_when_it_has_ended(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path / "it", rounds=3).write()
    with Trackers(run, ("tensorboard",)) as trackers:
        for until in (0, 1, 2, 3):
            trackers.tell(until)
            assert max(round for _, round in scalars(run / "tensorboard")) == until
