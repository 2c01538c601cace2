"""``rollout``: this round's problems, answered by the policy and judged."""

from __future__ import annotations

import collections
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from algorithms.correct import CORRECT
from params.mixture import MAIN
from tasks.artefacts.artefact import write_json
from tasks.artefacts.tables import sampled_lengths, truncated, write_table
from tasks.core.seeds import numpy_generator
from tasks.core.stage import Job
from tasks.rollout import curriculum, dynamic_sampling, mixture, replay_problems
from tasks.rollout.components import components
from tasks.rollout.demonstrations import hinted
from tasks.rollout.estimate import TABLE
from tasks.rollout.prompts import askable
from tasks.rollout.sampling import Sampled, joined, sample, speed
from tasks.rollout.shards import sample_in_shards

REASON_CHARACTERS = 80


def rollout(job: Job) -> dict[str, float]:
    """``model``, ``problems`` and ``policy`` into ``rollouts.parquet`` and ``metrics.json``.

    Where there is no policy yet, the base model answers. With ``rollout.refill_batches``, groups that teach
    nothing are replaced and ``metrics.json`` also says what that took. The previous buffer, ``replay``, is an
    input where the method chooses problems from it. The previous ``rollout`` is one where the curriculum
    follows the policy; pass rates after this round then stand in ``rates.parquet``. A method with hints has
    its answers go on from the beginnings of demonstrations; no other sees any of them.
    """
    began = time.perf_counter()
    refills, size = job.params.rollout.refill_batches, job.params.rollout.problems_per_round
    further: dict[str, Any] = {}
    if job.params.tasks:
        batches = mixture.mixed(job, _quota)
    else:
        asked = curriculum.chosen(job, askable(job).train)
        batches, further = _batches(job, asked), dict(asked.figures or {})
    tables = [batch.answers for batch in batches]
    answers = dynamic_sampling.filled(tables, size) if refills else joined(tables)
    write_table(job.out / "rollouts.parquet", answers)
    if job.params.curriculum and job.params.curriculum.latest_rounds:
        write_table(job.out / TABLE, curriculum.updated(job, tables))
    further |= dynamic_sampling.figures(batches) if refills else {}
    write_json(job.out / "metrics.json", {**metrics(answers), **further, **_by_task(job, answers)})
    total = {name: sum(batch.measured[name] for batch in batches) for name in batches[0].measured}
    total["tokens_per_second"] = speed(total)
    return {**total, "seconds": time.perf_counter() - began}


def _batches(job: Job, asked: curriculum.Asked) -> list[Sampled]:
    """This round's problems, answered; then further ones, as long as varied groups are missing."""
    choice, seed, training = job.params.rollout, job.params.seed, asked.problems
    size = choice.problems_per_round

    def ask(chosen: list[int], less: int = 0) -> Sampled:
        return _ask(job, training.take(chosen), less)

    turn = 1 if asked.first else job.round
    used = problems_of(seed, turn, training.num_rows, size, asked.in_order or asked.first).tolist()
    used, back = replay_problems.split(job, training["problem_id"].to_pylist(), used)
    if back:
        return [*([ask(used)] if used else []), ask(back, less=1)]
    batches, found = [ask(used)], 0
    for attempt in range(1, choice.refill_batches + 1):
        found += len(dynamic_sampling.varied(batches[-1].answers))
        most = dynamic_sampling.wanted(size - found, found, len(used), size)
        more = dynamic_sampling.further(seed, job.round, attempt, training.num_rows, used, most)
        if not more:
            break
        used += more
        batches.append(ask(more))
    return batches


def _ask(job: Job, chosen: pa.Table, less: int = 0) -> Sampled:
    choice, problems = job.params.rollout, hinted(job, chosen)
    options = (choice.temperature, choice.top_logprobs, choice.entropy)
    shards = job.context.cluster and choice.shards > 1 and job.answers is None
    spread = sample_in_shards if shards else sample
    return spread(job, "rollout", problems, choice.samples_per_problem - less, *options)


