"""Several processes share an update: they give what one gives, hand over to one, and fail together."""

from __future__ import annotations

import functools
import itertools
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from params.base import BadInput
from params.method import Method
from params.schema import Params, Update
from tasks.artefacts.artefact import Artefact
from tasks.core.errors import NotFinite, StageFailure
from tasks.policy import distributed
from tasks.policy.elsewhere import Elsewhere
from tasks.update.update import update
from tests.conftest import RunStage
from tests.tasks.rollout_rows import parameters, rollout_artefact, rows

REWARDS = [[1.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.5], [1.0, 0.0]]
ALONE = {
    "tokens_per_micro_batch": 16,
    "head_chunk": 5,
    "lora_rank": 2,
    "learning_rate": 1e-2,
    "minibatches": 2,
}

ROOT = Path(__file__).parents[3]
Rollouts = Callable[..., Artefact]


@pytest.fixture
def rollouts(tmp_path: Path) -> Rollouts:
    count = itertools.count()

    def make(round: int, rewards: Any = REWARDS, **more: Any) -> Artefact:
        return rollout_artefact(tmp_path / f"rollout-{next(count)}", rows(rewards, round, **more), round)

    return make


def settings(ranks: int, method: Method | None = None, dtype: str = "float32", **more: Any) -> Params:
    return parameters(Update(**{**ALONE, "ranks": ranks, **more}), method, dtype=dtype)


def tensors(artefact: Artefact) -> dict[str, torch.Tensor]:
    """Weights and moments, by file and name."""
    files = [name for name in artefact.manifest.files if name.endswith(".safetensors")]
    return {f"{file}:{name}": t for file in files for name, t in load_file(artefact.file(file)).items()}


def off(one: Artefact, two: Artefact) -> float:
    """The largest relative difference between tensors, by their norms."""
    first, second = tensors(one), tensors(two)
    assert first.keys() == second.keys()
    return max(
        float((first[name] - second[name]).norm() / first[name].norm().clamp(min=1e-30)) for name in first
    )


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.parametrize(
    "more",
    [
        {"adapter": "lora"},
        # In most steps one micro-batch: the second rank only computes dummies beside the first.
        {"adapter": "full", "minibatches": 4, "tokens_per_micro_batch": 4096},
    ],
    ids=["lora", "full"],
)
def test_two_processes_give_what_one_gives(
    tiny_model: Artefact, rollouts: Rollouts, run_stage: RunStage, more: dict[str, Any]
) -> None:
    inputs = [rollouts(1), rollouts(2)]

    def two_rounds(first: int, second: int) -> Artefact:
        made = run_stage(update, settings(first, **more), 1, model=tiny_model, rollout=inputs[0])
        return run_stage(
            update, settings(second, **more), 2, model=tiny_model, rollout=inputs[1], policy=made
        )

    alone = two_rounds(1, 1)
    assert alone.json("state.json")["steps"] == 2 * settings(1, **more).update.minibatches
    for made in (two_rounds(2, 1), two_rounds(1, 2)):
        assert off(alone, made) < 2e-5
        assert made.json("state.json") == alone.json("state.json")
        for name, value in alone.json("metrics.json").items():
            expected = None if value is None else pytest.approx(value, rel=1e-4, abs=1e-6)
            assert made.json("metrics.json")[name] == expected, name


