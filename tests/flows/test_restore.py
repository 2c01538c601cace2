"""What was dropped is made again where something reads it, travels, and is let alone while it is read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows.sync.transfer import pull_run, push_run
from params.load import compose
from tasks.core.context import Context
from tasks.core.errors import StageFailure
from tasks.remote.progress import silent
from tests.buckets import Bucket
from tests.flows.pretended import LEAST, Pretending, files, lost, restored, run


def test_what_is_made_on_the_way_to_a_restored_policy_goes_again(tmp_path: Path) -> None:
    params = compose("nano", "sums", "grpo", ["rounds=4", LEAST])
    before = run(tmp_path, "it", params, [0.5])
    thinned = files(tmp_path)
    runner = restored(tmp_path, params, "round-02/update")
    gone = {step.place: lost(before, step) for step in before.record.steps}
    assert not gone["round-02/update"]
    assert {place for place, names in gone.items() if names} == {
        "round-01/rollout", "round-01/replay", "round-01/update", "round-02/replay",
        "round-02/rollout", "round-03/rollout", "round-03/replay", "round-03/update",
    }  # fmt: skip
    assert runner.done["round-02/update"].digest == before.done["round-02/update"].digest
    run(tmp_path, "it", params, [0.5])
    assert files(tmp_path) == thinned


def test_a_run_goes_on_from_files_that_come_out_otherwise(tmp_path: Path) -> None:
    params = compose("nano", "sums", "grpo", ["rounds=3", LEAST])
    run(tmp_path, "it", params, [0.5])
    with pytest.raises(StageFailure, match=r"round-01/rollout: was dropped .*, and other files come out now"):
        restored(tmp_path, params, "round-02/update", "!")
    again = run(tmp_path, "it", params, [0.5], "!")
    made = [step.place for step in again.record.steps if step.outcome == "made"]
    assert made[0] == "round-01/replay"
    assert "round-01/rollout" not in made
    assert "round-03/update" in made


def test_a_thinned_run_goes_through_a_bucket_and_on_and_whole_copies_there_stay(
    tmp_path: Path, bucket: Bucket
) -> None:
    few = ["rounds=4", "evaluate.every=4"]
    here, there = tmp_path / "here", tmp_path / "there"
    thinned = run(here, "it", compose("nano", "sums", "grpo", [*few, LEAST]), [0.5])
    push_run(here, "it", bucket.settings(), silent)
    pull_run(there, "it", bucket.settings(), silent)
    assert files(there) == files(here)
    assert pull_run(there, "it", bucket.settings(), silent)["fetched"] == 0
    longer = run(there, "it", compose("nano", "sums", "grpo", ["rounds=5", "evaluate.every=4", LEAST]), [0.5])
    assert {step.round for step in longer.record.steps if step.outcome == "made"} == {5}
    whole = run(tmp_path / "whole", "it", compose("nano", "sums", "grpo", few), [0.5])
    push_run(tmp_path / "whole", "it", bucket.settings(), silent)
    push_run(here, "it", bucket.settings(), silent)
    pull_run(tmp_path / "third", "it", bucket.settings(), silent)
    assert files(tmp_path / "third") == files(tmp_path / "whole")
    assert not any(lost(whole, step) for step in whole.record.steps)
    assert any(lost(thinned, step) for step in thinned.record.steps)
    pull_run(here, "it", bucket.settings(), silent)  # what is whole there comes back whole
    assert files(here) == files(tmp_path / "whole")


def test_what_a_process_reads_stays_until_it_has_read_it(tmp_path: Path) -> None:
    few = ["rounds=3", "evaluate.every=3"]
    kept = run(tmp_path, "it", compose("nano", "sums", "grpo", few), [0.5])
    least = compose("nano", "sums", "grpo", [*few, LEAST])
    read = next(step for step in kept.record.steps if step.place == "round-01/update")
    with kept.store.reading([kept.done[read.place].path.name]) as held:
        assert held
        kept.thinning.drop(kept.record, least)
        assert not lost(kept, read)
        assert all(lost(kept, step) for step in kept.record.steps if step.place == "round-02/update")
    with kept.store.lock("x"), kept.store.reading(["y", "x"]) as held:
        assert not held
    kept.thinning.drop(kept.record, least)
    assert lost(kept, read)


def test_to_dvc_a_thinned_artefact_is_none(tmp_path: Path) -> None:
    params = compose("nano", "sums", "grpo", ["rounds=3", LEAST])
    before = run(tmp_path, "it", params, [0.5])
    node, made = before.nodes["round-01/update"], before.done["round-01/update"]
    assert before.find(node, made.fingerprint)
    with Context(scratch=tmp_path / "scratch") as context:
        whole = Pretending(tmp_path, "it", params, context, whole=True)
        assert whole.find(node, made.fingerprint) is None
        shutil.rmtree(made.path)  # the run still shows what is left
        assert whole.find(node, made.fingerprint) is None
    assert before.find(node, made.fingerprint)
