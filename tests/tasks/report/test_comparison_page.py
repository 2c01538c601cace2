"""The page of a comparison: it answers in its first sentence, holds its figures, and works in a browser."""

from __future__ import annotations

import csv
import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest

from tasks.artefacts.tables import read_table
from tasks.report.comparison.data import ACCURACY, Outcome, read_runs
from tasks.report.comparison.page import write
from tasks.report.comparison.stats import Results
from tasks.report.comparison.words import cautions, verdict
from tasks.report.format import points
from tasks.report.run.data import accuracy_by_problem
from tests.tasks.report.synthetic_comparison import a_comparison
from tests.tasks.report.synthetic_run import HOSTILE
from tests.tasks.report.test_run_page import CHROMIUM, Page, browse

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """A comparison's directory, which nothing may change, and what it says."""
    root = tmp_path_factory.mktemp("comparison")
    comparison, outcomes, facts = a_comparison(root / "runs", hostile=True)
    out = root / "three"
    out.mkdir()
    write(comparison, outcomes, facts, out)
    return out, Results(comparison, read_runs(outcomes))


def page(out: Path) -> Page:
    return Page((out / "report.html").read_text())


def accuracy(outcome_directory: Path) -> float:
    answers = read_table(outcome_directory / "round-10/evaluate/answers.parquet")
    return float(np.mean(list(accuracy_by_problem(answers).values())))


def test_the_first_sentence_answers(made: tuple[Path, Results]) -> None:
    out, data = made
    runs = out.parent / "runs"
    lead = np.mean(
        [accuracy(runs / f"three-drpo-s{s}") - accuracy(runs / f"three-grpo-s{s}") for s in range(3)]
    )
    first = page(out).find("h1")[0]
    assert first == f"drpo ({points(float(lead))} points) helps over grpo after 10 rounds each."
    summary = json.loads((out / "summary.json").read_text())
    assert summary["verdict"] == first
    found = summary["effects"][ACCURACY]["drpo"]
    assert found["value"] == pytest.approx(lead, abs=0.01)  # problems that a judge failed on pair less
    assert found["low"] > 0
    assert found["p_holm"] == pytest.approx(2 * found["p"])
    assert summary["effects"][ACCURACY]["dyjr"]["p_holm"] > 0.05
    assert summary["stages"] == {"made": 180, "cached": 45, "runs": 9, "first_rollouts": 9}
    assert any("dyjr 1.50 times as many" in caution for caution in summary["cautions"])
    assert data.effects[ACCURACY]["drpo"].needed <= 4


def test_what_cannot_be_shown_is_said_so(tmp_path: Path) -> None:
    comparison, outcomes, _ = a_comparison(tmp_path, seeds=2)
    only = [o for o in outcomes if o.arm != "drpo"]
    data = Results(comparison, read_runs(only))
    assert verdict(data, "10 rounds").startswith("No difference from grpo can be shown at 2 seeds")
    one = [o for o in only if o.seed == 0]
    assert "One seed cannot show" in verdict(Results(comparison, read_runs(one)), "10 rounds")
    alone = [o for o in only if o.arm == "grpo"]
    assert "only one method" in verdict(Results(comparison, read_runs(alone)), "10 rounds")
    gone = [Outcome(o.arm, o.seed, o.directory, 11 if o.arm == "dyjr" else 10, o.arm == "dyjr") for o in only]
    assert "only one method" in verdict(Results(comparison, read_runs(gone)), "10 rounds")


def test_methods_that_differ_in_name_alone_are_named(tmp_path: Path) -> None:
    comparison, outcomes, _ = a_comparison(tmp_path, seeds=2)
    grpo = [o for o in outcomes if o.arm == "grpo"]
    twins = [Outcome("dyjr", o.seed, o.directory, o.rounds, o.diverged) for o in grpo]
    said = cautions(Results(comparison, read_runs([*grpo, *twins])), [])
    assert any("dyjr scores as grpo does on every held-out problem of every seed" in text for text in said)
    assert not any("scores as" in text for text in cautions(Results(comparison, read_runs(outcomes)), []))


def test_charts_and_tables_are_files_of_their_own(made: tuple[Path, Results]) -> None:
    out, data = made
    for key in (
        "accuracy",
        "accuracy-by-tokens",
        "pass-at-4",
        "pass-at-k",
        "effects",
        "lead",
        "frontier",
        "entropy",
        "rank-1",
    ):
        text = (out / f"{key}.svg").read_text()
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert "var(--" not in text
        with (out / f"{key}.csv").open() as handle:
            assert len(list(csv.DictReader(handle))) >= 2
    with (out / "accuracy-by-tokens.csv").open() as handle:
        last = [row for row in csv.DictReader(handle) if row["method"] == "dyjr"][-1]
    assert float(last["sampled tokens"]) == 15_000
    assert float(last["value"]) == pytest.approx(data.final("dyjr", ACCURACY).value, rel=1e-4)
    with (out / "pass-at-k.csv").open() as handle:
        rows = [row for row in csv.DictReader(handle) if row["method"] == "drpo"]
    assert [float(row["answers"]) for row in rows] == [1, 2, 4]
    ends = [data.final("drpo", name).value for name in (ACCURACY, "pass@2", "pass@4")]
    assert [float(row["value"]) for row in rows] == pytest.approx(ends, rel=1e-4)
    assert "| sampled tokens |" in (out / "cost.md").read_text()
    assert r"\toprule" in (out / "cost.tex").read_text()
    assert "| method.aggregation | token_mean | constant |  |" in (out / "parameters.md").read_text()


