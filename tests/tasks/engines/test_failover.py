"""What becomes of a rollout when servers are lost, late, wrong or back: over real HTTP, with faults."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.engines.base import EngineFailure, Request, Response
from tasks.engines.dispatch import groups
from tests.tasks.engines.server_world import GENERATE, PROBE, SAMPLING, World, after, expected, requests
from tests.tasks.engines.talks import FURTHER, talks


def test_the_policy_is_on_all_and_the_work_is_spread_by_groups(world: World) -> None:
    engine, policy = world.start(3), world.policy()
    engine.load(policy.path)
    asked = requests()
    heard: dict[int, Response] = {}
    told: list[tuple[int, int]] = []
    made = engine.generate(asked, SAMPLING, lambda *facts: told.append(facts), heard.__setitem__)
    expected(engine, asked)(made)
    assert [heard[index] for index in range(len(asked))] == made
    assert told[-1] == (24, 6 * 24)
    answered = [set(server.prompts) for server in world.servers]
    assert all(answered)
    assert sum(map(len, answered)) == 6  # no group is on two servers


@pytest.mark.parametrize("what", ["reset", "503", "hang"])
def test_a_lost_server_costs_only_what_it_held(
    world: World, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine, policy = world.start(2, reply_timeout=5 if what == "hang" else 60), world.policy()
    engine.load(policy.path)
    asked = requests()
    good, bad = world.servers
    bad.fault = after(GENERATE, PROBE + 3, what)
    with caplog.at_level(logging.WARNING):
        expected(engine, asked)(engine.generate(asked, SAMPLING))
    assert f"lost {bad.address}" in caplog.text
    assert len(good.prompts) + len(bad.prompts) < len(asked) + 8  # two groups at most were under way


def test_what_follows_goes_to_the_server_that_knows_its_beginning(world: World) -> None:
    engine = world.start(3, max_sequences=32)
    engine.load(None)
    asked = requests()
    made = talks(engine, asked, SAMPLING)
    seen = [set(server.prompts) for server in world.servers]
    assert all(seen)
    for number, request in enumerate(asked):
        ids = (*request.prompt_ids, *made[number].token_ids, *FURTHER)
        assert [request.prompt_ids in own for own in seen] == [ids in own for own in seen]


def test_a_server_that_is_lost_amid_talks_costs_only_what_it_held(world: World) -> None:
    engine = world.start(2)
    engine.load(world.policy().path)
    asked = requests()
    undisturbed = talks(engine, asked, SAMPLING)
    bad = world.servers[1]
    bad.fault = after(GENERATE, bad.asked[GENERATE] + len(asked), "reset")
    disturbed = talks(engine, asked, SAMPLING)
    assert [r.token_ids for r in disturbed] == [r.token_ids for r in undisturbed]
    assert [r.logp for r in disturbed] == [pytest.approx(r.logp, abs=1e-5) for r in undisturbed]
    assert engine._states[1].epoch > 0


def test_a_server_that_says_nothing_of_its_health_is_left(world: World) -> None:
    engine = world.start(2, health_timeout=1)
    engine.load(None)
    bad = world.servers[1]
    bad.fault = lambda path, count: "hang" if path in (GENERATE, "/health") else None
    expected(engine, requests())(engine.generate(requests(), SAMPLING))
    assert not bad.prompts


def test_a_server_that_starts_anew_gets_the_policy_before_any_request(world: World) -> None:
    engine, policy = world.start(2), world.policy()
    engine.load(policy.path)
    for server in world.servers:  # unnoticed, between two rounds
        server.stop()
        server.start()
    asked = requests()
    expected(engine, asked)(engine.generate(asked, SAMPLING))
    assert [server.version for server in world.servers if server.prompts] == [policy.digest] * 2


def test_a_server_that_comes_back_in_the_middle_works_on(world: World) -> None:
    engine, policy = world.start(2), world.policy()
    engine.load(policy.path)
    asked, (first, second) = requests(30), world.servers

    def disturb(index: int, response: Response) -> None:
        if disturbed.append(index) is None and len(disturbed) == 10:
            second.stop()
            second.prompts.clear()
            second.start()

    def wait_for_the_other(path: str, count: int) -> None:
        until = time.monotonic() + 40.0
        while path == GENERATE and len(disturbed) > 9 and not second.prompts and time.monotonic() < until:
            time.sleep(0.02)

    disturbed: list[int] = []
    first.fault = wait_for_the_other
    expected(engine, asked)(engine.generate(asked, SAMPLING, finished=disturb))
    assert second.version == policy.digest
    assert second.prompts
    assert first.prompts


def test_when_none_is_left_the_rollout_fails_with_a_line_for_each(world: World) -> None:
    engine = world.start(2)
    engine.load(None)
    world.servers[0].fault = after(GENERATE, 6, "503")
    world.servers[1].stop()
    with pytest.raises(EngineFailure, match=r"no server is left: ") as caught:
        engine.generate(requests(), SAMPLING)
    assert "503: a fault" in str(caught.value)
    assert f"{world.servers[1].address}: connection refused" in str(caught.value)
    assert "\n" not in str(caught.value)
    world.servers[1].start()


def test_a_server_that_keeps_the_old_policy_is_left_out_with_a_note(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    engine, policy = world.start(2), world.policy()
    engine.load(None)
    world.servers[0].fault = lambda path, count: "stale"
    with caplog.at_level(logging.WARNING):
        engine.load(policy.path)
    assert f"left out: server {world.servers[0].address}: the engine" in caplog.text
    expected(engine, requests())(engine.generate(requests(), SAMPLING))
    assert not world.servers[0].prompts
    world.servers[1].fault = world.servers[0].fault
    with pytest.raises(EngineFailure, match=r"no server is left: .*the engine .*; .*the engine"):
        engine.load(world.policy(2).path)


def test_a_server_with_lora_gets_adapters_under_names_that_never_come_again(world: World) -> None:
    engine = world.start(2)
    first, _ = world.servers
    first.hello["lora"] = True
    one, two = world.policy(1).path, world.policy(2).path
    for policy in (one, None, two, one):
        engine.load(policy)
        expected(engine, requests())(engine.generate(requests(), SAMPLING))
    assert len(first.adapters) == len(set(first.adapters)) == 3
    assert all(server.prompts for server in world.servers)
    assert not list(engine._folder.glob("*-adapter"))


def test_weights_of_another_run_are_noticed(world: World) -> None:
    engine = world.start(1)
    engine.load(world.policy().path)

    def meddle(path: str, count: int) -> None:
        if path == GENERATE and count > PROBE + 2:
            world.servers[0].version = "somebody-elses"

    world.servers[0].fault = meddle
    with pytest.raises(EngineFailure, match=r"answers with the weights somebody-elses; .* another run"):
        engine.generate(requests(), SAMPLING)


def test_a_server_that_is_not_there_is_one_line(world: World) -> None:
    engine = world.start(1)
    world.servers[0].stop()
    with pytest.raises(EngineFailure, match=r"^no server is left: http://[\d.]+:\d+: connection refused$"):
        engine.load(None)
    world.servers[0].start()


@pytest.mark.parametrize(
    ("hello", "line"),
    [
        ({"dtype": "bfloat16"}, "runs with dtype bfloat16; expected --dtype float32"),
        ({"logprobs_mode": "raw_logprobs"}, "expected --logprobs-mode processed_logprobs"),
        ({"max_model_len": 16}, "runs with max-model-len 16; expected --max-model-len 512 or more"),
    ],
)
def test_a_server_that_was_started_for_something_else_is_refused(
    world: World, hello: dict[str, Any], line: str
) -> None:
    engine = world.start(1)
    world.servers[0].hello |= hello
    with pytest.raises(EngineFailure, match=line):
        engine.load(None)


def test_the_key_opens_and_is_told_to_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OSTINATO_ENGINE_KEY", "wrong-and-secret")
    with caplog.at_level(logging.DEBUG), pytest.raises(EngineFailure, match="401: Unauthorized") as caught:
        world.start(1, key="right-and-secret").load(None)
    monkeypatch.setenv("OSTINATO_ENGINE_KEY", "right-and-secret")
    engine = world.engine()
    engine.load(None)
    expected(engine, requests())(engine.generate(requests(), SAMPLING))
    assert "secret" not in caplog.text + str(caught.value)


def test_loading_what_is_loaded_asks_nothing(world: World) -> None:
    engine, policy = world.start(2), world.policy()
    engine.load(policy.path)
    before = [dict(server.asked) for server in world.servers]
    engine.load(policy.path)
    assert [dict(server.asked) for server in world.servers] == before


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    servers=st.integers(1, 5),
)
def test_every_request_is_in_one_group_of_one_prompt(sizes: list[int], servers: int) -> None:
    asked = [Request((p,), s) for p, count in enumerate(sizes) for s in range(count)]
    made = groups(asked, servers)
    assert sorted(index for group in made for index in group) == list(range(len(asked)))
    assert all(len({asked[index].prompt_ids for index in group}) == 1 for group in made)
    assert max(map(len, made)) <= -(-len(asked) // servers)
