"""The report of a run: ``report.html`` for people, ``metrics.json`` and ``rounds.csv`` for ``dvc`` and plots.

The page is one file that needs no network. It reads what the stages wrote and computes nothing that the
artefacts do not determine, and it can be written at any moment of a run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.artefacts.artefact import replace_file, write_json
from tasks.report.format import flat, number, percent, value
from tasks.report.rendering import asset, csv_text, rendered
from tasks.report.run import words
from tasks.report.run.answers import STORIES, shown_problems
from tasks.report.run.audit import audit_figure, disagreements
from tasks.report.run.data import COLUMNS, Done, Row, RunData, collect
from tasks.report.run.figures import figures
from tasks.report.run.mismatch import mismatch_figures
from tasks.report.run.replay import replay_figures
from tasks.report.run.rewards import reward_figures
from tasks.report.run.sets import gains, set_figures
from tasks.report.run.spans import shown_spans
from tasks.report.run.state import PAGE, state
from tasks.report.run.terms import term_figures
from tasks.report.run.timeline import timeline_figure

__all__ = ["RunData", "collect", "rounds_table", "summary", "write"]

GROUPS = (
    ("learning", "Learning", ("accuracy", "pass", "gains")),
    ("policy", "Policy", ("entropy", "ranks", "kl_to_base", "response_length")),
    (
        "replay",
        "Replay",
        ("buffer", "entered", "fill", "drift", "penalty", "replayed", "drawn", "same_round"),
    ),
    (
        "updates",
        "Updates",
        (
            *("clip_fraction", "gradient_norm", "agreeing"),
            *("mismatch", "mismatch_tails", "mismatch_shares", "mismatch_ages", "correction"),
        ),
    ),
)
"""Sections of the page that are made of charts: anchor, name, the charts. One without a chart is left out.
Two more have the charts of the rewards, where there are several, and of the method's own metrics."""


def write(directory: Path, process: str | None = None) -> Path:
    """Write ``report.html``, ``metrics.json`` and ``rounds.csv`` into a run's directory; the page's path.

    ``process``: the one that is making the run; the page loads itself anew while it does.
    Raises ``BadInput`` where there is no run, ``Damaged`` where a file is not what its manifest says.
    """
    data = collect(directory)
    write_json(directory / "metrics.json", summary(data))
    replace_file(directory / "rounds.csv", csv_text([COLUMNS, *(row.values() for row in data.rounds)]))
    replace_file(directory / PAGE, page(data, process))
    return directory / PAGE


def summary(data: RunData) -> dict[str, Any]:
    """The run in a few figures, for ``dvc metrics`` and the command line; only what was measured."""
    found: dict[str, Any] = {"rounds": data.rounds_done, "finished": data.record.finished}
    measured = {when: e for when, e in (("before", data.base), ("after", data.last)) if e is not None}
    for name, path in _summary_paths(data).items():
        found[name] = {when: v for when, e in measured.items() if (v := e.interval(*path).value) is not None}
    for name in ("entropy", "kl_to_base", "response_length", "truncated"):
        found[name] = {when: v for when, e in measured.items() if (v := e.number(name)) is not None}
    if data.change.value is not None:
        found["accuracy"] |= data.change.named("change")
    found["sets_and_tasks"] = gains(data)
    rewards = [row["reward"] for row in data.rounds if row["reward"] is not None]
    if rewards:
        found["training_reward"] = {"first": rewards[0], "last": rewards[-1]}
    return {name: value for name, value in found.items() if value != {}}


def rounds_table(data: RunData) -> list[Row]:
    """A row a round with every column of ``COLUMNS``; None where nothing was measured."""
    return data.rounds


def page(data: RunData, process: str | None = None) -> str:
    """The whole page; see ``write``."""
    of_terms = [figure for figure in term_figures(data) if figure is not None]
    of_rewards = [figure for figure in reward_figures(data) if figure is not None]
    of_sets = [figure for figure in set_figures(data) if figure is not None]
    others = (*of_sets, *of_terms, *of_rewards, audit_figure(data), timeline_figure(data))
    every = (*figures(data), *mismatch_figures(data), *replay_figures(data), *others)
    drawn = {figure.key: figure for figure in every if figure is not None}
    groups = (
        *GROUPS,
        ("sets", "Benchmarks and tasks", tuple(figure.key for figure in of_sets)),
        ("rewards", "Rewards", tuple(figure.key for figure in of_rewards)),
        ("terms", "Method", tuple(figure.key for figure in of_terms)),
    )
    return rendered(
        "run/report.html.j2",
        style=asset("report.css"),
        script=asset("answers.js") + asset("run/reload.js"),
        data=data,
        record=data.record,
        state=state(data.record, process),
        verdict=words.verdict(data),
        evidence=words.evidence(data),
        setting=words.setting(data),
        warm_start=words.warm_start(data),
        cautions=words.cautions(data),
        headline=headline(data),
        figures=drawn,
        groups=[(anchor, name, [k for k in keys if k in drawn]) for anchor, name, keys in groups],
        problems=shown_problems(data),
        spans=shown_spans(data),
        disagreements=disagreements(data),
        stories=STORIES,
        sections=_sections(data.params.model_dump(mode="json")),
        lineage=_lineage(data),
        versions=_versions(data.done),
    )


def headline(data: RunData) -> list[dict[str, str]]:
    """The figures under the verdict: a name, the value before, the value after."""
    if data.base is None:
        return []
    found = []
    n = data.params.evaluate.samples_per_problem
    further = [k for k in data.pass_at if k > 1]
    ends = dict.fromkeys((*further[:1], *further[-1:]))  # all of them stand in the charts
    names = {
        "accuracy": f"Accuracy, mean@{n}",
        "greedy": "Greedy accuracy",
        "entropy": "Entropy, nats per token",
        "kl_to_base": "KL to the base, nats per token",
        "response_length": "Response length, tokens",
        **{f"pass_at_{k}": f"Pass@{k}" for k in ends},
    }
    for name, values in summary(data).items():
        if name in names and "before" in values:
            show = percent if name in _summary_paths(data) else number
            after = show(values["after"]) if "after" in values else ""
            found.append({"name": names[name], "before": show(values["before"]), "after": after})
    return found


def _summary_paths(data: RunData) -> dict[str, tuple[str, ...]]:
    passes = {f"pass_at_{k}": ("pass_at", str(k)) for k in data.pass_at}
    return {"accuracy": ("mean_at_n",), "greedy": ("greedy",), **passes}


def _sections(params: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The parameters by section, each as (dotted key, value)."""
    nested = {key: given for key, given in params.items() if isinstance(given, dict)}
    sections = {"run": {key: given for key, given in params.items() if key not in nested}, **nested}
    return [
        (name, [(key, value(given)) for key, given in flat(section).items() if given != {}])
        for name, section in sections.items()
    ]


def _lineage(data: RunData) -> list[tuple[str, Done]]:
    """What to quote when somebody asks where the last policy comes from: of each stage the last artefact, and
    the base model's scores."""
    found: dict[str, Done] = {}
    for each in sorted(data.done, key=lambda each: each.step.round):
        step = each.step
        name = step.role.label if step.round == 0 else f"last {step.role.label}"
        found[f"base {name}" if step.stage == "evaluate" and step.round == 0 else name] = each
    return [(name[:1].upper() + name[1:], each) for name, each in found.items()]


def _versions(done: list[Done]) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in done:
        if each.artefact is not None:
            found |= each.artefact.manifest.versions
    return dict(sorted(found.items()))
