"""``keep``: nothing that is needed or is to stay goes; a thinned run is as good as a whole one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.execution.retention import best_round, going
from flows.execution.runner import Runner
from flows.execution.thinning import Thinning
from flows.stage_table.stages import Node, plan
from flows.sync.transfer import pull_run, push_run
from params.base import BadInput
from params.keep import Keep
from params.load import compose
from params.schema import Params
from tasks.artefacts.artefact import EVERYTHING, MOMENTS, THINNED, Artefact, Thinned, source_of
from tasks.artefacts.record import Record, Step
from tasks.artefacts.store import Store
from tasks.core.context import Context
from tasks.core.errors import StageFailure
from tasks.remote.progress import silent
from tests.buckets import Bucket
from tests.flows.conftest import NANO, Workspace, outcomes

LEAST = "keep={optimiser: last, policies: [last, best], rollouts: last, teachers: last}"
WEIGHTS = "adapter/adapter_model.safetensors"

keeps = st.builds(
    Keep,
    policies=st.just("all")
    | st.lists(st.sampled_from(["last", "best", "every 2", "every 3"]), min_size=1, max_size=2),
    optimiser=st.sampled_from(["all", "last"]),
    rollouts=st.sampled_from(["all", "last"]),
    teachers=st.sampled_from(["all", "last"]),
)


class Pretending(Runner):
    """A real runner whose stages write small files, called as the real ones, and look at what they read."""

    scores: tuple[float, ...] = (0.5,)
    salt = ""
    """Makes other files of the same."""

    def identify(self, node: Node) -> str:
        digests = {name: artefact.digest for name, artefact in self.inputs(node).items()}
        return hashlib.sha256(repr((node.place, sorted(digests.items()))).encode()).hexdigest()

    def _fill(self, node: Node, fingerprint: str, out: Path) -> dict[str, Any]:
        role, inputs = node.stage.role, self.inputs(node)
        for each in inputs.values():
            each.check(lacking=() if role.makes_policy else (MOMENTS,))
        (out / "metrics.json").write_text("{}")
        if node.stage.name == "evaluate":
            score = {"mean_at_n": {"value": self.scores[node.round % len(self.scores)]}}
            (out / "scores.json").write_text(json.dumps(score))
        for name in (MOMENTS, "weights.safetensors") if role.makes_policy else ("a.parquet", "a.safetensors"):
            (out / name).write_text(f"{node.place} {name}{self.salt}")
        facts = {"role": role, "round": node.round, "seed": 0, "params": {}, "code": {}, "versions": {}}
        return {**facts, "measured": {}, "inputs": {name: source_of(each) for name, each in inputs.items()}}

    def whole_run(self) -> Pretending:
        for node in plan(self.params):
            node = replace(node, stage=replace(node.stage, refuses=""))
            self.settle(node, self.identify(node))
        self.finish()
        return self


@contextlib.contextmanager
def place() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp())
    try:
        yield root
    finally:
        shutil.rmtree(root)


def run(root: Path, name: str, params: Params, scores: list[float], salt: str = "") -> Pretending:
    with Context(scratch=root / "scratch") as context:
        runner = Pretending(root, name, params, context)
        runner.scores, runner.salt = tuple(scores), salt
        return runner.whole_run()


def lost(runner: Pretending, step: Step) -> set[str]:
    """The files of a step's artefact that are gone, from the run's directory or from the cache."""
    places = (runner.directory / step.place, runner.store.path(step.stage, step.fingerprint))
    found = [Artefact.open(where, lacking=EVERYTHING) for where in places]
    assert all((each.path / "metrics.json").exists() for each in found)
    return {name for each in found for name in each.manifest.files if not (each.path / name).exists()}


def last_and_best(runner: Pretending) -> set[int]:
    """The rounds of the last policy and of the best that was evaluated, by hand."""
    steps = runner.record.steps
    told = [step.round for step in steps if step.stage == "evaluate" and step.round]
    values = {round: runner.scores[round % len(runner.scores)] for round in told}
    last = max(step.round for step in steps if step.role.makes_policy)
    return {last, min(round for round in told if values[round] == max(values.values()))}


def check_kept(runner: Pretending) -> None:
    """All is there that the run's rules keep."""
    keep, always = runner.params.keep, last_and_best(runner)
    for step in runner.record.steps:
        gone = lost(runner, step)
        if step.round in (0, max(always)) or step.role.kind == "measure":
            assert not gone
        elif step.role.makes_policy:
            every = [int(rule.split()[1]) for rule in keep.policies if rule.startswith("every")]
            stays = step.round in always or any(step.round % n == 0 for n in every)
            if stays or keep.policies == "all":
                assert gone <= ({MOMENTS} if keep.optimiser == "last" else set())
        else:
            assert keep.rollouts == "last" or "a.parquet" not in gone
            assert keep.teachers == "last" or "a.safetensors" not in gone


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_whatever_is_kept_nothing_goes_that_is_needed_or_is_to_stay(data: st.DataObject) -> None:
    """Two runs by any rules that share their first rounds, the first then with more rounds."""
    method = data.draw(st.sampled_from(["grpo", "dyjr", "erpd"]))
    lag = data.draw(st.integers(0, 2))
    given = [f"rollout.lag={lag}", f"evaluate.every={data.draw(st.integers(1, 3))}"]
    scores = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=5))

    def chosen(rounds: int, keep: Keep) -> Params:
        return compose("nano", "sums", method, [f"rounds={rounds}", *given]).model_copy(update={"keep": keep})

    with place() as root:
        rounds, keep = data.draw(st.integers(1, 4)), data.draw(keeps)
        first = run(root, "first", chosen(rounds, keep), scores)
        check_kept(first)
        if keep.policies == keep.optimiser == keep.rollouts == "last" and rounds > 3 + lag:
            assert any(lost(first, step) for step in first.record.steps)
        second = run(root, "second", chosen(data.draw(st.integers(1, 4)), data.draw(keeps)), scores)
        check_kept(first)
        for step in second.record.policies():
            if step.round in last_and_best(second):
                assert lost(second, step) <= {MOMENTS}
        longer = run(root, "first", chosen(rounds + 1, keep), scores)
        made = {
            step.round for step in longer.record.steps if step.outcome == "made" and step.role.makes_policy
        }
        assert made <= {rounds + 1}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_the_best_policy_so_far_becomes_the_newest_one_or_stays(values: list[float]) -> None:
    before = None
    for count in range(1, len(values) + 1):
        best = best_round(dict(enumerate(values[:count])))
        assert best in (before, count - 1)
        before = best
    assert values[before or 0] == max(values)


