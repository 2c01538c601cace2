"""How far the rollouts that a run learns from are from its own policy."""

from __future__ import annotations

import json

from rich.console import Console
from rich.table import Table

from flows.environment import workspace
from flows.execution.runner import run_directory
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.record import Record

FIGURES = {
    "mismatch": ("|log π/μ|", "{:.4f}"),
    "mismatch_p99": ("its 99th percentile", "{:.3f}"),
    "mismatch_kl": ("KL(μ‖π)", "{:.4f}"),
    "mismatch_above": ("π > 2μ", "{:.1%}"),
    "mismatch_below": ("π < μ/2", "{:.1%}"),
}
"""Of each round before its first optimiser step: heading and form, by the update's name for it."""


def tell_off_policy(name: str, as_json: bool) -> None:
    """A row a round: how the run's policy π differs on the answers of the policy μ that sampled them."""
    directory = run_directory(workspace(), name)
    policies = Record.read(directory).policies()
    made = [Artefact.open(directory / step.place, check=False) for step in policies]
    rows = {each.manifest.round: each.json("metrics.json") for each in made}
    rows = {round: said for round, said in rows.items() if any(figure in said for figure in FIGURES)}
    if as_json:
        told = {round: {figure: said.get(figure) for figure in FIGURES} for round, said in rows.items()}
        print(json.dumps({"event": "off_policy", "rounds": told}))
        return
    table = Table(box=None, pad_edge=False, title=f"{name}: how far off-policy", title_justify="left")
    for heading in ("round", *(heading for heading, _ in FIGURES.values())):
        table.add_column(heading, justify="right")
    for round, said in rows.items():
        values = ((said.get(figure), form) for figure, (_, form) in FIGURES.items())
        cells = ("–" if value is None else form.format(value) for value, form in values)
        table.add_row(str(round), *cells)
    Console().print(table)
