"""vLLM in its process: the same promises as the transformers engine, new weights, a stale engine, a death."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from params.schema import Engine, Params, Update
from tasks.artefacts.artefact import Artefact
from tasks.engines.base import Completion, EngineFailure, Request, Sampling
from tasks.engines.vllm_child import Vllm
from tasks.policy.policy import Policy
from tasks.prepare import nano
from tests.conftest import as_artefact
from tests.tasks.rollout_rows import parameters

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]

PROMPTS = tuple(tuple(range(4 + p, 44 + p)) for p in range(4))
SAMPLES = 4
SAMPLING = Sampling(0.8, 12, (2, 50, 51, 52))


def settings(adapter: str = "lora") -> Params:
    update = Update(tokens_per_micro_batch=512, lora_rank=4, adapter=adapter)
    chosen = parameters(update, context=128)
    engine = Engine(kv_cache_gib=0.05, start_timeout=120, reply_timeout=120)
    rollout = chosen.rollout.model_copy(update={"entropy": True})
    return chosen.model_copy(update={"engine": engine, "rollout": rollout})


def start(folder: Path, params: Params, scratch: Path, kind: type[Vllm] = Vllm) -> Vllm:
    return kind(folder, lambda: Policy.open(folder, params), params, scratch)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    folder = tmp_path_factory.mktemp("model")
    nano.save(nano.create(seed=0, hidden=64, layers=2, heads=2), folder)
    return as_artefact(folder, "model")


@pytest.fixture(scope="module")
def engine(model: Artefact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    started = start(model.path, settings(), tmp_path_factory.mktemp("scratch"))
    started.load(None)
    yield started
    started.close()


def trained(engine: Vllm, folder: Path, seed: int, scale: float = 0.05) -> Artefact:
    """A policy artefact whose weights are not the base's."""
    policy = engine._policy
    policy.restore(None)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in policy.weights.masters.items():
            if ".lora_A." not in name:
                weight.add_(scale * torch.randn(weight.shape, generator=generator))
    policy.stepped()
    policy.save(folder)
    return as_artefact(folder, "update", seed)


def requests() -> list[Request]:
    return [Request(prompt, 2**62 + 100 * p + s) for p, prompt in enumerate(PROMPTS) for s in range(SAMPLES)]


def agree(engine: Vllm, asked: list[Request], sampling: Sampling) -> list[Completion]:
    """Completions whose log-probabilities are the trainer's."""
    completions = engine.generate(asked, sampling)
    prompts, responses = [r.prompt_ids for r in asked], [c.token_ids for c in completions]
    scored = engine._policy.score(prompts, responses, sampling.temperature or 1.0).logp
    ours = torch.tensor([logp for completion in completions for logp in completion.logp])
    torch.testing.assert_close(ours, scored, atol=1e-3, rtol=0.0)
    return completions


def test_sampling(engine: Vllm) -> None:
    engine.load(None)
    told: dict[int, Completion] = {}
    asked = requests()
    first = agree(engine, asked, SAMPLING)
    assert engine.generate(asked, SAMPLING, finished=told.__setitem__) == first
    assert [told[index] for index in range(len(asked))] == first
    backwards = engine.generate(asked[::-1], SAMPLING)[::-1]
    assert [c.token_ids for c in backwards] == [c.token_ids for c in first]
    assert len({c.token_ids for c in first[:SAMPLES]}) > 1
    for completion in first:
        stopped = completion.token_ids[-1] in SAMPLING.stop_ids
        assert completion.finish_reason == ("stop" if stopped else "length")
        assert not set(completion.token_ids[:-1]) & set(SAMPLING.stop_ids)
        assert stopped or len(completion.token_ids) == SAMPLING.max_tokens


def test_the_entropy_of_every_position(engine: Vllm) -> None:
    engine.load(None)
    asked = requests()
    completions = engine.generate(asked, dataclasses.replace(SAMPLING, entropy=True))
    plain = engine.generate(asked, SAMPLING)
    assert [c.token_ids for c in completions] == [c.token_ids for c in plain]
    assert not any(c.entropy for c in plain)
    prompts, responses = [r.prompt_ids for r in asked], [c.token_ids for c in completions]
    scored = engine._policy.score(prompts, responses, SAMPLING.temperature, entropy=True)
    assert scored.entropy is not None
    told = torch.tensor([value for completion in completions for value in completion.entropy])
    torch.testing.assert_close(told, scored.entropy, atol=1e-3, rtol=0.0)
    assert float(told.std()) > 1e-3


