"""What a gain costs: readings off curves, their intervals over seeds, the chart and the page."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from params.base import BadInput, validate
from params.comparison import Comparison, read_study, trials
from params.load import presets
from tasks.report.comparison.export import exported
from tasks.report.comparison.figures import panels
from tasks.report.comparison.frontier import first_at, frontier_tables, frontiers
from tasks.report.comparison.stats import Results
from tests.tasks.report.synthetic_comparison import in_memory

X, Y = "evaluate.kl_to_base", "evaluate.mean_at_n"
CURVE = {
    "cautious": {0: [(0.0, 0.4), (0.1, 0.5), (0.3, 0.7)], 1: [(0.0, 0.4), (0.2, 0.6), (0.4, 0.8)]},
    "timid": {0: [(0.0, 0.4), (0.05, 0.45)], 1: [(0.0, 0.4), (0.15, 0.5)]},
}
TEACHER = [(0.2, 0.5), (0.5, 0.6)]


def a_frontier(**frontier: Any) -> Results:
    comparison = validate(
        Comparison,
        {
            "title": "Two arms",
            "question": "What does it cost?",
            "arms": {arm: {} for arm in CURVE},
            "seeds": 2,
            "rounds": 2,
            "frontiers": {"price": {"at_x": [0.1], "at_y": [0.6], **frontier}},
        },
    )
    figures = {
        arm: {
            seed: {X: [x for x, _ in points], Y: [y for _, y in points]} for seed, points in by_seed.items()
        }
        for arm, by_seed in CURVE.items()
    }
    figures["cautious"][0] |= {
        "evaluate_teacher.kl_to_base": [None, *(x for x, _ in TEACHER)],
        "evaluate_teacher.mean_at_n": [None, *(y for _, y in TEACHER)],
    }
    return in_memory(comparison, figures)


def test_a_curve_is_read_where_it_first_gets_there() -> None:
    points = [(0.0, 0.4), (0.2, 0.6), (0.1, 0.9), (0.3, 0.7)]
    assert first_at(points, 0.1) == pytest.approx(0.5)
    assert first_at(points, 0.2) == 0.6
    assert first_at(points, 0.0) == 0.4
    assert first_at(points, 0.31) is None
    assert first_at([(0.2, 0.5)], 0.1) is None  # it began beyond


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8), st.floats(0, 1))
def test_a_reading_lies_between_its_neighbours(points: list[tuple[float, float]], goal: float) -> None:
    found = first_at(points, goal)
    if found is not None:
        values = [y for _, y in points]
        assert min(values) - 1e-9 <= found <= max(values) + 1e-9
        assert max(x for x, _ in points) >= goal


def test_readings_have_intervals_over_the_seeds_that_got_there() -> None:
    said = frontiers(a_frontier())["price"]["curves"]
    found = said["cautious"]["at_x"]["0.1"]
    assert [found[part] for part in ("value", "low", "high")] == pytest.approx([0.5, 0.5, 0.5])
    assert (found["seeds"], found["of"]) == (2, 2)
    change = said["timid"]["at_x"]["0.1"]["change"]  # of its second seed alone
    assert change["pairs"] == 1
    assert change["value"] == pytest.approx(first_at(CURVE["timid"][1], 0.1) - 0.5)  # type: ignore[operator]
    assert "change" not in said["cautious"]["at_x"]["0.1"]
    costs = said["cautious"]["at_y"]["0.6"]
    assert costs["value"] == pytest.approx(0.2)
    assert said["timid"]["at_x"]["0.1"]["seeds"] == 1
    assert said["timid"]["at_y"]["0.6"]["value"] is None


def test_curves_beside_have_their_own_names_and_only_where_they_are() -> None:
    beside = {"teacher": {"x": "evaluate_teacher.kl_to_base", "y": "evaluate_teacher.mean_at_n"}}
    said = frontiers(a_frontier(beside=beside))["price"]["curves"]
    assert list(said) == ["cautious", "cautious teacher", "timid"]
    assert said["cautious teacher"]["at_y"]["0.6"]["value"] == pytest.approx(0.5)


def test_gains_are_over_each_seeds_own_base() -> None:
    beside = {"teacher": {"x": "evaluate_teacher.kl_to_base", "y": "evaluate_teacher.mean_at_n"}}
    said = frontiers(a_frontier(gain=True, at_y=[0.15], beside=beside))["price"]["curves"]
    assert said["cautious"]["at_x"]["0.1"]["value"] == pytest.approx(0.1)
    assert said["cautious teacher"]["at_y"]["0.15"]["value"] == pytest.approx(0.35)
    from_its_base = said["cautious teacher"]["at_x"]["0.1"]["value"]
    assert from_its_base == pytest.approx(0.05)


def test_the_chart_names_its_curves_and_the_tables_tell_who_got_there() -> None:
    data = a_frontier(label="The price")
    chart = next(panel for panel in panels(data)["frontier"] if panel.key == "frontier-price")
    text = " ".join(ElementTree.fromstring(chart.alone).itertext())
    assert "The price" in text
    assert {"cautious", "timid"} <= set(text.split())
    gained, less, *_ = (table.markdown for table in frontier_tables(data, "price"))
    assert "| cautious | 50.0% [50.0% to 50.0%, 2 of 2] |" in gained
    assert "| timid | 46.7% [1 of 2] |" in gained
    assert "| timid | −3.3% [1 seed] |" in less


@pytest.mark.parametrize("name", [name for name in presets("labs") if name.startswith("erpd-")])
def test_the_studies_of_erpd_are_whole(name: str) -> None:
    found, study = read_study(name)
    runs = trials(found, study)
    assert len(runs) == study.seeds * len(study.arms)
    assert any(run.params.distil is not None for run in runs)
    assert study.frontiers


def test_a_figure_that_is_no_name_is_refused() -> None:
    with pytest.raises(BadInput, match=r"expected STAGE\.NAME"):
        a_frontier(x="kl")


def test_a_frontier_that_is_read_nowhere_has_no_heading_among_the_tables() -> None:
    data = a_frontier(at_x=[], at_y=[], label="Price of a point")
    facts, said = {"command": "lab it"}, {"verdict": "", "evidence": "", "budget": "2 rounds", "cautions": []}
    text = exported(data.comparison, facts, said, {}, {"price": frontier_tables(data, "price")}, [])
    assert "Price of a point" not in text
    again = a_frontier(label="Price of a point")
    text = exported(again.comparison, facts, said, {}, {"price": frontier_tables(again, "price")}, [])
    assert "## Price of a point\n" in text
