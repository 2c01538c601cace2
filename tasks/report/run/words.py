"""A run in words: the verdict, what stands behind it, and what a reader should know before trusting it."""

from __future__ import annotations

from params.method import Method
from params.schema import Params
from tasks.report.format import count, duration, number, percent, points, was
from tasks.report.run.data import Evaluation, RunData, read_json, told_by
from tasks.stats.intervals import Interval


def verdict(data: RunData) -> str:
    """The first sentence of the page."""
    base, last = data.base, data.last
    if base is None:
        return "Nothing has been measured yet."
    before = base.interval("mean_at_n").value
    if last is None:
        return f"The base model answers {percent(before)} right."
    after = last.interval("mean_at_n").value
    if data.change.value is None or before is None or after is None:
        return "Held-out accuracy could not be compared: the judge failed on too many answers."
    pair = f"from {percent(before)} to {percent(after)}"
    if clear(data.change):
        return f"Held-out accuracy {'rose' if data.change.value > 0 else 'fell'} {pair}."
    if percent(before) == percent(after):
        return f"Held-out accuracy stayed at {percent(after)}."
    return f"Held-out accuracy is not clearly different: {percent(before)} before, {percent(after)} after."


def evidence(data: RunData) -> str:
    """The second: how much, how sure, in how many rounds, in what time."""
    parts = []
    if data.change.value is not None and data.last is not None:
        parts.append(f"{points(data.change.value)} points ({data.width} interval {bounds(data.change)})")
    elif data.base is not None:
        parts.append("no policy measured yet")
    parts.append(progress(data))
    return ", ".join(parts) + "."


def progress(data: RunData) -> str:
    """How far the run is and what it took."""
    planned = data.params.rounds
    rounds = count(planned, "round")
    done = f"in {rounds}" if data.rounds_done >= planned else f"after {data.rounds_done} of {rounds}"
    cached = sum(d.step.outcome == "cached" for d in data.done)
    if cached:
        return f"{done}, {duration(sum(d.made_in for d in data.done))} of work"
    return f"{done}, {duration(data.record.seconds)}"


def bounds(change: Interval) -> str:
    """``47.9 to 60.1``, in points."""
    return f"{points(change.low).lstrip('+')} to {points(change.high).lstrip('+')}"


def clear(change: Interval) -> bool:
    """Whether the interval leaves zero out."""
    return change.low is not None and change.high is not None and (change.low > 0 or change.high < 0)


def cautions(data: RunData) -> list[str]:
    """What the figures do not say by themselves, each in one sentence. An empty list is good news."""
    found = []
    if not data.record.finished:
        found.append(
            f"The run is not finished: {data.rounds_done} of {count(data.params.rounds, 'round')} are done."
        )
    found += [f"A guard said: {said}." for said in data.record.warnings]
    taken = {each.step.place: each.artefact.manifest.accepted for each in data.done if each.artefact}
    found += [
        f"{place} was made by another state of {', '.join(sorted(modules))}, and taken over."
        for place, modules in taken.items()
        if modules
    ]
    last = data.last or data.base
    if last is not None:
        found += _about_answers(last, data.params.task.environment is not None)
    if data.base and data.last:
        found += _about_drift(data.base, data.last)
    refused = sum(int(row["refused_steps"] or 0) for row in data.rounds)
    if refused:
        found.append(f"{count(refused, 'optimiser step')} had a non-finite loss or gradient and was refused.")
    mismatch = max((row["mismatch"] or 0.0 for row in data.rounds), default=0.0)
    if mismatch > 0.05:
        found.append(
            f"Engine and trainer disagreed by up to {number(mismatch)} nats per token "
            "(see method.correction)."
        )
    lost = next((row["merge_loss"] for row in reversed(data.rounds) if row["merge_loss"] is not None), 0.0)
    if lost > 0.5:
        found.append(
            f"Merged into the base's type, {percent(lost, 1)} of the adapted weights stay what they were "
            "(export --merged DIR --dtype float32 keeps all of it)."
        )
    unjudged = sum(int(row["unjudged"] or 0) for row in data.rounds)
    if unjudged:
        found.append(
            f"{count(unjudged, 'training answer')} could not be judged and {was(unjudged)} not learnt from."
        )
    idle = next((row["constant_groups"] for row in reversed(data.rounds) if row["constant_groups"]), 0.0)
    if idle and idle > 0.7:
        found.append(
            f"In the last round {percent(idle, 0)} of the groups were all right or all wrong: nothing for "
            "the objective."
        )
    return found