def family(folder: Path) -> list[psutil.Process]:
    """The launcher and the ranks that serve this folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(str(folder) in word for word in words) and any("tasks.update.rank_" in word for word in words):
            found.append(process)
    return found


def ranks_of(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in processes if "tasks.update.rank_worker" in " ".join(one.cmdline())]


def wait_until(true: Callable[[], Any], patience: float = 120) -> Any:
    end = time.monotonic() + patience
    while not (found := true()):
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)
    return found


@pytest.mark.long
@pytest.mark.ci
def test_a_rank_that_is_killed_ends_the_update_in_one_line(
    tiny_model: Artefact, rollouts: Rollouts, run_stage: RunStage, context: Any
) -> None:
    addresses: set[str] = set()
    killed = threading.Event()

    def kill(activity: str, done: int, total: int, facts: dict[str, float]) -> None:
        if killed.is_set():
            return
        processes = family(context.scratch)
        found = [c for one in processes for c in one.net_connections("inet") if c.status == "LISTEN"]
        addresses.update(connection.laddr.ip for connection in found)
        os.kill(max(ranks_of(processes), key=lambda one: one.pid).pid, signal.SIGKILL)
        killed.set()

    context.tell = kill
    params = settings(2, epochs=500)
    with pytest.raises(StageFailure, match=r"^update: rank [01] of 2 ended with .*\(log: .*\)$"):
        run_stage(update, params, model=tiny_model, rollout=rollouts(1))
    assert killed.is_set()
    assert addresses == {"127.0.0.1"}
    wait_until(lambda: not family(context.scratch))


@pytest.mark.long
@pytest.mark.ci
def test_what_ends_in_one_line_in_one_process_does_in_several(
    tiny_model: Artefact, rollouts: Rollouts, run_stage: RunStage, context: Any
) -> None:
    with pytest.raises(BadInput, match=r"update\.tokens_per_micro_batch: 3 is smaller"):
        run_stage(update, settings(2, tokens_per_micro_batch=3), model=tiny_model, rollout=rollouts(1))
    spoilt = rollouts(1, behaviour=math.nan)
    with pytest.raises(NotFinite, match="3 optimiser steps in a row were refused"):
        run_stage(update, settings(2, minibatches=3), model=tiny_model, rollout=spoilt)
    assert not family(context.scratch)


@pytest.mark.long
@pytest.mark.ci
def test_ranks_stay_for_the_next_round_and_make_the_bytes_that_new_ones_make(
    tiny_model: Artefact, rollouts: Rollouts, run_stage: RunStage, context: Any
) -> None:
    def round(number: int, before: Artefact | None) -> Artefact:
        given = {"model": tiny_model, "rollout": rollouts(number), "policy": before}
        return run_stage(update, settings(2), number, **given)

    first = round(1, None)
    served = {one.pid for one in family(context.scratch)}
    second = round(2, first)
    assert len(served) == 3
    assert {one.pid for one in family(context.scratch)} == served
    context.close()
    wait_until(lambda: not family(context.scratch))
    again = round(2, first)
    assert not served & {one.pid for one in family(context.scratch)}
    for name in (name for name in second.manifest.files if name.endswith(".safetensors")):
        assert second.file(name).read_bytes() == again.file(name).read_bytes()


class Storage(NamedTuple):
    """Stands for a tensor's, on a device that is not here."""

    device: torch.device

    def to(self, device: torch.device) -> Storage:
        return Storage(device)


class Weight:
    """Stands for a tensor."""

    def __init__(self, place: str) -> None:
        self.data = Storage(torch.device(place))

    @property
    def device(self) -> torch.device:
        return self.data.device


def test_what_makes_room_on_a_gpu_is_back_where_it_was() -> None:
    weights: list[Any] = [Weight(place) for place in ("cuda:0", "cpu", "cuda:1")]
    elsewhere = Elsewhere()
    for _ in range(2):
        elsewhere.move(weights, torch.device("cpu"))
        assert {weight.device.type for weight in weights} == {"cpu"}
    elsewhere.bring_back()
    assert [str(weight.device) for weight in weights] == ["cuda:0", "cpu", "cuda:1"]
    elsewhere.move(weights[:1], torch.device("cpu"))
    elsewhere.bring_back()
    assert str(weights[0].device) == "cuda:0"


@given(work=st.integers(0, 40), count=st.integers(1, 9))
def test_each_micro_batch_is_assigned_once_and_every_rank_makes_as_many_passes(work: int, count: int) -> None:
    ranks = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "world_size", lambda: count)
        for rank in range(count):
            patch.setattr(distributed, "rank", functools.partial(int, rank))
            ranks.append(distributed.assigned(work))
    assert len({len(mine) for mine in ranks}) == 1
    order = [each for passes in zip(*ranks, strict=True) for each in passes if not each.dummy]
    assert [each.micro_batch for each in order] == [*range(work)]


def test_terms_are_measured_in_one_process() -> None:
    with pytest.raises(ValueError, match=r"expected update\.ranks 1"):
        Update(ranks=2, measure_terms=True)