@given(keeps, st.integers(1, 6))
def test_without_an_evaluation_the_last_policy_stays(keep: Keep, rounds: int) -> None:
    nodes = [node for node in plan(compose("nano", "sums", "grpo", [f"rounds={rounds}"])) if node.round]
    steps = [
        Step(
            **{"place": node.place, "stage": node.stage.name, "role": node.stage.role, "round": node.round},
            **{"fingerprint": "", "digest": "", "outcome": "made", "seconds": 0.0},
        )
        for node in nodes
    ]
    assert f"round-{rounds:02d}/update" not in going(keep, steps, {}, {})


def files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for part in ("artefacts", "runs")
        for path in sorted((root / part).rglob("*"))
        if path.is_file() and path.name not in ("run.json", "steps.jsonl")
    }


@contextlib.contextmanager
def killed_at(operation: int) -> Iterator[list[bool]]:
    """Inside, that operation on files raises an interrupt; whether it came to it."""
    left, came = [operation], [False]

    def until(function: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                came[0] = True
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return counted

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(Path, "unlink", until(Path.unlink))
        for name in ("replace", "fsync"):
            patch.setattr(os, name, until(getattr(os, name)))
        yield came


def check_said(root: Path) -> None:
    """Every artefact is as its files say."""
    for path in [*root.glob("artefacts/*"), *root.glob("runs/it/round-*/*")]:
        if not path.name.startswith("."):
            Artefact.open(path, lacking=EVERYTHING)


def test_thinning_that_is_killed_at_any_operation_is_finished_the_next_time(tmp_path: Path) -> None:
    params = compose("nano", "sums", "grpo", ["rounds=2", "evaluate.every=2"])
    run(tmp_path / "before", "it", params, [0.5])
    changed = params.model_copy(update={"keep": Keep(policies=("last",), optimiser="last", rollouts="last")})

    def drop(root: Path) -> None:
        thinning = Thinning(Store(root), root / "runs" / "it", pytest.fail)
        thinning.drop(Record.read(root / "runs" / "it"), changed)

    shutil.copytree(tmp_path / "before", tmp_path / "after")
    drop(tmp_path / "after")
    after = files(tmp_path / "after")
    assert sum(name.endswith(THINNED) for name in after) == 2 * 3  # rollout, replay and update, at two places
    count, came = 0, [True]
    while came[0]:
        count += 1
        root = tmp_path / str(count)
        shutil.copytree(tmp_path / "before", root)
        with killed_at(count) as came:
            drop(root)
        check_said(root)
        drop(root)
        assert files(root) == after
        shutil.rmtree(root)
    assert count > 20


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.timeout(900)
def test_a_run_that_is_killed_at_operations_on_files_ends_with_the_same_files(tmp_path: Path) -> None:
    params = compose("nano", "sums", "grpo", ["rounds=3", "evaluate.every=3", LEAST])
    run(tmp_path / "whole", "it", params, [0.5])
    whole = files(tmp_path / "whole")
    assert any(name.endswith(THINNED) for name in whole)
    count, came = 0, [True]
    while came[0]:
        count += 7
        root = tmp_path / str(count)
        with killed_at(count) as came:
            run(root, "it", params, [0.5])
        check_said(root)
        run(root, "it", params, [0.5])
        assert files(root) == whole
        shutil.rmtree(root)
    assert count > 50


def test_what_another_run_keeps_or_reads_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSTINATO_HOME", str(tmp_path))
    few = ["rounds=4", "evaluate.every=4"]
    run(tmp_path, "kept", compose("nano", "sums", "grpo", few), [0.5])
    thinned = run(tmp_path, "thinned", compose("nano", "sums", "grpo", [*few, LEAST]), [0.5])
    assert not any(lost(thinned, step) for step in thinned.record.steps)
    shutil.rmtree(tmp_path / "runs" / "kept")
    reader = compose("nano", "sums", "grpo", [*few, "sft.policy=runs/thinned/round-02/update"])
    facts = {"name": "reader", "command": "", "params": reader.model_dump(mode="json"), "started": ""}
    Record(**facts).write(tmp_path / "runs" / "reader")
    thinned.thinning.drop(thinned.record, thinned.params)
    policies = {step.round: lost(thinned, step) for step in thinned.record.policies()}
    assert [round for round, gone in policies.items() if not gone] == [2, 4]


def test_a_finished_run_is_thinned_by_its_command_with_a_keep(tmp_path: Path) -> None:
    few = ["rounds=4", "evaluate.every=2"]
    least = compose("nano", "sums", "grpo", [*few, LEAST])
    run(tmp_path / "whole", "it", compose("nano", "sums", "grpo", few), [0.5, 0.0])
    later = run(tmp_path / "whole", "it", least, [0.5, 0.0])
    run(tmp_path / "least", "it", least, [0.5, 0.0])
    assert {step.outcome for step in later.record.steps} == {"cached"}
    assert files(tmp_path / "whole") == files(tmp_path / "least")


def restored(root: Path, params: Params, place: str, salt: str = "") -> Pretending:
    with Context(scratch=root / "scratch") as context:
        runner = Pretending(root, "it", params, context)
        runner.salt = salt
        for node in plan(params):
            runner.take(node)
        runner.show_whole(place)
    return runner


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


def test_what_dvc_names_stays_and_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages:\n  model:\n    outs: [runs/it/model]\n")
    params = compose("nano", "sums", "grpo", ["rounds=3", LEAST])
    said: list[str] = []
    with Context(scratch=tmp_path / "scratch") as context:
        runner = Pretending(tmp_path, "it", params, context)
        runner.thinning = Thinning(runner.store, runner.directory, said.append)
        runner.whole_run()
    assert not any(lost(runner, step) for step in runner.record.steps)
    assert len(said) == 1
    assert "dvc.yaml names this run" in said[0]


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


@pytest.mark.parametrize("given", ["last", "[newest]", "[every 0]", "[]", "7"])
def test_a_rule_that_is_none_is_one_line(given: str) -> None:
    with pytest.raises(BadInput, match=r"keep.policies: .*expected all, or a list of last, best and every N"):
        compose("nano", "sums", "grpo", [f"keep.policies={given}"])


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
@pytest.mark.ci
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
