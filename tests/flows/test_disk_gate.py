"""A run whose policies would fill the disk is refused before it starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flows.experiments.comparison import _checked
from flows.planner import disk_gate
from flows.planner.capacity import Shape
from flows.planner.disk_gate import check_disk, forecast
from flows.planner.plan import shape_of
from params.base import BadInput
from params.comparison import read_study, trials
from params.load import compose
from params.schema import Params
from tasks.artefacts.record import Record, Step
from tasks.core import device
from tests.conftest import ROLES
from tests.flows.conftest import Workspace

GB = 10**9


def of(*settings: str) -> Params:
    source = ["model.source=Qwen/Qwen2.5-7B-Instruct", "model.sha256=null", "rounds=28"]
    return compose("smollm2-135m", "gsm8k", "grpo", [*source, *settings])


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("OSTINATO_HOME", str(tmp_path))
    monkeypatch.setattr(disk_gate, "free_bytes", lambda _: 500 * GB)
    return monkeypatch


def test_all_weights_of_a_7b_in_28_rounds_need_more_than_a_common_disk(room: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"take 2559 GB, .* at most 5 rounds, or update.adapter=lora") as said:
        check_disk(of("update.adapter=full"))
    assert "\n" not in str(said.value)
    check_disk(of("update.adapter=full", "rounds=5"))
    check_disk(of())


def test_what_need_not_stay_needs_no_room(room: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"or keep=\{policies: \[last, best\], optimiser: last\}, 213 GB"):
        check_disk(of("update.adapter=full"))
    least = ["keep={policies: [last, best], optimiser: last}"]
    check_disk(of("update.adapter=full", *least))
    check_disk(of("update.adapter=full", "rounds=1000", *least))
    with pytest.raises(BadInput, match=r"at most 12 rounds"):
        check_disk(of("update.adapter=full", "keep.policies=[every 1]", "keep.optimiser=last"))


def made(root: Path, params: Params, name: str) -> None:
    """A run that has ended its first round, with a policy as large as a disk that takes no room itself."""
    facts = {"fingerprint": "0" * 64, "digest": "0" * 64, "outcome": "made", "seconds": 1.0}
    step = Step(place="round-01/update", stage="update", role=ROLES["update"], round=1, **facts)
    values = params.model_dump(mode="json")
    Record(name=name, command="", params=values, started="", steps=[step]).write(root / "runs" / name)
    policy = root / "runs" / name / step.place
    policy.mkdir(parents=True)
    with (policy / "optimizer.safetensors").open("wb") as file:
        file.truncate(2100 * GB)


def test_what_is_there_already_needs_no_room_again(room: pytest.MonkeyPatch, tmp_path: Path) -> None:
    full = of("update.adapter=full")
    torn = tmp_path / "runs" / "torn" / "run.json"
    torn.parent.mkdir(parents=True)
    torn.write_text("{")
    made(tmp_path, of("update.adapter=full", "seed=7"), "other")
    with pytest.raises(BadInput, match=r"has 500; expected room"):  # another run's policies make none
        check_disk(full)
    made(tmp_path, of("update.adapter=full", "rounds=2", "keep.optimiser=last"), "own")
    check_disk(full)


def test_the_most_rounds_are_found_without_trying_all(room: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def counted(params: Params, shape: Shape) -> float:
        tried.append(params.rounds)
        return forecast(params, shape)

    room.setattr(disk_gate, "forecast", counted)
    with pytest.raises(BadInput, match=r"at most 5 rounds, or update.adapter=lora"):
        check_disk(of("update.adapter=full", "rounds=10000"))
    assert len(tried) < 30


def test_a_comparison_is_looked_at_before_its_runs_begin(room: pytest.MonkeyPatch) -> None:
    name, study = read_study("smoke")
    trial = trials(name, study)[0]
    large = of("update.adapter=full")
    with pytest.raises(BadInput, match=r"smoke-.*: rounds: the policies of 28 rounds"):
        _checked([replace(trial, params=large)])
    fits = replace(trial, params=of("update.adapter=full", "rounds=5"))
    _checked([fits])
    another = replace(trial, seed=1, params=of("update.adapter=full", "rounds=5", "seed=1"))
    with pytest.raises(BadInput, match=r"^the policies of 2 runs with their optimisers take \d+ GB, and"):
        _checked([fits, another])
    room.setattr(device, "gpu_memory", lambda: 1e9)
    with pytest.raises(BadInput, match=r"smoke-.*: Qwen/.* samples on a GPU's 1 GB"):
        _checked([replace(trial, params=of())])


def test_of_a_model_whose_shape_is_not_known_nothing_is_said(room: pytest.MonkeyPatch) -> None:
    room.setattr(disk_gate, "free_bytes", lambda _: 0)
    check_disk(compose("nano", "sums", "grpo"))


def test_the_forecast_is_what_a_policy_takes(finished: Workspace) -> None:
    """Of the run that every test knows, within a tenth: files have headers."""
    params = compose("nano", "sums", "grpo", ["rounds=1"])
    folder = finished.root / "runs" / "it" / "model"
    policy = finished.root / "runs" / "it" / "round-02" / "update"
    taken = sum(file.stat().st_size for file in policy.rglob("*.safetensors"))
    assert forecast(params, shape_of(str(folder))) == pytest.approx(taken, rel=0.1)
