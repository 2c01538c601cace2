"""Peak memory of sampling in the trainer's process on a CPU, against what ``ostinato plan`` says of it.

    python benchmarks/sampling_memory.py [--model smollm2-135m] [--shape 45x32x8] [--problems 12]

A model with random weights and LoRA samples a round's responses with the transformers engine, all of full
length. Measured is the process's resident size before the call, and how far its largest one is above that.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import random_models
import shared
import torch

from flows.planner.capacity import GIB
from flows.planner.plan import PlanOptions, plan
from params.load import compose
from tasks.core.memory import give_back
from tasks.engines.base import Request, Sampling
from tasks.engines.in_process import InProcess
from tasks.policy.policy import Policy


def resident(name: str) -> float:
    """Bytes of this process: ``VmRSS`` now, ``VmHWM`` at most."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024.0 * int(found[1])


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="of params/shapes.yaml")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--shape", default="45x32x8", help="tokens of a prompt, of a response, responses")
    parser.add_argument("--problems", type=int, default=12)
    chosen = shared.arguments(parser, model="tiny", shape="8x4x2", problems=2)
    work = random_models.Work(*map(int, chosen.shape.split("x")))
    settings = [
        "engine.name=transformers",
        f"model.dtype={chosen.dtype}",
        f"rollout.problems_per_round={chosen.problems}",
        f"rollout.samples_per_problem={work.samples}",
        f"rollout.max_response_tokens={work.response}",
        f"model.context={work.prompt + work.response}",
    ]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shape = random_models.shape(chosen.model)
        random_models.create(Path(folder), shape, torch.device("cpu"))
        asked = PlanOptions(folder, "arithmetic", "grpo", settings, prompt=work.prompt)
        parts = plan(asked)["memory_gib"]
        policy = Policy.open(Path(folder), compose("smollm2-135m", "arithmetic", "grpo", settings))
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(5, shape.vocabulary, (chosen.problems, work.prompt), generator=generator).tolist()
    requests = [
        Request(tuple(prompt), seed)
        for place, prompt in enumerate(prompts)
        for seed in range(place * work.samples, (place + 1) * work.samples)
    ]
    engine = InProcess(policy, compose("smollm2-135m", "arithmetic", "grpo", settings))
    engine.generate([Request((5,), 0)], Sampling(1.0, 1, ()))  # what is made once a process
    give_back()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    engine.generate(requests, Sampling(1.0, work.response, ()))
    peak = resident("VmHWM")
    sampling = sum(value for part, value in parts.items() if part.startswith("engine"))
    found = {
        "before_gib": before / GIB,
        "added_gib": (peak - before) / GIB,
        "plan_gib": sampling,
        "plan_over_added": sampling * GIB / (peak - before),
    }
    shared.show(f"{chosen.model} {chosen.dtype}, {chosen.problems} x {chosen.shape}", found)
    shared.show(
        "by the plan, GiB", {part: value for part, value in parts.items() if part.startswith("engine")}
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
