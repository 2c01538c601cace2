"""A run whose policies would fill the disk is refused before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.planner import disk_gate
from flows.planner.disk_gate import check_disk, forecast
from flows.planner.plan import shape_of
from params.base import BadInput
from params.load import compose
from params.schema import Params
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


def test_what_is_there_already_needs_no_room_again(room: pytest.MonkeyPatch, tmp_path: Path) -> None:
    policy = tmp_path / "artefacts" / "update-1"
    policy.mkdir(parents=True)
    with (policy / "optimizer.safetensors").open("wb") as file:
        file.truncate(2100 * GB)  # takes no room itself
    check_disk(of("update.adapter=full"))


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
