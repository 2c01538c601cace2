"""The report of a run that echoes: which part of an answer was fed back, for readers of every kind."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.artefacts.artefact import write_json
from tasks.artefacts.tables import SPANS, write_table
from tasks.report.run.page import write
from tests.tasks.report.synthetic_run import HOSTILE, SyntheticRun
from tests.tasks.report.test_run_page import Page


class Echoing(SyntheticRun):
    """A run whose updates tell of two spans each, one of them with a hostile text."""

    def _update(self, out: Path, round: int) -> None:
        super()._update(out, round)
        said = json.loads((out / "metrics.json").read_text())
        shares = {"all_right_groups": round / 10, "all_wrong_groups": 0.1}
        write_json(
            out / "metrics.json",
            {**said, **shares, "echorl.spans": 2, "echorl.span_length": 4 + round, "softer.pull": round},
        )
        row = {"term": "echorl", "start": 0, "stop": 5, "step_start": 2, "step_stop": 5, "tokens": 9}
        row |= {"entropy": 1.25, "selection": "max_entropy", "after": ""}
        texts = [("7+8=15\n", "1+2=3\n", "35"), ("a < b\n", HOSTILE, "")]
        rows = [
            {**row, "problem_id": f"train-{i}", "group": i, "sample": i, "before": a, "step": b, "beyond": c}
            for i, (a, b, c) in enumerate(texts)
        ]
        write_table(out / "spans.parquet", pa.Table.from_pylist(rows, schema=SPANS))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    settings = {"method.terms": "[{name: echorl}]"}
    directory = Echoing(tmp_path_factory.mktemp("runs") / "echoes", rounds=5, **settings).write()
    return write(directory).read_text()


def test_the_span_is_marked_and_not_by_colour_alone(page: str) -> None:
    parsed = Page(page)
    assert "fed back: 7+8=15 chosen step: 1+2=3" in parsed.find("mark", class_="span")[0]
    assert parsed.find("strong", class_="step")[0] == "chosen step: 1+2=3"
    assert parsed.find("span", class_="beyond")[0] == "left out: 35"
    assert "text-decoration: underline" in page
    facts = parsed.find("p", class_="facts")
    said = "round 5, answer 1 of its group: 5 of 9 tokens, highest entropy, 1.25 nats per token in the step"
    assert said in facts
    assert sum(fact.startswith(("round 5", "round 4")) for fact in facts) == 4


def test_what_a_model_wrote_stays_text_there_too(page: str) -> None:
    assert page.count("<script") == 1
    assert "<img" not in page
    assert any(HOSTILE in text for text in Page(page).find("mark", class_="span"))


def test_groups_that_agree_and_what_terms_measure_have_their_charts(page: str, tmp_path: Path) -> None:
    for title in ("Groups that agree", "Echo: length", "softer.pull", "What did it feed back?"):
        assert title in page
    assert "Echo: problems" not in page  # declared as one that has no chart
    plain = write(SyntheticRun(tmp_path / "plain", rounds=3).write()).read_text()
    for title in ("Groups that agree", "Echo: length", "softer.pull", "What did it feed back?"):
        assert title not in plain
