"""``ostinato lab`` and ``compare``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from flows.commands.options import JsonOption, ModelOption, SetOption, TaskOption, WorkersOption
from params.base import BadInput


def add_to(app: typer.Typer) -> None:
    """Make these commands of the program."""
    for command in (lab, compare):
        app.command()(command)


def lab(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="Of params/labs, or a YAML file.")],
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="How many; by default the study's.")
    ] = None,
    arms: Annotated[str | None, typer.Option("--arms", help="Some of them only: a,b.")] = None,
    workers: WorkersOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """A comparison that is kept in a file: arms × seeds, one page. Run it again and it resumes."""
    from flows.experiments.comparison import make, work_of_study
    from flows.experiments.worker_pool import workers_here

    work = work_of_study(name, seeds, arms, settings or [], workers or workers_here())
    raise typer.Exit(make(work, as_json).code())


def compare(
    methods: Annotated[
        str | None, typer.Option("--methods", help="With commas between: grpo,drpo,dyjr.")
    ] = None,
    runs: Annotated[
        str | None, typer.Option("--runs", help="Finished runs side by side, instead: demo,demo-strict.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each method.")] = 3,
    task: TaskOption = "sums",
    model: ModelOption = "nano",
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="The method that others are held against; the first.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", help="Of each run: rounds=20, tokens=200000 or minutes=10.")
    ] = None,
    workers: WorkersOption = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Under comparisons/; by default TASK-MODEL.")
    ] = None,
    settings: SetOption = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="METHOD:SEED", help="One run of it, without the page.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Which method helps at equal cost: methods × seeds, one page. Run it again and it resumes."""
    if runs is not None:
        from flows.experiments.existing_runs import names_of, side_by_side

        if methods or only or budget or settings:
            raise BadInput(
                "--runs: are finished; expected no methods, budget, settings or --only beside them"
            )
        page = side_by_side(names_of(runs), name, baseline) / "report.html"
        print(json.dumps({"event": "finished", "report": str(page)}) if as_json else f"Report: {page}")
        return
    if methods is None:
        raise BadInput("--methods: nothing to compare; expected methods, or --runs")
    from flows.experiments.comparison import make, make_one, work_of_methods
    from flows.experiments.worker_pool import workers_here
    from params.compare_options import CompareOptions, methods_of

    work = work_of_methods(
        CompareOptions(
            methods_of(methods),
            seeds,
            task,
            model,
            baseline,
            budget,
            settings or [],
            name,
            workers or workers_here(),
        )
    )
    raise typer.Exit(make_one(work, only, as_json) if only else make(work, as_json).code())
