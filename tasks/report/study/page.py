"""A study as a directory of files: curves, figures, charts, and a page in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from params.base import nearest
from params.lab import Metric
from tasks.artefacts.artefact import write_json
from tasks.artefacts.tables import write_table
from tasks.report.format import ABSENT, MINUS, count, number, percent
from tasks.report.study.charts import chart, frontier_chart
from tasks.report.study.frontier import frontiers, told
from tasks.report.study.study import Study

Cells = Sequence[str]


def write(study: Study, facts: dict[str, Any], out: Path) -> None:
    """Write ``curves.parquet``, ``summary.json``, ``summary.md`` and ``METRIC.svg`` into ``out``.

    ``facts`` are the study's name, its runs and how to repeat it, as they stand in ``summary.json``.
    """
    lab = study.lab
    write_table(out / "curves.parquet", study.table)
    figures = {**study.summary(), "frontiers": frontiers(study)}
    asked = {"title": lab.title, "question": lab.question, "rounds": lab.rounds, "seeds": lab.seeds}
    compared = {"baseline": lab.baseline, "confidence": lab.confidence, "accuracy": lab.accuracy}
    write_json(out / "summary.json", {**facts, **asked, **compared, **figures, "missing": missing(study)})
    drawn = []
    for name, metric in lab.metrics.items():
        picture = chart(study, name, metric) if metric.chart else None
        if picture is not None:
            (out / f"{name}.svg").write_text(picture, encoding="utf-8")
            drawn.append((name, metric.label or name))
    for name in lab.frontiers:
        picture = frontier_chart(study, name)
        if picture is not None:
            (out / f"frontier-{name}.svg").write_text(picture, encoding="utf-8")
    (out / "summary.md").write_text(page(study, facts, figures, drawn), encoding="utf-8")


def missing(study: Study) -> list[str]:
    """A line for each metric of the study that no run has."""
    known = study.metrics()
    return [
        f"{name}: no run has this metric{_near(name, known)}"
        for name in study.lab.wanted()
        if name not in known
    ]


def _near(name: str, known: set[str]) -> str:
    among = {other for other in known if other.partition(".")[0] == name.partition(".")[0]} or known
    return nearest(name, among)


def page(
    study: Study, facts: dict[str, Any], figures: dict[str, Any], drawn: Sequence[tuple[str, str]]
) -> str:
    """The text of ``summary.md``."""
    lab = study.lab
    shown = {name: metric for name, metric in lab.metrics.items() if metric.table}
    ended = {arm: f"{values['seeds']}" for arm, values in figures["arms"].items()}
    collapsed = {arm: percent(values["collapsed"], 0) for arm, values in figures["arms"].items()}
    width = f"{100 * lab.confidence:g}%"
    parts = [
        f"# {lab.title}\n\n{lab.question}\n",
        f"`{facts['command']}`: {count(len(lab.arms), 'arm')}, {count(lab.seeds, 'seed')}, "
        f"{count(lab.rounds, 'round')}.\n",
        *(f"- {line}\n" for line in (*_failures(facts), *missing(study))),
        f"## After the last round\n\nMean over seeds with its {width} t-interval. *Collapsed*: the share of "
        f"seeds whose `{lab.accuracy}` ended below half of its best, or not finite.\n",
        _table(
            ("arm", *_headings(shown), "collapsed", "seeds"),
            [(arm, *_row(figures, shown, arm, "final"), collapsed[arm], ended[arm]) for arm in study.arms()],
        ),
        *_against(study, figures, shown, width),
        *_bests(study, figures, shown),
        f"## Arms\n\nAll on {lab.base.model} and {lab.base.task} with {_settings(lab.base.set)}.\n",
        _table(
            ("arm", "method", "settings"),
            [(arm, values["method"], _settings(values["set"])) for arm, values in figures["arms"].items()],
            numbers=False,
        ),
        *(f"![{label}]({name}.svg)\n" for name, label in drawn),
        *(told(study, name, figures["frontiers"][name], _table) for name in lab.frontiers),
    ]
    return "\n".join(parts)


def _settings(settings: Sequence[str]) -> str:
    return ", ".join(f"`{setting}`" for setting in settings) or "the presets' settings"


def _failures(facts: dict[str, Any]) -> list[str]:
    return [f"{run['name']} {run['outcome']}: {run['why']}" for run in facts["runs"] if run["why"]]


def _against(study: Study, figures: dict[str, Any], shown: dict[str, Metric], width: str) -> list[str]:
    """The paired differences, where there are two arms."""
    baseline = study.lab.baseline
    others = [arm for arm in study.arms() if arm != baseline]
    if baseline not in study.arms() or not others:
        return []
    words = (
        f"## Against {baseline}\n\nMean difference over seeds that both have, with its {width} interval; p "
        "by the paired t-test, corrected by Holm over the arms of a column. Shares in percentage points.\n"
    )
    rows = [(arm, *_changes(figures, shown, arm)) for arm in others]
    return [words, _table(("arm", *_headings(shown)), rows)]


def _bests(study: Study, figures: dict[str, Any], shown: dict[str, Metric]) -> list[str]:
    ranked = {name: metric for name, metric in shown.items() if metric.better}
    if not ranked:
        return []
    rows = [(arm, *_row(figures, ranked, arm, "best")) for arm in study.arms()]
    words = (
        "## Best over the rounds\n\nMean over seeds of each seed's own best round: biased to the good side.\n"
    )
    return [words, _table(("arm", *_headings(ranked)), rows)]


def _headings(shown: dict[str, Metric]) -> list[str]:
    return [metric.label or f"`{name}`" for name, metric in shown.items()]


def _row(figures: dict[str, Any], shown: dict[str, Metric], arm: str, which: str) -> list[str]:
    return [
        _interval(figures["metrics"][name]["arms"][arm][which], percent if metric.percent else number)
        for name, metric in shown.items()
    ]


def _changes(figures: dict[str, Any], shown: dict[str, Metric], arm: str) -> list[str]:
    cells = []
    for name, metric in shown.items():
        found = figures["metrics"][name]["arms"][arm]["change"]
        tested = f", p {number(found['p_holm'], 2)}" if found["p_holm"] is not None else ""
        cells.append(_interval(found, _points if metric.percent else _signed) + tested)
    return cells


def _interval(found: dict[str, Any], show: Callable[[float], str]) -> str:
    if found["value"] is None:
        return ABSENT
    if found["low"] is None:
        return _minus(show(found["value"]))
    value, low, high = (_minus(show(found[part])) for part in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _minus(text: str) -> str:
    return MINUS + text[1:] if text.startswith("-") else text


def _signed(value: float) -> str:
    sign = "+" if value > 0 else MINUS if value < 0 else ""
    return f"{sign}{number(abs(value))}"


def _points(value: float) -> str:
    return _signed(round(100 * value, 1))


def _table(header: Cells, rows: Sequence[Cells], numbers: bool = True) -> str:
    rule = ["---", *("---:" if numbers else "---" for _ in header[1:])]
    names, *cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (names, rule, *cells)) + "\n"
