"""What optimiser steps take of one GPU's memory and time, in each way to need less of it, against the plan.

    python benchmarks/gpu_memory.py             1.5b, every way, sequences of 9,216 positions
    python benchmarks/gpu_memory.py --models 7b --ways lora qlora --positions 9216 32768
    python benchmarks/gpu_memory.py --tiny      the same code with a tiny model, also without a GPU

Models have random weights in the shape that they are named after. A step is two sequences of --positions, a
ninth of them prompt, each a micro-batch of its own; the first of --steps warms up. Memory is the most that
tensors took from loading the model to the end of the last step; ``plan`` is what `ostinato plan` says of it,
without the process's own. A way that does not fit says so and the next one runs. Needs torch, transformers,
peft, safetensors, pydantic, PyYAML and numpy, and bitsandbytes for qlora and full-8bit; without CUDA it says
so and exits with code 2.
"""

from __future__ import annotations

import gc
import json
import resource
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import random_models
import shared
import torch

from flows.planner import capacity
from flows.planner.plan import machine_of, machine_use
from params.load import compose
from params.schema import Params
from tasks.core import few_bits
from tasks.policy.gradient import accumulate
from tasks.policy.optimiser import Optimiser
from tasks.policy.policy import Policy, release_gpu

WAYS = {
    "lora": [],
    "lora-kept": ["update.checkpointing=false"],
    "qlora": ["model.bits=4"],
    "full": ["update.adapter=full"],
    "full-8bit": ["update.adapter=full", "update.optimiser=adamw_8bit"],
    "full-offload": ["update.adapter=full", "update.offload=true"],
}
"""Settings by name; all but lora-kept checkpoint layers."""


def settings(way: str, positions: int) -> list[str]:
    """Of a way, for sequences of so many positions."""
    response = positions - positions // 9
    sizes = [f"model.context={positions}", f"rollout.max_response_tokens={response}"]
    rest = [f"update.tokens_per_micro_batch={positions}", "update.learning_rate=1e-6"]
    return ["update.checkpointing=true", *WAYS[way], *sizes, *rest]


def measure(folder: Path, params: Params, work: random_models.Work, steps: int) -> dict[str, float]:
    """Memory in GB and time in seconds of optimiser steps."""
    policy = Policy.open(folder, params)
    cuda = policy.device.type == "cuda"
    loaded = torch.cuda.memory_allocated() if cuda else 0
    optimiser = Optimiser(policy.weights.masters, params.update, policy.device)
    todo = random_models.step(work, 2, policy.network.config.vocab_size)
    taken: dict[str, list[float]] = {"passes": [], "step": []}
    for _ in range(steps):
        began = _now(cuda)
        meter, _ = accumulate(policy, todo, 1.0)
        passed = _now(cuda)
        norm = optimiser.step(meter.loss)
        policy.stepped()
        taken["passes"].append(passed - began)
        taken["step"].append(_now(cuda) - passed)
        if norm is None:
            raise SystemExit(f"the loss is {meter.loss}: no step was taken")
    found = {f"{name}_seconds": median(times[1:] or times) for name, times in taken.items()}
    found["tokens_per_second"] = 2 * (work.prompt + work.response) / found["passes_seconds"]
    found["loaded_gb"] = loaded / 1e9
    found["peak_gb"] = (torch.cuda.max_memory_allocated() if cuda else 0) / 1e9
    found["host_peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    policy.close()
    return found


def planned(params: Params, shape: capacity.Shape, work: random_models.Work) -> float:
    """GB that the plan says, without what the process takes by itself and without attention by products."""
    machine = machine_of("h100")[0]
    one = capacity.Work(1, work.samples, work.prompt, work.response)
    use = machine_use(params, shape, one, machine, 1)
    parts = capacity.trainer_memory(shape, one, machine, use)
    return sum(value for part, value in parts.items() if part not in ("process", "attention")) / 1e9


def _now(cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def _fitting(folder: Path, params: Params, work: random_models.Work, steps: int) -> dict[str, float] | None:
    """None where the GPU's memory did not do; whatever was taken is given back."""
    try:
        return measure(folder, params, work, steps)
    except torch.OutOfMemoryError:
        return None
    finally:
        gc.collect()
        release_gpu()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--models", nargs="+", default=["1.5b"], help="of params/shapes.yaml")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--positions", nargs="+", type=int, default=[9216])
    parser.add_argument("--steps", type=int, default=3)
    chosen = shared.arguments(
        parser, models=["tiny"], ways=["lora", "full", "full-offload"], positions=[90], steps=2
    )
    if not (chosen.tiny or torch.cuda.is_available()):
        shared.refuse("torch sees no CUDA device here; expected one, or --tiny")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result: dict[str, Any] = {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    result |= {"torch": torch.__version__, "steps": []}
    for model in chosen.models:
        shape = random_models.shape(model)
        with tempfile.TemporaryDirectory() as name:
            random_models.create(Path(name), shape, device)
            release_gpu()
            for positions in chosen.positions:
                work = random_models.Work(positions // 9, positions - positions // 9, 1)
                for way in chosen.ways:
                    params = compose(name, "arithmetic", "grpo", settings(way, positions))
                    few_bits.check(params)
                    found = _fitting(Path(name), params, work, chosen.steps)
                    figures = {**(found or {}), "plan_gb": planned(params, shape, work)}
                    words = "" if found else ": does not fit"
                    shared.show(f"{model} {way}, {positions} positions{words}", figures)
                    result["steps"].append({"model": model, "way": way, "positions": positions, **figures})
    print(json.dumps(result))


if __name__ == "__main__":
    main()
