"""A comparison as a directory of files: the page, its export as Markdown, its charts and tables, its figures.

Charts are drawn when the page is built, and stand in it inline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from altair.utils.schemapi import debug_mode

from params.comparison import Comparison
from tasks.artefacts.artefact import write_json
from tasks.artefacts.tables import write_table
from tasks.report.comparison import words
from tasks.report.comparison.answers import STORIES, shown_problems
from tasks.report.comparison.charts import colour, dash, paints
from tasks.report.comparison.data import ACCURACY, AXES, Outcome, read_runs
from tasks.report.comparison.export import exported
from tasks.report.comparison.figures import Panel, panels
from tasks.report.comparison.frontier import frontier_tables, frontiers
from tasks.report.comparison.stats import Effect, Results
from tasks.report.comparison.tables import Table, tables
from tasks.report.curves import curves
from tasks.report.format import count
from tasks.report.rendering import asset, rendered

SECTIONS = (
    ("effects", "Effects"),
    ("learning", "Learning"),
    ("frontier", "Frontier"),
    ("policy", "Policy"),
    ("figures", "Figures"),
    ("cost", "Cost"),
    ("answers", "Answers"),
    ("parameters", "Parameters"),
    ("provenance", "Provenance"),
)


def write(comparison: Comparison, outcomes: Sequence[Outcome], facts: dict[str, Any], out: Path) -> None:
    """Write ``report.html``, ``summary.md``, ``summary.json``, ``metrics.json``, ``curves.parquet``, and each
    chart and table, into ``out``.

    ``facts`` are the comparison's name, its runs and how to repeat it.
    """
    data = Results(comparison, read_runs(outcomes))
    with debug_mode(False):  # altair checks each part of a chart against its schema: half of the time
        drawn = panels(data)
    listed = tables(data)
    spent = {name: frontier_tables(data, name) for name in comparison.frontiers}
    for panel in (panel for group in drawn.values() for panel in group):
        (out / f"{panel.key}.svg").write_text(panel.alone, encoding="utf-8")
        (out / f"{panel.key}.csv").write_text(panel.csv, encoding="utf-8")
    for table in (*listed.values(), *(table for each in spent.values() for table in each)):
        (out / f"{table.key}.md").write_text(table.markdown, encoding="utf-8")
        (out / f"{table.key}.tex").write_text(table.latex, encoding="utf-8")
    write_table(out / "curves.parquet", curves((run.arm, run.seed, run.figures) for run in data.runs))
    said = summary(data, facts)
    write_json(out / "summary.json", {**facts, **said})
    write_json(out / "metrics.json", metrics(data))
    shown = [panel for group in drawn.values() for panel in group if panel.axis in ("", "round")]
    text = exported(comparison, facts, said, listed, spent, shown)
    (out / "summary.md").write_text(text, encoding="utf-8")
    (out / "report.html").write_text(page(data, facts, said, drawn, listed, spent), encoding="utf-8")


def summary(data: Results, facts: dict[str, Any]) -> dict[str, Any]:
    """The comparison in figures, for machines."""
    comparison = data.comparison
    budget = comparison.budget.words() if comparison.budget else count(comparison.rounds, "round")
    failed = [f"{run['name']} {run['outcome']}: {run['why']}" for run in facts["runs"] if run["why"]]
    return {
        "title": comparison.title,
        "question": comparison.question,
        "verdict": words.verdict(data, budget),
        "evidence": words.evidence(data),
        "cautions": words.cautions(data, failed),
        "missing": words.missing(data),
        "budget": budget,
        "baseline": data.baseline,
        "confidence": data.confidence,
        "stages": {
            "made": sum(run["made"] for run in facts["runs"]),
            "cached": sum(run["cached"] for run in facts["runs"]),
            "runs": len(data.runs),
            "first_rollouts": len({run.first_rollout for run in data.runs}),
        },
        "methods": {arm: _arm(data, arm) for arm in data.arms},
        "effects": {
            metric: {arm: _effect(effect) for arm, effect in by_arm.items()}
            for metric, by_arm in data.effects.items()
        },
        "frontiers": frontiers(data),
    }


def _arm(data: Results, arm: str) -> dict[str, Any]:
    """What is said of one arm: each metric's interval, and each run by itself."""
    finals = {metric: data.final(arm, metric) for metric in data.metrics}
    runs = []
    for run in data.of(arm):
        ends = {metric: data.path(run, metric).get(run.rounds) for metric in data.metrics}
        runs.append({"seed": run.seed, "rounds": run.rounds, "final": ends, **vars(run.totals)})
    return {
        **{metric: asdict(found.interval) if found else None for metric, found in finals.items()},
        "method": data.comparison.arms[arm].method or data.comparison.base.method,
        "set": list(data.comparison.arms[arm].set),
        "diverged": sum(run.diverged for run in data.of(arm)),
        "collapsed": data.collapsed(arm),
        "runs": runs,
    }


