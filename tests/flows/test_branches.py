"""Runs that begin with what another has made: its answers, its rollouts, its policy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.experiments.existing_runs import side_by_side
from params.base import BadInput
from tasks.artefacts.record import Record
from tests.flows.conftest import NANO, Workspace, events, outcomes


@pytest.mark.long
@pytest.mark.ci
def test_rescore_what_if_and_from_make_branches_of_a_run(copied: Workspace) -> None:
    said = events(copied.call("rescore", "it", "--reward", "similarity", "--json").stdout)
    made = outcomes(said)
    assert made["model"] == made["problems"] == "cached"
    assert made["round-01/update"] == "made"
    notes = [event["text"] for event in said if event["event"] == "note"]
    assert [note.partition(":")[0] for note in notes] == ["round-00/evaluate", "round-01/rollout"]
    record = Record.read(copied.root / "runs" / "it-similarity")
    assert record.params["task"]["reward"]["name"] == "similarity"

    told = events(copied.call("what-if", "it", "--method", "dyjr", "--rounds", "2", "--json").stdout)
    assert outcomes(told)["round-02/rollout"] == "made"
    rounds = told[-1]["rounds"]
    assert told[-1]["event"] == "off_policy"
    assert rounds["1"]["mismatch"] == pytest.approx(0, abs=1e-3)  # the policy that sampled it
    rollout = [copied.root / "runs" / run / "round-02/rollout/rollouts.parquet" for run in ("it", "it-dyjr")]
    assert rollout[0].read_bytes() == rollout[1].read_bytes()

    page = copied.call("compare", "--runs", "it,it-similarity", "--baseline", "it-similarity").stdout
    place = copied.root / "comparisons" / "it-and-it-similarity"
    assert str(place / "report.html") in page
    assert "| task.reward.name | similarity | math |" in (place / "summary.md").read_text()
    refused = copied.call("compare", "--runs", "it,it-none", code=2)
    assert "no such run" in refused.stderr

    copied.call("run", "--from", "it/round-01", "--name", "on", *NANO, "--set", "rounds=1")
    start = json.loads((copied.root / "runs" / "on" / "sft" / "manifest.json").read_text())["inputs"][
        "policy"
    ]
    update = json.loads((copied.root / "runs" / "it" / "round-01" / "update" / "manifest.json").read_text())
    assert start["digest"] == update["digest"]


def test_runs_that_only_evaluate_are_not_put_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSTINATO_HOME", str(tmp_path))
    for name in ("a", "b"):
        record = Record(name=name, command="", params={}, started="", finished=True)
        record.write(tmp_path / "runs" / name)
    with pytest.raises(BadInput, match="--runs: a has no problems to train on; expected"):
        side_by_side(("a", "b"), None, None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rescore", "nowhere", "--reward", "math"], "no such run"),
        (["what-if", "nowhere", "--method", "drpo"], "no such run"),
        (["run", "--from", "nowhere/round-01"], "no such run"),
        (["run", "--set", "rollout.recorded=nowhere"], "run nowhere has the rollouts of 0 rounds"),
        (["compare", "--runs", "one"], "--runs one: expected two runs at least"),
        (["compare", "--runs", "a,b", "--methods", "grpo"], "--runs: are finished; expected no methods"),
        (["compare"], "--methods: nothing to compare; expected methods, or --runs"),
    ],
)
def test_a_branch_of_what_is_not_there(
    refused: Callable[[list[str], str], None], words: list[str], said: str
) -> None:
    refused(words, said)
