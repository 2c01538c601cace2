"""What answers, but not as vLLM does: it counts as lost, in one line, and the others do its work."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.engines.base import EngineFailure
from tests.tasks.engines.server_world import GENERATE, SAMPLING, World, expected, requests


def _answers(content: Any) -> bool:
    """Whether that is an answer to a request, and not to the probe's questions."""
    return bool(content.get("choices"))


def _logp(value: Any) -> Callable[[Any], Any]:
    def lie(content: Any) -> Any:
        for place in content["choices"][0]["logprobs"]["content"] if _answers(content) else ():
            place["logprob"] = value
        return content

    return lie


LIES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "no results": ("/collective_rpc", lambda content: {}),
    "results that are none": ("/collective_rpc", lambda content: {"results": []}),
    "null": ("/reset_prefix_cache", lambda content: None),
    "no choices": (GENERATE, lambda content: {"choices": []} if _answers(content) else content),
    "no probe": (GENERATE, lambda content: content if _answers(content) else {"prompt_logprobs": None}),
    "no number": (GENERATE, _logp(None)),
    "NaN": (GENERATE, _logp(float("nan"))),
    "a list": (GENERATE, lambda content: [content]),
}


@pytest.mark.parametrize("name", LIES)
def test_who_answers_in_another_form_is_left_and_the_others_go_on(
    world: World, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    world.start_servers(2)
    odd, (path, lie) = world.servers[1], LIES[name]
    odd.lie = lambda asked, content: lie(content) if asked == path else content
    engine = world.engine()
    engine.load(world.policy().path)
    expected(engine, requests())(engine.generate(requests(), SAMPLING))
    assert f"{odd.address}: {path} answered in another form than vLLM's" in caplog.text
    assert "expected a server as `ostinato engine serve` starts it" in caplog.text


def test_where_nobody_answers_as_vllm_does_that_is_one_line(world: World) -> None:
    world.start_servers(1)
    world.servers[0].lie = lambda path, content: {"hello": "world"}
    with pytest.raises(EngineFailure, match="answered in another form") as caught:
        world.engine().load(None)
    assert "\n" not in str(caught.value)


def test_a_longer_answer_than_was_asked_for_is_refused(world: World) -> None:
    engine = world.start(1)
    engine.load(None)

    def longer(path: str, content: Any) -> Any:
        if path == GENERATE and _answers(content):
            choice = content["choices"][0]
            choice["token_ids"] *= 2
            choice["logprobs"]["content"] *= 2
        return content

    world.servers[0].lie = longer
    with pytest.raises(EngineFailure, match=r"with 12 tokens.* expected at most 8 tokens"):
        engine.generate(requests(), SAMPLING)


def test_who_does_not_say_which_weights_it_lacks_is_lost(world: World, tmp_path: Path) -> None:
    world.start_servers(2, shelf=tmp_path)
    odd = world.servers[1]
    odd.lie = lambda path, content: "{}" if path == "/ostinato/weights" else content
    engine = world.engine(weights="http")
    engine.load(world.policy().path)
    expected(engine, requests())(engine.generate(requests(), SAMPLING))
    assert not odd.prompts


def test_there_may_be_more_requests_at_once_than_a_process_has_files_at_first(world: World) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    world.start_servers(1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    try:
        world.engine()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 512
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
