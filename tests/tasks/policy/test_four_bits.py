"""A base model in 4 bits: the engine's folder and the trainer hold the same numbers; adapters train on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file

from params.load import compose
from params.schema import Params
from params.update import Update
from tasks.artefacts.artefact import Artefact
from tasks.policy.load import load_model
from tasks.policy.policy import Policy
from tasks.prepare.model import model
from tasks.prepare.problems import problems
from tasks.update.update import update
from tests.conftest import RunStage, as_artefact
from tests.tasks.rollout_rows import parameters, rollout_artefact, rows

pytest.importorskip("bitsandbytes")
from tasks.policy import four_bits  # what is not there is skipped above

FILE = "model.safetensors"
LARGEST_GAP = 0.305
"""Between two levels of NF4, as a share of the largest magnitude."""


@pytest.fixture(params=["float32", "bfloat16"])
def chosen(request: pytest.FixtureRequest) -> Params:
    update = Update(tokens_per_micro_batch=64, head_chunk=5, lora_rank=2, learning_rate=1e-2)
    return parameters(update, dtype=request.param, bits=4)


@pytest.fixture
def rounded(tiny_model: Artefact, chosen: Params, tmp_path: Path) -> Path:
    """The tiny model as the model stage rounds it."""
    folder = tmp_path / "rounded"
    folder.mkdir()
    for file in (path for path in tiny_model.path.iterdir() if path.name != "manifest.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    four_bits.round_folder(folder, chosen)
    return folder


@given(
    st.integers(0, 99),
    st.integers(1, 9),
    st.integers(1, 70),
    st.floats(1e-6, 1e3),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
@settings(max_examples=40, deadline=None)
def test_rounding_what_is_rounded_changes_nothing(
    seed: int, rows: int, columns: int, size: float, dtype: torch.dtype
) -> None:
    weight = size * torch.randn(rows, 2 * columns, generator=torch.Generator().manual_seed(seed))
    weight[0, : columns // 2] = 0.0
    if rows > 4:
        weight[2:4] = 0.0  # whole blocks perhaps
    weight = weight.to(dtype)
    once = four_bits.Packed.of(weight).unpacked()
    assert once.dtype == dtype
    assert torch.equal(four_bits.Packed.of(once).unpacked(), once)
    away = (once.float() - weight.float()).abs().flatten()
    for first in range(0, weight.numel(), four_bits.BLOCK):
        block = slice(first, first + four_bits.BLOCK)
        largest = float(weight.flatten()[block].float().abs().max())
        assert float(away[block].max()) <= (LARGEST_GAP / 2 + 0.01) * largest


def test_the_model_stage_rounds_linear_layers_alone(run_stage: RunStage) -> None:
    settings = ["model.warm_start_steps=2", "task.train_count=64", "task.held_out_count=8"]
    made = {
        bits: run_stage(model, params, 0, problems=run_stage(problems, params, 0))
        for bits in (16, 4)
        for params in [compose("nano", "sums", "grpo", [*settings, f"model.bits={bits}"])]
    }
    plain, rounded = (load_file(made[bits].file(FILE)) for bits in (16, 4))
    changed = {name for name, weight in plain.items() if not torch.equal(weight, rounded[name])}
    assert plain.keys() == rounded.keys()
    assert changed == {name for name in plain if name.endswith("_proj.weight")}


def test_the_trainer_holds_what_the_engine_is_given(rounded: Path, chosen: Params, tmp_path: Path) -> None:
    policy = Policy.open(rounded, chosen)
    held = sum(x.nbytes for x in (*policy.network.parameters(), *policy.network.buffers()))
    plain = load_model(rounded, with_bits(chosen, 16), torch.device("cpu"))
    linear = sum(m.weight.nbytes for m in plain.modules() if type(m) is torch.nn.Linear)
    trained = sum(x.nbytes for x in policy.weights.masters.values())
    assert held - trained < sum(x.nbytes for x in plain.parameters()) - 0.6 * linear
    policy.merged(tmp_path / "merged")
    for name, weight in load_file(tmp_path / "merged" / FILE).items():
        assert torch.equal(weight, plain.state_dict()[name]), name


def test_adapters_train_on_it_as_on_the_rounded_model(
    rounded: Path, chosen: Params, tmp_path: Path, run_stage: RunStage
) -> None:
    rollout = rollout_artefact(tmp_path / "rollout", rows([[1.0, 0.0, 1.0], [0.0, 1.0]]))
    base = as_artefact(rounded, "model")
    four, sixteen = (
        run_stage(update, with_bits(chosen, bits), 1, model=base, rollout=rollout) for bits in (4, 16)
    )
    for name in ("adapter/adapter_model.safetensors", "optimizer.safetensors"):
        one, other = load_file(four.file(name)), load_file(sixteen.file(name))
        assert one.keys() == other.keys()
        for key, weight in one.items():
            assert torch.equal(weight, other[key]), key
    policy = Policy.open(rounded, chosen)
    policy.restore(four.path)
    policy.merged(tmp_path / "merged")
    plain = Policy.open(rounded, with_bits(chosen, 16))
    plain.restore(sixteen.path)
    plain.merged(tmp_path / "plain")
    assert (tmp_path / "merged" / FILE).read_bytes() == (tmp_path / "plain" / FILE).read_bytes()


def test_no_pass_keeps_a_whole_weight(rounded: Path, chosen: Params) -> None:
    policy = Policy.open(rounded, chosen)
    layer = next(m for m in policy.network.modules() if isinstance(m, four_bits.FourBitLinear))
    outer = next(m for m in policy.network.modules() if getattr(m, "base_layer", None) is layer)
    out = outer(torch.ones(1, 3, layer.in_features, dtype=layer.weight.dtype))
    assert all(x is None or x.shape != layer.weight.shape for x in out.grad_fn.saved_tensors)
    out.sum().backward()


def test_all_weights_do_not_train_in_4_bits() -> None:
    with pytest.raises(ValidationError, match=r"model\.bits: 4 is for update\.adapter lora"):
        parameters(Update(adapter="full"), bits=4)


def with_bits(params: Params, bits: int) -> Params:
    return params.model_copy(update={"model": params.model.model_copy(update={"bits": bits})})
