"""A policy is opened, restored, saved and merged without loss; what is wrong is refused at the door."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from params.base import BadInput
from params.schema import Update
from tasks.artefacts.artefact import Artefact
from tasks.core.context import Context
from tasks.core.stage import Job
from tasks.policy.job_policy import job_policy
from tasks.policy.policy import Policy
from tests.conftest import as_artefact
from tests.tasks.rollout_rows import parameters

PROMPTS = [[5, 6, 7, 8], [5, 6, 7, 8], [9]]
RESPONSES = [[10, 11], [12, 13, 14], [15]]
KINDS = [("lora", "float32"), ("full", "float32"), ("lora", "bfloat16"), ("full", "bfloat16")]


def opened(model: Artefact, adapter: Any, dtype: str = "float32", seed: int = 0) -> Policy:
    params = parameters(Update(adapter=adapter, lora_rank=3, lora_alpha=6.0), dtype=dtype)
    return Policy.open(model.path, params.model_copy(update={"seed": seed}))


def shaken(policy: Policy) -> Policy:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in policy.weights.masters.values():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    policy.stepped()
    return policy


def logp(policy: Policy, **more: Any) -> torch.Tensor:
    return policy.score(PROMPTS, RESPONSES, 0.9, **more).logp


def of_plain_model(model: Any) -> torch.Tensor:
    parts = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0].float() / 0.9
        logs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        parts.append(logs.gather(1, torch.tensor(response)[:, None])[:, 0])
    return torch.cat(parts).detach()


@pytest.mark.parametrize(("adapter", "dtype"), KINDS)
def test_what_is_saved_comes_back(tiny_model: Artefact, tmp_path: Path, adapter: str, dtype: str) -> None:
    policy = opened(tiny_model, adapter, dtype)
    base = logp(policy)
    moved = logp(shaken(policy))
    assert not torch.equal(base, moved)
    policy.save(tmp_path)
    assert torch.equal(logp(policy, reference=True), base)
    policy.restore(None)
    assert torch.equal(logp(policy), base)
    policy.restore(tmp_path)
    assert torch.equal(logp(policy), moved)
    again = opened(tiny_model, adapter, dtype)
    again.restore(tmp_path)
    assert torch.equal(logp(again), moved)


@pytest.mark.parametrize(("adapter", "dtype"), KINDS)
def test_the_merged_folder_is_the_policy(
    tiny_model: Artefact, tmp_path: Path, adapter: str, dtype: str
) -> None:
    policy = shaken(opened(tiny_model, adapter, dtype))
    before = logp(policy)
    policy.merged(tmp_path)
    assert torch.equal(logp(policy), before)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert plain.dtype == getattr(torch, dtype)
    tolerance = 1e-5 if dtype == "float32" else 0.05
    torch.testing.assert_close(of_plain_model(plain), before, atol=tolerance, rtol=0.0)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_a_merge_in_float32_loses_nothing(tiny_model: Artefact, tmp_path: Path, adapter: str) -> None:
    policy = shaken(opened(tiny_model, adapter, "bfloat16"))
    policy.merged(tmp_path, torch.float32)
    stored = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert stored.dtype == torch.float32
    name = "model.layers.0.mlp.up_proj"
    if adapter == "full":
        expected = policy.weights.masters[f"{name}.weight"]
    else:
        base, a, b = policy.weights._layers[name].parts()  # type: ignore[attr-defined]
        expected = base.float() + 2.0 * (b @ a)
    found = dict(stored.named_parameters())[f"{name}.weight"]
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0.0)


@pytest.mark.parametrize("scale", [1e-7, 1e-2, 1.0])
def test_what_a_merge_loses_is_measured(tiny_model: Artefact, tmp_path: Path, scale: float) -> None:
    """Over the rows that are looked at, weight by weight, against the folder that is written."""
    policy = shaken(opened(tiny_model, "lora", "bfloat16"))
    with torch.no_grad():
        for name, weight in policy.weights.masters.items():
            if "lora_B" in name:
                weight.mul_(scale)
    policy.merged(tmp_path)
    after = dict(AutoModelForCausalLM.from_pretrained(tmp_path).named_parameters())
    adapted = unchanged = 0
    for name, layer in policy.weights._layers.items():  # type: ignore[attr-defined]
        base, a, b = layer.parts()
        for row in torch.linspace(0, len(base) - 1, min(32, len(base))).long():
            moved = (b[row] @ a) != 0
            adapted += int(moved.sum())
            unchanged += int((after[f"{name}.weight"][row] == base[row])[moved].sum())
    share = policy.weights.merge_loss()
    assert share == pytest.approx(unchanged / adapted, abs=0.002)
    assert share > 0.9 if scale == 1e-7 else share < 0.9


def test_the_base_loses_nothing_in_a_merge(tiny_model: Artefact) -> None:
    assert opened(tiny_model, "lora", "bfloat16").weights.merge_loss() is None


def test_peft_and_transformers_load_what_is_saved(tiny_model: Artefact, tmp_path: Path) -> None:
    lora = shaken(opened(tiny_model, "lora"))
    lora.save(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tiny_model.path)
    peft = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    torch.testing.assert_close(of_plain_model(peft), logp(lora), atol=1e-5, rtol=0.0)
    full = shaken(opened(tiny_model, "full", "bfloat16"))
    full.save(tmp_path)
    weights = AutoModelForCausalLM.from_pretrained(tmp_path / "weights")
    assert weights.dtype == torch.float32


def test_saved_files_do_not_depend_on_where_they_were_made(tiny_model: Artefact, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tiny_model.path, elsewhere)
    digests = []
    for i, folder in enumerate((tiny_model.path, elsewhere)):
        policy = shaken(opened(Artefact.open(folder), "lora"))
        policy.save(tmp_path / str(i))
        digests.append(as_artefact(tmp_path / str(i), "update").digest)
    assert digests[0] == digests[1]
    assert str(tmp_path) not in (tmp_path / "0" / "adapter" / "adapter_config.json").read_text()


def test_the_adapter_starts_from_the_seed_and_nothing_else(tiny_model: Artefact, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    made = []
    for i, seed in enumerate((3, 3, 4)):
        opened(tiny_model, "lora", seed=seed).save(tmp_path / str(i))
        made.append(load_file(tmp_path / str(i) / "adapter" / "adapter_model.safetensors"))
    assert torch.equal(torch.random.get_rng_state(), state)
    first = next(name for name in made[0] if "lora_A" in name)
    assert torch.equal(made[0][first], made[1][first])
    assert not torch.equal(made[0][first], made[2][first])
    assert all(not tensor.any() for name, tensor in made[0].items() if "lora_B" in name)
    assert not any("lm_head" in name for name in made[0])


def test_scores_come_with_entropy_and_ranks(tiny_model: Artefact) -> None:
    scores = opened(tiny_model, "lora").score(PROMPTS, RESPONSES, 1.0, entropy=True, ranks=3)
    assert scores.entropy is not None
    assert scores.ranks is not None
    assert [len(part) for part in scores.split(scores.logp)] == [2, 3, 1]
    assert scores.entropy.shape == (6,)
    assert scores.ranks.shape == (6, 3)
    assert bool((scores.ranks[:, :-1] >= scores.ranks[:, 1:]).all())


def test_restoring_what_is_held_reads_nothing(
    tiny_model: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = shaken(opened(tiny_model, "lora"))
    policy.save(tmp_path)
    as_artefact(tmp_path, "update")
    policy.restore(tmp_path)
    monkeypatch.setattr(policy.weights, "read", lambda folder: pytest.fail("read again"))
    policy.restore(tmp_path)
    policy.stepped()
    with pytest.raises(pytest.fail.Exception):
        policy.restore(tmp_path)


def test_a_run_opens_a_model_once(tiny_model: Artefact, tmp_path: Path, context: Context) -> None:
    jobs = [Job(parameters(), r, {"model": tiny_model}, tmp_path, context) for r in (1, 2)]
    assert job_policy(jobs[0]) is job_policy(jobs[1])


def spoilt(tiny_model: Artefact, folder: Path, kind: str) -> Path:
    shutil.copytree(tiny_model.path, folder)
    if kind == "config":
        (folder / "config.json").unlink()
    elif kind == "weights":
        (folder / "model.safetensors").unlink()
    elif kind == "truncated":
        (folder / "model.safetensors").write_bytes(b"1234567890")
    else:
        for path in folder.glob("tokenizer*"):
            path.unlink()
    return folder


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("config", "no config.json"),
        ("weights", "no weights; expected"),
        ("truncated", "loads"),
        ("tokenizer", "no tokenizer"),
    ],
)
def test_a_folder_that_lacks_something_is_refused_in_one_line(
    tiny_model: Artefact, tmp_path: Path, kind: str, says: str
) -> None:
    with pytest.raises(BadInput, match=says) as refusal:
        Policy.open(spoilt(tiny_model, tmp_path / "model", kind), parameters())
    assert "\n" not in str(refusal.value)
    assert str(tmp_path / "model") in str(refusal.value)


def test_a_policy_of_another_shape_is_refused(tiny_model: Artefact, tmp_path: Path) -> None:
    opened(tiny_model, "lora").save(tmp_path)
    other = Policy.open(tiny_model.path, parameters(Update(lora_rank=4)))
    with pytest.raises(BadInput, match="lora_rank 4"):
        other.restore(tmp_path)
    with pytest.raises(BadInput, match=r"update\.adapter full"):
        opened(tiny_model, "full").restore(tmp_path)
