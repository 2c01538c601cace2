"""Any model on named sets: scores with intervals, and against another model, problem by problem."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from flows.environment import workspace
from flows.execution import external
from flows.execution.runner import Runner, run_directory, spelled
from flows.execution.validation import busy, run_name, settled
from flows.execution.watch import Watch
from flows.planner.plan import model_config
from flows.process import output
from flows.stage_table.rows.evaluation_sets import problems_name, scores_name
from flows.stage_table.stages import Node, plan
from params.base import BadInput, validate
from params.evaluation import set_presets
from params.layers import merge
from params.load import compose, read_setting
from params.schema import Params
from tasks.artefacts.artefact import Artefact, write_json
from tasks.artefacts.record import RECORD, Record, Step
from tasks.artefacts.store import Store
from tasks.artefacts.tables import plain_columns, read_table
from tasks.core.context import Context
from tasks.report.format import percent

ROOM = 2048
"""Tokens that a prompt may have, where the model reads so many and nobody says how long its context is."""
WIDTH = 160
"""Of the table, in characters, where no terminal has one."""


@dataclass(frozen=True)
class EvaluateOptions:
    """What the command line says."""

    model: str
    """A run, a preset, a folder or a hub name."""
    sets: str
    """With commas between; a set that is no preset is in the settings."""
    against: str | None
    settings: list[str]
    name: str | None


@dataclass(frozen=True)
class Evaluated:
    """A model's scores and answers, by set."""

    name: str
    scores: dict[str, dict[str, Any]]
    answers: dict[str, Path]


class Steps(Watch):
    """A line for each stage, beside what a person should know."""

    def __init__(self, err: TextIO) -> None:
        self._err = err

    def begin(self, node: Node) -> None:
        """Which stage is made."""
        print(f"{node.place} ...", file=self._err, flush=True)

    def end(self, node: Node, step: Step, artefact: Artefact) -> None:
        """How long it took."""
        print(f"{node.place}: {step.outcome} in {step.seconds:.1f} s", file=self._err, flush=True)

    def note(self, text: str) -> None:
        """A note."""
        print(text, file=self._err, flush=True)


def evaluate_models(options: EvaluateOptions, as_json: bool) -> None:
    """Evaluate, print the scores and write ``runs/NAME/evaluation.json``. Raises ``BadInput``."""
    models = [options.model, *([options.against] if options.against else [])]
    if len(set(models)) < len(models):
        raise BadInput(f"--against {options.against}: the same as --model; expected another")
    chosen = [(_name(options, model), model, _params(model, options)) for model in models]
    with output.logged(workspace(), chosen[0][0]) as shown:
        made = [_evaluated(*each, options, Steps(shown.err)) for each in chosen]
    found: dict[str, Any] = {"name": made[0].name, "model": models[0], "sets": made[0].scores}
    if options.against:
        found |= {"against": models[1], "against_sets": made[1].scores}
        found["differences"] = _differences(chosen[0][2], *made)
    place = run_directory(workspace(), made[0].name) / "evaluation.json"
    write_json(place, found)
    if as_json:
        print(json.dumps(found))
        return
    console = Console()
    (console if console.is_terminal else Console(width=WIDTH)).print(_table(found))
    print(place)


def _name(options: EvaluateOptions, model: str) -> str:
    if model == options.model and options.name:
        return run_name(options.name, "", "", "")
    slug = re.sub(r"[^a-z0-9._-]+", "-", f"evaluate-{model}".lower()).strip("-.")
    return slug[:100]


def _params(model: str, options: EvaluateOptions) -> Params:
    """The parameters of an evaluation: a run's own, or those of a base model by itself."""
    names = [name.strip() for name in options.sets.split(",") if name.strip()]
    if not names:
        raise BadInput(f"--sets: nothing named; known: {', '.join(set_presets())}")
    told: dict[str, Any] = {"evaluate": {"sets": {name: {} for name in names}}}
    changes = [read_setting(setting) for setting in options.settings]
    if _is_run(model):
        merged = Record.read(run_directory(workspace(), model)).params
        merged = {**merged, "evaluate": {**merged["evaluate"], "sets": {}}}
        for change in (told, *changes):
            merged = merge(merged, change, Params.model_fields)
        return settled(validate(Params, merged))
    merged = told
    for change in changes:
        merged = merge(merged, change, Params.model_fields)
    sets = json.dumps(merged["evaluate"]["sets"])
    rest = [setting for setting in options.settings if not setting.startswith(("sets.", "evaluate.sets"))]
    chosen = compose(model, "arithmetic", "grpo", [f"evaluate.sets={sets}", *rest])
    if not any(setting.startswith("model.context=") for setting in rest):
        chosen = _with_room(chosen)
    return settled(chosen)


