"""The chart of what ran beside what: the shares that it tells of, and when there is none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from tasks.artefacts.record import Step
from tasks.report.run.data import RunData
from tasks.report.run.timeline import timeline_figure
from tests.conftest import ROLES


def run(*stages: tuple[str, float, float, dict[str, Any]]) -> RunData:
    """Of stages as place, when they began, when they ended, and what else is to be said of their steps."""
    steps = []
    for place, begin, end, more in stages:
        round, stage = place.removeprefix("round-").split("/")
        known = {"place": place, "stage": stage, "role": ROLES[stage], "round": int(round), "outcome": "made"}
        step = Step(fingerprint="f", digest="d", seconds=end - begin, elapsed=end, **{**known, **more})
        steps.append(SimpleNamespace(step=step))
    return cast(RunData, SimpleNamespace(done=steps))


OVERLAPPING = (
    ("round-01/rollout", 10.0, 20.0, {}),
    ("round-01/update", 20.0, 30.0, {}),
    ("round-02/rollout", 20.0, 25.0, {}),
    ("round-01/evaluate", 30.0, 34.0, {}),
    ("round-02/update", 30.0, 40.0, {}),
    ("round-03/rollout", 34.0, 40.0, {"waited": 4.0, "waited_for": "round-01/evaluate"}),
)


def test_it_tells_how_much_was_done_at_once_and_what_waited_longest() -> None:
    figure = timeline_figure(run(*OVERLAPPING))
    assert figure is not None
    assert figure.says == (
        "Rounds 1 to 3, 30 s: engine at work 83%, trainer at work 67% of the time, two at once 50%; "
        "the longest wait, 4.0 s, was that of round-03/rollout for round-01/evaluate."
    )
    assert figure.rows[0] == ("round-01/rollout", "engine", "0.0", "10.0", "", "")
    assert figure.rows[-1] == ("round-03/rollout", "engine", "24.0", "6.0", "4.0", "round-01/evaluate")
    assert [name for _, name, _ in figure.legend] == ["rollout", "update", "evaluate"]
    assert "seconds" in figure.pictures[0][1]


def test_there_is_none_of_a_run_whose_stages_follow_each_other_or_were_cached() -> None:
    assert timeline_figure(run(*OVERLAPPING[:2])) is None
    cached = [(place, begin, end, {"outcome": "cached"}) for place, begin, end, _ in OVERLAPPING]
    assert timeline_figure(run(*cached)) is None
    assert timeline_figure(run()) is None
