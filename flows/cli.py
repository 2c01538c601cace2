"""The command line. Heavy imports wait until a command needs them."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows.commands import (
    branch_commands,
    comparison_commands,
    disk_commands,
    prove_command,
    remote_commands,
)
from flows.commands.machines import engines, join_ranks
from flows.commands.options import (
    EngineOption,
    JsonOption,
    MethodOption,
    ModelOption,
    NameOption,
    RunArgument,
    SetOption,
    TaskOption,
)
from flows.commands.plan_command import plan_round
from flows.commands.settings_command import list_settings
from flows.commands.start import Words, start
from flows.environment import prepare_prefect, prepare_threads, workspace
from flows.execution.external import policy_path
from flows.process import interrupts, output
from params.errors import OstinatoError

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Reinforcement learning from verifiable rewards, as a pipeline of cached stages.",
)

app.add_typer(engines, name="engine")
app.command("plan")(plan_round)
app.command("ranks")(join_ranks)
app.command("settings")(list_settings)


@app.command()
def run(
    model: ModelOption = "smollm2-135m",
    task: TaskOption = "arithmetic",
    method: MethodOption = "grpo",
    settings: SetOption = None,
    engine: EngineOption = None,
    name: NameOption = None,
    start_from: Annotated[
        str | None,
        typer.Option("--from", metavar="RUN[/ROUND]", help="Begin with that policy: demo, demo/round-12."),
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            "--accept-code", metavar="PLACE", help="Take what other source made: round-03/update, all."
        ),
    ] = None,
    push: Annotated[bool, typer.Option("--push", help="Send the run to the remote when it is done.")] = False,
    publish: Annotated[
        bool, typer.Option("--publish", help="Push it, and commit what it made with DVC and git.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train: the whole flow, with a report at the end. Run it again and it resumes."""
    changes = [*(settings or []), *([f"engine.name={engine}"] if engine else [])]
    if start_from:
        changes.append(f"sft.policy={policy_path(start_from)}")
    start(Words(model, task, method, tuple(changes), name, tuple(accept or ())), as_json, push, publish)


branch_commands.add_to(app)
prove_command.add_to(app)
comparison_commands.add_to(app)


