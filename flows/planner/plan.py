"""``ostinato plan``: memory, time and cost of a round on machines that one may not have."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows.planner import capacity
from flows.planner.capacity import GIB
from flows.planner.in_process import in_process_memory
from params.base import BadInput, nearest
from params.load import PRESETS, compose, presets, read_yaml
from params.schema import Params
from tasks.core import device
from tasks.report.format import count

PROMPTS = {"arithmetic": 45, "sql": 405}
"""Tokens of a prompt, measured with SmolLM2's tokenizer."""


@dataclass(frozen=True)
class PlanOptions:
    """What a person asks about."""

    model: str
    task: str
    method: str
    settings: list[str]
    gpus: int = 0
    gpu: str = "h100"
    price: float | None = None
    """Of one device for an hour, in any currency."""
    prompt: int | None = None
    response: float | None = None


def plan(asked: PlanOptions) -> dict[str, Any]:
    """The prediction: ``seconds``, ``memory`` in GiB and ``sampling`` by part, ``assumed`` with sources.

    Raises ``BadInput`` for a model, a GPU or a setting that is not known.
    """
    shape, settings = shape_of(asked.model), settings_of(asked)
    name = asked.gpu if asked.gpus else "cpu"
    machine, sources = machine_of(name)
    work, lengths = work_of(asked, settings)
    lora = settings.update.adapter == "lora"
    choice = machine_use(settings, shape, work, machine, asked.gpus)
    found = capacity.decoding(shape, work, machine, choice)
    engine_name = settings.engine.name
    narrow = engine_name == "auto" and shape.hidden < device.NARROW  # the CPU of machines.yaml has two cores
    in_process = not asked.gpus and (engine_name == "transformers" or narrow)
    trainer = capacity.trainer_memory(shape, work, machine, choice)
    if settings.update.attention != "products" and asked.gpus:
        trainer.pop("attention")
    memory = {f"trainer: {part}": value for part, value in trainer.items()}
    seconds: dict[str, float] = {}
    sampling: dict[str, float] = {}
    if found is not None:
        if in_process:
            engine = in_process_memory(shape, work, choice)
        else:
            engine = capacity.engine_memory(shape, machine, found)
        memory |= {f"engine: {part}": value for part, value in engine.items()}
        merged = not (asked.gpus and lora)
        seconds = {
            "sampling": found.seconds,
            "update": capacity.update_seconds(shape, work, machine, choice),
            "hand-over": 0.0 if in_process else capacity.hand_over_seconds(shape, machine, choice, merged),
            "orchestration": machine.round_seconds,
        }
        sampling = {
            "servers": found.servers,
            "devices_a_server": found.devices_a_server,
            "responses_side_by_side": found.side_by_side,
            "tokens_per_second": work.tokens / found.seconds,
        }
    needed, given = sum(memory.values()), machine.memory
    total = sum(seconds.values())
    price = asked.price * choice.devices * total / 3600 if asked.price is not None and found else None
    return {
        "model": asked.model,
        "machine": name,
        "devices": choice.devices,
        "parameters": shape.parameters,
        "work": {"sequences": work.sequences, "prompt_tokens": work.prompt, "response_tokens": work.response},
        "tflop": capacity.update_flops(shape, work, choice.adapter_rank) / 1e12,
        "seconds": seconds,
        "round_seconds": total,
        "rounds": settings.rounds,
        "memory_gib": {part: value / GIB for part, value in memory.items()},
        "memory_needed_gib": needed / GIB,
        "memory_given_gib": given / GIB,
        "fits": found is not None and needed <= given,
        "sampling": sampling,
        "cost_a_round": price,
        "constants": sources,
        "assumed": [*lengths, *(f"{key}: {words}" for key, words in sources.items() if "assumed" in words)],
    }


def machine_use(
    settings: Params, shape: capacity.Shape, work: capacity.Work, machine: capacity.Machine, gpus: int
) -> capacity.MachineUse:
    """How these settings use so many GPUs; 0: processors."""
    update, engine, on_gpu = settings.update, settings.engine, gpus > 0
    longest = work.prompt + int(work.response)
    use = capacity.MachineUse(
        devices=max(1, gpus),
        adapter_rank=update.lora_rank if update.adapter == "lora" else None,
        micro_batch=max(device.micro_batch(update, longest, on_gpu), longest),
        head_chunk=device.head_chunk(update, on_gpu),
        head_bytes=capacity.HEAD_BYTES if on_gpu else capacity.MachineUse.head_bytes,
        max_sequences=device.side_by_side(engine, on_gpu),
        cache=None if on_gpu else engine.kv_cache_gib * GIB,
        memory_fraction=engine.memory_fraction,
        moments=2 if update.optimiser == "adamw_8bit" else 8,
        offload=update.offload,
        bits=settings.model.bits,
        float_bytes=4 if settings.model.dtype == "float32" else 2,
    )
    if not on_gpu:
        return use
    activations = capacity.trainer_memory(shape, work, machine, use)["activations"]
    return replace(use, checkpointing=device.checkpoints(update, activations, machine.memory, engine))


def shape_of(model: str) -> capacity.Shape:
    """The shape of a model that is known by name, or of a folder's ``config.json``. Raises ``BadInput``."""
    known = read_yaml(PRESETS / "shapes.yaml")
    config = Path(model).expanduser() / "config.json"
    if model.lower() in known:
        return capacity.Shape(**known[model.lower()])
    if not config.is_file():
        raise BadInput(
            f"--model {model}: neither a known shape nor a folder with a config.json{nearest(model, known)}"
        )
    return _shape(config)


