"""The update's forward and backward pass on one GPU, against transformers padded with all logits.

    python benchmarks/gpu.py                       a Qwen2 of 1.5B parameters with random weights, no download
    python benchmarks/gpu.py --shapes 1500x200x16  prompts of 1500 tokens, responses of 200, groups of 16
    python benchmarks/gpu.py --tiny                the same code with a tiny model, also without a GPU

Both sides compute the same GRPO loss of the same groups (--groups prompts of P tokens, G responses of exactly
R tokens each, so that padding wastes nothing) with bf16 base weights and float32 LoRA adapters of rank 16,
or, with --adapter full, all weights. Ostinato is tasks.policy.Policy and gradient.accumulate: one copy of a
prompt for its group, log-probabilities and entropies from the fused head. The other side is peft's model in
bf16 autocast, each response in a row behind its own prompt, logits of all positions, log_softmax, gather.
Both take micro-batches of at most --budget positions; the padded side halves its own until it fits.

Sequence tokens are G (P + R) a group on both sides, whatever is computed. The share of the peak is what a
side's products would take at the rate of a bf16 matrix product of --square rows, measured first: those of the
forward and backward pass, attention over the pairs that are seen, and nothing that is computed again.
Runs alternate, the first warms up, figures are medians. Needs torch, transformers, peft, safetensors,
pydantic, PyYAML and numpy, and neither Prefect nor vLLM; without CUDA it says so and exits with code 2.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import random_models
import shared
import torch
from peft import LoraConfig, get_peft_model
from random_models import Work
from torch import Tensor
from transformers import AutoModelForCausalLM

from flows.planner import capacity
from params.load import compose
from tasks.policy.gradient import Step, accumulate
from tasks.policy.policy import Policy

Pass = Callable[[], Tensor]
"""One forward and backward pass over a step; log-probabilities [T]."""


def ostinato(policy: Policy, work: Step) -> Pass:
    """The product's own path."""

    def once() -> Tensor:
        _, logp = accumulate(policy, work, 1.0)
        for master in policy.weights.masters.values():
            master.grad = None
        return logp

    return once


def padded(model: Any, work: Step, rows: int, device: torch.device, lora: bool) -> Pass:
    """Each response in its own row, ``rows`` at a time, and the logits of every position."""
    ids = torch.tensor([[*p, *r] for p, r in zip(work.prompts, work.responses, strict=True)], device=device)
    length = len(work.responses[0])
    advantage = work.batch.advantage.view(len(ids), length).to(device)
    behaviour = work.batch.behaviour_logp.view(len(ids), length).to(device)

    def once() -> Tensor:
        found = []
        for part in torch.arange(len(ids)).split(rows):
            with torch.autocast(device.type, torch.bfloat16) if lora else nullcontext():
                logits = model(input_ids=ids[part], use_cache=False).logits
            logs = torch.log_softmax(logits[:, :-1].float(), dim=-1)
            logp = logs.gather(2, ids[part, 1:, None]).squeeze(2)[:, -length:]
            loss = -((logp - behaviour[part]).exp() * advantage[part]).sum() / advantage.numel()
            loss.backward()
            found.append(logp.detach().float().flatten().cpu())
            del logits, logs, logp, loss
        model.zero_grad(set_to_none=True)
        return torch.cat(found)

    return once


def fitting(make: Callable[[int], Pass], rows: int) -> tuple[Pass, int]:
    """The pass with as many rows at a time as the memory holds."""
    while True:
        once = make(rows)
        try:
            once()
            return once, rows
        except torch.cuda.OutOfMemoryError:
            if rows == 1:
                raise
        rows = rows // 2
        torch.cuda.empty_cache()


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Wall time of one call, the device's work included."""
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def peak(once: Pass, device: torch.device) -> float:
    """GiB that a pass holds on top of all weights; 0 without a GPU."""
    if device.type != "cuda":
        return 0.0
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    once()
    _wait(device)
    return float(torch.cuda.max_memory_allocated(device) - before) / 2**30


def matrix_rate(size: int, device: torch.device) -> float:
    """FLOP/s of a bf16 product of two square matrices: the best of ten calls of five."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))

    def five() -> None:
        for _ in range(5):
            a @ b

    five()
    return 5 * 2.0 * size**3 / min(seconds(five, device) for _ in range(10))


def operations(model: capacity.Shape, work: Work, groups: int, rank: int | None) -> tuple[float, float]:
    """Of a step's products: with one prompt a group, and with a prompt and all logits for every response."""
    shared = capacity.Work(groups, work.samples, work.prompt, work.response)
    alone = capacity.Work(groups * work.samples, 1, work.prompt, work.response)
    prompts = 2 * (2 if rank else 3) * alone.problems * work.prompt * model.head
    return capacity.update_flops(model, shared, rank), capacity.update_flops(model, alone, rank) + prompts