@app.command()
def evaluate(
    model: Annotated[str, typer.Option("--model", help="A run, a preset, a folder or a hub name.")],
    sets: Annotated[str, typer.Option("--sets", help="With commas between: gsm8k,math500.")],
    against: Annotated[
        str | None, typer.Option("--against", help="Another model: differences, problem by problem.")
    ] = None,
    settings: SetOption = None,
    engine: EngineOption = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Of the evaluation, under runs/; by default evaluate-MODEL.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Any model on benchmarks, with intervals (docs/evaluate.md). Run it again and it resumes."""
    from flows.commands.evaluate_command import EvaluateOptions, evaluate_models

    changes = [*(settings or []), *([f"engine.name={engine}"] if engine else [])]
    evaluate_models(EvaluateOptions(model, sets, against, changes, name), as_json)


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="A row of the stage table, such as rollout.")],
    run: Annotated[str, typer.Option("--run", help="The run that it is of.")] = "demo",
    round: Annotated[int, typer.Option("--round", help="The round; 0 for what is made once.")] = 0,
    params: Annotated[Path, typer.Option("--params", help="All parameters, in one file.")] = Path(
        "params.yaml"
    ),
    as_json: JsonOption = False,
) -> None:
    """Run one stage on a run's artefacts, without Prefect: what dvc.yaml calls."""
    from flows.execution.single_stage import run_stage

    with output.logged(workspace(), run):
        step = run_stage(name, run, round, params)
    if as_json:
        print(json.dumps(step.model_dump(mode="json")))
    else:
        print(f"{step.place}: {step.outcome} in {step.seconds:.1f} s ({step.fingerprint[:12]})")


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A run; by default all.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Which stages of a run are done, damaged or to be made; without a name, all runs and their states."""
    from flows.commands.inspect import list_runs, status_of

    status_of(name, as_json) if name else list_runs(as_json)


@app.command()
def why(
    what: Annotated[
        str, typer.Argument(metavar="RUN[/PLACE]", help="Such as demo, or demo/round-03/update.")
    ],
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Why stages were made, or will be: which parameter, file, library, module or input is another."""
    from flows.commands.why_command import why as explain

    explain(what, settings or [], as_json)


@app.command()
def show(
    artefact: Annotated[str, typer.Argument(help="A path, or RUN/PLACE such as demo/round-03/update.")],
    as_json: JsonOption = False,
    episodes: Annotated[
        int | None, typer.Option("--episodes", min=1, help="So many episodes of a rollout, turn by turn.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write all answers of a rollout there, as JSON lines.")
    ] = None,
) -> None:
    """What an artefact is made of, back to the problems; or what was said in a rollout."""
    from flows.commands.inspect import show_artefact, show_episodes

    if episodes or out:
        show_episodes(artefact, episodes or 0, out)
    else:
        show_artefact(artefact, as_json)


@app.command()
def report(name: RunArgument) -> None:
    """Write the page of a run, finished or not."""
    from flows.commands.inspect import write_report

    print(write_report(name))


@app.command()
def export(
    name: RunArgument,
    merged: Annotated[Path, typer.Option("--merged", help="The folder to write; it must not exist yet.")],
    dtype: Annotated[
        Literal["base", "float32"],
        typer.Option("--dtype", help="Of the weights: the base model's, or float32."),
    ] = "base",
) -> None:
    """A plain Hugging Face folder of the run's last policy, which vLLM and transformers load."""
    from flows.commands.export_command import export_merged

    with output.logged(workspace(), name):
        said = export_merged(name, merged, dtype)
    print(said)


@app.command()
def serve(
    model: ModelOption = "smollm2-135m",
    task: TaskOption = "arithmetic",
    method: MethodOption = "grpo",
    settings: SetOption = None,
    engine: EngineOption = None,
    name: NameOption = None,
    cron: Annotated[str, typer.Option("--cron", help="When, as a cron line.")] = "0 2 * * *",
    timezone: Annotated[str, typer.Option("--timezone", help="Of the cron line.")] = "UTC",
) -> None:
    """Wait here and train on a schedule, through the Prefect server at PREFECT_API_URL."""
    from flows.execution.validation import chosen, run_name

    changes = [*(settings or []), *([f"engine.name={engine}"] if engine else [])]
    chosen(model, task, method, changes)
    prepare_prefect(workspace(), log_level="INFO")
    interrupts.left_to_library()
    from flows.commands.schedule import serve_training

    serve_training(run_name(name, model, task, method), (model, task, method, changes), cron, timezone)


@app.command()
def dvc(
    model: ModelOption = "smollm2-135m",
    task: TaskOption = "arithmetic",
    method: MethodOption = "grpo",
    settings: SetOption = None,
    name: NameOption = "demo",
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; say whether they have drifted.")
    ] = False,
    compare: Annotated[
        str | None, typer.Option("--compare", help="Methods, as for compare: their pipeline instead.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="With --compare: runs of each method.")] = 3,
    budget: Annotated[str | None, typer.Option("--budget", help="With --compare: of each run.")] = None,
) -> None:
    """Write dvc.yaml and params.yaml for a run, from the stage table; or a comparison's pipeline."""
    if compare:
        from flows.dvc.comparison import write_comparison
        from params.compare_options import CompareOptions, methods_of

        options = CompareOptions(methods_of(compare), seeds, task, model, None, budget, settings or [], name)
        print(write_comparison(workspace(), options, check))
        return
    from flows.dvc.pipeline import write_pipeline
    from flows.execution.validation import run_name, settled
    from params.load import compose

    name, params = run_name(name, model, task, method), compose(model, task, method, settings or [])
    settled(params)  # the file keeps `auto`: another machine samples with what it has
    print(write_pipeline(workspace(), params, name, check))


@app.command()
def judge(
    file: Annotated[Path, typer.Argument(help="Rows with gold and answer: JSONL, JSON, CSV or Parquet.")],
    rewards: Annotated[
        list[str] | None,
        typer.Option("--reward", help="math, sql, package.module:function ...; again for a further one."),
    ] = None,
    databases: Annotated[Path | None, typer.Option("--databases", help="The folder of databases.")] = None,
    settings: SetOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="A table of scores to write.")] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Judging processes.")] = 2,
    explain: Annotated[
        bool, typer.Option("--explain", help="Each verdict, with what was read and compared.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Score a file of answers: the accuracy with its interval, and what went wrong how often."""
    from tempfile import TemporaryDirectory

    from flows.commands.judge import JudgeOptions, judge_file

    with TemporaryDirectory() as scratch:
        asked = JudgeOptions(file, rewards or ["math"], databases, settings or [], out, workers, explain)
        judge_file(asked, as_json, Path(scratch))


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """What this machine can do, what is missing, and how to get it."""
    from flows.commands.doctor import examine

    raise typer.Exit(examine(as_json))


remote_commands.add_to(app)
disk_commands.add_to(app)

UsageError: Any = typer.BadParameter.__bases__[0]
"""What a misspelt option raises: click's, wherever typer keeps its click."""

DISK = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP),
)
"""What is wrong with a disk or a path, and not with us."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command; an error of ours is one line and its exit code, an interrupted run says how to go on."""
    prepare_threads()
    with interrupts.heard():
        code = _guarded(lambda: app(args=arguments or sys.argv[1:] or ["--help"], standalone_mode=False))
    sys.stdout.flush()
    sys.exit(code)


def _guarded(command: Callable[[], Any]) -> int:
    try:
        code = int(command() or 0)
    except OstinatoError as error:
        return _complain(str(error), error.exit_code)
    except UsageError as error:
        return _complain(error.format_message(), 2)
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = error.filename2 or error.filename or workspace()
        return _complain(f"{where}: {(error.strerror or '').lower()}", 2)
    except (KeyboardInterrupt, typer.Abort):
        code = interrupts.EXIT_CODE
    if code == interrupts.EXIT_CODE:  # also typer's own way of saying so
        interrupts.end()
        print(interrupts.line(), file=sys.stderr)
    return code


def _complain(text: str, code: int) -> int:
    print(f"ostinato: {' '.join(text.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
