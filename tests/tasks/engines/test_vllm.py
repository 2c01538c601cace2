"""vLLM in its process: the same promises as the transformers engine, new weights, a stale engine, a death."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from params.engine import Engine
from params.prompt import Prompt
from params.schema import Params, Update
from tasks.artefacts.artefact import Artefact
from tasks.engines import vllm_options
from tasks.engines.base import EngineFailure, Request, Response, Sampling
from tasks.engines.in_process import InProcess
from tasks.engines.vllm_child import Vllm
from tasks.policy.policy import Policy
from tasks.prepare import nano
from tasks.rollout.thinking import Reader
from tests.conftest import as_artefact
from tests.tasks.engines.likeliest import drawn_from_the_likeliest
from tests.tasks.engines.talks import as_if_alone, limited, talks
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


def agree(engine: Vllm, asked: list[Request], sampling: Sampling) -> list[Response]:
    """Responses whose log-probabilities are the trainer's."""
    responses = engine.generate(asked, sampling)
    prompts, ids = [r.prompt_ids for r in asked], [r.token_ids for r in responses]
    scored = engine._policy.score(prompts, ids, sampling.temperature or 1.0).logp
    ours = torch.tensor([logp for response in responses for logp in response.logp])
    torch.testing.assert_close(ours, scored, atol=1e-3, rtol=0.0)
    return responses


def test_sampling(engine: Vllm) -> None:
    engine.load(None)
    told: dict[int, Response] = {}
    asked = requests()
    first = agree(engine, asked, SAMPLING)
    assert engine.generate(asked, SAMPLING, finished=told.__setitem__) == first
    assert [told[index] for index in range(len(asked))] == first
    backwards = engine.generate(asked[::-1], SAMPLING)[::-1]
    assert [r.token_ids for r in backwards] == [r.token_ids for r in first]
    assert len({r.token_ids for r in first[:SAMPLES]}) > 1
    for response in first:
        stopped = response.token_ids[-1] in SAMPLING.stop_ids
        assert response.finish_reason == ("stop" if stopped else "length")
        assert not set(response.token_ids[:-1]) & set(SAMPLING.stop_ids)
        assert stopped or len(response.token_ids) == SAMPLING.max_tokens


@pytest.mark.ci
def test_requests_that_come_up_join_and_are_answered_as_if_asked_alone(engine: Vllm) -> None:
    engine.load(None)
    chosen, asked = dataclasses.replace(SAMPLING, top=2, entropy=True), requests()
    as_if_alone(engine, asked, chosen, talks(engine, asked, chosen), 1e-4)


@pytest.mark.ci
def test_a_response_is_no_longer_than_its_own_limit(engine: Vllm) -> None:
    engine.load(None)
    limited(engine, PROMPTS)


def test_the_entropy_of_every_position(engine: Vllm) -> None:
    engine.load(None)
    asked = requests()
    responses = engine.generate(asked, dataclasses.replace(SAMPLING, entropy=True))
    plain = engine.generate(asked, SAMPLING)
    assert [r.token_ids for r in responses] == [r.token_ids for r in plain]
    assert not any(c.entropy for c in plain)
    prompts, ids = [r.prompt_ids for r in asked], [r.token_ids for r in responses]
    scored = engine._policy.score(prompts, ids, SAMPLING.temperature, entropy=True)
    assert scored.entropy is not None
    told = torch.tensor([value for response in responses for value in response.entropy])
    torch.testing.assert_close(told, scored.entropy, atol=1e-3, rtol=0.0)
    assert float(told.std()) > 1e-3


def test_the_likeliest_tokens_of_every_position(engine: Vllm) -> None:
    engine.load(None)
    asked, top = requests(), 20
    responses = engine.generate(asked, dataclasses.replace(SAMPLING, top=top))
    plain = engine.generate(asked, SAMPLING)
    assert [r.token_ids for r in responses] == [r.token_ids for r in plain]
    prompts, ids = [r.prompt_ids for r in asked], [r.token_ids for r in responses]
    scored = engine._policy.score(prompts, ids, SAMPLING.temperature, ranks=top)
    assert scored.ranks is not None
    logp = torch.tensor([value for r in responses for value in r.top_logp]).view(-1, top)
    torch.testing.assert_close(logp.exp(), scored.ranks, atol=1e-3, rtol=0.0)
    outside = 0
    for response in responses:
        for place, (token, value) in enumerate(zip(response.token_ids, response.logp, strict=True)):
            here = slice(place * top, (place + 1) * top)
            likely = dict(zip(response.top_ids[here], response.top_logp[here], strict=True))
            assert len(likely) == top
            assert likely.get(token, value) == value
            outside += token not in likely
    assert 0 < outside < len(logp)