def _shape(config: Path) -> capacity.Shape:
    said = model_config(config)

    def figure(key: str, usual: int | None = None) -> int:
        value = said.get(key) if said.get(key) is not None else usual
        if not isinstance(value, int) or value < 1:
            found = "no" if value is None else f"{value!r} as"
            raise BadInput(f"{config}: {found} '{key}'; expected a whole number, as Llama and Qwen have it")
        return value

    hidden, heads = figure("hidden_size"), figure("num_attention_heads")
    return capacity.Shape(
        hidden=hidden,
        layers=figure("num_hidden_layers"),
        heads=heads,
        kv_heads=figure("num_key_value_heads", heads),
        head_dim=figure("head_dim", hidden // heads),
        intermediate=figure("intermediate_size"),
        vocabulary=figure("vocab_size"),
        tied=bool(said.get("tie_word_embeddings", False)),
    )


def model_config(path: Path) -> dict[str, Any]:
    """What a model's ``config.json`` says of its language model, which a model of several kinds nests. Raises
    ``BadInput``."""
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); expected a model's JSON") from None
    if not isinstance(said, dict):
        raise BadInput(f"{path}: holds {type(said).__name__}; expected a model's JSON object")
    nested = said.get("text_config")
    return {**said, **nested} if isinstance(nested, dict) else said


def machine_of(name: str) -> tuple[capacity.Machine, dict[str, str]]:
    """A machine by name, and where each of its figures is from. Raises ``BadInput``."""
    known = read_yaml(PRESETS / "machines.yaml")
    if name not in known:
        raise BadInput(f"--gpu {name}: no such machine{nearest(name, set(known) - {'cpu'})}")
    facts = known[name]
    figures = {key: fact for key, fact in facts.items() if isinstance(fact, dict)}
    values = {key: float(fact["value"]) for key, fact in figures.items()}
    sources = {key: f"{float(fact['value']):g}, {fact['source']}" for key, fact in figures.items()}
    return capacity.Machine(memory=float(facts["memory"]), **values), sources


def settings_of(asked: PlanOptions) -> Params:
    """The settings that the round is planned with: SmolLM2's for a model without a preset."""
    model = asked.model if asked.model in presets("models") else "smollm2-135m"
    return compose(model, asked.task, asked.method, ["model.context=1000000", *asked.settings])


def work_of(asked: PlanOptions, settings: Params) -> tuple[capacity.Work, list[str]]:
    """A round's work, and what was assumed of its lengths."""
    assumed = []
    prompt = asked.prompt or PROMPTS.get(asked.task)
    if prompt is None:
        prompt = 256
        assumed.append(f"prompt tokens: {prompt}, assumed; --prompt-tokens says otherwise")
    response = asked.response
    if response is None:
        response = float(settings.rollout.max_response_tokens)
        assumed.append(f"response tokens: {response:g}, assumed: every response of full length")
    rollout = settings.rollout
    work = capacity.Work(
        rollout.problems_per_round, rollout.samples_per_problem, prompt, response, settings.update.epochs
    )
    return work, assumed


def told(found: dict[str, Any], title: str) -> str:
    """The prediction as a person reads it."""
    work = found["work"]
    lines = [
        f"{found['model']}, {found['parameters'] / 1e9:.3g} B weights, on {found['devices']} × {title}: "
        f"{work['sequences']} responses of {work['response_tokens']:g} tokens a round, prompts of "
        f"{work['prompt_tokens']}"
    ]
    if found["seconds"]:
        shares = ", ".join(f"{part} {value:.1f}" for part, value in found["seconds"].items())
        lines.append(f"A round: {found['round_seconds']:.1f} s ({shares})")
        facts = found["sampling"]
        lines.append(
            f"Sampling: {facts['servers']} servers of {facts['devices_a_server']} devices, "
            f"{facts['responses_side_by_side']} responses side by side, "
            f"{facts['tokens_per_second']:,.0f} tokens/s"
        )
        hours = found["round_seconds"] * found["rounds"] / 3600
        lines.append(f"{count(found['rounds'], 'round')}: {hours:.2f} h, evaluations not counted")
    if found["cost_a_round"] is not None:
        lines.append(
            f"Cost: {found['cost_a_round']:.4g} a round, {found['cost_a_round'] * found['rounds']:.4g}"
        )
    lines.append(
        f"Memory of a device: {found['memory_needed_gib']:.1f} of {found['memory_given_gib']:.0f} GiB"
        + ("" if found["fits"] else ": DOES NOT FIT")
    )
    lines += [f"  {part:48}{value:8.2f} GiB" for part, value in found["memory_gib"].items()]
    if not found["seconds"]:
        lines.append("  No server holds the weights and one response within engine.memory_fraction.")
    lines += ["Assumed:", *(f"  {line}" for line in found["assumed"])]
    return "\n".join(lines)


def run_plan(asked: PlanOptions, as_json: bool) -> int:
    """Print the prediction; 1 where it does not fit, else 0."""
    if asked.gpus < 0:
        raise BadInput(f"--gpus {asked.gpus}: expected 0, for none, or more")
    found = plan(asked)
    title = read_yaml(PRESETS / "machines.yaml")[found["machine"]]["title"]
    print(json.dumps(found) if as_json else told(found, title))
    return 0 if found["fits"] else 1
