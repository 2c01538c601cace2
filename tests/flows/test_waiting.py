"""A run that waits for what another process makes says so."""

from __future__ import annotations

import threading
from pathlib import Path

from flows.execution.watch import Watch
from flows.stage_table.stages import plan
from params.load import compose
from tasks.core.context import Context
from tests.flows.pretended import Pretending


def test_a_run_that_waits_for_an_artefact_says_which(tmp_path: Path) -> None:
    has, told, said = threading.Event(), threading.Event(), list[str]()

    class Notes(Watch):
        def note(self, text: str) -> None:
            said.append(text)
            told.set()

    params = compose("nano", "sums", "grpo", ["engine.name=transformers"])
    node = plan(params)["model"]
    with Context(scratch=tmp_path / "scratch") as context:
        runner = Pretending(tmp_path, "it", params, context, Notes())
        place = runner.store.path("model", runner.identify(node)).name

        def hold() -> None:
            with runner.store.lock(place):
                has.set()
                told.wait(10)

        other = threading.Thread(target=hold)
        other.start()
        assert has.wait(10)
        runner.settle(node, runner.identify(node))
        other.join()
    assert len(said) == 1
    assert said[0].startswith("model: process ")
    assert said[0].endswith(" is at the same artefact; waiting for it")