def _effect(effect: Effect) -> dict[str, Any]:
    found = effect.estimate
    return {
        **asdict(found.interval),
        "error": found.error,
        "p": found.p,
        "p_holm": effect.p_holm,
        "pairs": found.seeds,
        "seeds_needed": effect.needed,
        "detectable": effect.detectable,
    }


def metrics(data: Results) -> dict[str, Any]:
    """Each method's figures after the last round and its lead over the baseline, for ``dvc metrics``."""
    found: dict[str, Any] = {}
    for arm in data.arms:
        finals = {metric: data.final(arm, metric) for metric in data.metrics}
        found[arm] = {metric: final.value for metric, final in finals.items() if final}
        effect = data.effects.get(ACCURACY, {}).get(arm)
        if effect:
            found[arm] |= {"lead": effect.estimate.value, "lead_p_holm": effect.p_holm}
    return found


def page(
    data: Results,
    facts: dict[str, Any],
    said: dict[str, Any],
    drawn: dict[str, list[Panel]],
    listed: dict[str, Table],
    spent: dict[str, list[Table]],
) -> str:
    """The whole page."""
    problems = shown_problems(data)
    there = {**drawn, "cost": listed.get("cost"), "answers": problems, "parameters": True, "provenance": True}
    there["effects"] = listed.get("results")
    return rendered(
        "comparison/compare.html.j2",
        style=asset("report.css") + asset("comparison/compare.css") + _colours(len(data.arms)),
        script=asset("comparison/compare.js") + asset("answers.js"),
        data=data,
        facts=facts,
        said=said,
        setting=words.setting(data, said["budget"]),
        sections=[(anchor, name) for anchor, name in SECTIONS if there.get(anchor)],
        panels=drawn,
        tables={key: listed.get(key) for key in ("results", "effects", "best", "cost", "arms", "parameters")},
        frontiers=[table for tables in spent.values() for table in tables],
        axes={axis: name for axis, name in AXES.items() if any(p.axis == axis for p in drawn["learning"])},
        legend=[(arm, colour(place), _mark(place)) for place, arm in enumerate(data.arms)],
        headline=[(arm, data.final(arm, ACCURACY)) for arm in data.arms],
        problems=problems,
        stories=STORIES,
        runs=data.runs,
    )


def _mark(place: int) -> str:
    return {(): "", (7, 4): "dashed", (2, 4): "dotted", (9, 3, 2, 3): "broken"}[dash(place)]


def _colours(arms: int) -> str:
    """The arms' colours, and what hides one of them."""
    light, dark = ("".join(f"--arm-{i}:{paints(i)[paper]};" for i in range(arms)) for paper in (0, 1))
    hidden = "".join(
        f'main[data-off~="{i}"] .curves [{mark}="var(--arm-{i})"]{{display:none}}\n'
        for i in range(arms)
        for mark in ("stroke", "fill")
    )
    return f":root{{{light}}}\n@media (prefers-color-scheme: dark){{:root{{{dark}}}}}\n{hidden}"
