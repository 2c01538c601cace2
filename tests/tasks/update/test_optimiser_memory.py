"""An optimiser that takes less of a GPU's memory: in the host's, by the same numbers, or in 8 bits."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from flows.execution.validation import chosen
from params.base import BadInput
from params.schema import Params
from params.update import Update
from tasks.artefacts.artefact import Artefact
from tasks.core import few_bits
from tasks.policy import moments
from tasks.policy.optimiser import MOMENTS, STATE, Optimiser
from tasks.update.update import update
from tests.conftest import RunStage
from tests.tasks.rollout_rows import parameters, rollout_artefact, rows

REWARDS = [[1.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0]]
needs_library = pytest.mark.skipif(
    importlib.util.find_spec(few_bits.NAME) is None, reason="bitsandbytes is not installed"
)


def settings(adapter: str, dtype: str, **more: Any) -> Params:
    shape = {"tokens_per_micro_batch": 16, "head_chunk": 5, "lora_rank": 2, "minibatches": 2}
    rates = {"learning_rate": 1e-2, "weight_decay": 0.1, "clip_norm": 0.05}
    return parameters(Update.model_validate({"adapter": adapter, **shape, **rates, **more}), dtype=dtype)


@pytest.fixture
def two_rounds(tmp_path: Path, tiny_model: Artefact, run_stage: RunStage) -> Callable[..., list[Artefact]]:
    """The policies of two rounds, the second of which takes up the first one's optimiser."""
    count = itertools.count()

    def run(first: Params, second: Params | None = None) -> list[Artefact]:
        made: list[Artefact] = []
        for round, params in enumerate((first, second or first), start=1):
            rollout = rollout_artefact(tmp_path / f"rollout-{next(count)}", rows(REWARDS, round), round)
            policy = made[-1] if made else None
            made.append(run_stage(update, params, round, model=tiny_model, rollout=rollout, policy=policy))
        return made

    return run


def contents(artefact: Artefact) -> dict[str, bytes]:
    return {name: artefact.file(name).read_bytes() for name in artefact.manifest.files}


@pytest.mark.parametrize(
    ("adapter", "dtype"), [("lora", "float32"), ("full", "float32"), ("full", "bfloat16")]
)
def test_an_optimiser_in_the_hosts_memory_takes_the_same_steps(
    adapter: str, dtype: str, two_rounds: Callable[..., list[Artefact]]
) -> None:
    plain, offloaded = (settings(adapter, dtype, offload=offload) for offload in (False, True))
    expected = two_rounds(plain)
    assert expected[1].json(STATE)["steps"] == 4
    for found in (two_rounds(offloaded), two_rounds(offloaded, plain), two_rounds(plain, offloaded)):
        assert [contents(made) for made in found] == [contents(made) for made in expected]


@needs_library
def test_moments_in_8_bits_go_nearly_the_way_of_those_in_32(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Artefact, two_rounds: Callable[..., list[Artefact]]
) -> None:
    monkeypatch.setattr(moments, "SMALL", 256)  # the model is tiny
    plain, small = (
        two_rounds(settings("full", "float32", optimiser=optimiser))[1].path
        for optimiser in ("adamw", "adamw_8bit")
    )
    before, exact, rounded = (
        load_file(folder / "model.safetensors")
        for folder in (tiny_model.path, plain / "weights", small / "weights")
    )
    for name, weight in before.items():
        ways = [(after[name] - weight).flatten() for after in (exact, rounded)]
        assert float(torch.cosine_similarity(*ways, dim=0)) > 0.97, name
    assert (small / MOMENTS).stat().st_size < 0.5 * (plain / MOMENTS).stat().st_size


@needs_library
def test_a_state_in_8_bits_is_taken_up_bit_for_bit(tmp_path: Path) -> None:
    def stepped(optimiser: Optimiser, masters: dict[str, torch.Tensor], step: int) -> None:
        for place, master in enumerate(masters.values()):
            generator = torch.Generator().manual_seed(10 * step + place)
            master.grad = torch.randn(master.shape, generator=generator)
        optimiser.step(1.0)

    def fresh() -> dict[str, torch.Tensor]:
        return {n: torch.ones(shape, requires_grad=True) for n, shape in (("wide", (80, 70)), ("thin", (5,)))}

    chosen = Update(optimiser="adamw_8bit", learning_rate=1e-2)
    whole, parts = fresh(), fresh()
    through = Optimiser(whole, chosen)
    for step in range(4):
        stepped(through, whole, step)
    first = Optimiser(parts, chosen)
    for step in range(2):
        stepped(first, parts, step)
    first.save(tmp_path)
    second = Optimiser(parts, chosen)
    second.load(tmp_path)
    for step in range(2, 4):
        stepped(second, parts, step)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    with pytest.raises(BadInput, match=MOMENTS):
        Optimiser(parts, Update()).load(tmp_path)


def test_what_is_not_installed_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        few_bits.importlib.util, "find_spec", lambda name: None if name == few_bits.NAME else found(name)
    )
    for setting in ("update.optimiser=adamw_8bit", "model.bits=4"):
        with pytest.raises(BadInput, match="needs bitsandbytes, which is not installed; expected it"):
            chosen("nano", "sums", "grpo", [setting, "engine.name=transformers"])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"offload": True, "ranks": 2}, "update.offload is for one process"),
        ({"optimiser": "adamw_8bit", "ranks": 2}, "update.optimiser: adamw_8bit is for one process"),
        ({"optimiser": "adamw_8bit", "offload": True}, "keeps moments in float32"),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Update.model_validate(given)
