"""A person's own model: what is wrong with it is told in one line, before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from flows.execution.validation import chosen
from tasks.artefacts.artefact import Artefact
from tests.flows.own_data import SMALL, Refused, command, rows, written


@pytest.fixture
def folder(tiny_model: Artefact, tmp_path: Path) -> Path:
    """A model folder that may be harmed."""
    made = tmp_path.parent / f"{tmp_path.name}-model"
    made.mkdir()
    for path in tiny_model.path.iterdir():
        (made / path.name).write_bytes(path.read_bytes())
    return made


def with_model(folder: Path, path: Path, *more: str) -> list[str]:
    arguments = command(path, *more)
    return [str(folder) if argument == "nano" else argument for argument in arguments]


SYSTEM = "{% if messages[0].role != 'system' %}{{ raise_exception('System role first') }}{% endif %}"
TEMPLATES = {
    SYSTEM: "System role first",
    "{{ messages[0].content.nothing.at_all }}": "has no attribute",
    "{% if %}": "Expected an expression",
    "{{ 1 / 0 }}": "division by zero",
}


def test_a_folder_that_is_not_there_is_told_before_the_run(refused: Refused) -> None:
    refused(
        ["run", "--model", "./My-Model", "--task", "sums", "--engine", "transformers"],
        "model.source: ./My-Model: no such folder; expected a Hugging Face model folder",
    )


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_chat_template_that_fails_is_one_line(
    tmp_path: Path, folder: Path, refused: Refused, template: str
) -> None:
    path = written(folder.parent, rows())
    (folder / "chat_template.jinja").write_text(template)
    refused(with_model(folder, path), f"{folder}: the model's chat template fails on a user's message: ")
    refused(with_model(folder, path), TEMPLATES[template])


def test_weights_that_hold_a_nan_are_refused_by_name(tmp_path: Path, folder: Path, refused: Refused) -> None:
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[0]
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    refused(with_model(folder, written(folder.parent, rows())), f"model.safetensors: {name} holds a NaN")


def test_a_prompt_that_leaves_no_room_is_told_with_its_line_or_left_out(
    tmp_path: Path, folder: Path, refused: Refused
) -> None:
    path = written(folder.parent, rows(7, question="why " * 40))
    more = ("model.context=96", "rollout.max_response_tokens=16")
    refused(with_model(folder, path, *more), f"{path}:4: its prompt has 208 tokens")
    refused(
        with_model(folder, path, *more), "the most of 1 that are too long (of 6); expected at most 80 tokens"
    )
    options = [f"problems.path={path}", *SMALL, *more, "task.on_long_prompt=drop"]
    assert chosen(str(folder), "jsonl", "grpo", options).task.on_long_prompt == "drop"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("num_hidden_layers", 3, "no weights of model.layers.2, which config.json asks for"),
        ("hidden_size", 64, "has the shape"),
        ("num_attention_heads", 0, "config.json makes no causal language model"),
        ("model_type", "nothing-known", "config.json makes no causal language model"),
    ],
)
def test_a_configuration_that_does_not_fit_its_weights_is_refused(
    tmp_path: Path, folder: Path, refused: Refused, key: str, value: Any, expected: str
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    refused(with_model(folder, written(folder.parent, rows())), expected)


def test_a_quantised_folder_is_refused_by_its_whole_name(
    tmp_path: Path, folder: Path, refused: Refused
) -> None:
    long = folder.rename(folder.parent / ("A-Long-Name-" * 16))
    config = json.loads((long / "config.json").read_text())
    (long / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "awq"}}))
    given = with_model(long, written(long.parent, rows()))
    refused(given, f"{long}: quantised weights (awq); expected the model in 16 or 32 bits")


def test_half_of_a_character_in_the_data_is_told_with_its_line(
    tmp_path: Path, folder: Path, refused: Refused
) -> None:
    path = written(folder.parent, rows(2, question="why \ud83d?"))
    refused(with_model(folder, path), f"{path}:4: 'question' holds half a character (a lone surrogate)")


@pytest.mark.parametrize(
    "setting",
    [
        "rounds=true",
        "evaluate.pass_at=[]",
        "update.beta1=1",
        "update.learning_rate=inf",
        "rollout.temperature=inf",
    ],
)
def test_a_number_that_is_none_is_refused_by_its_name(refused: Refused, setting: str) -> None:
    refused(["run", "--model", "nano", "--task", "sums", "--set", setting], f"{setting.partition('=')[0]}: ")
