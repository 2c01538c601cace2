"""vLLM gives its memory back while weights train, and holds the right weights when it is awake again.

vLLM sleeps on GPUs alone: here a process that answers as its worker does stands for it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from params.schema import Params
from tasks.artefacts.artefact import Artefact
from tasks.core.context import Context
from tasks.core.stage import Job
from tasks.engines import selection, vllm_build, vllm_child
from tasks.engines.base import EngineFailure
from tasks.policy.job_policy import job_policy
from tasks.policy.policy import Policy
from tests.conftest import as_artefact
from tests.tasks.engines.test_vllm_build import chosen, machine


class Worker:
    """Knows which weights it holds: none after they were dropped, until some come."""

    said: list[str]
    policy: Policy
    stale = False
    """Whether it scores by other weights."""

    def __init__(self, *_: Any) -> None:
        Worker.said = []
        self.alive, self._reply = True, None
        self._asleep = self._whole = False
        self._scores: Any = None

    def send(self, message: dict[str, Any], *_: Any) -> None:
        do, self._reply = message["do"], None
        level = message.get("level", "")
        Worker.said.append(f"{do} {level}".strip())
        assert self._asleep is (do == "wake") or do == "open"
        if do == "score":
            assert self._whole
            if self._scores is None:
                found = Worker.policy.score(message["prompts"], message["responses"], 1.0)
                self._scores = [x.tolist() for x in found.split(found.logp)]
            self._reply = [[logp - float(Worker.stale) for logp in each] for each in self._scores]
        elif do == "sleep":
            self._asleep, self._whole = True, level == 1
        elif do == "wake":
            self._asleep = False
            if message["weights"] is not None:
                self._whole, self._scores = True, None
        else:
            self._whole, self._scores = True, None

    def receive(self, *_: Any) -> Any:
        return {"ok": self._reply}

    def close(self, *_: Any) -> None:
        self.alive = False


@pytest.fixture
def opened(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Artefact, tmp_path: Path
) -> Iterator[Callable[..., tuple[Any, Context]]]:
    """A run's engine with these settings, and the run's context."""
    vllm_build.installed.cache_clear()
    machine(monkeypatch, "0.32.0", None, True)
    monkeypatch.setattr(vllm_child, "JsonProcess", Worker)
    monkeypatch.setattr(Worker, "stale", False)
    with Context(scratch=tmp_path) as context:

        def make(*settings: str) -> tuple[Any, Context]:
            params: Params = chosen("engine.name=vllm", "engine.sleep=true", *settings)
            job = Job(params, 1, {"model": tiny_model}, tmp_path, context)
            Worker.policy = job_policy(job)
            return selection.kept(job), context

        yield make
    vllm_build.installed.cache_clear()


def policy_artefact(folder: Path) -> Path:
    """Other weights than the base's, on disk."""
    for master in Worker.policy.weights.masters.values():
        master.data.add_(0.05)
    Worker.policy.stepped()
    folder.mkdir()
    Worker.policy.save(folder)
    return as_artefact(folder, "update").path


def test_under_an_adapter_the_base_weights_are_kept_and_probed(opened: Any, tmp_path: Path) -> None:
    engine, context = opened("update.adapter=lora")
    context.learning()  # nothing is loaded yet
    engine.load(None)
    assert Worker.said == ["open", "score"]
    context.learning()
    context.learning()
    engine.load(policy_artefact(tmp_path / "policy"))
    assert Worker.said[2:] == ["sleep 1", "wake", "score", "adapt", "score"]
    context.learning()
    Worker.stale = True
    with pytest.raises(EngineFailure, match="holds other weights than it was given"):
        engine.load(None)


def test_whole_weights_are_dropped_and_come_with_the_waking(opened: Any, tmp_path: Path) -> None:
    engine, context = opened("update.adapter=full")
    engine.load(None)
    context.learning()
    policy = policy_artefact(tmp_path / "policy")
    engine.load(policy)
    assert Worker.said[2:] == ["sleep 2", "wake", "score"]
    engine.load(policy)
    context.learning()
    engine.load(policy)  # the same again, which it does not hold any more
    assert Worker.said[5:] == ["sleep 2", "wake", "score"]


def test_without_being_asked_it_stays_awake(opened: Any) -> None:
    engine, context = opened("engine.sleep=false")
    engine.load(None)
    context.learning()
    assert Worker.said == ["open", "score"]


def test_vllm_sleeps_and_wakes_by_these_names() -> None:
    llm = pytest.importorskip("vllm").LLM
    assert inspect.signature(llm.sleep).parameters["level"].annotation in (int, "int")
    assert "tags" in inspect.signature(llm.wake_up).parameters
