"""Presets lie over each other, and whatever is wrong is said in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from params.base import BadInput
from params.layers import merge
from params.load import KINDS, PRESETS, compose, presets, read_params, read_yaml


def composed(*settings: str) -> object:
    return compose("nano", "arithmetic", "grpo", settings)


def test_later_layers_win() -> None:
    params = compose("nano", "arithmetic", "grpo", ["update.learning_rate=1e-4", "rounds=3"])
    assert params.update.learning_rate == 1e-4
    assert params.rounds == 3
    assert params.model.source == "nano"


def test_another_name_replaces_a_part_whole() -> None:
    under = {"objective": {"name": "grpo", "clip_low": 0.2}}
    assert merge(under, {"objective": {"name": "drpo", "delta": 1}}) == {
        "objective": {"name": "drpo", "delta": 1}
    }
    assert merge(under, {"objective": {"clip_low": 0.1}}) == {"objective": {"name": "grpo", "clip_low": 0.1}}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("rounds=true", "rounds: expected a number, got True"),
        ("evaluate.pass_at=[1, true]", "evaluate.pass_at: expected a number, got"),
        ("evaluate.pass_at=[]", "evaluate.pass_at: tuple should have at least 1 item"),
        ("update.beta1=1", "update.beta1: input should be less than 1"),
        ("update.beta2=1", "update.beta2: input should be less than 1"),
        ("update.learning_rate=inf", "update.learning_rate: input should be a finite number"),
        ("rollout.temperature=inf", "rollout.temperature: input should be a finite number"),
        ("seed=9223372036854775808", "seed: input should be less than 9223372036854775808"),
        ("store.lease=0.5", "store.lease: input should be greater than or equal to 1, got 0.5"),
        ("store.lease=100000", "store.lease: input should be less than or equal to 86400"),
        ("update.learning_rte=1", "update.learning_rte: unknown key; did you mean 'learning_rate'?"),
        ("updat.epochs=1", "updat: unknown key; did you mean 'update'?"),
        ("distil.student.budget=0.1", "method grpo has no phases to distil in; expected --method erpd"),
        ("rollout.samples_per_problem=1", "rollout.samples_per_problem: .*greater than or equal to 2, got 1"),
        ("update.learning_rate=fast", "update.learning_rate: .*valid number.*'fast'"),
        (
            "rollout.max_response_tokens=9999",
            "rollout.max_response_tokens must be smaller than model.context",
        ),
        ("evaluate.pass_at=[1,64]", "evaluate.pass_at must not exceed evaluate.samples_per_problem"),
        ("task.prompt.template=hello", "task.prompt.template must hold {question}"),
        ("method.correction.kind=token", "method.correction.kind: "),
        ("method.correction={kind: token_truncate, low: 0.5}", "token_truncate has no lower bound"),
        ("method.correction={kind: token_mask, low: 6}", "low is 6 and high 5; expected low below high"),
        ("rounds", "--set rounds: expected key=value"),
        ("rounds=[", "--set rounds=\\[: '\\[' is not a YAML value"),
    ],
)
def test_bad_settings_are_one_line(setting: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        composed(setting)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("named", [[], ["engine.name=vllm"]])
def test_an_engine_keeps_its_options_when_it_is_named(named: list[str]) -> None:
    settings = [*named, "engine.dtype=float8", "engine.name=transformers"]
    chosen = compose("nano", "arithmetic", "grpo", settings).engine
    assert (chosen.name, chosen.dtype) == ("transformers", "float8")


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"--method grop: no such preset; did you mean 'grpo'\?"):
        compose("nano", "arithmetic", "grop")


def test_a_model_may_be_a_folder_or_a_hub_name(tmp_path: Path) -> None:
    assert compose(str(tmp_path), "arithmetic", "grpo").model.source == str(tmp_path)
    assert compose("someone/model", "arithmetic", "grpo").model.source == "someone/model"


def test_a_broken_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("seed: 0\nrounds: [1,\n")
    with pytest.raises(BadInput, match=f"{path}:[23]: "):
        read_params(path)
    path.write_text("- a\n- b\n")
    with pytest.raises(BadInput, match="expected keys and values, found a list"):
        read_params(path)
    with pytest.raises(BadInput, match="no such file"):
        read_params(tmp_path / "none.yaml")


def test_a_complete_file_reads_back_as_itself(tmp_path: Path) -> None:
    params = compose("nano", "arithmetic", "grpo")
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(params.model_dump(mode="json")))
    assert read_params(path) == params


@pytest.mark.parametrize("kind", KINDS)
def test_every_preset_composes(kind: str) -> None:
    names = {"models": "nano", "tasks": "arithmetic", "methods": "grpo"}
    for name in presets(kind):
        compose(*{**names, kind: name}.values())


def test_no_key_has_a_name_that_dvc_ignores() -> None:
    def keys(value: object) -> set[str]:
        if isinstance(value, dict):
            return {*value, *(k for v in value.values() for k in keys(v))}
        return {k for v in value for k in keys(v)} if isinstance(value, list) else set()

    for path in PRESETS.rglob("*.yaml"):
        assert not keys(read_yaml(path)) & {"size", "nfiles"}, path
    assert not keys(compose("nano", "arithmetic", "grpo").model_dump(mode="json")) & {"size", "nfiles"}
