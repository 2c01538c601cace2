"""``keep``: nothing that is needed or is to stay goes; a thinned run is as good as a whole one."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.execution.retention import best_round, going
from flows.execution.thinning import Thinning
from flows.stage_table.stages import plan
from params.base import BadInput
from params.keep import Keep
from params.load import compose
from params.schema import Params
from tasks.artefacts.artefact import EVERYTHING, MOMENTS, THINNED, Artefact
from tasks.artefacts.record import Record, Step
from tasks.artefacts.store import Store
from tasks.core.context import Context
from tests.flows.pretended import LEAST, Pretending, files, lost, run

keeps = st.builds(
    Keep,
    policies=st.just("all")
    | st.lists(st.sampled_from(["last", "best", "every 2", "every 3"]), min_size=1, max_size=2),
    optimiser=st.sampled_from(["all", "last"]),
    rollouts=st.sampled_from(["all", "last"]),
    teachers=st.sampled_from(["all", "last"]),
)


@contextlib.contextmanager
def place() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp())
    try:
        yield root
    finally:
        shutil.rmtree(root)


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


@pytest.mark.parametrize("given", ["last", "[newest]", "[every 0]", "[]", "7"])
def test_a_rule_that_is_none_is_one_line(given: str) -> None:
    with pytest.raises(BadInput, match=r"keep.policies: .*expected all, or a list of last, best and every N"):
        compose("nano", "sums", "grpo", [f"keep.policies={given}"])
