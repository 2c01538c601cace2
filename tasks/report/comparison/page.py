"""A comparison as a directory of files: the page, its charts and tables each by itself, figures, curves.

The page is one file that needs no network: charts are inline, and what it offers to save is inside it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from altair.utils.schemapi import debug_mode
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from params.lab import Lab
from tasks.artefacts.artefact import write_json
from tasks.artefacts.tables import write_table
from tasks.report.comparison import words
from tasks.report.comparison.answers import STORIES, shown_problems
from tasks.report.comparison.charts import PALETTE, dash
from tasks.report.comparison.data import ACCURACY, AXES, read_runs
from tasks.report.comparison.figures import Panel, legend, panels
from tasks.report.comparison.stats import Comparison
from tasks.report.comparison.tables import Table, tables
from tasks.report.format import count, duration, number, percent
from tasks.report.study.study import Outcome, curves

HERE = Path(__file__).parent
SECTIONS = (
    ("effects", "Effects"),
    ("learning", "Learning"),
    ("frontier", "Frontier"),
    ("policy", "Policy"),
    ("cost", "Cost"),
    ("answers", "Answers"),
    ("parameters", "Parameters"),
    ("provenance", "Provenance"),
)


def write(lab: Lab, outcomes: Sequence[Outcome], facts: dict[str, Any], out: Path) -> list[str]:
    """Write ``report.html``, ``summary.json``, ``curves.parquet``, and each chart and table, into ``out``.

    ``facts`` are the comparison's name, its runs and how to repeat it. Returns nothing to complain of.
    """
    data = Comparison(lab, read_runs(outcomes))
    with debug_mode(False):  # altair checks each part of a chart against its schema: half of the time
        drawn = panels(data)
    listed = tables(data)
    for panel in (panel for group in drawn.values() for panel in group):
        (out / f"{panel.key}.svg").write_text(panel.alone, encoding="utf-8")
        (out / f"{panel.key}.csv").write_text(panel.csv, encoding="utf-8")
    for table in listed.values():
        (out / f"{table.key}.md").write_text(table.markdown, encoding="utf-8")
        (out / f"{table.key}.tex").write_text(table.latex, encoding="utf-8")
    write_table(out / "curves.parquet", curves(outcomes))
    write_json(out / "summary.json", {**facts, **summary(data, facts)})
    write_json(out / "metrics.json", metrics(data))
    (out / "report.html").write_text(page(data, facts, drawn, listed), encoding="utf-8")
    return []


def summary(data: Comparison, facts: dict[str, Any]) -> dict[str, Any]:
    """The comparison in figures, for machines."""
    budget = budget_words(data.lab)
    effects = {
        metric: {
            arm: {
                "value": effect.estimate.value,
                "low": effect.estimate.interval.low,
                "high": effect.estimate.interval.high,
                "error": effect.estimate.error,
                "p": effect.estimate.p,
                "p_holm": effect.p_holm,
                "pairs": effect.estimate.seeds,
                "seeds_needed": effect.needed,
                "detectable": effect.detectable,
            }
            for arm, effect in by_arm.items()
        }
        for metric, by_arm in data.effects.items()
    }
    methods = {
        arm: {
            **{metric: _interval(data, arm, metric) for metric in data.metrics()},
            "runs": [{"seed": run.seed, "rounds": run.rounds, **vars(run.totals)} for run in data.of(arm)],
        }
        for arm in data.arms
    }
    return {
        "verdict": words.verdict(data, budget),
        "evidence": words.evidence(data),
        "cautions": words.cautions(data, failures(facts)),
        "budget": budget,
        "baseline": data.baseline,
        "confidence": data.lab.confidence,
        "stages": stages(data, facts),
        "methods": methods,
        "effects": effects,
    }


def metrics(data: Comparison) -> dict[str, Any]:
    """Each method's figures after the last round and its lead over the baseline, for ``dvc metrics``."""
    found: dict[str, Any] = {}
    for arm in data.arms:
        finals = {metric: data.final(arm, metric) for metric in data.metrics()}
        found[arm] = {metric: final.value for metric, final in finals.items() if final}
        effect = data.effects.get(ACCURACY, {}).get(arm)
        if effect:
            found[arm] |= {"lead": effect.estimate.value, "lead_p_holm": effect.p_holm}
    return found


def stages(data: Comparison, facts: dict[str, Any]) -> dict[str, int]:
    """How much was made, how much came from the cache, and how many first rollouts the runs stand on."""
    return {
        "made": sum(run["made"] for run in facts["runs"]),
        "cached": sum(run["cached"] for run in facts["runs"]),
        "runs": len(data.runs),
        "first_rollouts": len({run.first_rollout for run in data.runs}),
    }


def budget_words(lab: Lab) -> str:
    """What every run had."""
    return lab.budget.words() if lab.budget else count(lab.rounds, "round")


def failures(facts: dict[str, Any]) -> list[str]:
    """The runs that did not come to their end."""
    return [f"{run['name']} {run['outcome']}: {run['why']}" for run in facts["runs"] if run["why"]]


def page(
    data: Comparison, facts: dict[str, Any], drawn: dict[str, list[Panel]], listed: dict[str, Table]
) -> str:
    """The whole page."""
    script = read("compare.js") + read("../answers.js")
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, number=number, duration=duration, count=count, saved=saved)
    budget, problems = budget_words(data.lab), shown_problems(data)
    there = {**drawn, "cost": listed.get("cost"), "answers": problems, "parameters": True, "provenance": True}
    return environment.get_template("compare.html.j2").render(
        data=data,
        facts=facts,
        verdict=words.verdict(data, budget),
        evidence=words.evidence(data),
        setting=words.setting(data, budget),
        cautions=words.cautions(data, failures(facts)),
        stages=stages(data, facts),
        sections=[(anchor, name) for anchor, name in SECTIONS if there.get(anchor)],
        panels=drawn,
        tables=listed,
        axes={axis: name for axis, name in AXES.items() if any(p.axis == axis for p in drawn["learning"])},
        legend=[(arm, colour, _mark(place)) for place, (arm, colour) in enumerate(legend(data))],
        headline=[(arm, data.final(arm, ACCURACY)) for arm in data.arms],
        problems=problems,
        stories=STORIES,
        runs=data.runs,
        style=Markup(read("../report.css") + read("compare.css") + _colours()),  # noqa: S704 - our own
        script=Markup(script),  # noqa: S704 - our own file
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def read(name: str) -> str:
    """A file of ours that goes into the page."""
    return (HERE / name).read_text()


def saved(text: str, kind: str) -> str:
    """A file as an address that the page itself holds."""
    return f"data:{kind};charset=utf-8,{quote(text)}"


def _mark(place: int) -> str:
    return {(): "", (7, 4): "dashed", (2, 4): "dotted", (9, 3, 2, 3): "broken"}[dash(place)]


def _colours() -> str:
    """The methods' colours, and what hides one of them."""
    light = "".join(f"--arm-{i}:{pair[0]};" for i, pair in enumerate(PALETTE))
    dark = "".join(f"--arm-{i}:{pair[1]};" for i, pair in enumerate(PALETTE))
    hidden = "".join(
        f'main[data-off~="{i}"] .curves [{mark}="var(--arm-{i})"]{{display:none}}\n'
        for i in range(len(PALETTE))
        for mark in ("stroke", "fill")
    )
    return f":root{{{light}}}\n@media (prefers-color-scheme: dark){{:root{{{dark}}}}}\n{hidden}"


def _interval(data: Comparison, arm: str, metric: str) -> dict[str, float | None] | None:
    found = data.final(arm, metric)
    return found.interval.to_json() if found else None
