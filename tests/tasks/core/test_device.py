"""What a machine computes on, with drivers and GPUs that are not here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from params.base import BadInput
from params.load import compose
from params.schema import Update
from tasks.core import device


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    device.sees_gpu.cache_clear()
    yield
    device.sees_gpu.cache_clear()


def gpus(patch: pytest.MonkeyPatch, driver: bool, count: int, visible: str | None = None) -> None:
    patch.setattr(device.shutil, "which", lambda name: "/bin/nvidia-smi" if driver else None)
    patch.setattr(torch.cuda, "is_available", lambda: count > 0)
    patch.setattr(torch.cuda, "device_count", lambda: count)
    if visible is None:
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        patch.setenv("CUDA_VISIBLE_DEVICES", visible)


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, ["0", "1", "2", "3"]),
        ("2,3", ["2", "3"]),
        ("GPU-5a1f, GPU-77e0", ["GPU-5a1f", "GPU-77e0"]),
        ("", []),
        ("-1", []),
    ],
)
def test_the_gpus_are_those_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, found: list[str]
) -> None:
    gpus(monkeypatch, True, 4, visible)
    assert device.visible_gpus() == found


def test_a_driver_whose_gpus_torch_does_not_see_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, True, 0)
    with pytest.raises(BadInput, match=r"torch .* sees no GPU; expected a build of torch for CUDA"):
        device.check_device()
    device.sees_gpu.cache_clear()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(BadInput, match=r"a driver that runs CUDA 13.0: 580 or newer for CUDA 13, or CUDA_"):
        device.check_device()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    device.sees_gpu.cache_clear()
    device.check_device()


def test_without_a_driver_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, False, 0)
    if not Path("/dev/nvidia0").exists():
        device.check_device()
        assert device.visible_gpus() == []


def test_what_is_not_chosen_depends_on_the_device() -> None:
    params = compose("nano", "sums", "grpo", [])
    assert [device.micro_batch(params.update, 2000, gpu) for gpu in (False, True)] == [2000, 16384]
    assert (device.head_chunk(params.update, False), device.head_chunk(params.update, True)) == (512, 4096)
    engine = params.engine
    assert (device.start_timeout(engine, False), device.start_timeout(engine, True)) == (300, 900)
    chosen = compose("nano", "sums", "grpo", ["update.tokens_per_micro_batch=3000", "update.head_chunk=7"])
    assert device.micro_batch(chosen.update, 2000, True) == 3000
    assert device.head_chunk(chosen.update, True) == 7


def test_layers_are_checkpointed_where_activations_would_fill_a_third_of_what_is_left() -> None:
    params = compose("nano", "sums", "grpo", ["engine.memory_fraction=0.4"])
    asked = (params.update, 30e9), (params.update, 10e9)
    assert [device.checkpoints(*each, 80e9, params.engine) for each in asked] == [True, False]
    assert not device.checkpoints(params.update, 30e9, float("inf"), params.engine)
    never = Update(checkpointing=False)
    assert not device.checkpoints(never, 30e9, 80e9, params.engine)


def test_all_weights_have_a_rate_of_their_own() -> None:
    assert Update().learning_rate == 2e-4
    assert Update.model_validate({"adapter": "full"}).learning_rate == 1e-6
    assert Update.model_validate({"adapter": "full", "learning_rate": 1e-3}).learning_rate == 1e-3
