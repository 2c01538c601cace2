"""Episodes as a person meets them: the page followed, the small task, a run that is killed."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tasks.artefacts.record import Record
from tests.flows.conftest import NANO, Workspace, environment_of, kill_inside
from tests.flows.test_from_elsewhere import followed

GUESS = [*NANO, "--task", "guess", "--set", "rollout.max_response_tokens=24", "--set", "task.train_count=24"]


@pytest.mark.long
def test_the_page(empty: Workspace) -> None:
    assert followed("episodes.md", empty) <= 30
    lines = (empty.root / "episodes.jsonl").read_text().splitlines()
    assert len(lines) == 16
    for record in map(json.loads, lines):
        assert len(record["completion_ids"]) == len(record["loss_mask"]) == len(record["logprobs"])
        assert [value is None for value in record["logprobs"]] == [own == 0 for own in record["loss_mask"]]
        assert record["messages"][0]["role"] == "user"
        assert sum(each.get("sampled", False) for each in record["messages"]) == len(record["turn_rewards"])


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_killed_run_of_episodes_ends_with_the_same_bytes(
    empty: Workspace, tmp_path: Path, prefect_server: dict[str, str]
) -> None:
    begin = ("run", "--name", "it", "--json", *GUESS)
    empty.call(*begin)
    seconds = {step.stage: step.seconds for step in Record.read(empty.root / "runs" / "it").steps}
    again = Workspace(tmp_path / "again", environment_of(tmp_path / "again", prefect_server))
    again.root.mkdir()
    chance = random.Random(3)
    for stage in ("rollout", "update"):
        kill_inside(again.start(*begin), stage, chance.random() * seconds[stage])
    again.call(*begin)
    assert again.policy() == empty.policy()
