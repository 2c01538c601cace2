"""``ostinato prove``: the promises hold, and a broken one is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from flows.execution import proofs
from flows.execution.proofs import Trial
from tests.flows.conftest import Workspace


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("what", "trials"),
    [
        pytest.param("resume", 1, id="resume", marks=pytest.mark.ci),
        pytest.param("cache", 2, id="cache"),
        pytest.param("drivers", 2, id="drivers"),
    ],
)
def test_what_is_promised_holds(empty: Workspace, what: str, trials: int) -> None:
    quick = ["--set", "model.warm_start_steps=2", "--set", "task.reward=similarity"]
    quick += ["--set", "rounds=1"] if what == "drivers" else []
    told = json.loads(empty.call("prove", what, "--seed", "3", "--json", *quick).stdout)
    assert [trial["holds"] for trial in told] == [True] * trials
    assert all(trial["compared"] >= 6 for trial in told)
    if what == "resume":
        stages = ("problems", "model", "evaluate", "rollout", "replay", "update")
        assert all(f"killed in {stage} after" in told[0]["what"] for stage in stages)


@pytest.mark.parametrize(
    ("trial", "said"),
    [
        (Trial("a kill", 4, ("round-01/update",)), "broken: round-01/update"),
        (Trial("a bit", 4, (), "3 of 4 damages were noticed"), "broken: 3 of 4 damages were noticed"),
        (Trial("nothing", 0, ()), "broken"),
    ],
)
def test_a_broken_promise_is_told_and_the_exit_code_is_1(
    trial: Trial, said: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> Iterator[Trial]:
        yield trial

    monkeypatch.setattr(proofs, "PROOFS", {"cache": broken})
    with pytest.raises(SystemExit) as stopped:
        cli.main(["prove", "cache"])
    assert stopped.value.code == 1
    assert said in " ".join(capfd.readouterr().out.split())


def test_runs_that_differ_in_a_byte_are_told_apart(finished: Workspace, tmp_path: Path) -> None:
    place = proofs.Place(tmp_path / "here", ["rounds=1"])
    (place.root / "runs").symlink_to(finished.root / "runs")
    made = place.made()
    (differs, held) = (
        proofs._compared("it", made, {**made, "model": made["problems"]}, ""),
        proofs._compared("it", made, made, ""),
    )
    assert differs.differ == ("model",)
    assert not differs.holds
    assert held.holds
