"""The flow, through the command line: it runs, resumes, and makes good what was harmed."""

from __future__ import annotations

import json
import shutil

from tasks.artefacts.record import Record
from tests.flows.conftest import Workspace, kill_tree, outcomes


def test_a_run_makes_every_stage_and_a_report(finished: Workspace) -> None:
    directory = finished.root / "runs" / "it"
    record = Record.read(directory)
    assert record.finished
    assert {step.stage for step in record.steps} == {
        "model", "problems", "rollout", "replay", "update", "evaluate",
    }  # fmt: skip
    assert (directory / "report.html").stat().st_size > 10_000
    assert {"adapter/adapter_model.safetensors", "optimizer.safetensors"} <= set(finished.policy())


def test_the_same_command_again_makes_nothing(copied: Workspace) -> None:
    assert set(outcomes(copied.run()).values()) == {"cached"}


def test_another_loss_runs_only_the_update_and_what_follows(copied: Workspace) -> None:
    made = outcomes(copied.run("--set", "update.learning_rate=1e-3"))
    assert {place for place, outcome in made.items() if outcome == "cached"} == {
        "model", "problems", "round-00/evaluate", "round-01/rollout", "round-01/replay",
    }  # fmt: skip


def test_a_knob_that_only_changes_speed_makes_nothing(copied: Workspace) -> None:
    knobs = ("update.tokens_per_micro_batch=400", "update.head_chunk=64", "task.reward_workers=2")
    settings = [part for knob in knobs for part in ("--set", knob)]
    assert set(outcomes(copied.run(*settings)).values()) == {"cached"}


def test_a_deleted_artefact_is_made_again(copied: Workspace) -> None:
    before = copied.policy()
    (place,) = (copied.root / "runs" / "it" / "round-01").glob("update")
    fingerprint = json.loads((place / "manifest.json").read_text())["fingerprint"]
    for path in (copied.root / "artefacts" / f"update-{fingerprint[:20]}", place):
        shutil.rmtree(path)
    made = outcomes(copied.run())
    assert [place for place, outcome in made.items() if outcome == "made"] == ["round-01/update"]
    assert copied.policy() == before


def test_two_runs_of_one_name_do_not_collide(copied: Workspace) -> None:
    process = copied.start("run", "--name", "it", "--json", "--model", "nano", "--engine", "transformers")
    try:
        assert process.stdout is not None
        assert '"note"' in process.stdout.readline()  # of the earlier run, with other parameters
        assert '"begin"' in process.stdout.readline()
        refused = copied.call("run", "--name", "it", "--model", "nano", "--engine", "transformers", code=2)
        assert "run it: another process is at it" in refused.stderr
        assert str(process.pid) in refused.stderr
        assert refused.stderr.count("\n") == 1  # nothing was started that has to end, and says so
    finally:
        kill_tree(process)