@pytest.mark.ci
def test_the_likeliest_tokens_alone_and_the_end_at_a_stop_text(engine: Vllm) -> None:
    """Top-k and top-p by their definition; and a stop text, where the transformers engine ends."""
    engine.load(None)
    asked = requests()
    for top_k, top_p in ((3, 1.0), (0, 0.3), (5, 0.6)):
        narrow = dataclasses.replace(SAMPLING, top_k=top_k, top_p=top_p)
        drawn_from_the_likeliest(engine._policy, asked, engine.generate(asked, narrow), narrow, within=1e-3)
    greedy = Sampling(0.0, 16, ())
    (longest,) = engine.generate(asked[:1], greedy)
    words = nano.tokenizer()
    stop = words.decode(longest.token_ids[4:7], skip_special_tokens=True)
    reader = Reader(words, Prompt(stop=(stop,)), (stop,))
    ending = dataclasses.replace(greedy, ends=reader.ends)
    ended = InProcess(engine._policy, settings()).generate(asked[:1], ending)
    cut = [reader.cut(response) for response in engine.generate(asked[:1], greedy)]
    assert [one.token_ids for one in cut] == [one.token_ids for one in ended]
    assert cut[0].token_ids == longest.token_ids[: len(cut[0].token_ids)]
    assert words.decode(cut[0].token_ids, skip_special_tokens=True).endswith(stop)
    assert stop
    assert cut[0].finish_reason == ended[0].finish_reason == "stop"


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
        assert [r.logp for r in agree(engine, requests(), SAMPLING)] != [r.logp for r in base]
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
        patch.setattr(engine, "_hand_over", lambda policy, held: contextlib.nullcontext())
        with pytest.raises(EngineFailure, match=r"are 0\.000 nats from that one's and 0\.\d+ from"):
            engine.load(policy.path)
    engine.load(None)
    engine.load(policy.path)


def test_where_the_trainer_fails_while_the_engine_takes_a_policy_the_next_load_starts_another(
    engine: Vllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = trained(engine, tmp_path / "policy", 9)
    engine.load(None)
    before = engine.generate(requests(), SAMPLING)

    def no_memory(*_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine._probe, "scores", no_memory)
        with pytest.raises(RuntimeError, match="out of memory"):
            engine.load(policy.path)
    engine.load(policy.path)
    assert engine.generate(requests(), SAMPLING) != before
    engine.load(None)
    assert engine.generate(requests(), SAMPLING) == before


def test_a_killed_process_is_an_engine_failure_and_the_next_load_starts_another(
    engine: Vllm, tmp_path: Path
) -> None:
    policy = trained(engine, tmp_path / "policy", 5)
    engine.load(policy.path)
    before = engine.generate(requests(), SAMPLING)
    os.kill(engine._process.pid, signal.SIGKILL)
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
            responses = engine.generate(asked, SAMPLING)
            prompts, ids = [r.prompt_ids for r in asked], [r.token_ids for r in responses]
            ours = torch.tensor([logp for response in responses for logp in response.logp])
            assert engine._rounded is not None
            own = engine._rounded.score(prompts, ids, SAMPLING.temperature).logp
            trainer = engine._policy.score(prompts, ids, SAMPLING.temperature).logp
            assert float((ours - own).abs().mean()) < 0.5 * float((ours - trainer).abs().mean())
        stale = trained(engine, tmp_path / "stale", 8, scale=0.02)
        with monkeypatch.context() as patch:
            patch.setattr(engine, "_hand_over", lambda policy, held: contextlib.nullcontext())
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


def test_adapters_are_taken_by_name_and_path_as_on_a_gpu(
    model: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16: the base, one adapter, another, and back, each as the trainer scores it."""
    monkeypatch.setattr(vllm_options, "adapts", lambda base, params: True)
    params = settings()
    half = params.model.model_copy(update={"dtype": "bfloat16"})
    engine = start(model.path, params.model_copy(update={"model": half}), tmp_path)
    try:
        engine.load(None)
        base = [r.token_ids for r in engine.generate(requests(), SAMPLING)]
        said = [base]
        for seed in (1, 2):
            engine.load(trained(engine, tmp_path / f"policy-{seed}", seed, scale=0.3).path)
            said.append([r.token_ids for r in engine.generate(requests(), SAMPLING)])
        assert said[0] != said[1] != said[2]
        engine.load(None)
        assert [r.token_ids for r in engine.generate(requests(), SAMPLING)] == base
    finally:
        engine.close()
