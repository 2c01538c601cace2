"""A run that would not fit a GPU's memory is refused before it starts, with a setting that fits."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flows.planner.memory_gate import check_memory, known_shape
from params.base import BadInput
from params.load import compose
from params.schema import Params
from tasks.core import device

H100 = 85.0e9
APART = ("engine.gpus=[1,2]", "engine.tensor_parallel=2", "update.gpus=[0]", "engine.memory_fraction=0.9")
LONG = ["model.context=9216", "rollout.max_response_tokens=8192", "engine.name=vllm"]


@pytest.fixture(autouse=True)
def _card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "gpu_memory", lambda: H100)


def run(size: str, *settings: str) -> Params:
    source = f"model.source=Qwen/Qwen2.5-{size}-Instruct"
    return compose("smollm2-135m", "gsm8k", "grpo", [source, "model.sha256=null", *LONG, *settings])


@pytest.mark.parametrize(
    "settings",
    [
        ("1.5B",),
        ("1.5B", "update.adapter=full", "engine.memory_fraction=0.4"),
        ("7B", "engine.memory_fraction=0.4"),
        ("7B", "update.adapter=full", "update.ranks=8"),
        ("7B", "update.adapter=full", "update.offload=true"),
        ("32B", "model.bits=4", *APART),
    ],
)
def test_what_fits_is_let_through(settings: tuple[str, ...]) -> None:
    check_memory(run(*settings))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            ("7B", "update.checkpointing=false"),
            r"the trainer needs \d+ GB of a GPU's 85 GB beside the engine.*",
        ),
        (
            ("7B", "update.adapter=full"),
            r"keeps 139 GB while the engine, which is given 42, samples.*offload=true",
        ),
        (
            ("7B", "engine.memory_fraction=0.2"),
            r"the engine needs 20 GB and is given 17 .*memory_fraction=0.4 f",
        ),
        (
            ("32B", *APART, "update.lora_rank=256"),
            r"the trainer needs \d+ GB of a GPU's 85 GB; .*model.bits=4 fits",
        ),
        (("72B",), r"expected less: a smaller model, or more GPUs"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(settings: tuple[str, ...], says: str) -> None:
    with pytest.raises(BadInput, match=says) as refusal:
        check_memory(run(*settings))
    assert "\n" not in str(refusal.value)
    if " fits" in str(refusal.value):
        words = str(refusal.value).rpartition("expected less: ")[2].partition(" fits")[0]
        check_memory(run(*settings, *words.replace("--set ", "").split()))


def test_a_model_that_nothing_is_known_of_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    assert known_shape("someone/a-model-7B") is None
    assert known_shape("nano") is None
    check_memory(compose("nano", "sums", "grpo", []))
    monkeypatch.setattr(device, "gpu_memory", lambda: None)
    check_memory(run("72B"))


def test_the_command_ends_with_one_line(refused: Callable[[list[str], str], None]) -> None:
    settings = ["model.source=Qwen/Qwen2.5-72B", "model.sha256=null", "engine.name=transformers"]
    words = [word for setting in settings for word in ("--set", setting)]
    refused(["run", "--task", "sums", *words], "the trainer needs")
