"""The tables of a comparison, for the page, for Markdown and for LaTeX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from params.comparison import Metric
from tasks.report.comparison.data import ACCURACY, KL, Compared, differences
from tasks.report.comparison.stats import Effect, Results
from tasks.report.format import ABSENT, MINUS, number, percent, points, signed, value
from tasks.stats.intervals import Estimate

LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%_#${}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        MINUS: "$-$",
        ABSENT: "--",
        "×": r"$\times$",
    }
)


@dataclass(frozen=True)
class Cell:
    """A figure and, smaller, its interval or what else belongs to it."""

    text: str
    small: str = ""

    def __str__(self) -> str:
        return f"{self.text} [{self.small}]" if self.small else self.text

    @classmethod
    def of(cls, found: Estimate | None, show: Callable[[float], str], *notes: str) -> Cell:
        """An estimate and, smaller, its interval, where it has one, and the notes."""
        if found is None:
            return cls(ABSENT, ", ".join(notes))
        low, high = found.interval.low, found.interval.high
        around = [] if low is None or high is None else [f"{show(low)} to {show(high)}"]
        return cls(show(found.value), ", ".join([*around, *notes]))


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
        rows = [[str(cell).replace("|", "\\|") for cell in row] for row in self.rows]
        lines = (list(self.header), rule, *rows)
        return f"{self.caption}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n"

    @property
    def latex(self) -> str:
        """As a table for the package booktabs."""
        columns = "l" + ("r" if self.numbers else "l") * (len(self.header) - 1)
        lines = (self.header, *self.rows)
        head, *rows = [" & ".join(str(cell).translate(LATEX) for cell in line) + r" \\" for line in lines]
        caption = f"\\caption{{{self.caption.translate(LATEX)}}}"
        body = "\n".join([head, r"\midrule", *rows])
        return (
            f"\\begin{{table}}\n\\centering\n{caption}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n"
            "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
        )


def tables(data: Results) -> dict[str, Table]:
    """Every table by key: ``results``, ``effects``, ``best``, ``cost``, ``arms``, ``parameters``."""
    found = [_results(data), _effects(data), _best(data), _cost(data), _arms(data), _parameters(data)]
    return {table.key: table for table in found if table.rows}


def columns(data: Results) -> dict[str, Metric]:
    """The metrics that have a column in the tables."""
    return {name: metric for name, metric in data.metrics.items() if metric.table}


def _results(data: Results) -> Table:
    shown = columns(data)
    bases = (_amount(data.base(name), shown[name]) for name in shown)
    rows = [(Cell("base model"), *bases, Cell(ABSENT), Cell(ABSENT))]
    for arm in data.arms:
        seeds = f"{len(data.at_end(arm))} of {len(data.of(arm))}"
        finals = (_amount(data.final(arm, name), shown[name]) for name in shown)
        rows.append((Cell(arm), *finals, Cell(percent(data.collapsed(arm), 0)), Cell(seeds)))
    header = (data.noun, *labels(shown), "collapsed", "seeds at the end")
    more = (
        ", of what is not measured problem by problem over seeds" if len(shown) > len(data.held_out) else ""
    )
    caption = (
        f"After the last round: mean over seeds with its {data.width} interval over seeds and "
        f"problems{more}. Collapsed: runs that ended below half of their best accuracy, or diverged."
    )
    return Table("results", caption, header, tuple(rows))


def _effects(data: Results) -> Table:
    shown = {name: metric for name, metric in columns(data).items() if data.effects.get(name)}
    rows = []
    for arm in data.effects.get(ACCURACY, {}):
        effect = data.effects[ACCURACY][arm]
        others = [_change(data.effects[name].get(arm), metric) for name, metric in shown.items()]
        needed = f"{effect.needed:,}" if effect.needed else ABSENT
        least = f"{100 * effect.detectable:.1f}" if effect.detectable is not None else ABSENT
        rows.append((Cell(arm), *others, Cell(needed), Cell(least)))
    caption = (
        f"Against {data.baseline}, shares in points: mean paired difference with its interval and its "
        f"p-value, corrected by Holm over the {data.noun}s of a column. Seeds: how many would show "
        "this difference in accuracy four times in five. Visible: the smallest that these seeds show as "
        "often, in points."
    )
    return Table("effects", caption, (data.noun, *labels(shown), "seeds", "visible"), tuple(rows))


def _best(data: Results) -> Table:
    """Only where the comparison names figures that have a better side."""
    ranked = {data.named(name): metric for name, metric in data.comparison.metrics.items() if metric.better}
    shown = {name: metric for name, metric in columns(data).items() if name in ranked}
    rows = [(Cell(a), *(_amount(data.best(a, n), m) for n, m in shown.items())) for a in data.arms]
    caption = "Best over the rounds: mean over seeds of each seed's own best round, biased to the good side."
    return Table("best", caption, (data.noun, *labels(shown)), tuple(rows) if shown else ())


def labels(shown: dict[str, Metric]) -> list[str]:
    """The headings of their columns."""
    return [metric.label or name for name, metric in shown.items()]


def _cost(data: Results) -> Table:
    whole, tenths = "{:,.0f}".format, "{:,.1f}".format
    amounts: dict[str, tuple[Callable[[Compared], float | None], Callable[[float], str]]] = {
        "rounds": (lambda r: float(r.rounds), whole),
        "sampled tokens": (lambda r: r.totals.sampled_tokens, whole),
        "trained tokens": (lambda r: r.totals.trained_tokens, whole),
        "sampling, s": (lambda r: r.totals.sampling, tenths),
        "learning, s": (lambda r: r.totals.learning, tenths),
        "evaluation, s": (lambda r: r.totals.evaluation, tenths),
        "orchestration, s": (lambda r: r.totals.orchestration, tenths),
        "peak memory, MiB": (lambda r: r.totals.peak_memory / 2**20, whole),
        "KL spent, nats": (lambda r: r.figure(KL) if r.final else None, number),
    }
    rows = []
    for arm in data.arms:
        cells = []
        for take, show in amounts.values():
            known = {run.seed: v for run in data.of(arm) if (v := take(run)) is not None}
            cells.append(_spent(data.over_seeds(known), show))
        rows.append((Cell(arm), *cells))
    caption = (
        "What a run cost: mean over seeds with its interval. Times are those of the making, also of what "
        "came from the cache; orchestration is that of the last making. Memory is the most that a process "
        "held, which may have made other runs before. KL is a token's, after the last round."
    )
    return Table("cost", caption, (data.noun, *amounts), tuple(rows))


def _arms(data: Results) -> Table:
    """Only where arms have settings of their own."""
    base, given = data.comparison.base, data.comparison.arms
    rows = [(Cell(a), Cell(given[a].method or base.method), Cell(", ".join(given[a].set))) for a in data.arms]
    common = f", all with {', '.join(base.set)}" if base.set else ""
    caption = f"Arms on {base.task} with {base.model}{common}."
    header = ("arm", "method", "settings")
    return Table("arms", caption, header, tuple(rows) if data.noun == "arm" else (), numbers=False)


def _parameters(data: Results) -> Table:
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
        f"Parameters of each {data.noun} that differ from {data.baseline}'s; an empty cell is the baseline's "
        "value."
    )
    return Table("parameters", caption, ("parameter", data.baseline, *by_arm), tuple(rows), numbers=False)


def _amount(found: Estimate | None, metric: Metric) -> Cell:
    if found is None or not metric.percent:
        return Cell.of(found, number)
    low, high = found.interval.low, found.interval.high
    if low is None or high is None:
        return Cell(percent(found.value))
    return Cell(percent(found.value), f"{100 * max(low, 0.0):.1f} to {100 * min(high, 1.0):.1f}")


def _change(effect: Effect | None, metric: Metric) -> Cell:
    if effect is None:
        return Cell(ABSENT)
    notes = [] if effect.p_holm is None else [f"p {number(effect.p_holm, 2)}"]
    return Cell.of(effect.estimate, points if metric.percent else signed, *notes)


def _spent(found: Estimate | None, show: Callable[[float], str]) -> Cell:
    if found is None:
        return Cell(ABSENT)
    if not found.error or found.interval.low is None or found.interval.high is None:
        return Cell(show(found.value))
    return Cell(show(found.value), f"± {show(found.interval.high - found.value)}")
