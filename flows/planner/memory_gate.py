"""Before a run starts on a GPU: whether trainer and engine fit its memory by the plan, and what helps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows.planner import capacity
from flows.planner.plan import machine_of, machine_use, shape_of
from params.base import BadInput
from params.load import PRESETS, read_yaml
from params.schema import Params
from tasks.core import device

DOUBT = 0.15
"""By how much the plan may be wrong: what is over by less is tried."""
HUB = re.compile(r"qwen2\.5-(?:[a-z]+-)?(\d+(?:\.\d+)?b)\b", re.IGNORECASE)
"""Names on the hub of models whose shapes are known: Qwen2.5's."""


def check_memory(params: Params) -> None:
    """Raises ``BadInput`` where the plan says that a GPU's memory will not do; says nothing of a model whose
    shape is not known before it is loaded."""
    shape, memory = known_shape(params.model.source), device.gpu_memory()
    if shape is None or memory is None:
        return
    needs = Needs.of(params, shape, memory)
    if needs.over <= 1 + DOUBT:
        return
    changes = _changes(params)
    fitting = next((words for words, other in changes if Needs.of(other, shape, memory).over <= 1), None)
    remedy = f"--set {fitting} fits" if fitting else "a smaller model, or more of them (docs/gpu.md)"
    raise BadInput(f"{params.model.source}: {needs.told()}; expected less: {remedy}")


def known_shape(source: str) -> capacity.Shape | None:
    """The shape of a model by where it comes from: a folder, or a name that says it."""
    if (Path(source).expanduser() / "config.json").is_file():
        return shape_of(source)
    named = HUB.search(source)
    known = read_yaml(PRESETS / "shapes.yaml")
    return shape_of(named[1]) if named and named[1].lower() in known else None


@dataclass(frozen=True)
class Needs:
    """What a run takes of each of its GPUs, in bytes."""

    trainer: float
    engine: float
    """The least that it works with."""
    share: float
    """Of a GPU's memory, what the engine holds while weights train."""
    given: float
    """To the engine while it samples."""
    memory: float

    @classmethod
    def of(cls, params: Params, shape: capacity.Shape, memory: float) -> Needs:
        """By the plan, at the longest prompts and responses."""
        machine = replace(machine_of("h100")[0], memory=memory)
        rollout, engine = params.rollout, params.engine
        prompt = params.model.context - rollout.max_response_tokens
        work = capacity.Work(1, rollout.samples_per_problem, prompt, rollout.max_response_tokens)
        ranks = params.update.ranks * params.update.machines
        use = machine_use(params, shape, work, machine, ranks)
        parts = capacity.trainer_memory(shape, work, machine, use)
        if params.update.attention != "products":
            parts.pop("attention")
        share = device.engine_share(engine, params.update)
        least, given = 0.0, 0.0
        if engine.name == "vllm" or engine.start_servers:
            given = engine.memory_fraction * memory
            one = shape.kv_bytes() * (work.prompt + work.response)
            least = machine.engine_process + (2.0 * shape.parameters + one) / engine.tensor_parallel
        if engine.name == "transformers":
            parts["cache"] = shape.kv_bytes() * (work.prompt + work.response) * work.samples
        return cls(sum(parts.values()), least, share, given, memory)

    @property
    def over(self) -> float:
        """What is needed of what there is, of trainer or engine, whichever is worse: 1 fits exactly."""
        room = self.memory * (1 - self.share)
        return max(self.trainer / room, self.engine / self.given if self.engine else 0.0)

    def told(self) -> str:
        """What does not."""
        whole = f"a GPU's {self.memory / 1e9:.0f} GB"
        if self.engine > self.given:
            return (
                f"the engine needs {self.engine / 1e9:.0f} GB and is given {self.given / 1e9:.0f} of {whole} "
                "(engine.memory_fraction)"
            )
        beside = f" beside the engine, which keeps {self.share:g} of them" if self.share else ""
        return f"the trainer needs {self.trainer / 1e9:.0f} GB of {whole}{beside}"


def _changes(params: Params) -> Iterator[tuple[str, Params]]:
    """Settings that need less, the cheapest first, each with those before it that go with it."""
    words: list[str] = []
    for section, name, value in _knobs(params):
        settings: Any = getattr(params, section)
        try:
            changed = type(settings).model_validate({**settings.model_dump(), name: value})
            params = type(params).model_validate({**params.model_dump(), section: changed.model_dump()})
        except ValueError:  # it does not go with the rest
            continue
        words.append(f"{section}.{name}={str(value).lower()}")
        yield " --set ".join(words), params


def _knobs(params: Params) -> Iterator[tuple[str, str, Any]]:
    yield "update", "checkpointing", True
    yield "update", "tokens_per_micro_batch", params.model.context
    if params.engine.name == "vllm":
        yield "engine", "sleep", True
        yield "engine", "memory_fraction", 0.85
    if params.update.adapter == "full":
        yield "update", "offload", True
    else:
        yield "model", "bits", 4
