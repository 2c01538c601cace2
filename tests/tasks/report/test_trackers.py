"""Trackers get what the artefacts hold, and one that is not here is told of in one line."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
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
    packages = {name: name for name in ("wandb", "mlflow", "trackio", "dvclive")}
    for name, package in (packages | {"tensorboard": "tensorboardX"}).items():
        with pytest.raises(BadInput, match=f"{name} is not installed; `pip install {package}` brings it"):
            check([name])


def test_no_tracker_begins_a_dvc_repository(heard: Heard, tmp_path: Path) -> None:
    """As DVCLive does by itself, in a git repository that has none."""
    check(["dvclive"])
    (tmp_path / ".git").mkdir()
    with pytest.raises(BadInput, match=rf"dvclive would begin a DVC repository in {tmp_path}; `dvc init`"):
        check(["wandb", "dvclive"])
    (tmp_path / ".dvc").mkdir()
    check(["dvclive"])


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

    def trackio(self, *, name: str, resume: str, project: str, config: dict[str, Any], **_: Any) -> Any:
        """As ``trackio.init``, which goes on with the latest run of a name."""
        assert (resume, project) == ("allow", "ostinato")
        assert not any(key.startswith("_") for key in config)
        return self.init(id=name, resume=resume)

    def Live(self, *, dir: str, resume: bool, dvcyaml: str, save_dvc_exp: bool, exp_name: str) -> Any:
        """As ``dvclive.Live``."""
        assert not save_dvc_exp
        assert Path(dvcyaml).parent == Path(dir)
        name = f"{dir} {len(self.runs) - resume}"
        assert resume == (name in self.runs)
        self.opened.append(name)
        live = SimpleNamespace(step=0, log_params=lambda params: None, end=lambda: None)

        def sync() -> None:
            assert live.step in self.runs[name]

        def log_metric(figure: str, value: float) -> None:
            rounds = self.runs[name].setdefault(live.step, {})
            assert figure not in rounds, "told twice"
            rounds[figure] = value

        self.runs.setdefault(name, {})
        live.sync, live.log_metric = sync, log_metric
        return live

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
def heard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Heard:
    module = Heard()
    found, load = importlib.util.find_spec, importlib.import_module
    here: dict[str, Any] = dict.fromkeys(("wandb", "mlflow", "dvclive"), module)
    here["trackio"] = SimpleNamespace(init=module.trackio)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name in here or found(name))
    monkeypatch.setattr("importlib.import_module", lambda name: here.get(name) or load(name))
    monkeypatch.chdir(tmp_path)
    return module


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio", "dvclive"])
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


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio", "dvclive"])
def test_rounds_that_were_made_anew_begin_another_run(tmp_path: Path, heard: Heard, name: str) -> None:
    run = SyntheticRun(tmp_path / "it", rounds=2).write()
    track(run, (name,))
    steps = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    steps[-1]["fingerprint"] = "0" * 64
    (run / "steps.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    track(run, (name,))
    first, second = heard.runs.values()
    assert set(first) == set(second) == {0, 1, 2}


def test_a_tracker_in_trouble_is_one_note_and_hears_of_all_rounds_later(
    tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server goes away inside a run and comes back; the other tracker hears of every round in time."""
    run, notes = SyntheticRun(tmp_path / "it", rounds=4).write(), list[str]()
    opened = heard.MlflowClient()
    away = [False, False, True, True, True, False]

    def log_metric(*given: Any, **named: Any) -> None:
        if away[0]:
            raise ConnectionError("no answer from http://me:secret@host/api\nat all")
        opened.log_metric(*given, **named)

    client = SimpleNamespace(**{**vars(opened), "log_metric": log_metric})
    monkeypatch.setattr(heard, "MlflowClient", lambda: client)
    with Trackers(run, ("mlflow", "wandb"), notes.append) as trackers:
        for until in (0, 1, 2, 3, 4, None):
            trackers.tell(until)
            away.pop(0)
        assert not away
    first, second = heard.runs.values()
    assert set(first) == set(second) == {0, 1, 2, 3, 4}
    (said,) = notes
    assert said.startswith("trackers: mlflow: ConnectionError: no answer from http://host/api at all; ")