def compare(
    sides: dict[str, Pass], counts: Sequence[float], shape: Work, work: Step, rate: float, repeats: int
) -> dict[str, Any]:
    """Tokens per second, share of the peak and memory of each side, of so many operations, on one shape."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    operations = dict(zip(sides, counts, strict=True))
    logp = {name: once() for name, once in sides.items()}  # warms up, too
    memory = {name: peak(once, device) for name, once in sides.items()}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, once in sides.items():
            taken[name].append(seconds(once, device))
    found: dict[str, Any] = {
        name: {
            "seconds": median(times),
            "sequence_tokens_per_second": len(work.prompts) * (shape.prompt + shape.response) / median(times),
            "response_tokens_per_second": len(work.batch.sequence) / median(times),
            "tera_operations": operations[name] / 1e12,
            "share_of_peak": operations[name] / median(times) / rate,
            "memory_over_weights_gib": memory[name],
        }
        for name, times in taken.items()
    }
    first, second = sides
    found["times_faster"] = found[second]["seconds"] / found[first]["seconds"]
    found["largest_difference_nats"] = float((logp[first] - logp[second]).abs().max())
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--adapter", choices=("lora", "full"), default="lora")
    parser.add_argument("--attention", choices=("auto", "products", "flash", "flex"), default="auto")
    parser.add_argument("--checkpointing", action="store_true", help="keep the layers' inputs alone")
    parser.add_argument(
        "--shapes", nargs="+", default=["400x200x8", "100x400x8", "1500x200x8"], metavar="PxRxG"
    )
    parser.add_argument("--groups", type=int, default=16, help="prompts of a step")
    parser.add_argument("--budget", type=int, default=16384, help="positions of a micro-batch at most")
    parser.add_argument(
        "--head-chunk", type=int, default=4096, help="positions whose logits are held at once"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--square", type=int, default=8192, help="rows of the matrix product for the peak")
    chosen = shared.arguments(parser, shapes=["40x20x4"], groups=3, budget=512, square=256, repeats=2)
    if not (chosen.tiny or torch.cuda.is_available()):
        shared.refuse("torch sees no CUDA device here; expected one, or --tiny")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model_shape = random_models.shape("tiny" if chosen.tiny else "1.5b")
    shapes = [Work(*map(int, text.split("x"))) for text in chosen.shapes]
    longest = max(shape.prompt + shape.response for shape in shapes)
    settings = [f"update.tokens_per_micro_batch={chosen.budget}", f"update.adapter={chosen.adapter}"]
    settings += [f"update.attention={chosen.attention}", f"update.checkpointing={chosen.checkpointing}"]
    settings += [f"update.head_chunk={chosen.head_chunk}"]
    settings += [f"model.context={longest}", f"rollout.max_response_tokens={max(s.response for s in shapes)}"]
    result: dict[str, Any] = {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    result["matrix_tera_per_second"] = (rate := matrix_rate(chosen.square, device)) / 1e12
    with tempfile.TemporaryDirectory() as name:
        random_models.create(Path(name), model_shape, device)
        policy = Policy.open(Path(name), compose(name, "arithmetic", "grpo", settings))
        model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=torch.bfloat16).to(device).train()
    result |= {"adapter": chosen.adapter, "torch": torch.__version__, "budget": chosen.budget}
    result["parameters"] = sum(weight.numel() for weight in model.parameters())
    if lora := chosen.adapter == "lora":
        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    for text, shape in zip(chosen.shapes, shapes, strict=True):
        work = random_models.step(shape, chosen.groups, model_shape.vocabulary)

        def make(rows: int, work: Step = work) -> Pass:
            return padded(model, work, rows, device, lora)

        plain, rows = fitting(make, max(1, chosen.budget // (shape.prompt + shape.response)))
        sides = {"ostinato": ostinato(policy, work), "transformers padded": plain}
        counts = operations(model_shape, shape, chosen.groups, 16 if lora else None)
        result[text] = {**compare(sides, counts, shape, work, rate, chosen.repeats), "padded_rows": rows}
        for side in sides:
            shared.show(f"{text} {side}", result[text][side])
        print(f"{text} times faster {result[text]['times_faster']:.2f}", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
