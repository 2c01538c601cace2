"""The tables of a comparison, for the page, for Markdown and for LaTeX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tasks.report.comparison.data import ACCURACY, Compared, differences
from tasks.report.comparison.stats import Comparison, Effect
from tasks.report.format import ABSENT, MINUS, number, percent, points, value
from tasks.stats.two_level_bootstrap import Estimate

LATEX = {
    "&": r"\&",
    "%": r"\%",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
}
LATEX |= {"^": r"\textasciicircum{}", "\\": r"\textbackslash{}", MINUS: "$-$", ABSENT: "--", "×": r"$\times$"}


@dataclass(frozen=True)
class Cell:
    """A figure and, smaller, its interval or what else belongs to it."""

    text: str
    small: str = ""


@dataclass(frozen=True)
class Table:
    """One table."""

    key: str
    """Of its files: ``KEY.md``, ``KEY.tex``."""
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numbers: bool = True
    """Its columns but the first are figures."""

    @property
    def markdown(self) -> str:
        """As GitHub's Markdown."""
        rule = ["---", *("---:" if self.numbers else "---" for _ in self.header[1:])]
        rows = [[_joined(cell).replace("|", "\\|") for cell in row] for row in self.rows]
        lines = (list(self.header), rule, *rows)
        return f"{self.caption}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n"

    @property
    def latex(self) -> str:
        """As a table for the package booktabs."""
        columns = "l" + ("r" if self.numbers else "l") * (len(self.header) - 1)
        rows = [" & ".join(_latex(_joined(cell)) for cell in row) + r" \\" for row in self.rows]
        head = " & ".join(_latex(name) for name in self.header) + r" \\"
        caption = f"\\caption{{{_latex(self.caption)}}}"
        body = "\n".join([head, r"\midrule", *rows])
        return (
            f"\\begin{{table}}\n\\centering\n{caption}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n"
            "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
        )


def tables(data: Comparison) -> dict[str, Table]:
    """Every table by key: ``results``, ``effects``, ``cost``, ``parameters``."""
    found = [_results(data), _effects(data), _cost(data), _parameters(data)]
    return {table.key: table for table in found if table.rows}


def _results(data: Comparison) -> Table:
    metrics = data.metrics()
    rows = [(Cell("base model"), *(_share(data.base(metric)) for metric in metrics), Cell(ABSENT))]
    for arm in data.arms:
        seeds = f"{len(data.figures(arm))} of {len(data.of(arm))}"
        rows.append((Cell(arm), *(_share(data.final(arm, metric)) for metric in metrics), Cell(seeds)))
    header = ("method", *("accuracy" if m == ACCURACY else m for m in metrics), "seeds at the end")
    width = f"{100 * data.lab.confidence:g}%"
    caption = f"After the last round: mean over seeds with its {width} interval over seeds and problems."
    return Table("results", caption, header, tuple(rows))


def _effects(data: Comparison) -> Table:
    metrics = [m for m in data.metrics() if data.effects.get(m)]
    rows = []
    for arm in data.effects.get(ACCURACY, {}):
        effect = data.effects[ACCURACY][arm]
        others = [_change(data.effects[m].get(arm)) for m in metrics]
        needed = f"{effect.needed:,}" if effect.needed else ABSENT
        least = f"{100 * effect.detectable:.1f}" if effect.detectable is not None else ABSENT
        rows.append((Cell(arm), *others, Cell(needed), Cell(least)))
    names = ["accuracy" if m == ACCURACY else m for m in metrics]
    caption = (
        f"Against {data.baseline}, in points: mean paired difference with its interval and its p-value, "
        "corrected by Holm over the methods of a column. Seeds: how many would show this difference in "
        "accuracy four times in five. Visible: the smallest that these seeds show as often, in points."
    )
    return Table("effects", caption, ("method", *names, "seeds", "visible"), tuple(rows))


def _cost(data: Comparison) -> Table:
    amounts: dict[str, tuple[Callable[[Compared], float | None], Callable[[float], str]]] = {
        "rounds": (lambda r: float(r.rounds), _whole),
        "sampled tokens": (lambda r: r.totals.sampled_tokens, _whole),
        "trained tokens": (lambda r: r.totals.trained_tokens, _whole),
        "sampling, s": (lambda r: r.totals.sampling, _seconds),
        "learning, s": (lambda r: r.totals.learning, _seconds),
        "evaluation, s": (lambda r: r.totals.evaluation, _seconds),
        "orchestration, s": (lambda r: r.totals.orchestration, _seconds),
        "peak memory, MiB": (lambda r: r.totals.peak_memory / 2**20, _whole),
        "KL spent, nats": (lambda r: r.final.figures.get("kl_to_base") if r.final else None, number),
    }
    rows = []
    for arm in data.arms:
        cells = []
        for take, show in amounts.values():
            known = {run.seed: v for run in data.of(arm) if (v := take(run)) is not None}
            cells.append(_amount(data.over_seeds(known), show))
        rows.append((Cell(arm), *cells))
    caption = (
        "What a run cost: mean over seeds with its interval. Times are those of the making, also of what "
        "came from the cache; orchestration is that of the last making. Memory is the most that a process "
        "held, which may have made other runs before. KL is a token's, after the last round."
    )
    return Table("cost", caption, ("method", *amounts), tuple(rows))


def _parameters(data: Comparison) -> Table:
    if data.baseline is None:
        return Table("parameters", "", (), ())
    own = data.of(data.baseline)[0]
    by_arm = {arm: differences(data.of(arm)[0], own) for arm in data.arms if arm != data.baseline}
    keys = list(dict.fromkeys(key for found in by_arm.values() for key in found))
    theirs = {key: pair[1] for found in by_arm.values() for key, pair in found.items()}
    rows = [
        (
            Cell(key),
            Cell(value(theirs[key])),
            *(Cell(value(found[key][0]) if key in found else "") for found in by_arm.values()),
        )
        for key in keys
    ]
    caption = (
        f"Parameters in which a method differs from {data.baseline}; an empty cell is the baseline's value."
    )
    return Table("parameters", caption, ("parameter", data.baseline, *by_arm), tuple(rows), numbers=False)


def _share(found: Estimate | None) -> Cell:
    if found is None:
        return Cell(ABSENT)
    low, high = found.interval.low, found.interval.high
    if low is None or high is None:
        return Cell(percent(found.value))
    return Cell(percent(found.value), f"{100 * max(low, 0.0):.1f} to {100 * min(high, 1.0):.1f}")


def _change(effect: Effect | None) -> Cell:
    if effect is None:
        return Cell(ABSENT)
    interval = effect.estimate.interval
    if interval.low is None:
        return Cell(points(effect.estimate.value))
    p = f", p {number(effect.p_holm, 2)}" if effect.p_holm is not None else ""
    return Cell(points(effect.estimate.value), f"{points(interval.low)} to {points(interval.high)}{p}")


def _amount(found: Estimate | None, show: Callable[[float], str]) -> Cell:
    if found is None:
        return Cell(ABSENT)
    if not found.error or found.interval.low is None or found.interval.high is None:
        return Cell(show(found.value))
    return Cell(show(found.value), f"± {show(found.interval.high - found.value)}")


def _whole(amount: float) -> str:
    return f"{amount:,.0f}"


def _seconds(amount: float) -> str:
    return f"{amount:,.1f}"


def _joined(cell: Cell) -> str:
    return f"{cell.text} [{cell.small}]" if cell.small else cell.text


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)
