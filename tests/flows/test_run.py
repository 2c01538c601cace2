"""The flow, through the command line: it runs, resumes, and makes good what was harmed."""

from __future__ import annotations

import json
import random
import shutil

import pytest

from tasks.artefacts.record import Record
from tests.flows.conftest import NANO, Workspace, kill_inside, kill_tree, outcomes


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


@pytest.mark.long
@pytest.mark.ci
def test_any_flipped_byte_is_noticed_and_made_good(copied: Workspace) -> None:
    before, chance = copied.policy(), random.Random(3)
    artefacts = sorted(p for p in (copied.root / "artefacts").iterdir() if not p.name.startswith("."))
    harmed = {}
    for artefact in artefacts:
        path = chance.choice([p for p in sorted(artefact.rglob("*")) if p.is_file() and p.stat().st_size])
        content = bytearray(path.read_bytes())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(bytes(content))
        harmed[path] = bytes(content)
    said = copied.run()
    assert sum(e["event"] == "note" and "making it again" in e["text"] for e in said) == len(artefacts)
    assert copied.policy() == before
    assert all(path.read_bytes() != content for path, content in harmed.items())
    assert set(outcomes(copied.run()).values()) == {"cached"}


def test_a_deleted_artefact_is_made_again(copied: Workspace) -> None:
    before = copied.policy()
    (place,) = (copied.root / "runs" / "it" / "round-01").glob("update")
    fingerprint = json.loads((place / "manifest.json").read_text())["fingerprint"]
    for path in (copied.root / "artefacts" / f"update-{fingerprint[:20]}", place):
        shutil.rmtree(path)
    made = outcomes(copied.run())
    assert [place for place, outcome in made.items() if outcome == "made"] == ["round-01/update"]
    assert copied.policy() == before


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.timeout(600)
def test_killed_anywhere_it_ends_with_the_same_bytes(finished: Workspace, empty: Workspace) -> None:
    """In every stage, twice in those of the rounds, the whole tree is killed at a random moment."""
    record = Record.read(finished.root / "runs" / "it")
    seconds = {step.stage: step.seconds for step in record.steps}
    chance = random.Random(11)
    in_rounds = ("rollout", "replay", "update", "evaluate")
    for stage in ("model", "problems", *in_rounds, *in_rounds):
        kill_inside(
            empty.start("run", "--name", "it", "--json", *NANO), stage, chance.random() * seconds[stage]
        )
    empty.run()
    assert empty.policy() == finished.policy()
    left = empty.root / ".ostinato" / "building"
    assert not list(left.iterdir())


def test_two_runs_of_one_name_do_not_collide(copied: Workspace) -> None:
    process = copied.start("run", "--name", "it", "--json", "--model", "nano", "--engine", "transformers")
    try:
        assert process.stdout is not None
        assert '"note"' in process.stdout.readline()  # of the earlier run, with other parameters
        assert '"begin"' in process.stdout.readline()
        refused = copied.call("run", "--name", "it", "--model", "nano", "--engine", "transformers", code=2)
        assert "run it: another process is at it" in refused.stderr
        assert str(process.pid) in refused.stderr
    finally:
        kill_tree(process)
