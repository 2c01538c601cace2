"""Episodes through the real stage: tokens that are never re-made, limits, hostile environments."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from params.base import BadInput
from params.engine import Engine
from params.prompt import Prompt
from params.schema import Params
from tasks.artefacts.artefact import MANIFEST, Artefact
from tasks.artefacts.tables import read_table
from tasks.core.segments import Segmented, known, responses_of
from tasks.engines.base import More, Request, Sampling
from tasks.engines.in_process import InProcess
from tasks.policy.policy import Policy
from tasks.prepare import nano
from tasks.rollout.rollout import rollout
from tasks.update.update import update
from tests.conftest import RunStage, as_artefact
from tests.tasks.rollout.episode_cases import problems, settings, write_file

STRIPPING = (
    "{{ '<bos>' }}{% for message in messages %}{% set content = message.content %}"
    "{% if message.role == 'assistant' %}{% if '</think>' in content %}"
    "{% set content = content.split('</think>')[-1].split('<think>')[-1] %}{% endif %}"
    "{{ 'A: ' + content + '<eos>' }}{% else %}{{ 'Q: ' + content + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'A: ' }}{% endif %}"
)
"""Nano's, without the thinking of earlier turns."""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path)
    monkeypatch.chdir(tmp_path)


def sampled(run: RunStage, model: Artefact, params: Params, given: Artefact, round: int = 1) -> Artefact:
    return run(rollout, params, round, model=model, problems=given)


def rows(artefact: Artefact) -> list[dict[str, Any]]:
    return list(read_table(artefact.file("rollouts.parquet")).to_pylist())