def test_the_likeliest_tokens_of_every_position(engine: Vllm) -> None:
    engine.load(None)
    asked, top = requests(), 20
    completions = engine.generate(asked, dataclasses.replace(SAMPLING, top=top))
    plain = engine.generate(asked, SAMPLING)
    assert [c.token_ids for c in completions] == [c.token_ids for c in plain]
    prompts, responses = [r.prompt_ids for r in asked], [c.token_ids for c in completions]
    scored = engine._policy.score(prompts, responses, SAMPLING.temperature, ranks=top)
    assert scored.ranks is not None
    logp = torch.tensor([value for c in completions for value in c.top_logp]).view(-1, top)
    torch.testing.assert_close(logp.exp(), scored.ranks, atol=1e-3, rtol=0.0)
    outside = 0
    for completion in completions:
        for place, (token, value) in enumerate(zip(completion.token_ids, completion.logp, strict=True)):
            here = slice(place * top, (place + 1) * top)
            likely = dict(zip(completion.top_ids[here], completion.top_logp[here], strict=True))
            assert len(likely) == top
            assert likely.get(token, value) == value
            outside += token not in likely
    assert 0 < outside < len(logp)


def test_greedy(engine: Vllm) -> None:
    engine.load(None)
    twins = [Request(PROMPTS[0], 1), Request(PROMPTS[0], 2)]
    one, two = agree(engine, twins, Sampling(0.0, 8, ()))
    assert one.token_ids == two.token_ids


def test_new_weights(engine: Vllm, tmp_path: Path) -> None:
    engine.load(None)
    base = engine.generate(requests(), SAMPLING)
    for seed in (1, 2):
        policy = trained(engine, tmp_path / str(seed), seed)
        engine.load(policy.path)
        assert [c.logp for c in agree(engine, requests(), SAMPLING)] != [c.logp for c in base]
    engine.load(None)
    assert engine.generate(requests(), SAMPLING) == base


def test_loading_what_is_loaded_asks_nothing(
    engine: Vllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = trained(engine, tmp_path / "policy", 3)
    engine.load(policy.path)
    monkeypatch.setattr(engine, "_ask", lambda *a, **k: pytest.fail("the engine was asked"))
    engine.load(policy.path)


def test_a_stale_engine_is_refused_with_both_figures(
    engine: Vllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.load(None)
    policy = trained(engine, tmp_path / "policy", 4, scale=0.01)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_hand_over", lambda policy, held: None)
        with pytest.raises(EngineFailure, match=r"are 0\.000 nats from that one's and 0\.\d+ from"):
            engine.load(policy.path)
    engine.load(None)
    engine.load(policy.path)


def test_a_killed_process_is_an_engine_failure_and_the_next_load_starts_another(
    engine: Vllm, tmp_path: Path
) -> None:
    policy = trained(engine, tmp_path / "policy", 5)
    engine.load(policy.path)
    before = engine.generate(requests(), SAMPLING)
    os.kill(engine._child.pid, signal.SIGKILL)
    with pytest.raises(EngineFailure, match="vllm: ended with signal 9"):
        engine.generate(requests(), SAMPLING)
    engine.load(policy.path)
    assert engine.generate(requests(), SAMPLING) == before


def test_full_weights_reach_the_head_that_is_tied_to_the_embeddings(model: Artefact, tmp_path: Path) -> None:
    engine = start(model.path, settings("full"), tmp_path)
    try:
        policy = trained(engine, tmp_path / "policy", 6)
        engine.load(policy.path)
        agree(engine, requests(), SAMPLING)
    finally:
        engine.close()


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_float8_weights_are_the_ones_that_the_trainer_expects(
    model: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: str
) -> None:
    params = settings(adapter)
    narrow = params.model_copy(update={"engine": params.engine.model_copy(update={"dtype": "float8"})})
    engine = start(model.path, narrow, tmp_path)
    try:
        policy = trained(engine, tmp_path / "policy", 7)
        for folder in (None, policy.path):
            engine.load(folder)
            asked = requests()
            completions = engine.generate(asked, SAMPLING)
            prompts, responses = [r.prompt_ids for r in asked], [c.token_ids for c in completions]
            ours = torch.tensor([logp for completion in completions for logp in completion.logp])
            assert engine._rounded is not None
            own = engine._rounded.score(prompts, responses, SAMPLING.temperature).logp
            trainer = engine._policy.score(prompts, responses, SAMPLING.temperature).logp
            assert float((ours - own).abs().mean()) < 0.5 * float((ours - trainer).abs().mean())
        stale = trained(engine, tmp_path / "stale", 8, scale=0.02)
        with monkeypatch.context() as patch:
            patch.setattr(engine, "_hand_over", lambda policy, held: None)
            with pytest.raises(EngineFailure, match=r"other weights|the policy of before"):
                engine.load(stale.path)
        engine.load(None)
        engine.load(stale.path)
    finally:
        engine.close()


def test_a_model_that_does_not_load_is_one_line(model: Artefact, tmp_path: Path) -> None:
    params = settings()
    params = params.model_copy(update={"model": params.model.model_copy(update={"context": 4096})})
    engine = start(model.path, params, tmp_path)
    try:
        with pytest.raises(EngineFailure, match=r"vllm: ended with exit code 1: .*4096") as caught:
            engine.load(None)
        assert "\n" not in str(caught.value)
    finally:
        engine.close()