def _quota(job: Job, batch: int, count: int) -> Sampled:
    """The answers to ``count`` problems, of those of a round that has ``batch``."""
    training = askable(job).train
    chosen = problems_of(job.params.seed, job.round, training.num_rows, batch)[:count]
    return _ask(job, training.take(chosen))


def _by_task(job: Job, answers: pa.Table) -> dict[str, Any]:
    """The figures of each task of a mixture by its name, and of how many problems they are."""
    found = {}
    for name in (MAIN, *job.params.tasks) if job.params.tasks else ():
        own = answers.filter(pc.equal(answers["task"], name))
        of = metrics(own) if len(own) else {}
        found[name] = {"problems": len(pc.unique(own["group"])), **of}
    return found


def problems_of(run_seed: int, round: int, count: int, batch: int, in_order: bool = False) -> np.ndarray:
    """Positions of the problems of a round, counted from 1: the next of an order drawn anew each epoch, or
    ``in_order`` of their own.

    No problem comes twice in an epoch; the few that do not fill a last batch wait for the next one.
    """
    epoch, place = divmod(round - 1, max(1, count // batch))
    drawn = numpy_generator(run_seed, "rollout", 0, "epoch", epoch).permutation(count)
    order = np.arange(count) if in_order else drawn
    return order[place * batch : (place + 1) * batch]


def metrics(answers: pa.Table) -> dict[str, Any]:
    """What the answers say of the policy. A mean over nothing is null.

    ``constant_groups``: the share of the groups whose rewards are exactly equal; they teach nothing.
    """
    varied = len(dynamic_sampling.varied(answers))
    lengths = sampled_lengths(answers).to_numpy()
    rewards = answers["reward"].drop_null().to_numpy()
    logp = pc.list_flatten(answers["behaviour_logp"]).drop_null().to_numpy().astype(np.float64)
    errors = collections.Counter(
        error[:REASON_CHARACTERS] for error in answers["reward_error"].to_pylist() if error is not None
    )
    return {
        "responses": answers.num_rows,
        "reward_mean": float(rewards.astype(np.float64).mean()) if len(rewards) else None,
        "solved": float((rewards >= CORRECT).mean()) if len(rewards) else None,
        "constant_groups": 1.0 - varied / len(pc.unique(answers["group"])),
        "unjudged": answers["reward"].null_count / answers.num_rows,
        "reward_errors": dict(sorted(errors.items())),
        "response_length_mean": float(lengths.mean()),
        "response_length_max": int(lengths.max()),
        **parts_of_lengths(answers),
        "truncated": truncated(answers),
        "entropy_estimate": -float(logp.mean()),
        **episodes(answers),
        **components(answers),
    }


def episodes(answers: pa.Table) -> dict[str, Any]:
    """Of answers of several turns: how many turns, how many tokens were given, and how often they ended for
    which reason; nothing where there is one turn."""
    told = answers.filter(answers["turn_rewards"].is_valid())
    if not len(told):
        return {}
    given = pc.subtract(pc.list_value_length(told["response_ids"]), sampled_lengths(told))
    return {
        "turns_mean": float(pc.mean(pc.list_value_length(told["turn_rewards"])).as_py()),
        "given_length_mean": float(pc.mean(given).as_py()),
        "ends": dict(sorted(collections.Counter(told["finish_reason"].to_pylist()).items())),
    }


def parts_of_lengths(answers: pa.Table) -> dict[str, float]:
    """Mean tokens of thinking, 0 for a response without, and of the rest; nothing where none thinks."""
    thinking = answers["thinking_tokens"]
    if thinking.null_count == len(thinking):
        return {}
    mean = float(pc.mean(pc.fill_null(thinking, 0)).as_py())
    whole = float(pc.mean(sampled_lengths(answers)).as_py())
    return {"thinking_length_mean": mean, "answer_length_mean": whole - mean}
