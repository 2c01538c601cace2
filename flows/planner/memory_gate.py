"""Before a run starts on a GPU: whether trainer and engine fit its memory by the plan, and what helps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows.planner import capacity
from flows.planner.plan import machine_of, machine_use, shape_of
from params.base import BadInput
from params.load import PRESETS, read_yaml
from params.schema import Params
from tasks.core import device

Knob = tuple[str, str, Any]
"""Section, name and value of a setting."""
RESTING = ("process", "weights", capacity.TRAINED)
"""What a trainer keeps between updates, by the plan's names."""
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
    found = _fitting(params, lambda other: Needs.of(other, shape, memory).over <= 1)
    remedy = (
        f"{' '.join(f'--set {words}' for words in found)} fits" if found else "a smaller model, or more GPUs"
    )
    raise BadInput(f"{params.model.source}: {needs.told()}; expected less: {remedy} (docs/gpu.md)")


def known_shape(source: str) -> capacity.Shape | None:
    """The shape of a model by where it comes from: a folder, or a name that says it; None where neither does.
    A folder that is no model is refused when it is loaded."""
    if (Path(source).expanduser() / "config.json").is_file():
        try:
            return shape_of(source)
        except BadInput:
            return None
    named = HUB.search(source)
    known = read_yaml(PRESETS / "shapes.yaml")
    return shape_of(named[1]) if named and named[1].lower() in known else None


@dataclass(frozen=True)
class Needs:
    """What a run takes of each of its GPUs, in bytes."""

    trainer: float
    engine: float
    """The least that it works with."""
    resting: float
    """Of the trainer's, what it keeps while the engine samples on the same GPU."""
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
        together = device.share_gpus(engine, params.update) and given > 0
        resting = sum(parts[part] for part in RESTING) if together else 0.0
        return cls(sum(parts.values()), least, resting, share, given, memory)

    @property
    def over(self) -> float:
        """What is needed of what there is, of trainer or engine, whichever is worse: 1 fits exactly."""
        room = self.memory * (1 - self.share)
        beside = (self.resting + self.given) / self.memory if self.resting else 0.0
        return max(self.trainer / room, self.engine / self.given if self.engine else 0.0, beside)

    def told(self) -> str:
        """What does not."""
        whole = f"a GPU's {self.memory / 1e9:.0f} GB"
        if self.resting + self.given > self.memory:
            return (
                f"the trainer keeps {self.resting / 1e9:.0f} GB while the engine, which is given "
                f"{self.given / 1e9:.0f}, samples on {whole}"
            )
        if self.engine > self.given:
            return (
                f"the engine needs {self.engine / 1e9:.0f} GB and is given {self.given / 1e9:.0f} of {whole} "
                "(engine.memory_fraction)"
            )
        beside = f" beside the engine, which keeps {self.share:g} of them" if self.share else ""
        return f"the trainer needs {self.trainer / 1e9:.0f} GB of {whole}{beside}"


def _fitting(params: Params, fits: Callable[[Params], bool]) -> list[str]:
    """Settings with which it fits, as few as that takes and the cheapest first; none where none do."""
    taken: list[Knob] = []
    for knob in _knobs(params):
        if (changed := _changed(params, [*taken, knob])) is not None:
            taken.append(knob)
            if fits(changed):
                break
    else:
        return []
    for knob in taken[:-1]:
        fewer = [other for other in taken if other is not knob]
        if (changed := _changed(params, fewer)) is not None and fits(changed):
            taken = fewer
    return [f"{section}.{name}={str(value).lower()}" for section, name, value in taken]


def _changed(params: Params, knobs: Sequence[Knob]) -> Params | None:
    """With these settings; None where they do not go with the rest."""
    values = params.model_dump()
    for section, name, value in knobs:
        values[section][name] = value
    try:
        return type(params).model_validate(values)
    except ValueError:
        return None


def _knobs(params: Params) -> Iterator[Knob]:
    yield "update", "checkpointing", True
    yield "update", "tokens_per_micro_batch", params.model.context
    if params.engine.name == "vllm":
        yield "engine", "sleep", True
    yield ("update", "offload", True) if params.update.adapter == "full" else ("model", "bits", 4)
    if params.engine.name == "vllm":
        for share in (0.4, 0.6, 0.7, 0.8, 0.85):
            yield "engine", "memory_fraction", share
