"""Rules on a run's figures: they warn, they stop, and a stopped run goes on without them."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.execution.guards import Stopped
from flows.execution.runner import Runner
from flows.execution.validation import settled
from flows.execution.watch import Watch
from flows.stage_table.stages import plan
from params.base import BadInput
from params.load import compose
from params.schema import Params
from tasks.artefacts.record import Record
from tasks.core.context import Context
from tasks.report.run.page import write
from tests.flows.conftest import Workspace

STOP = "{figure: update.tokens, below: 9999, rounds: 2, then: stop}"
WARN = "{figure: rollout.reward_mean, above: -1}"


class Notes(Watch):
    """What a run says, and which stages it makes."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.made: list[str] = []

    def begin(self, node: Any) -> None:
        self.made.append(node.place)

    def note(self, text: str) -> None:
        self.notes.append(text)


def parameters(*guards: str) -> Params:
    settings = [
        *(
            "engine.name=transformers",
            "model.warm_start_steps=2",
            "rounds=3",
            "threads=1",
            "evaluate.every=3",
        ),
        *("rollout.problems_per_round=2", "rollout.samples_per_problem=2", "task.held_out_count=2"),
        *("task.train_count=8", "evaluate.samples_per_problem=2", "evaluate.pass_at=[1]"),
        f"guards=[{', '.join(guards)}]",
    ]
    return settled(compose("nano", "sums", "grpo", settings))


def run(root: Path, params: Params) -> Notes:
    """The whole run, as a worker makes one."""
    watch = Notes()
    with Context(scratch=root / "scratch") as context:
        context.scratch.mkdir(exist_ok=True)
        runner = Runner(root, "it", params, context, watch)
        for node in plan(params):
            runner.settle(node, runner.identify(node))
        runner.finish()
    return watch


def test_a_run_stops_at_the_same_place_again_and_goes_on_without_the_guard(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match=r"round-02/update: update.tokens is \S+, below 9999, 2 times in a row"):
        run(tmp_path, parameters(STOP))
    directory = tmp_path / "runs" / "it"
    record = Record.read(directory)
    assert record.steps[-1].place == "round-02/update"
    assert [text.partition(" is ")[0] for text in record.warnings] == ["round-02/update: update.tokens"]
    assert not record.finished
    with pytest.raises(Stopped):
        run(tmp_path, parameters(STOP))
    assert Record.read(directory).warnings == record.warnings
    on = run(tmp_path, parameters())
    assert on.made[0] == "round-03/rollout"
    assert Record.read(directory).finished


def test_a_warning_is_said_recorded_and_on_the_report(tmp_path: Path) -> None:
    said = run(tmp_path, parameters(WARN)).notes
    assert [text.partition(",")[2].strip() for text in said] == ["above -1 (guards.0)"] * 3
    page = write(tmp_path / "runs" / "it").read_text()
    assert "A guard said: round-02/rollout: rollout.reward_mean is" in page


@pytest.mark.parametrize(
    ("guard", "said"),
    [
        ("{figure: updat.entropy, below: 1}", r"guards.0.figure: no stage 'updat'; did you mean 'update'"),
        ("{figure: entropy, below: 1}", "expected STAGE.NAME"),
        ("{figure: update.entropy}", "expected one of below and above"),
        ("{figure: update.entropy, below: 1, above: 2}", "expected one of below and above"),
        ("{figure: update.entropy, below: 1, rounds: 0}", "guards.0.rounds"),
    ],
)
def test_what_is_no_rule_is_told_before_anything_runs(guard: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        parameters(guard)


def test_a_figure_that_a_stage_does_not_tell_breaks_no_rule_and_is_said(tmp_path: Path) -> None:
    [said] = run(tmp_path, parameters("{figure: rollout.reward_men, below: 1, then: stop}")).notes
    assert said.startswith("guards.0.figure: rollout does not always tell 'rollout.reward_men'; did you mean")


GUARDED = """
name: guards
trigger:
  type: event
  posture: Reactive
  expect: [ostinato.guard]
  threshold: 1
actions:
  - type: call-webhook
    block_document_id: {block}
    payload: "{{{{ event.payload.said }}}}"
"""
"""As docs/deploy.md has it, with a webhook for the notification."""
BLOCK = """
from prefect.blocks.webhook import Webhook
print(Webhook(url='{url}').save('guards', overwrite=True))
"""


@pytest.fixture
def hook() -> Iterator[tuple[str, list[str]]]:
    """Where a server of our own listens, and what it has heard."""
    heard: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", heard
    server.shutdown()


@pytest.mark.long
@pytest.mark.ci
def test_prefects_server_hears_of_guards_and_progress_and_its_automation_tells_others(
    copied: Workspace, hook: tuple[str, list[str]]
) -> None:
    url, told = hook
    server = copied.environment["PREFECT_API_URL"]

    def do(*command: str) -> str:
        words = [sys.executable, *command]
        done = subprocess.run(
            words, env=copied.environment, cwd=copied.root, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    (copied.root / "guards.yaml").write_text(GUARDED.format(block=do("-c", BLOCK.format(url=url))))
    do("-m", "prefect", "automation", "create", "--from-file", "guards.yaml")
    copied.run("--set", f"guards=[{WARN}]")

    def asked(what: str, body: dict[str, Any]) -> Any:
        return httpx.post(f"{server}/{what}/filter", json=body, timeout=30).raise_for_status().json()

    (shown,) = asked("artifacts/latest", {"artifacts": {"key": {"any_": ["it-progress"]}}})
    assert float(shown["data"]) == 100
    said = set(Record.read(copied.root / "runs" / "it").warnings)
    assert said
    for _ in range(200):  # the server looks at events a little later
        if len(told) >= len(said):
            break
        time.sleep(0.3)
    events = asked("events", {"filter": {"event": {"name": ["ostinato.guard"]}}})["events"]
    assert {event["resource"]["prefect.resource.id"] for event in events} == {"ostinato.run.it"}
    assert {event["payload"]["said"] for event in events} == said
    texts = {text.strip('"') for text in told} - {""}  # Prefect may fire a busy trigger without its event
    assert texts
    assert texts <= said
