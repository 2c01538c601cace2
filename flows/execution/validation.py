"""What is checked before anything runs: parts that exist, options that they know, an engine that is here."""

from __future__ import annotations

import re
from collections.abc import Sequence

from algorithms.contract import Hooks, Recipe
from flows.execution import external, guards
from flows.execution.first_look import look
from flows.execution.overlap import overlaps
from flows.planner.disk_gate import check_disk
from flows.planner.memory_gate import check_memory, known_shape
from flows.planner.plan import shape_of
from flows.stage_table.stages import table_of
from params.base import BadInput
from params.load import compose
from params.method import Method
from params.reward import several
from params.schema import Params
from tasks.artefacts.store import Store
from tasks.core import few_bits
from tasks.core.device import check_device, check_placement
from tasks.engines import roster, selection
from tasks.problems.contract import find_source
from tasks.report import trackers
from tasks.rewards.contract import chosen_reward

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
SMALL = re.compile(r"^nano$|\bsmollm2-135m\b", re.IGNORECASE)
"""Models that presets name, wherever they lie; too small for the gates of memory and disk to know them."""


def settled(params: Params) -> Params:
    """The parameters with every part checked and ``engine: auto`` decided. Raises ``BadInput``."""
    recipe = Recipe.of(params.method)
    for task, method in params.methods.items():
        _check_parts(params, method, params.method_at(task))
    _check_other_runs(params)
    _check_replay(params, recipe.replay[0] if recipe.replay else None)
    trackers.check(params.trackers)
    source = params.task.problems
    source.resolve(find_source(source.name, "task.problems").Config, "task.problems")
    for choice in several(params.task.reward):
        chosen_reward(choice, "task.reward")
    for choice in several(params.audit.reward) if params.audit else ():
        chosen_reward(choice, "audit.reward")
    _check_sets(params)
    _check_tasks(params)
    guards.check(params.guards, list(table_of(params)) if params.guards else ())
    check_device()
    check_placement(params.engine, params.update)
    few_bits.check(params)
    longest, budget = params.model.context, params.update.tokens_per_micro_batch
    if budget is not None and budget < longest:
        raise BadInput(
            f"update.tokens_per_micro_batch: {budget} positions cannot hold "
            f"a sequence of model.context; expected at least {longest}"
        )
    width = _width(params.model.source)
    name = selection.resolve(params.engine.name, params.engine.start_servers, width)
    roster.check(params.engine)
    if name == "server" and params.rollout.entropy:
        raise BadInput("rollout.entropy: servers tell of none; expected false, or engine.name=vllm")
    if params.rollout.entropy and params.engine.tensor_parallel > 1:
        raise BadInput("rollout.entropy: an engine over several GPUs tells of none; expected false")
    engine = params.engine.model_copy(update={"name": name})
    decided = params.model_copy(update={"engine": engine})
    overlaps(decided)
    return decided


def _width(source: str) -> int | None:
    """Of a model's hidden states, where it is known before the model is loaded."""
    shape, small = known_shape(source), SMALL.search(source)
    if shape is None and small:
        shape = shape_of(small[0].lower())
    return shape.hidden if shape else None


def _check_parts(params: Params, method: Method, at: str) -> None:
    """Refuse a method, which stands ``at``, whose parts ask for what the rollouts do not keep."""
    recipe = Recipe.of(method, at)
    part, options = recipe.objective
    wanted = part.top_k(options) if part.top_k else 0
    if wanted > params.rollout.top_logprobs:
        raise BadInput(
            f"rollout.top_logprobs: {params.rollout.top_logprobs} kept at each position; expected at least "
            f"{wanted}, which {at}.objective {method.objective.name} compares"
        )
    for index, term in enumerate(method.terms):
        part, options = recipe.terms[index]
        if part.entropy_from and part.entropy_from(options) == "stored" and not params.rollout.entropy:
            raise BadInput(
                "rollout.entropy: false keeps no entropies; expected true, or entropy: policy in "
                f"{at}.terms.{index}, {term.name}"
            )
        if part.draw:
            raise BadInput(
                f"{at}.terms.{index}: {term.name} replays and brings its term; expected it in method.replay"
            )


def _check_other_runs(params: Params) -> None:
    """Refuse another run's policy or rollouts that are not there."""
    if params.sft and params.sft.policy is not None:
        external.policy(params.sft.policy, "sft.policy")
    if params.rollout.recorded is not None:
        external.check_recorded(params.rollout.recorded, params.rounds)


def _check_sets(params: Params) -> None:
    """Refuse evaluation sets whose parts are none, or whose answers have no room."""
    for name, chosen in params.evaluate.sets.items():
        where = f"evaluate.sets.{name}"
        source = find_source(chosen.problems.name, f"{where}.problems")
        chosen.problems.resolve(source.Config, f"{where}.problems")
        for choice in several(chosen.reward):
            chosen_reward(choice, f"{where}.reward")
        longest = chosen.max_response_tokens or 0
        if longest >= params.model.context:
            raise BadInput(
                f"{where}.max_response_tokens: {longest}; expected less than model.context, "
                f"{params.model.context}"
            )
        if "s3://" in chosen.problems.model_dump_json():
            raise BadInput(f"{where}.problems: an address in a bucket; expected local files or the hub")