def test_links_lead_somewhere_and_nothing_is_fetched(made: tuple[Path, Results]) -> None:
    text = (made[0] / "report.html").read_text()
    read = page(made[0])
    ids = {facts["id"] for _, facts, _, _ in read.elements if facts.get("id")}
    assert len(ids) == len([1 for _, facts, _, _ in read.elements if facts.get("id")])
    saved = 0
    for tag, facts, _, _ in read.elements:
        address = facts.get("href") or ""
        if tag == "a" and facts.get("download"):
            beside = made[0] / str(facts["download"])
            assert unquote(address.partition(",")[2]) == beside.read_text()
            saved += 1
        elif tag == "a":
            assert address.startswith("#")
            assert address[1:] in ids
        for name in (facts.get("aria-labelledby") or "").split():
            assert name in ids
    assert saved > 40
    loads = re.findall(r'(?:src|href|action)="([^"]*)"', text.replace('src=x onerror="', ""))
    assert all(target.startswith(("#", "data:")) for target in loads)
    assert not re.search(r"url\((?!#)|@import", text)
    assert text.count("<script") == 1
    assert HOSTILE in read.find("pre")
    assert len(text) < 4_000_000


def test_a_screen_reader_finds_headings_captions_and_names(made: tuple[Path, Results]) -> None:
    read = page(made[0])
    levels = [int(tag[1]) for tag, _, _, _ in read.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    tables = [facts for tag, facts, _, _ in read.elements if tag == "table"]
    assert len(read.find("caption")) == len(tables)
    assert all(facts.get("role") == "img" for tag, facts, _, _ in read.elements if tag == "svg")
    assert all(read.find("caption"))


@needs_browser
@pytest.mark.parametrize(
    ("fragment", "outcomes", "methods"),
    [
        ("", {"right", "wrong"}, {"base model", "grpo", "drpo", "dyjr"}),
        ("#policy=drpo&outcome=right", {"right"}, {"drpo"}),
        ("#level=2&outcome=wrong&policy=dyjr", {"wrong"}, {"dyjr"}),
        ("#search=no%20such%20text", set(), set()),
    ],
)
def test_the_filters_filter(
    made: tuple[Path, Results], tmp_path: Path, fragment: str, outcomes: set[str], methods: set[str]
) -> None:
    dom, log = browse(made[0] / "report.html", fragment, tmp_path)
    read = Page(dom)
    shown = [facts for _, facts, _, hidden in read.elements if not hidden]
    assert {f["data-outcome"] for f in shown if "data-outcome" in f} - {"error"} == outcomes
    assert {f["data-policy"] for f in shown if "data-policy" in f} == methods
    if "level=2" in fragment:
        assert {f["data-level"] for f in shown if "data-level" in f} == {"2"}
    assert "CONSOLE" not in log


@needs_browser
def test_curves_are_read_against_what_is_chosen(made: tuple[Path, Results], tmp_path: Path) -> None:
    for fragment, axis in (("", "round"), ("#axis=tokens", "tokens")):
        dom, log = browse(made[0] / "report.html", fragment, tmp_path)
        shown = {f["data-axis"] for _, f, _, hidden in Page(dom).elements if "data-axis" in f and not hidden}
        assert shown == {axis}
        drawn = {f["id"] for _, f, _, hidden in Page(dom).elements if f.get("id") and not hidden}
        assert {"chart-lead", "chart-entropy", "chart-frontier", "chart-effects"} <= drawn
        assert "CONSOLE" not in log


@needs_browser
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_its_width(made: tuple[Path, Results], tmp_path: Path, width: int) -> None:
    assert overflow(made[0] / "report.html", width, tmp_path) == {"width": width, "over": []}


LOOK = """
document.getElementById("f").onload = (event) => {
  const page = event.target.contentDocument, root = page.documentElement;
  const style = (e) => event.target.contentWindow.getComputedStyle(e);
  const scrolls = (e) => e && (style(e).overflowX === "auto" || scrolls(e.parentElement));
  const over = [...page.querySelectorAll("main *, .top *")].filter((e) => {
    const box = e.getBoundingClientRect();
    return box.right > root.clientWidth + 1 && box.width > 1 && !scrolls(e);
  });
  const shown = over.slice(0, 5).map((e) => e.outerHTML.slice(0, 80));
  document.title = JSON.stringify({ width: root.scrollWidth, over: shown });
};
"""


def overflow(file: Path, width: int, folder: Path) -> dict[str, Any]:
    """How wide the page is in a frame of that width, and which elements stand out of it unscrolled."""
    frame = folder / "frame.html"
    inside = f'<iframe id="f" width="{width}" height="900" src="{file.resolve().as_uri()}"></iframe>'
    frame.write_text(f"{inside}<style>iframe {{ border: 0 }}</style><script>{LOOK}</script>")
    quiet = (
        "--headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --disable-component-update"
    )
    together = "--disable-web-security --allow-file-access-from-files --disable-site-isolation-trials"
    done = subprocess.run(
        [
            str(CHROMIUM),
            *quiet.split(),
            *together.split(),
            f"--user-data-dir={folder / 'framed'}",
            "--virtual-time-budget=4000",
            "--dump-dom",
            frame.resolve().as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found: dict[str, Any] = json.loads(Page(done.stdout).find("title")[0])
    return found
