"""The transformers engine: reproducible, right in its log-probabilities, whole or an error."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from params.base import BadInput
from params.engine import Engine
from params.schema import Params
from tasks.artefacts.artefact import Artefact
from tasks.engines.base import EngineFailure, Request, Response, Sampling
from tasks.engines.decoding import Decoding
from tasks.engines.in_process import InProcess
from tasks.engines.turn_cache import TurnCache
from tasks.policy.policy import Policy
from tests.conftest import as_artefact
from tests.tasks.engines.likeliest import drawn_from_the_likeliest
from tests.tasks.engines.talks import as_if_alone, limited, talks
from tests.tasks.rollout_rows import parameters

PROMPTS = ((1, 10, 11, 12, 13), (1, 20, 21), (1, 30, 31, 32, 33, 34, 35), (1, 40))
SAMPLES = 3


@pytest.fixture(scope="module")
def params() -> Params:
    return parameters(context=64)


@pytest.fixture(scope="module")
def policy(tiny_model: Artefact, params: Params) -> Iterator[Policy]:
    opened = Policy.open(tiny_model.path, params)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in opened.weights.masters.items():
            if ".lora_B." in name:
                weight.normal_(0.0, 0.1, generator=generator)
    opened.stepped()
    yield opened
    opened.close()


@pytest.fixture
def engine(policy: Policy, params: Params) -> InProcess:
    return InProcess(policy, params)


def requests() -> list[Request]:
    return [Request(prompt, 100 * p + s) for p, prompt in enumerate(PROMPTS) for s in range(SAMPLES)]


def sampling(
    temperature: float = 0.7, stop: tuple[int, ...] = (2, 50, 51, 52), tokens: int = 12, top: int = 0
) -> Sampling:
    return Sampling(temperature, tokens, stop, top)


@pytest.mark.parametrize(("top_k", "top_p"), [(3, 1.0), (0, 0.3), (5, 0.6)])
def test_only_the_likeliest_tokens_are_drawn(
    engine: InProcess, policy: Policy, top_k: int, top_p: float
) -> None:
    """Against the plain definition: of the top k, the fewest that reach p, made to sum to 1."""
    asked = dataclasses.replace(sampling(0.9), top_k=top_k, top_p=top_p)
    drawn_from_the_likeliest(policy, requests(), engine.generate(requests(), asked), asked)


def with_options(policy: Policy, params: Params, **options: float | int) -> InProcess:
    return InProcess(policy, params.model_copy(update={"engine": Engine(**options)}))


def test_repeats_are_identical_and_leave_the_global_generator_alone(engine: InProcess) -> None:
    state = torch.get_rng_state()
    first = engine.generate(requests(), sampling())
    torch.manual_seed(99)
    second = engine.generate(requests(), sampling())
    assert first == second
    torch.set_rng_state(state)
    engine.generate(requests(), sampling())
    assert torch.equal(state, torch.get_rng_state())


def test_a_response_depends_on_its_prompt_and_seed_alone(
    engine: InProcess, policy: Policy, params: Params
) -> None:
    whole = engine.generate(requests(), sampling())
    backwards = engine.generate(requests()[::-1], sampling())[::-1]
    uneven = engine.generate(requests()[1:8], sampling())
    narrow = with_options(policy, params, max_sequences=2).generate(requests(), sampling())
    poor = with_options(policy, params, kv_cache_gib=1e-4).generate(requests(), sampling())
    for other, expected in ((backwards, whole), (uneven, whole[1:8]), (narrow, whole), (poor, whole)):
        assert [r.token_ids for r in other] == [r.token_ids for r in expected]
        for ours, theirs in zip(other, expected, strict=True):
            assert ours.logp == pytest.approx(theirs.logp, abs=1e-5)


def test_seeds_make_the_difference(engine: InProcess) -> None:
    twins = engine.generate([Request(PROMPTS[0], 5), Request(PROMPTS[0], 5)], sampling())
    assert twins[0].token_ids == twins[1].token_ids
    others = engine.generate([Request(PROMPTS[0], seed) for seed in range(20)], sampling())
    assert len({response.token_ids for response in others}) > 10


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_the_trainers(engine: InProcess, policy: Policy, temperature: float) -> None:
    asked = requests()
    responses = engine.generate(asked, sampling(temperature))
    scored = policy.score([r.prompt_ids for r in asked], [r.token_ids for r in responses], temperature)
    ours = torch.tensor([logp for response in responses for logp in response.logp])
    torch.testing.assert_close(ours, scored.logp, atol=1e-4, rtol=0.0)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_likeliest_tokens_of_every_position(
    engine: InProcess, policy: Policy, temperature: float
) -> None:
    asked, top = requests(), 5
    plain = engine.generate(asked, sampling(temperature))
    responses = engine.generate(asked, sampling(temperature, top=top))
    assert [(r.token_ids, r.logp) for r in responses] == [(r.token_ids, r.logp) for r in plain]
    assert {(c.top_ids, c.top_logp) for c in plain} == {((), ())}
    scored = policy.score(
        [r.prompt_ids for r in asked], [r.token_ids for r in responses], temperature or 1.0, ranks=top
    )
    assert scored.ranks is not None
    logp = torch.tensor([value for r in responses for value in r.top_logp]).view(-1, top)
    torch.testing.assert_close(logp.exp(), scored.ranks, atol=1e-5, rtol=0.0)
    for response in responses:
        for place, (token, value) in enumerate(zip(response.token_ids, response.logp, strict=True)):
            here = slice(place * top, (place + 1) * top)
            likely = dict(zip(response.top_ids[here], response.top_logp[here], strict=True))
            assert len(likely) == top
            assert likely.get(token, value) == value
            assert token in likely or value <= min(likely.values())


def test_tokens_come_with_their_probabilities(engine: InProcess, policy: Policy) -> None:
    """First tokens of many seeds against the model's own distribution: Pearson's chi-squared."""
    count = 2000
    asked = [Request(PROMPTS[0], seed) for seed in range(count)]
    first = [c.token_ids[0] for c in engine.generate(asked, Sampling(1.0, 1, ()))]
    words = policy.network.config.vocab_size
    logp = policy.score([PROMPTS[0]] * words, [(word,) for word in range(words)], 1.0).logp
    expected = logp.exp() * count
    seen = torch.bincount(torch.tensor(first), minlength=words)
    statistic = float(((seen - expected) ** 2 / expected).sum())
    assert statistic < words + 5.0 * (2.0 * words) ** 0.5


def test_the_entropy_of_every_position(engine: InProcess, policy: Policy) -> None:
    asked, plain = requests(), sampling()
    responses = engine.generate(asked, dataclasses.replace(plain, entropy=True))
    assert [r.token_ids for r in responses] == [r.token_ids for r in engine.generate(asked, plain)]
    prompts, ids = [r.prompt_ids for r in asked], [r.token_ids for r in responses]
    scored = policy.score(prompts, ids, plain.temperature, entropy=True)
    assert scored.entropy is not None
    told = torch.tensor([value for response in responses for value in response.entropy])
    torch.testing.assert_close(told, scored.entropy, atol=1e-4, rtol=0.0)


def test_greedy_takes_the_most_likely_token(engine: InProcess, policy: Policy) -> None:
    asked = [Request(prompt, seed) for prompt in PROMPTS for seed in (0, 1)]
    responses = engine.generate(asked, sampling(0.0, stop=()))
    for one, two in zip(responses[::2], responses[1::2], strict=True):
        assert one.token_ids == two.token_ids
    logp = policy.score([PROMPTS[0]], [responses[0].token_ids], 1.0, ranks=1)
    assert logp.ranks is not None
    torch.testing.assert_close(logp.logp.exp(), logp.ranks[:, 0], atol=1e-6, rtol=0.0)
    assert responses[0].logp == pytest.approx(logp.logp.tolist(), abs=1e-4)


def test_stops_on_a_stop_token_and_keeps_it(engine: InProcess) -> None:
    responses = engine.generate(requests(), sampling(1.0, stop=tuple(range(50, 100)), tokens=20))
    assert {r.finish_reason for r in responses} <= {"stop", "length"}
    assert any(r.finish_reason == "stop" for r in responses)
    for response in responses:
        assert all(token < 50 for token in response.token_ids[:-1])
        stopped = response.token_ids[-1] >= 50
        assert response.finish_reason == ("stop" if stopped else "length")
        assert stopped or len(response.token_ids) == 20


def test_the_models_own_generation_config_changes_nothing(engine: InProcess, policy: Policy) -> None:
    plain = engine.generate(requests(), sampling())
    own = policy.network.generation_config
    assert own is not None
    before = (own.top_k, own.temperature, own.max_new_tokens)
    own.top_k, own.temperature, own.max_new_tokens = 1, 0.01, 3
    try:
        assert engine.generate(requests(), sampling()) == plain
    finally:
        own.top_k, own.temperature, own.max_new_tokens = before


def test_the_trainers_model_is_left_as_it_was(engine: InProcess, policy: Policy) -> None:
    attention = policy.network.config._attn_implementation
    before = policy.score([PROMPTS[0]], [(5, 6, 7)], 1.0).logp
    engine.generate(requests(), sampling())
    assert policy.network.config._attn_implementation == attention
    assert torch.equal(before, policy.score([PROMPTS[0]], [(5, 6, 7)], 1.0).logp)


def test_each_response_is_told_once_and_progress_grows(engine: InProcess) -> None:
    told: dict[int, Response] = {}
    steps: list[tuple[int, int]] = []

    def finished(index: int, response: Response) -> None:
        assert index not in told
        told[index] = response

    responses = engine.generate(requests(), sampling(), lambda *step: steps.append(step), finished)
    assert [told[index] for index in range(len(responses))] == responses
    assert steps == sorted(steps)
    assert engine.generate([], sampling()) == []


def test_a_library_that_fails_is_an_engine_failure(
    engine: InProcess, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def burst(*args: object, **more: object) -> None:
        raise RuntimeError("burst")

    engine.generate(requests(), sampling())  # what it looks at once
    monkeypatch.setattr(policy.network.base_model, "forward", burst)
    with pytest.raises(EngineFailure, match="burst"):
        engine.generate(requests(), sampling())


def test_it_computes_in_the_trainers_type(policy: Policy, params: Params) -> None:
    with pytest.raises(BadInput, match=r"engine\.dtype"):
        with_options(policy, params, dtype="bfloat16")


def test_loads_a_policy_by_its_directory(
    engine: InProcess, policy: Policy, tmp_path: Path, params: Params
) -> None:
    held = engine.generate(requests(), sampling())
    policy.save(tmp_path)
    engine.load(None)
    assert engine.generate(requests(), sampling()) != held
    engine.load(tmp_path)
    assert engine.generate(requests(), sampling()) == held


def test_float8_samples_from_rounded_weights_and_leaves_the_trainers_alone(
    tiny_model: Artefact, policy: Policy, params: Params, tmp_path: Path
) -> None:
    policy.save(tmp_path / "policy")
    artefact = as_artefact(tmp_path / "policy", "update", 1)
    precise = InProcess(policy, params)
    narrow = with_options(policy, params, dtype="float8")
    asked = requests()
    prompts = [request.prompt_ids for request in asked]
    seen = []
    for folder in (None, artefact.path, None):
        narrow.load(folder)
        responses = narrow.generate(asked, sampling())
        assert policy.network.dtype == torch.float32
        ours = torch.tensor([logp for response in responses for logp in response.logp])
        ids = [response.token_ids for response in responses]
        assert narrow._rounded is not None
        own = narrow._rounded.score(prompts, ids, 0.7).logp
        trainer = policy.score(prompts, ids, 0.7).logp
        assert float((ours - own).abs().mean()) < 0.3 * float((ours - trainer).abs().mean())
        assert narrow.generate(asked, sampling()) == responses
        precise.load(folder)
        assert precise.generate(asked, sampling()) != responses
        seen.append(responses)
    assert seen[0] == seen[2] != seen[1]


@pytest.fixture(params=["decoding", "continuous batching"])
def reused(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of earlier turns that were not computed again, by either way of sampling."""
    found: list[int] = []
    if request.param == "decoding":
        join = Decoding._join

        def joined(decoding: Decoding, index: int, asked: Request) -> None:
            join(decoding, index, asked)
            found.extend(row.known for row in decoding._rows if row.index == index)

        monkeypatch.setattr(Decoding, "_join", joined)
    else:
        take = TurnCache._taken_over
        monkeypatch.setattr(InProcess, "_shares_prompts", lambda engine: False)
        monkeypatch.setattr(TurnCache, "_taken_over", lambda *a: (found.append(take(*a)), found[-1])[1])
    return found


@pytest.mark.parametrize("top", [0, 3])
def test_requests_that_come_up_join_and_are_answered_as_if_asked_alone(
    engine: InProcess, policy: Policy, params: Params, reused: list[int], top: int
) -> None:
    """With room for what was computed, and with so little that it is dropped."""
    chosen, asked = dataclasses.replace(sampling(top=top), entropy=bool(top)), requests()
    made = talks(engine, asked, chosen)
    assert sum(reused) > 0
    assert talks(engine, asked, chosen) == made
    poor = talks(with_options(policy, params, kv_cache_gib=1e-4, max_sequences=2), asked, chosen)
    assert poor == made
    as_if_alone(engine, asked, chosen, made, 1e-5)


@pytest.mark.parametrize("budget", [1, 24])
def test_talks_that_no_update_could_learn_from_are_sampled_all_the_same(
    engine: InProcess, policy: Policy, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    monkeypatch.setattr(policy, "budget", budget)
    as_if_alone(engine, requests(), sampling(), talks(engine, requests(), sampling()), 1e-5)


def test_a_response_is_no_longer_than_its_own_limit(engine: InProcess) -> None:
    limited(engine, PROMPTS)