def _check_tasks(params: Params) -> None:
    """Refuse further tasks whose parts are none, and a replay method that chooses problems of one task."""
    for name, task in params.tasks.items():
        source = find_source(task.problems.name, f"tasks.{name}.problems")
        task.problems.resolve(source.Config, f"tasks.{name}.problems")
        for choice in several(task.reward):
            chosen_reward(choice, f"tasks.{name}.reward")
        if "s3://" in task.problems.model_dump_json():
            raise BadInput(
                f"tasks.{name}.problems: an address in a bucket; expected local files or the hub, "
                "as only the run's own task may name one"
            )
        longest = task.max_response_tokens or 0
        if longest > params.rollout.max_response_tokens:
            raise BadInput(
                f"tasks.{name}.max_response_tokens: {longest}; expected at most rollout.max_response_tokens, "
                f"{params.rollout.max_response_tokens}"
            )
    replay = Recipe.of(params.method).replay
    if params.tasks and replay and (replay[0].problems or replay[0].base_answers):
        raise BadInput("method.replay: chooses problems of one task; expected another with tasks")


def _check_replay(params: Params, part: Hooks | None) -> None:
    """Refuse what a replay method cannot work with, or would work without."""
    choice, rules = params.method.replay, params.replay
    named = f"method.replay {choice.name if choice else 'null'}"
    if part:
        _check_source(params, part, named)
    if part and part.hint:
        _check_hints(params, named)
    if rules.admit == "method" and not (part and part.admit):
        raise BadInput(
            f"replay.admit: method, but {named} has no rule of its own; expected correct or all, or a "
            "method.replay with a rule, such as dyjr"
        )
    if rules.sizing == "drift" and not (part and part.MEASURES_DRIFT):
        raise BadInput(
            "replay.sizing: drift needs a method.replay that measures it; expected dyjr there, or age here"
        )
    if rules.pool is not None:
        if part is None:
            raise BadInput("replay.pool: nothing draws from it; expected a method.replay, such as rlep")
        external.policy(rules.pool, "replay.pool")


def _check_source(params: Params, part: Hooks, named: str) -> None:
    """Refuse a buffer that is empty, and one that the method does not look at."""
    rules = params.replay
    if part.demonstrated() and (rules.pool is not None or rules.admit != "none"):
        raise BadInput(f"replay: {named} takes demonstrations alone; expected admit: none and pool: null")
    if part.base_answers and (rules.pool is not None or rules.admit != "none"):
        raise BadInput(
            f"replay: {named} replays the base model's answers alone; expected admit: none and pool: null"
        )
    own = part.base_answers or part.demonstrated()
    if rules.pool is None and rules.admit == "none" and not own:
        raise BadInput(
            f"replay.admit: none keeps the buffer empty that {named} draws from; expected correct, "
            "correct_unless_all or all, or method where it has a rule"
        )
    if part.problems:
        chooser = f"{named} chooses problems from its own buffer"
        if rules.pool is not None:
            raise BadInput(f"replay.pool: {chooser}; expected null")
        if params.rollout.refill_batches:
            raise BadInput(f"rollout.refill_batches: {chooser}; expected 0")
        if params.curriculum and params.curriculum.latest_rounds:
            raise BadInput(f"curriculum.latest_rounds: {chooser}; expected 0")


def _check_hints(params: Params, named: str) -> None:
    """Refuse an environment in a run whose method begins the answers."""
    tasks = {"task": params.task, **{f"tasks.{name}": task for name, task in params.tasks.items()}}
    for where, task in tasks.items():
        if task.environment is not None:
            raise BadInput(f"{where}.environment: {named} begins answers; expected null with it")


def chosen(model: str, task: str, method: str, settings: Sequence[str]) -> Params:
    """Presets and settings as a person gave them, checked, with what they name. Raises ``BadInput``."""
    params = settled(compose(model, task, method, settings))
    check_memory(params)
    check_disk(params)
    look(params)
    return params


def busy(name: str) -> str:
    """What is said of a run that another process is at."""
    return f"run {name}: another process is at it; wait for it, or choose another --name"


def check_free(store: Store, name: str) -> None:
    """Raises ``BadInput`` where another process is at the run of that name."""
    if holder := store.holder(f"run-{name}"):
        raise BadInput(f"{busy(name)} (process {holder})")


def run_name(name: str | None, model: str, task: str, method: str) -> str:
    """The name of a run: as given, or from its presets. Raises ``BadInput`` for one that is no plain name."""
    if name is None:
        return re.sub(r"[^a-z0-9._-]+", "-", f"{method}-{task}-{model}".lower()).strip("-.")
    if not NAME.fullmatch(name):
        raise BadInput(
            f"--name {name[:40]}: expected lower-case letters, digits, dots, dashes and underscores, such as "
            "demo, at most 100 of them"
        )
    return name