def test_a_tracker_that_cannot_be_opened_or_closed_ends_nothing(
    tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    class UsageError(Exception):
        pass

    def refuse(*_: Any, **__: Any) -> Any:
        raise UsageError("no key")

    load = importlib.import_module
    errors = SimpleNamespace(Error=UsageError)
    monkeypatch.setattr("importlib.import_module", lambda n: errors if n == "wandb.errors" else load(n))
    run, notes = SyntheticRun(tmp_path / "it", rounds=2).write(), list[str]()
    with monkeypatch.context() as patch:
        patch.setattr(heard, "init", refuse)
        track(run, ("wandb",), notes.append)
    stuck = SimpleNamespace(log=lambda values, step: None, finish=refuse)
    monkeypatch.setattr(heard, "init", lambda **_: stuck)
    track(run, ("wandb",), notes.append)
    assert [note.partition("; ")[0] for note in notes] == ["trackers: wandb: UsageError: no key"] * 2


def test_a_round_that_was_told_is_not_read_again(tmp_path: Path, heard: Heard) -> None:
    run = SyntheticRun(tmp_path / "it", rounds=2).write()
    with Trackers(run, ("wandb",)) as trackers:
        trackers.tell(1)
        (run / "round-01" / "update" / "metrics.json").write_text("{}")
        trackers.tell(2)
    (rounds,) = heard.runs.values()
    assert set(rounds) == {0, 1, 2}


def test_tensorboard_hears_of_each_round_when_it_has_ended(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path / "it", rounds=3).write()
    with Trackers(run, ("tensorboard",)) as trackers:
        for until in (0, 1, 2, 3):
            trackers.tell(until)
            assert max(round for _, round in scalars(run / "tensorboard")) == until


def told_in_two_processes(run: Path, name: str) -> None:
    """Rounds 0 to 2, then the others, then nothing new."""
    with Trackers(run, (name,)) as trackers:
        trackers.tell(1)
        trackers.tell(2)
    with Trackers(run, (name,)) as trackers:
        trackers.tell(3)
        trackers.tell()
    track(run, (name,))


def test_trackio_itself_holds_every_round_in_one_run(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    script = (
        "from pathlib import Path\nfrom tests.tasks.report.test_trackers import told_in_two_processes\n"
        f"told_in_two_processes(Path({str(tmp_path / 'it')!r}), 'trackio')\n"
    )
    run = SyntheticRun(tmp_path / "it", rounds=4).write()
    place = {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", script], env={**os.environ, **place}, check=True)
    with closing(sqlite3.connect(tmp_path / "trackio" / "ostinato.db")) as database:
        rows = database.execute("select run_id, step, metrics from metrics").fetchall()
    assert len({id for id, _, _ in rows}) == 1
    assert {step: json.loads(values) for _, step, values in rows} == figures(run)
    assert len(rows) == 5


def test_dvclive_itself_writes_what_dvc_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dvclive")
    monkeypatch.chdir(tmp_path)
    run = SyntheticRun(tmp_path / "it", rounds=4).write()
    told_in_two_processes(run, "dvclive")
    place, known = run / "dvclive", figures(run)
    metrics = place / "plots" / "metrics"
    for path in metrics.rglob("*.tsv"):
        name = path.relative_to(metrics).as_posix().removesuffix(".tsv")
        _, *rows = (line.split("\t") for line in path.read_text().splitlines())
        assert {int(round): float(value) for round, value in rows} == {
            round: values[name] for round, values in known.items() if name in values
        }
        assert len(rows) == len({round for round, _ in rows})
    assert yaml.safe_load((place / "dvc.yaml").read_text()) == {
        "params": ["params.yaml"],
        "metrics": ["metrics.json"],
        "plots": [{"plots/metrics": {"x": "step"}}],
    }
    assert json.loads((place / "metrics.json").read_text())["step"] == 4
