"""Which charts the page shows, what each says in a sentence, and the table behind it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tasks.report.charts import (
    HALF,
    HERO,
    THIRD,
    Figure,
    Point,
    Series,
    Sizes,
    dumbbells,
    lines,
    pictures,
    series,
    stacked,
)
from tasks.report.format import count, duration, number, percent
from tasks.report.run.data import RunData, metrics_of

SOLID: tuple[int, ...] = ()
DASHED = (6, 4)
DOTTED = (1, 4)
MARKS = {SOLID: "", DASHED: "dashed", DOTTED: "dotted"}
COLOURS = ("var(--final)", "var(--train)", "var(--third)", "var(--greedy)")
LINES = len(COLOURS)
"""At most so many k of pass@k have a line, the least and the largest among them; the table has all."""
KINDS = ("sample", "judge", "learn", "measure", "prepare")
"""The order of stages in a bar."""


@dataclass(frozen=True)
class Look:
    """How the values of a chart are written on its axis and in its table, and how large it is."""

    axis: str
    show: Callable[[float | None], str]
    domain: tuple[float, float] | None = None
    sizes: Sizes = HALF


SHARES = Look(".0%", percent, (0.0, 1.0))
NUMBERS = Look("~g", number)


def figures(data: RunData) -> list[Figure | None]:
    """The charts that every run may have; None where it has no figures for one."""
    small = replace(NUMBERS, sizes=THIRD)
    rare = replace(small, axis=".1%", show=percent)
    mismatch = "mean difference in log-probability, nats per token"
    return [
        _accuracy(data),
        _pass_at(data),
        _gains(data),
        _entropy(data),
        _ranks(data),
        _line(
            data, "kl_to_base", "Distance from the base", "KL to the base model, nats per token (k3)", NUMBERS
        ),
        _line(data, "response_length", "Response length", "tokens a training answer", NUMBERS),
        _line(data, "clip_fraction", "Clipped", "share of tokens whose ratio was clipped", rare),
        _line(data, "gradient_norm", "Gradient norm", "before clipping, mean over the round's steps", small),
        _line(data, "mismatch", "Engine against trainer", mismatch, small),
        _agreeing(data),
        _time(data),
    ]


def _accuracy(data: RunData) -> Figure | None:
    drawn = [
        series("Held-out accuracy", COLOURS[0], data.rounds, "accuracy", dots=True),
        series("Held-out, greedy", COLOURS[3], data.rounds, "greedy_accuracy", dash=DASHED),
        series("Training reward", COLOURS[1], data.rounds, "reward", dash=DOTTED),
    ]
    says = f"Shares of right answers; bands are {data.width} bootstrap intervals over problems."
    table = ["reward", "reward_low", "reward_high", "accuracy", "accuracy_low", "accuracy_high"]
    look = replace(SHARES, sizes=HERO)
    return lines_figure(
        "accuracy", "Accuracy by round", says, drawn, look, data.rounds, [*table, "greedy_accuracy"]
    )


def _pass_at(data: RunData) -> Figure | None:
    drawn: list[Series] = []
    rows: list[dict[str, Any]] = [{"round": e.round} for e in data.evaluations]
    last = len(data.pass_at) - 1
    lines_of = (
        {data.pass_at[last * place // (LINES - 1)] for place in range(LINES)} if last else set(data.pass_at)
    )
    for k in data.pass_at:
        points = []
        for row, evaluation in zip(rows, data.evaluations, strict=True):
            found = evaluation.interval("pass_at", str(k))
            row |= {f"pass@{k}": found.value, f"low@{k}": found.low, f"high@{k}": found.high}
            if found.value is not None:
                points.append(Point(evaluation.round, found.value, found.low, found.high))
        if k in lines_of:
            dash = SOLID if len(drawn) % 2 == 0 else DASHED
            drawn.append(Series(f"pass@{k}", COLOURS[len(drawn)], tuple(points), dots=True, dash=dash))
    says = "Chance that at least one of k sampled answers is right (unbiased estimator)."
    table = [f"{part}@{k}" for k in data.pass_at for part in ("pass", "low", "high")]
    return lines_figure("pass", "Pass@k", says, drawn, SHARES, rows, table)


def _entropy(data: RunData) -> Figure | None:
    drawn = [
        series("Entropy, held-out", COLOURS[0], data.rounds, "entropy", dots=True),
        series("Surprisal, training", COLOURS[1], data.rounds, "surprisal", dash=DOTTED),
    ]
    says = "Nats per token: how undecided the policy still is."
    return lines_figure("entropy", "Entropy", says, drawn, NUMBERS, data.rounds, ["entropy", "surprisal"])


def _ranks(data: RunData) -> Figure | None:
    drawn = [
        series(f"rank {rank}", COLOURS[rank - 1], data.rounds, f"rank_{rank}", dots=True, dash=dash)
        for rank, dash in ((1, SOLID), (2, DASHED), (3, DOTTED))
    ]
    says = "Mean probability of the first, second and third choice of token."
    table = ["rank_1", "rank_2", "rank_3"]
    return lines_figure("ranks", "Rank-1, 2, 3 probability", says, drawn, SHARES, data.rounds, table)


def _agreeing(data: RunData) -> Figure | None:
    """Groups that teach the objective nothing."""
    rows = [
        {"round": n, "all right": said.get("all_right_groups"), "all wrong": said.get("all_wrong_groups")}
        for n, said in metrics_of(data, "update")
    ]
    drawn = [
        series("all right", COLOURS[0], rows, "all right"),
        series("all wrong", COLOURS[1], rows, "all wrong", dash=DASHED),
    ]
    says = "Shares of the groups whose answers were all right, and all wrong"
    says += "." if data.params.method.virtual_reward is not None else ": nothing for the objective."
    look = replace(SHARES, sizes=THIRD)
    return lines_figure("agreeing", "Groups that agree", says, drawn, look, rows, ["all right", "all wrong"])


def _line(data: RunData, column: str, title: str, says: str, look: Look) -> Figure | None:
    drawn = series(title, COLOURS[0], data.rounds, column, dots=column == "kl_to_base")
    if not drawn.points:
        return None
    ends = f"{look.show(drawn.points[0].y)} → {look.show(drawn.points[-1].y)}"
    return lines_figure(column, title, f"{ends}: {says}.", [drawn], look, data.rounds, [column])


def lines_figure(
    key: str,
    title: str,
    says: str,
    every: Sequence[Series],
    look: Look,
    rows: Sequence[dict[str, Any]],
    columns: Sequence[str],
) -> Figure | None:
    """Lines over rounds with their table; None where none has two points."""
    drawn = [each for each in every if each.points]
    if all(len(each.points) < 2 for each in drawn):
        return None
    show = look.show
    ends = [f"{s.name}: from {show(s.points[0].y)} to {show(s.points[-1].y)}." for s in drawn]
    spoken = " ".join([says, *ends])
    legend = tuple((s.colour, f"{s.name} {show(s.points[-1].y)}", MARKS[s.dash]) for s in drawn)
    draw = functools.partial(lines, drawn, form=look.axis, y_domain=look.domain)
    return Figure(
        key=key,
        title=title,
        says=says,
        pictures=pictures(draw, look.sizes, key, title, spoken),
        legend=legend if len(every) > 1 else (),
        header=("round", *columns),
        rows=tuple(
            (str(row["round"]), *(show(row[column]) for column in columns))
            for row in rows
            if any(row[column] is not None for column in columns)
        ),
    )


def _gains(data: RunData) -> Figure | None:
    """Base against the last policy, a row a figure; a run without a second evaluation shows none."""
    rows = _gain_rows(data)
    if not rows or data.last is None:
        return None
    title, policy = "Before and after", f"round {data.last.round}"
    says = f"Base model and {policy}, with {data.width} intervals."
    ends = [f"{row['name']}: {percent(row['before'])} to {percent(row['after'])}." for row in rows]
    spoken = " ".join([says, *ends])
    columns = tuple(rows[0])
    return Figure(
        key="gains",
        title=title,
        says=says,
        pictures=pictures(lambda size: dumbbells(rows, size[0] - 40), HALF, "gains", title, spoken),
        legend=(("var(--base)", "base model", "dot"), ("var(--final)", policy, "dot")),
        header=columns,
        rows=tuple((row["name"], *(percent(row[column]) for column in columns[1:])) for row in rows),
    )


def _gain_rows(data: RunData) -> list[dict[str, Any]]:
    if data.base is None or data.last is None:
        return []
    wanted: list[tuple[str, tuple[str, ...]]] = [
        (f"mean@{data.params.evaluate.samples_per_problem}", ("mean_at_n",)),
        ("greedy", ("greedy",)),
        *((f"pass@{k}", ("pass_at", str(k))) for k in data.pass_at if k > 1),
    ]
    levels = sorted(data.base.scores["levels"], key=int)
    if len(levels) > 1:
        wanted += [(f"level {level}", ("levels", level)) for level in levels]
    rows = []
    for name, path in wanted:
        before, after = data.base.interval(*path), data.last.interval(*path)
        if before.value is not None and after.value is not None:
            rows.append({"name": name, **before.named("before"), **after.named("after")})
    return rows


def _time(data: RunData) -> Figure | None:
    rows = _time_rows(data)
    if not rows:
        return None
    stages = list(dict.fromkeys(row["stage"] for row in sorted(rows, key=lambda row: row["order"])))
    totals = {stage: sum(row["seconds"] for row in rows if row["stage"] == stage) for stage in stages}
    cached = sum(row["cached"] for row in rows)
    says = f"{count(len(rows), 'stage')}, {duration(sum(totals.values()))} in all"
    says += f"; {cached} came from the cache: faint, with the time that they took once." if cached else "."
    title = "Time by stage"
    draw = functools.partial(stacked, rows, stages, column="seconds", title="seconds")
    spoken = " ".join([says, *(f"{stage}: {duration(total)}." for stage, total in totals.items())])
    return Figure(
        key="time",
        title=title,
        says=says,
        pictures=pictures(draw, HERO, "time", title, spoken),
        legend=tuple(
            (f"var(--stage-{i})", f"{stage} {duration(totals[stage])}", "dot")
            for i, stage in enumerate(stages)
        ),
        header=("round", "stage", "seconds", "outcome"),
        rows=tuple(
            (row["round"], row["stage"], f"{row['seconds']:.1f}", "cached" if row["cached"] else "made")
            for row in rows
        ),
    )


def _time_rows(data: RunData) -> list[dict[str, Any]]:
    places = {stage: i for i, stage in enumerate(dict.fromkeys(done.step.stage for done in data.done))}
    rows: list[dict[str, Any]] = [
        {
            "round": "prep" if done.step.role.kind == "prepare" else str(done.step.round),
            "stage": done.step.stage,
            "seconds": round(done.made_in, 3),
            "cached": done.step.outcome == "cached",
            "order": 100 * KINDS.index(done.step.role.kind) + places[done.step.stage],
        }
        for done in data.done
    ]
    return sorted(rows, key=lambda row: (-1 if row["round"] == "prep" else int(row["round"]), row["order"]))
