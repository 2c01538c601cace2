"""Model families, a tiny random one each: sampled, trained for a round, exported, loaded by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from params.base import BadInput
from params.load import compose
from params.schema import Params
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import read_table, write_table
from tasks.core.context import Context
from tasks.core.stage import Job
from tasks.policy.job_policy import job_policy
from tasks.prepare import nano
from tasks.prepare.model import model as make_model
from tasks.prepare.problems import problems as make_problems
from tasks.rollout.rollout import rollout
from tasks.update.update import update
from tests.conftest import RunStage
from tests.tasks.policy.families import FAMILIES, WORDS, folder_of

ONLY_FULL = {"gpt2"}
"""Their layers are no ``nn.Linear``: LoRA is refused with a reason, and all weights train."""


def parameters(folder: Path, *more: str) -> Params:
    small = [
        *("engine.name=transformers", "model.dtype=float32", "model.context=64", "task.train_count=8"),
        *("task.held_out_count=2", "rollout.problems_per_round=2", "rollout.samples_per_problem=3"),
        *("rollout.max_response_tokens=8", "task.reward=similarity", "update.learning_rate=0.01"),
        *("update.warmup_steps=0", *more),
    ]
    return compose(str(folder), "sums", "grpo", small)


def trained(run_stage: RunStage, params: Params) -> tuple[Artefact, Artefact, Artefact]:
    """The base, a round's answers, every second one called right, and the policy that learnt from them."""
    base, problems = run_stage(make_model, params), run_stage(make_problems, params)
    sampled = read_table(run_stage(rollout, params, model=base, problems=problems).file("rollouts.parquet"))
    place = sampled.column_names.index("reward")
    rewards = pa.array([float(row % 2) for row in range(len(sampled))], pa.float32())

    def rewarded(job: Job) -> dict[str, float]:
        write_table(job.out / "rollouts.parquet", sampled.set_column(place, sampled.schema[place], rewards))
        return {}

    answers = run_stage(rewarded, params)
    return base, answers, run_stage(update, params, model=base, rollout=answers)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_trains_a_round_and_its_export_is_the_policy(
    run_stage: RunStage, context: Context, tmp_path: Path, family: str
) -> None:
    adapter = "full" if family in ONLY_FULL else "lora"
    params = parameters(folder_of(family, tmp_path / "source"), f"update.adapter={adapter}")
    base, answers, policy = trained(run_stage, params)
    table = read_table(answers.file("rollouts.parquet"))
    longest = pc.max(pc.list_value_length(table["prompt_ids"])).as_py()
    assert longest > 8  # beyond the windows
    trainer = job_policy(Job(params, 1, {"model": base}, tmp_path, context))
    trainer.restore(None)
    prompts, responses = table["prompt_ids"].to_pylist(), table["response_ids"].to_pylist()
    before = trainer.score(prompts, responses, 1.0).logp
    sampled = torch.tensor([value for row in table["behaviour_logp"].to_pylist() for value in row])
    torch.testing.assert_close(before, sampled, atol=2e-4, rtol=1e-3)
    trainer.restore(policy.path)
    after = trainer.score(prompts, responses, 1.0).logp
    assert float((after - before).abs().max()) > 1e-4
    exported = tmp_path / "exported"
    trainer.merged(exported)
    loaded: Any = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
    assert AutoTokenizer.from_pretrained(exported).chat_template == WORDS.chat_template
    start = 0
    for prompt, response in zip(prompts, responses, strict=True):
        ids = torch.tensor([prompt + response])
        with torch.no_grad():
            logp = loaded(input_ids=ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
        own = logp.gather(1, torch.tensor(response).unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(own, after[start : start + len(response)], atol=2e-4, rtol=1e-3)
        start += len(response)


def test_what_cannot_train_is_refused_before_sampling(run_stage: RunStage, tmp_path: Path) -> None:
    params = parameters(folder_of("gpt2", tmp_path / "source"))
    base, problems = run_stage(make_model, params), run_stage(make_problems, params)
    with pytest.raises(BadInput, match=r"no linear layers for LoRA; expected update\.adapter full"):
        run_stage(rollout, params, model=base, problems=problems)


def words(**changed: Any) -> Any:
    made = nano.tokenizer()
    for name, value in changed.items():
        setattr(made, name, value)
    return made


TOKENS: dict[str, tuple[Any, dict[str, Any]]] = {
    "pad is the end": (words(pad_token="<eos>"), {"pad_token_id": WORDS.eos_token_id}),
    "no pad": (words(pad_token=None), {"pad_token_id": None}),
    "more words than the tokenizer's": (WORDS, {"vocab_size": len(WORDS) + 90}),
}


@pytest.mark.parametrize("case", TOKENS)
def test_tokens_are_taken_as_a_person_expects(run_stage: RunStage, tmp_path: Path, case: str) -> None:
    tokenizer, changed = TOKENS[case]
    params = parameters(folder_of("llama", tmp_path / "source", tokenizer, **changed))
    base, answers, policy = trained(run_stage, params)
    assert read_table(answers.file("rollouts.parquet")).num_rows == 6
    metrics = policy.json("metrics.json")
    assert metrics["mismatch"] < 1e-3
    assert load_file(base.path / "model.safetensors")["model.embed_tokens.weight"].shape[0] >= len(WORDS)


def test_any_of_several_end_tokens_ends_a_response_and_is_learnt_from(
    run_stage: RunStage, tmp_path: Path
) -> None:
    folder = folder_of("qwen2", tmp_path / "source")
    ends = [int(WORDS.eos_token_id), *(int(WORDS.convert_tokens_to_ids(c)) for c in "abcdefghijklmnop")]
    (folder / "generation_config.json").write_text(f'{{"eos_token_id": {ends}}}')
    _, answers, policy = trained(run_stage, parameters(folder))
    stopped = read_table(answers.file("rollouts.parquet")).to_pylist()
    by_token = [row for row in stopped if row["finish_reason"] == "stop"]
    assert by_token
    for row in stopped:
        assert (row["response_ids"][-1] in ends) == (row["finish_reason"] == "stop")
        assert not set(row["response_ids"][:-1]) & set(ends)
    assert policy.json("metrics.json")["tokens"] == sum(len(row["response_ids"]) for row in stopped)