def _about_answers(last: Evaluation, episodes: bool) -> list[str]:
    found = []
    long = int(last.number("long_prompts") or 0)
    if long:
        found.append(f"{count(long, 'problem')} left out: the prompt leaves no room for an answer.")
    truncated = last.number("truncated") or 0.0
    if truncated > 0.05:
        what = "episodes ended at a limit of tokens or turns" if episodes else "answers hit the length limit"
        found.append(f"{percent(truncated)} of the sampled {what}.")
    unjudged = int(last.number("unjudged") or 0)
    if unjudged:
        found.append(
            f"{count(unjudged, 'held-out answer')} could not be judged and {was(unjudged)} left out."
        )
    return found


def _about_drift(base: Evaluation, last: Evaluation) -> list[str]:
    before, after = base.number("entropy"), last.number("entropy")
    if before and after is not None and after < 0.1 * before:
        return [
            f"Entropy fell to {percent(after / before, 0)} of the base model's: the policy hardly explores."
        ]
    return []


def setting(data: RunData) -> str:
    """What was trained on what, with which method."""
    params = data.params
    method = "erpd" if params.distil else _method(params.method) + _methods_of_tasks(params)
    held_out = data.base.scores["problems"] if data.base else params.task.held_out_count
    model = params.model.source.rstrip("/").rpartition("/")[2].removesuffix(".gguf")
    what = f"{model} on {tasks_of(params)}"
    problems = count(params.rollout.problems_per_round, "problem")
    group = f"{problems} × {params.rollout.samples_per_problem} answers"
    return (
        f"{what}, trained with {method}: {group} a round "
        f"at temperature {params.rollout.temperature:g}. Measured on {count(held_out, 'held-out problem')} "
        f"with {count(params.evaluate.samples_per_problem, 'sampled answer')} each{_sampled_as(params)}."
    )


def tasks_of(params: Params) -> str:
    """What was trained on: the problems' source and their environment; of a mixture all tasks."""
    task = params.task
    place = f" in the environment {task.environment.name}" if task.environment else ""
    *before, last = (f"{task.problems.name}{place}", *params.tasks)
    return f"{', '.join(before)} and {last}" if before else last


def _method(method: Method) -> str:
    parts = (method.objective, method.replay, *method.terms)
    return " + ".join(part.name for part in parts if part)


def _methods_of_tasks(params: Params) -> str:
    """The tasks of a mixture whose method is another, and what theirs is made of."""
    other = {name: method for name, method in params.methods.items() if method != params.method}
    told = ", ".join(f"{name} by {_method(method)} of its own" for name, method in other.items())
    return f" ({told})" if told else ""


def warm_start(data: RunData) -> str | None:
    """What a supervised warm start came to, before the rounds; None where the run has none."""
    said = dict(told_by(data, "sft")).get(0)
    if said is None:
        return None
    found = [f"The rounds begin with a warm start on {count(said['demonstrations'], 'demonstration')}"]
    if said["held_out_loss"] is not None:
        losses = [number(said[name]) for name in ("held_out_loss_base", "held_out_loss")]
        shown = count(said["held_out_demonstrations"], "held-out demonstration")
        found.append(f"nats per token of {shown} went from {losses[0]} to {losses[1]}")
    scores = next((each.artefact for each in data.done if each.step.stage == "evaluate_sft"), None)
    if scores is not None:
        found.append(
            f"its held-out accuracy is {percent(read_json(scores, 'scores.json')['mean_at_n']['value'])}"
        )
    return "; ".join(found) + "."


def _sampled_as(params: Params) -> str:
    """How an evaluation samples, where that is not how training does."""
    given = params.evaluate
    told = (
        f"temperature {given.temperature:g}" if given.temperature else "",
        f"top-p {given.top_p:g}" if given.top_p < 1 else "",
        f"top-k {given.top_k}" if given.top_k else "",
        f"at most {count(given.max_response_tokens, 'token')}" if given.max_response_tokens else "",
    )
    said = ", ".join(part for part in told if part)
    return f" ({said})" if said else ""