def faithful(
    run: RunStage, model: Artefact, params: Params, given: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ids that the engine saw are those that are kept and scored; some episodes have several turns."""
    seen: list[Request] = []
    generate = InProcess.generate

    def watched(
        self: InProcess, requests: Sequence[Request], sampling: Sampling, tell: Any, finished: Any, more: More
    ) -> Any:
        def heard(seconds: float) -> Sequence[Request] | None:
            found = more(seconds)
            seen.extend(found or ())
            return found

        seen.extend(requests)
        return generate(self, requests, sampling, tell, finished, heard)

    monkeypatch.setattr(InProcess, "generate", watched)
    made = sampled(run, model, params, given)
    table = read_table(made.file("rollouts.parquet"))
    prompts = {(request.prompt_ids, request.seed) for request in seen}
    several = 0
    for row in table.to_pylist():
        mask = row["sampled"] or [True] * len(row["response_ids"])
        starts = [i for i, own in enumerate(mask) if own and (not i or not mask[i - 1])]
        whole = [*row["prompt_ids"], *row["response_ids"]]
        for start in starts:
            length = len(row["prompt_ids"]) + start
            assert any(tuple(whole[:length]) == prompt for prompt, _ in prompts)
        several += len(starts) > 1
        assert len(row["turn_rewards"]) == len(starts)
        assert [value is not None for value in row["behaviour_logp"]] == mask
        said = [each["role"] for each in json.loads(row["trace"])]
        assert said[:2] == ["user", "assistant"]
    assert several
    policy = Policy.open(model.path, params)
    scores = policy.score(table["prompt_ids"].to_pylist(), responses_of(table), params.rollout.temperature)
    kept = torch.tensor([value for part in table["behaviour_logp"].to_pylist() for value in known(part)])
    assert torch.allclose(scores.logp, kept, atol=1e-4)


def test_the_ids_that_the_engine_saw_are_those_that_are_kept_and_scored(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faithful(run_stage, tiny_model, settings(), problems(tmp_path / "problems"), monkeypatch)


def test_a_template_that_strips_thinking_is_taken_once_it_is_patched(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, given = tmp_path / "stripping", problems(tmp_path / "problems")
    shutil.copytree(tiny_model.path, folder)
    (folder / MANIFEST).unlink()
    (folder / "chat_template.jinja").write_text(STRIPPING)
    model, params = as_artefact(folder, "model"), settings()
    with pytest.raises(BadInput, match=r"leaves out the thinking.*--set task.prompt.template_patch=qwen3"):
        sampled(run_stage, model, params, given)
    prompt = Prompt(template_patch="qwen3")
    params = params.model_copy(update={"task": params.task.model_copy(update={"prompt": prompt})})
    faithful(run_stage, model, params, given, monkeypatch)


def test_no_order_in_which_environments_answer_changes_a_byte(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path
) -> None:
    given = problems(tmp_path / "problems")
    names = ("mine.py:Echo", "mine.py:Late", "mine.py:Late")
    prompt, *late = (sampled(run_stage, tiny_model, settings(name), given) for name in names)
    for each in late:
        assert each.manifest.files["rollouts.parquet"] == prompt.manifest.files["rollouts.parquet"]


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_makes_the_same_episodes_whenever_environments_answer(
    run_stage: RunStage, tmp_path: Path
) -> None:
    folder, given = tmp_path / "model", problems(tmp_path / "problems")
    nano.save(nano.create(seed=0, hidden=64, layers=2, heads=2), folder)
    model, engine = as_artefact(folder, "model"), Engine(name="vllm", kv_cache_gib=0.05, start_timeout=240)
    limits = {"turn_tokens": 40, "call_seconds": 30.0}
    prompt, late = (
        settings(name, episode=limits).model_copy(update={"engine": engine})
        for name in ("mine.py:Echo", "mine.py:Late")
    )
    ours, theirs = (rows(sampled(run_stage, model, each, given)) for each in (prompt, late))
    assert "turn_length" in {row["finish_reason"] for row in ours}
    assert max(len(row["turn_rewards"]) for row in ours) > 1
    for one, two in zip(ours, theirs, strict=True):
        for name in ("response_ids", "sampled", "finish_reason", "turn_rewards", "trace", "seed"):
            assert one[name] == two[name]
        assert known(one["behaviour_logp"]) == pytest.approx(known(two["behaviour_logp"]), abs=1e-4)
    ids = [
        Segmented(row["response_ids"], row["sampled"] or [True] * len(row["response_ids"])) for row in ours
    ]
    policy = Policy.open(model.path, prompt)
    scores = policy.score([row["prompt_ids"] for row in ours], ids, prompt.rollout.temperature)
    kept = torch.tensor([value for row in ours for value in known(row["behaviour_logp"])])
    torch.testing.assert_close(kept, scores.logp, atol=1e-3, rtol=0.0)


def test_an_environment_that_takes_its_time_holds_up_nobody_else(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path
) -> None:
    """One does not answer to its first turn before another has heard a second one."""
    given = problems(tmp_path / "problems", ["last ?", *(f"{i} + 1 = ?" for i in range(1, 8))])
    limits = {"call_seconds": 30.0, "turn_tokens": 60}
    params = settings("mine.py:Patient", folder=str(tmp_path), max_response_tokens=150, episode=limits)
    params = params.model_copy(
        update={
            "rollout": params.rollout.model_copy(update={"problems_per_round": 8, "samples_per_problem": 1}),
            "model": params.model.model_copy(update={"context": 256}),
        }
    )
    made = rows(sampled(run_stage, tiny_model, params, given))
    assert not [row["reward_error"] for row in made if row["reward_error"]]
    assert (tmp_path / "second").exists()


def test_an_episode_of_one_turn_is_an_answer_and_makes_the_same_update(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path
) -> None:
    given = problems(tmp_path / "problems")
    params = settings("mine.py:Silent", turns=1, max_response_tokens=6)
    alone = params.model_copy(update={"task": params.task.model_copy(update={"environment": None})})
    episodes, answers = (sampled(run_stage, tiny_model, each, given) for each in (params, alone))
    for one, other in zip(rows(episodes), rows(answers), strict=True):
        own = ("trace", "turn_rewards", "finish_reason")
        assert {n: x for n, x in one.items() if n not in own} == {n: other[n] for n in one if n not in own}
    policies = [run_stage(update, params, model=tiny_model, rollout=each) for each in (episodes, answers)]
    one, other = (load_file(each.file("adapter/adapter_model.safetensors")) for each in policies)
    assert one.keys() == other.keys()
    for name, weight in one.items():
        assert torch.equal(weight, other[name])


@pytest.mark.parametrize("turns", [1, 3])
def test_a_judge_reads_what_the_environment_says_the_answer_is(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path, turns: int
) -> None:
    given = problems(tmp_path / "problems")
    knowing, silent = (
        rows(sampled(run_stage, tiny_model, settings(name, turns=turns), given))
        for name in ("mine.py:Knowing", "mine.py:Silent")
    )
    told = [int(row["problem_id"].removeprefix("p")) % 2 == 0 for row in knowing]
    assert set(told) == {True, False}
    assert {row["reward"] for row in silent} & {0.0}
    for own, other, is_told in zip(knowing, silent, told, strict=True):
        assert own["reward"] == (1.0 if is_told else other["reward"])


@pytest.mark.parametrize(
    ("reason", "options"),
    [
        ("stop", {"turns": 2, "episode": {"turn_tokens": 60}}),
        ("turns", {"turns": 9, "episode": {"turns": 2, "turn_tokens": 60}}),
        ("turn_length", {"episode": {"turn_tokens": 1}}),
        ("length", {"turns": 99, "episode": {"turns": 99}, "max_response_tokens": 8}),
    ],
)
def test_each_limit_is_an_end_of_its_own(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path, reason: str, options: dict[str, Any]
) -> None:
    params = settings(**options)
    made = rows(sampled(run_stage, tiny_model, params, problems(tmp_path / "problems")))
    assert reason in {row["finish_reason"] for row in made}
    assert {row["finish_reason"] for row in made} <= {"stop", "turns", "turn_length", "length"}
    assert all(len(row["response_ids"]) <= params.rollout.max_response_tokens for row in made)


def test_an_environment_that_misbehaves_ends_its_own_episode_alone(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path
) -> None:
    kinds = ["hang", "crash", "raise", "memory", "flood", "noise", "nan", "good"]
    given = problems(tmp_path / "problems", [f"{kind} ?" for kind in kinds])
    limits = {"call_seconds": 3.0, "memory_mib": 256, "observation_characters": 20, "turn_tokens": 60}
    params = settings("mine.py:Hostile", max_response_tokens=150, episode=limits)
    params = params.model_copy(
        update={
            "rollout": params.rollout.model_copy(update={"problems_per_round": len(kinds)}),
            "model": params.model.model_copy(update={"context": 256}),
        }
    )
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for row in rows(sampled(run_stage, tiny_model, params, given)):
        by_kind.setdefault(kinds[int(row["problem_id"][1:])], []).append(row)
    reached = {
        kind: [row for row in found if len(row["turn_rewards"]) > 1 or row["reward_error"]]
        for kind, found in by_kind.items()
    }
    assert all(reached.values())
    for kind, reason, reward, word in (
        ("hang", "time", 0.0, "no answer"),
        ("crash", "environment", None, "exit code 7"),
        ("raise", "environment", None, "KeyError"),
        ("memory", "environment", None, "memory"),
        ("nan", "environment", None, "finite"),
    ):
        failed = [row for row in reached[kind] if row["reward_error"]]
        assert failed
        for row in failed:
            assert (row["finish_reason"], row["reward"]) == (reason, reward), row
            assert word in row["reward_error"]
    for kind in ("flood", "noise", "good"):
        assert not any(row["reward_error"] for row in by_kind[kind])
        assert all(row["reward"] is not None for row in by_kind[kind])
    said = [message for row in by_kind["flood"] for message in json.loads(row["trace"])]
    assert max(len(each["content"]) for each in said if each["role"] == "user") < 40


@pytest.mark.parametrize(("name", "turns", "word"), [("Stillborn", 1, "KeyError"), ("Fleeting", 2, "code 7")])
def test_an_environment_that_is_gone_before_it_is_asked_ends_its_episode(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path, name: str, turns: int, word: str
) -> None:
    params = settings(f"mine.py:{name}", episode={"turn_tokens": 60}, max_response_tokens=150)
    params = params.model_copy(update={"model": params.model.model_copy(update={"context": 256})})
    made = rows(sampled(run_stage, tiny_model, params, problems(tmp_path / "problems")))
    failed = [row for row in made if row["reward_error"]]
    assert failed
    for row in failed:
        assert (row["finish_reason"], row["reward"]) == ("environment", None)
        assert word in row["reward_error"]
    assert max(len(row["turn_rewards"]) for row in failed) == turns
    rest = [row for row in made if not row["reward_error"]]
    assert all(row["finish_reason"] == "turn_length" for row in rest)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("mine.py:Ecco", "did you mean 'Echo'"),
        ("nowhere.py:Echo", "no module 'nowhere'"),
        ("gess", "did you mean 'guess'"),
    ],
)
def test_an_environment_that_is_not_there_is_one_line(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path, name: str, word: str
) -> None:
    with pytest.raises(BadInput, match=word):
        sampled(run_stage, tiny_model, settings(name), problems(tmp_path / "problems"))


def test_an_option_that_is_none_is_one_line(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="takes no such option"):
        sampled(run_stage, tiny_model, settings(turn=3), problems(tmp_path / "problems"))
