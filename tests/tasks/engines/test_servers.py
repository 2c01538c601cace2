"""Two real vLLM servers over HTTP: the same promises as one engine, one of them killed in the middle."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from params.engine import Engine
from params.schema import Params, Update
from tasks.artefacts.artefact import Artefact
from tasks.engines.base import EngineFailure, Request, Response, Sampling
from tasks.engines.server_state import Patience
from tasks.engines.vllm_pool import Servers
from tasks.policy.policy import Policy
from tasks.prepare import nano
from tests.conftest import as_artefact
from tests.tasks.engines.talks import as_if_alone, limited, talks
from tests.tasks.rollout_rows import parameters

pytestmark = [
    pytest.mark.long,
    pytest.mark.ci,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]

SAMPLES = 4
SAMPLING = Sampling(0.8, 48, (2,), top=3)


def settings() -> Params:
    chosen = parameters(Update(tokens_per_micro_batch=512, lora_rank=4), context=128)
    engine = Engine(
        name="server",
        start_servers=2,
        kv_cache_gib=0.1,
        max_sequences=4,
        start_timeout=240,
        reply_timeout=120,
    )
    return chosen.model_copy(update={"engine": engine})


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("model")
    nano.save(nano.create(seed=0, hidden=64, layers=2, heads=2), folder)
    model, params = as_artefact(folder, "model"), settings()
    scratch, quick = tmp_path_factory.mktemp("scratch"), Patience(first=0.2, watch=1.0)
    os.environ["OSTINATO_ENGINE_KEY"] = "not-to-be-told"
    started = Servers(model.path, lambda: Policy.open(model.path, params), params, scratch, quick)
    yield started
    started.close()
    del os.environ["OSTINATO_ENGINE_KEY"]
    assert not any("not-to-be-told" in log.read_text() for log in scratch.glob("*.log"))


def trained(engine: Servers, folder: Path, seed: int) -> Artefact:
    """A policy artefact whose weights are not the base's."""
    policy = engine._policy
    policy.restore(None)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in policy.weights.masters.items():
            if ".lora_A." not in name:
                weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    policy.stepped()
    policy.save(folder)
    return as_artefact(folder, "update", seed)


def requests() -> list[Request]:
    prompts = [tuple(range(4 + p, 44 + p)) for p in range(12)]
    return [Request(prompt, 2**62 + 100 * p + s) for p, prompt in enumerate(prompts) for s in range(SAMPLES)]


def agree(engine: Servers, responses: list[Response]) -> None:
    """The log-probabilities are the trainer's."""
    prompts, ids = [r.prompt_ids for r in requests()], [r.token_ids for r in responses]
    scored = engine._policy.score(prompts, ids, SAMPLING.temperature).logp
    ours = torch.tensor([logp for response in responses for logp in response.logp])
    torch.testing.assert_close(ours, scored, atol=1e-3, rtol=0.0)


def same(ones: list[Response], others: list[Response]) -> None:
    """The same tokens, and log-probabilities but for the rounding of another batch."""
    assert [r.token_ids for r in ones] == [r.token_ids for r in others]
    assert [c.finish_reason for c in ones] == [c.finish_reason for c in others]
    for one, other in zip(ones, others, strict=True):
        assert one.logp == pytest.approx(other.logp, abs=1e-4)
        assert one.top_logp == pytest.approx(other.top_logp, abs=1e-4)


def test_one_policy_on_all_and_one_server_killed_in_the_middle(engine: Servers, tmp_path: Path) -> None:
    engine.load(None)
    assert [state.up for state in engine._states] == [True, True]
    base = engine.generate(requests(), SAMPLING)
    agree(engine, base)
    policy = trained(engine, tmp_path / "policy", 1)
    engine.load(policy.path)
    undisturbed = engine.generate(requests(), SAMPLING)
    agree(engine, undisturbed)
    assert [r.logp for r in undisturbed] != [r.logp for r in base]

    local = engine._states[1].local
    assert local is not None
    heard: dict[int, Response] = {}

    def kill_after_some(index: int, response: Response) -> None:
        heard[index] = response
        if len(heard) == 6:
            os.kill(local._process.pid, signal.SIGKILL)

    disturbed = engine.generate(requests(), SAMPLING, finished=kill_after_some)
    same(disturbed, undisturbed)
    assert [heard[index] for index in range(len(disturbed))] == disturbed
    assert engine._states[1].epoch == 1

    engine.load(None)
    same(engine.generate(requests(), SAMPLING), base)


def test_a_server_that_comes_back_gets_the_policy_first(engine: Servers, tmp_path: Path) -> None:
    policy = trained(engine, tmp_path / "policy", 2)
    engine.load(policy.path)
    first = engine.generate(requests(), SAMPLING)
    for state in engine._states:
        if state.local._process.pid and state.up:
            os.kill(state.local._process.pid, signal.SIGKILL)
    same(engine.generate(requests(), SAMPLING), first)
    assert any(state.up for state in engine._states)


def test_requests_that_come_up_join_and_are_answered_as_if_asked_alone(engine: Servers) -> None:
    engine.load(None)
    chosen = dataclasses.replace(SAMPLING, max_tokens=12)
    as_if_alone(engine, requests(), chosen, talks(engine, requests(), chosen), 1e-4)


def test_a_response_is_no_longer_than_its_own_limit(engine: Servers) -> None:
    engine.load(None)
    limited(engine, [request.prompt_ids for request in requests()[::SAMPLES]])


def test_what_a_server_refuses_is_one_line(engine: Servers) -> None:
    engine.load(None)
    asked = [Request(tuple(range(4, 90)) * 2, 1)]
    with pytest.raises(EngineFailure, match=r"server http://127\.0\.0\.1:\d+: 400: .*128") as caught:
        engine.generate(asked, SAMPLING)
    assert "\n" not in str(caught.value)
