"""Real runs that keep little: as good as whole ones, to be gone on with, changed and made whole."""

from __future__ import annotations

import json

import pytest

from tasks.artefacts.artefact import EVERYTHING, MOMENTS, Artefact, Thinned
from tests.flows.conftest import NANO, Workspace, outcomes
from tests.flows.pretended import LEAST, WEIGHTS


@pytest.mark.long
@pytest.mark.ci
def test_a_thinned_run_ends_as_a_whole_one_and_answers(prepared: Workspace, finished: Workspace) -> None:
    prepared.run("--set", LEAST)
    assert prepared.policy() == finished.policy()
    directory = prepared.root / "runs" / "it"
    gone = Artefact.open(directory / "round-01" / "update", lacking=EVERYTHING)
    assert set(gone.dropped) == {WEIGHTS, MOMENTS}
    with pytest.raises(Thinned, match=r"`ostinato restore it/round-01/update` makes it again"):
        gone.file(WEIGHTS)
    columns = [line.split(",")[:-1] for line in (directory / "rounds.csv").read_text().splitlines()]
    whole = (finished.root / "runs" / "it" / "rounds.csv").read_text().splitlines()
    assert columns == [line.split(",")[:-1] for line in whole]  # but for the seconds
    states = json.loads(prepared.call("status", "it", "--json").stdout)["stages"]
    assert {row["state"] for row in states} == {"done"}
    assert [row["place"] for row in states if "dropped, as keep says" in row["why"]] == [
        "round-01/rollout",
        "round-01/replay",
        "round-01/update",
    ]


@pytest.mark.long
def test_a_thinned_run_goes_on_and_is_changed_and_made_whole(prepared: Workspace) -> None:
    first = ["run", "--name", "it", "--json", *NANO, "--set", LEAST]
    prepared.call(*first, "--set", "rounds=4")
    assert prepared.call("why", "it").stdout.startswith("it: 16 of 16 stages are in the cache")
    before = size(prepared)
    assert set(outcomes(prepared.run("--set", LEAST, "--set", "rounds=4")).values()) == {"cached"}
    longer = outcomes(prepared.run("--set", LEAST, "--set", "rounds=5"))
    assert {place for place, outcome in longer.items() if outcome == "made"} == {
        f"round-05/{stage}" for stage in ("rollout", "replay", "update", "evaluate")
    }
    restored = prepared.call("restore", "it/round-03/update")
    assert "making round-03/update again, which was dropped as keep says, and" in restored.stderr
    whole = Artefact.open(prepared.root / "runs" / "it" / "round-03" / "update")
    changed = prepared.run("--set", LEAST, "--set", "rounds=2", "--set", "update.learning_rate=1e-3")
    assert outcomes(changed)["round-01/rollout"] == "cached"
    notes = [event["text"] for event in changed if event["event"] == "note"]
    assert "making round-01/rollout again, which was dropped as keep says" in notes
    assert whole.digest == Artefact.open(prepared.root / "runs" / "it~1" / "round-03" / "update").digest
    assert "it-and-it-1" in prepared.call("compare", "--runs", "it,it~1").stdout
    again = prepared.run("--set", "rounds=2", "--set", "update.learning_rate=1e-3")  # no other run, all kept
    assert set(outcomes(again).values()) == {"cached"}
    assert not (prepared.root / "runs" / "it~2").exists()
    assert before < size(prepared)
    assert json.loads(prepared.call("du", "--json").stdout)["bytes"] > 0


def size(workspace: Workspace) -> int:
    return sum(p.stat().st_size for p in (workspace.root / "artefacts").rglob("*") if p.is_file())


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_run_that_thins_is_killed_in_each_stage_and_ends_in_the_same_bytes(empty: Workspace) -> None:
    quick = ["--set", "model.warm_start_steps=2", "--set", "task.reward=similarity", "--set", "rounds=3"]
    told = json.loads(empty.call("prove", "resume", "--seed", "5", "--json", *quick, "--set", LEAST).stdout)
    assert [trial["holds"] for trial in told] == [True]
