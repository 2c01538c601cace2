"""The report: it says what the artefacts say, whatever a model wrote, at any moment of a run."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from params.base import BadInput
from tasks.artefacts.artefact import Damaged
from tasks.artefacts.tables import read_table
from tasks.report.format import duration, number, percent, points
from tasks.report.run import data as run_data
from tasks.report.run.data import COLUMNS
from tasks.report.run.page import collect, rounds_table, summary, write
from tasks.report.run.words import cautions, clear, setting
from tasks.stats.intervals import Interval
from tests.tasks.report.page_reader import CHROMIUM, Page, browse, read
from tests.tasks.report.synthetic_run import HOSTILE, SyntheticRun


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = SyntheticRun(tmp_path_factory.mktemp("runs") / "sums", rounds=10, hostile=True)
    directory = run.write(cached=4)
    write(directory)
    return directory


def test_the_buffer_has_its_charts_where_there_is_one(tmp_path: Path, finished: Path) -> None:
    run = SyntheticRun(tmp_path / "replays", rounds=6, replays=True).write()
    write(run)
    page = (run / "report.html").read_text()
    for title in (
        *("Replay buffer by age", "Admitted by confidence", "Fill rate", "Drift by age", "Penalty by age"),
        *("Replayed tokens", "Drawn by age", "Drawn from this round"),
    ):
        assert title in page
        assert title not in (finished / "report.html").read_text()
    assert "40 responses at the end" in page
    assert Page(page).find("section", id="replay")
    cells = Page(page).find("td")
    assert {"8 of 8 right", "7 of 8 right", "4 or fewer"} <= set(cells)


def test_a_rounds_figures_are_made_of_the_columns_that_they_need(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[str]] = []

    def noted(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
        table = read_table(path, columns)
        if path.name == "rollouts.parquet":
            asked.append(set(table.column_names))
        return table

    monkeypatch.setattr(run_data, "read_table", noted)
    data = collect(finished)
    assert len(asked) == 10
    assert not set.union(*asked) & {"prompt_ids", "top_ids", "top_logp", "entropy", "trace"}
    path = finished / "round-03" / "rollout" / "rollouts.parquet"
    whole = run_data.rollout_figures(read_table(path), data.params, 3)
    assert {name: data.rounds[3][name] for name in whole} == whole


def test_the_tails_of_the_mismatch_have_charts_and_ages_where_there_are_some(
    tmp_path: Path, finished: Path
) -> None:
    run = SyntheticRun(tmp_path / "replays", rounds=6, replays=True).write()
    write(run)
    aged, plain = (Page((place / "report.html").read_text()) for place in (run, finished))
    for page in (aged, plain):
        assert {"99 %", "99.9 %", "more than twice", "less than half"} <= set(page.find("th"))
    assert {f"age {age}" for age in range(6)} <= set(aged.find("th"))
    assert not [cell for cell in plain.find("th") if cell.startswith("age ")]
    assert "0.54" in aged.find("td")  # of age 5, in the last round
    assert ("12.5%" in aged.find("td"), "12.5%" in plain.find("td")) == (
        True,
        False,
    )  # the correction's share


def test_the_page_says_what_was_trained_on(tmp_path: Path) -> None:
    agent = {"task.environment": {"name": "guess"}, "tasks": ["countdown", "sql"]}
    run = SyntheticRun(tmp_path / "mixed", rounds=1, **agent).write()
    said = setting(collect(run))
    assert " on arithmetic in the environment guess, countdown and sql, trained with " in said


class Cut(SyntheticRun):
    """Every answer is cut at a limit."""

    def _row(self, *about: Any) -> dict[str, Any]:
        return {**super()._row(*about), "finish_reason": "length"}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "100.0% of the sampled answers hit the length limit."),
        (
            {"task.environment": {"name": "guess"}},
            "100.0% of the sampled episodes ended at a limit of tokens or turns.",
        ),
    ],
)
def test_what_ended_at_a_limit_is_a_caution(tmp_path: Path, settings: dict[str, Any], told: str) -> None:
    assert told in cautions(collect(Cut(tmp_path / "cut", rounds=1, **settings).write()))


def test_an_evaluation_with_settings_of_its_own_says_them_and_has_many_k(
    tmp_path: Path, finished: Path
) -> None:
    own = {"evaluate.temperature": 0.7, "evaluate.top_p": 0.95, "evaluate.samples_per_problem": 64}
    many = {"evaluate.pass_at": [1, 2, 4, 8, 16, 32, 64]}
    run = SyntheticRun(tmp_path / "many", rounds=5, **own, **many).write()
    said = setting(collect(run))
    assert said.endswith("with 64 sampled answers each (temperature 0.7, top-p 0.95).")
    assert setting(collect(finished)).endswith("with 4 sampled answers each.")
    write(run)
    scores = json.loads((run / "round-05/evaluate/scores.json").read_text())
    summed = json.loads((run / "metrics.json").read_text())
    page = Page((run / "report.html").read_text())
    for k in (2, 4, 8, 16, 32, 64):
        assert summed[f"pass_at_{k}"]["after"] == scores["pass_at"][str(k)]["value"]
        assert f"pass@{k}" in page.find("th")


def test_the_page_says_what_the_scores_say(finished: Path) -> None:
    before = json.loads((finished / "round-00/evaluate/scores.json").read_text())["mean_at_n"]["value"]
    after = json.loads((finished / "round-10/evaluate/scores.json").read_text())["mean_at_n"]["value"]
    data, page = collect(finished), read(finished)
    assert page.find("h1") == [f"Held-out accuracy rose from {percent(before)} to {percent(after)}."]
    evidence = page.find("p", class_="evidence")[0]
    change = data.change
    assert change.value == pytest.approx(after - before, abs=0.02)
    assert evidence.startswith(f"{points(change.value)} points (95% interval ")
    assert "10 rounds" in evidence
    assert change.low < change.value < change.high


def test_metrics_and_rounds_are_the_scores(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics == summary(collect(finished))
    scores = json.loads((finished / "round-10/evaluate/scores.json").read_text())
    assert metrics["accuracy"]["after"] == scores["mean_at_n"]["value"]
    assert metrics["pass_at_4"]["after"] == scores["pass_at"]["4"]["value"]
    assert metrics["kl_to_base"]["before"] == 0.0
    with (finished / "rounds.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert tuple(rows[0]) == COLUMNS
    assert [row["round"] for row in rows] == [str(round) for round in range(11)]
    assert float(rows[10]["accuracy"]) == scores["mean_at_n"]["value"]
    assert rows[7]["accuracy"] == ""
    update = json.loads((finished / "round-07/update/metrics.json").read_text())
    assert float(rows[7]["gradient_norm"]) == update["grad_norm"]


def test_writing_it_twice_gives_the_same_bytes(finished: Path) -> None:
    files = [finished / name for name in ("report.html", "metrics.json", "rounds.csv")]
    first = [file.read_bytes() for file in files]
    write(finished)
    assert [file.read_bytes() for file in files] == first
    assert not [path for path in finished.iterdir() if path.name.startswith(".")]


def test_what_a_model_wrote_stays_text(finished: Path) -> None:
    text = (finished / "report.html").read_text()
    page = read(finished)
    assert text.count("<script") == 1
    assert text.count("</script") == 1
    assert "<img" not in text
    assert HOSTILE in page.find("pre")
    assert any(HOSTILE in question for question in page.find("h3", class_="question"))


def test_the_page_needs_no_network(finished: Path) -> None:
    text = (finished / "report.html").read_text()
    loads = re.findall(r'(?:src|href|action)="([^"]*)"', text.replace('src=x onerror="', ""))
    assert all(target.startswith(("#", "data:")) for target in loads)
    assert not re.search(r"url\((?!#)|@import", text)
    assert set(re.findall(r"https?://[^\"' )<]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert len(text) < 1_000_000


def test_every_chart_can_be_read_without_seeing_it(finished: Path) -> None:
    page = read(finished)
    charts = page.find("figure", class_="chart")
    assert len(charts) == 13
    pictures = [facts for tag, facts, _, _ in page.elements if tag == "svg"]
    ids = [facts["id"] for _, facts, _, _ in page.elements if facts.get("id")]
    assert len(ids) == len(set(ids))
    for facts in pictures:
        assert facts["role"] == "img"
        assert set((facts["aria-labelledby"] or "").split()) <= set(ids)
    assert (
        len([text for text in page.find("summary") if text.startswith("Table of") or "Table" in text]) == 13
    )
    anchors = [facts["href"] for tag, facts, _, _ in page.elements if tag == "a"]
    assert {(anchor or "#")[1:] for anchor in anchors} <= set(ids)


def test_provenance_reaches_the_problems(finished: Path) -> None:
    page, data = read(finished), collect(finished)
    titles = {facts.get("title") for tag, facts, _, _ in page.elements if tag == "code"}
    for done in data.done:
        assert {done.step.fingerprint, done.step.digest} <= titles
    assert page.find("pre", class_="command") == [data.record.command]
    assert any("14 came from the cache" in text for text in page.find("p"))


def test_an_artefact_that_is_not_at_hand_is_left_out(tmp_path: Path) -> None:
    directory = SyntheticRun(tmp_path / "gone", rounds=5).write()
    shutil.rmtree(directory / "round-03")
    write(directory)
    rows = rounds_table(collect(directory))
    assert rows[3]["reward"] is None
    assert rows[4]["reward"] is not None


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    directory = SyntheticRun(tmp_path / "bad", rounds=1).write()
    scores = directory / "round-00/evaluate/scores.json"
    scores.write_text(scores.read_text().replace("entropy", "entropi"))
    with pytest.raises(Damaged, match=r"scores\.json"):
        write(directory)
    assert not (directory / "report.html").exists()


def test_no_run_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such run"):
        write(tmp_path / "none")


def test_a_long_run_is_still_a_small_page(tmp_path: Path) -> None:
    directory = SyntheticRun(tmp_path / "long", rounds=25).write()
    assert write(directory).stat().st_size < 1_000_000


def test_figures_are_written_as_a_person_writes_them() -> None:
    assert [duration(s) for s in (0.04, 59.6, 372, 7322)] == ["0.0 s", "1 min 0 s", "6 min 12 s", "2 h 2 min"]
    assert [points(c) for c in (0.542, -0.031, 0.0, -0.0001, None)] == ["+54.2", "−3.1", "0.0", "0.0", "–"]
    assert [number(v) for v in (0.0, 0.62, 1234.5, 2e-7)] == ["0", "0.62", "1,234", "2.00e-7"]
    assert not clear(Interval(0.1, -0.01, 0.2))
    assert clear(Interval(-0.1, -0.2, -0.01))


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize(
    ("fragment", "outcomes", "policies"),
    [
        ("", {"right", "wrong", "error"}, {"base", "final"}),
        ("#outcome=error", {"error"}, {"base", "final"}),
        ("#policy=final&outcome=right", {"right"}, {"final"}),
        ("#search=no%20such%20text", set(), set()),
    ],
)
def test_the_filter_filters_in_a_browser(
    finished: Path, tmp_path: Path, fragment: str, outcomes: set[str], policies: set[str]
) -> None:
    dom, log = browse(finished / "report.html", fragment, tmp_path)
    page = Page(dom)
    shown = [(tag, facts) for tag, facts, _, hidden in page.elements if not hidden]
    assert {f["data-outcome"] for _, f in shown if "data-outcome" in f} == outcomes
    assert {f["data-policy"] for _, f in shown if "data-policy" in f} == policies
    assert page.find("title")[0].startswith("sums")
    assert "CONSOLE" not in log


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_search_finds_a_question(finished: Path, tmp_path: Path) -> None:
    dom, _ = browse(finished / "report.html", "#search=owned", tmp_path)
    page = Page(dom)
    assert len(page.find("li", visible=True, class_="problem")) == 1
    assert "in 1 problem" in page.find("output")[0]
