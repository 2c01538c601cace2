"""What a gain costs: readings off curves, their intervals over seeds, the chart and the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from params.base import BadInput, validate
from params.lab import Lab, read_lab, trials
from tasks.report.study.frontier import first_at, frontiers
from tasks.report.study.page import write
from tasks.report.study.study import CURVES, Outcome, Study
from tasks.stats.paired_tests import student

X, Y = "evaluate.kl_to_base", "evaluate.mean_at_n"
CURVE = {
    "cautious": {0: [(0.0, 0.4), (0.1, 0.5), (0.3, 0.7)], 1: [(0.0, 0.4), (0.2, 0.6), (0.4, 0.8)]},
    "timid": {0: [(0.0, 0.4), (0.05, 0.45)], 1: [(0.0, 0.4), (0.15, 0.5)]},
}
TEACHER = [(0.2, 0.5), (0.5, 0.6)]


def a_study(**frontier: Any) -> Study:
    lab = validate(
        Lab,
        {
            "title": "A study",
            "question": "What does it cost?",
            "arms": {arm: {} for arm in CURVE},
            "seeds": 2,
            "rounds": 2,
            "metrics": {Y: {"percent": True}},
            "frontiers": {"price": {"at_x": [0.1], "at_y": [0.6], **frontier}},
        },
    )
    rows = [
        (arm, seed, metric, round, point[axis])
        for arm, seeds in CURVE.items()
        for seed, points in seeds.items()
        for axis, metric in enumerate((X, Y))
        for round, point in enumerate(points)
    ]
    rows += [
        ("cautious", 0, f"evaluate_teacher.{name}", round, point[axis])
        for axis, name in enumerate(("kl_to_base", "mean_at_n"))
        for round, point in enumerate(TEACHER, start=1)
    ]
    table = pa.table([list(column) for column in zip(*rows, strict=True)], schema=CURVES)
    return Study(lab, [Outcome(arm, seed, Path(), 2, False) for arm in CURVE for seed in (0, 1)], table)


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
    said = frontiers(a_study())["price"]["curves"]
    wanted = student([0.5, 0.5], 0.95)
    assert said["cautious"]["at_x"]["0.1"] == {
        **{"value": pytest.approx(wanted.value), "low": pytest.approx(0.5), "high": pytest.approx(0.5)},
        **{"seeds": 2, "of": 2},
    }
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
    said = frontiers(a_study(beside=beside))["price"]["curves"]
    assert list(said) == ["cautious", "cautious teacher", "timid"]
    assert said["cautious teacher"]["at_y"]["0.6"]["value"] == pytest.approx(0.5)


def test_gains_are_over_each_seeds_own_base() -> None:
    beside = {"teacher": {"x": "evaluate_teacher.kl_to_base", "y": "evaluate_teacher.mean_at_n"}}
    said = frontiers(a_study(gain=True, at_y=[0.15], beside=beside))["price"]["curves"]
    assert said["cautious"]["at_x"]["0.1"]["value"] == pytest.approx(0.1)
    assert said["cautious teacher"]["at_y"]["0.15"]["value"] == pytest.approx(0.35)


def test_the_page_has_the_chart_and_both_tables(tmp_path: Path) -> None:
    study = a_study(label="The price")
    write(study, {"command": "ostinato lab x", "runs": []}, tmp_path)
    picture = ElementTree.parse(tmp_path / "frontier-price.svg").getroot()
    text = " ".join(part for part in picture.itertext())
    assert "The price" in text
    assert {"cautious", "timid"} <= set(text.split())
    page = (tmp_path / "summary.md").read_text()
    assert "![The price](frontier-price.svg)" in page
    assert "| cautious | 50.0% [50.0%, 50.0%] (2/2) |" in page
    assert "(0/2)" in page
    assert json.loads((tmp_path / "summary.json").read_text())["frontiers"]["price"]["x"] == X


@pytest.mark.parametrize("name", ["frontier", "weak-teacher"])
def test_the_studies_of_erpd_are_whole(name: str) -> None:
    found, lab = read_lab(name)
    runs = trials(found, lab)
    assert len(runs) == lab.seeds * len(lab.arms)
    assert any(run.params.distil is not None for run in runs)
    assert lab.frontiers


def test_a_figure_that_is_no_name_is_refused() -> None:
    with pytest.raises(BadInput, match=r"expected STAGE\.NAME"):
        a_study(x="kl")