def _with_room(params: Params) -> Params:
    """The parameters with a context for the longest answer that a set allows, as far as the model reads.
    Raises ``BadInput`` for a folder that is no model."""
    if params.model.source == "nano":
        return params
    usual = params.evaluate.max_response_tokens or params.rollout.max_response_tokens
    longest = max(each.max_response_tokens or usual for each in params.evaluate.sets.values())
    context, config = longest + ROOM, Path(params.model.source).expanduser() / "config.json"
    if config.is_file():
        limit = model_config(config).get("max_position_embeddings")
        context = min(context, limit) if isinstance(limit, int) else context
    return params.model_copy(update={"model": params.model.model_copy(update={"context": context})})


def _evaluated(name: str, model: str, params: Params, options: EvaluateOptions, watch: Watch) -> Evaluated:
    root, stages = workspace(), plan(params)
    store = Store(root)
    command = _command(options, model)
    with store.lock(f"run-{name}", busy(name)), Context(scratch=store.scratch(f"run-{name}")) as context:
        runner = Runner(root, name, params, context, watch, command)
        places = [problems_name(each) for each in params.evaluate.sets]  # first: what is wrong there is cheap
        round = 0
        if _is_run(model):
            policy = external.policy(model, "--model")
            round = policy.manifest.round
            base = Artefact.needed(run_directory(root, model) / "model", f"run {model} again")
            runner.done["model"] = base
        else:
            places.append("model")
        for place in places:
            runner.settle(stages[place], runner.identify(stages[place]))
        scores, answers = {}, {}
        for each in params.evaluate.sets:
            node = stages.node(stages.table[scores_name(each)], round)
            if "policy" in node.inputs:
                runner.done[node.inputs["policy"]] = policy
            artefact = runner.settle(node, runner.identify(node))
            scores[each] = artefact.json("scores.json")
            answers[each] = artefact.file("answers.parquet")
        runner.finish()
    return Evaluated(name, scores, answers)


def _command(options: EvaluateOptions, model: str) -> str:
    """What evaluates that model of the two again, by itself, under the same name."""
    words = ["evaluate", "--model", model, "--sets", options.sets]
    words += ["--name", options.name] if options.name and model == options.model else []
    return spelled([*words, *_spelled(options.settings)])


def _is_run(model: str) -> bool:
    return (run_directory(workspace(), model) / RECORD).is_file()


def _spelled(settings: Sequence[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def _differences(params: Params, first: Evaluated, second: Evaluated) -> dict[str, Any]:
    from tasks.evaluate.paired import differences

    tables = [
        {name: read_table(path, plain_columns(path)) for name, path in each.answers.items()}
        for each in (first, second)
    ]
    given = params.evaluate
    how = (given.confidence, given.bootstrap_samples, params.seed)
    return {name: differences(tables[0][name], tables[1][name], *how) for name in first.answers}


def _table(found: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("set", "problems", "model", "mean@n", "pass@k", "greedy", "tokens", "truncated"):
        table.add_column(heading, justify="left" if heading in ("set", "model") else "right", no_wrap=True)
    for name, scores in found["sets"].items():
        table.add_row(name, str(scores["problems"]), found["model"], *_cells(scores))
        if "against" in found:
            table.add_row("", "", found["against"], *_cells(found["against_sets"][name]))
            change = found["differences"][name]
            cells = (_interval(change[key], signed=True) for key in ("mean_at_n", "greedy"))
            first, second = cells
            table.add_row("", str(change["problems"]), "difference", first, "", second, "", "")
    return table


def _cells(scores: dict[str, Any]) -> list[str]:
    n = scores["samples_per_problem"]
    passes = [f"@{k} {percent(found['value'])}" for k, found in scores["pass_at"].items() if k != "1"]
    return [
        f"@{n} {_interval(scores['mean_at_n'])}",
        " ".join(passes),
        _interval(scores["greedy"]),
        f"{scores['response_length']:.0f}",
        percent(scores["truncated"]),
    ]


def _interval(found: dict[str, float | None], signed: bool = False) -> str:
    value, low, high = found["value"], found["low"], found["high"]
    if value is None or low is None or high is None:
        return "-"
    form = "{:+.1f}" if signed else "{:.1f}"
    parts = [form.format(100 * each) for each in (value, low, high)]
    return f"{parts[0]} % \\[{parts[1]}, {parts[2]}]"
