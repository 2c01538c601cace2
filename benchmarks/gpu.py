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
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import shared
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen2Config

from algorithms import grpo
from algorithms.contract import Hooks
from algorithms.terms import Batch, objective_term
from flows.planner import capacity
from params.load import compose
from params.parts import filled
from tasks.policy.gradient import Step, accumulate
from tasks.policy.policy import Policy
from tasks.prepare import nano

SIZES = {"1.5b": (151936, 1536, 8960, 28, 12, 2), "tiny": (512, 64, 128, 2, 4, 2)}
"""Words, hidden and intermediate size, layers, heads, key-value heads."""

Pass = Callable[[], Tensor]
"""One forward and backward pass over a step; log-probabilities [T]."""


class Shape(NamedTuple):
    """``400x200x8``: tokens of a prompt, tokens of a response, responses of a prompt."""

    prompt: int
    response: int
    samples: int


def create(folder: Path, size: str, device: torch.device) -> None:
    """A model folder with random weights, and a tokenizer that nobody asks much of."""
    words, hidden, intermediate, layers, heads, shared_heads = SIZES[size]
    config = Qwen2Config(
        vocab_size=words,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared_heads,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        use_sliding_window=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    nano.tokenizer().save_pretrained(folder)


def step(shape: Shape, groups: int, vocabulary: int) -> Step:
    """Random tokens and advantages; no ratio is clipped, no advantage zero."""
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        return torch.randint(5, vocabulary, (count,), generator=generator).tolist()

    prompts = [prompt for _ in range(groups) for prompt in [ids(shape.prompt)] * shape.samples]
    responses = [ids(shape.response) for _ in prompts]
    tokens = len(prompts) * shape.response
    advantage = torch.randn(len(prompts), generator=generator)
    batch = Batch(
        sequence=torch.arange(len(prompts)).repeat_interleave(shape.response),
        behaviour_logp=torch.full((tokens,), -math.log(vocabulary)),
        advantage=advantage.repeat_interleave(shape.response),
        importance=torch.ones(tokens),
        fresh=torch.ones(len(prompts), dtype=torch.bool),
        max_tokens=shape.response,
    )
    wide = grpo.Config(clip_low=1.0, clip_high=1e9)
    return Step(prompts, responses, batch, [objective_term(batch, filled(Hooks, grpo), wide, "token_mean")])


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


def operations(size: str, shape: Shape, groups: int, rank: int | None) -> tuple[float, float]:
    """Of a step's products: with one prompt a group, and with a prompt and all logits for every response."""
    words, hidden, intermediate, layers, heads, kv_heads = SIZES[size]
    model = capacity.Shape(hidden, layers, heads, kv_heads, hidden // heads, intermediate, words, True)
    shared = capacity.Work(groups, shape.samples, shape.prompt, shape.response)
    alone = capacity.Work(groups * shape.samples, 1, shape.prompt, shape.response)
    prompts = 2 * (2 if rank else 3) * alone.problems * shape.prompt * model.head
    return capacity.update_flops(model, shared, rank), capacity.update_flops(model, alone, rank) + prompts


def compare(
    sides: dict[str, Pass], counts: Sequence[float], shape: Shape, work: Step, rate: float, repeats: int
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
    size = "tiny" if chosen.tiny else "1.5b"
    shapes = [Shape(*map(int, text.split("x"))) for text in chosen.shapes]
    longest = max(shape.prompt + shape.response for shape in shapes)
    settings = [f"update.tokens_per_micro_batch={chosen.budget}", f"update.adapter={chosen.adapter}"]
    settings += [f"update.attention={chosen.attention}", f"update.checkpointing={chosen.checkpointing}"]
    settings += [f"update.head_chunk={chosen.head_chunk}"]
    settings += [f"model.context={longest}", f"rollout.max_response_tokens={max(s.response for s in shapes)}"]
    result: dict[str, Any] = {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    result["matrix_tera_per_second"] = (rate := matrix_rate(chosen.square, device)) / 1e12
    with tempfile.TemporaryDirectory() as name:
        create(Path(name), size, device)
        policy = Policy.open(Path(name), compose(name, "arithmetic", "grpo", settings))
        model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=torch.bfloat16).to(device).train()
    result |= {"adapter": chosen.adapter, "torch": torch.__version__, "budget": chosen.budget}
    result["parameters"] = sum(weight.numel() for weight in model.parameters())
    if lora := chosen.adapter == "lora":
        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    for text, shape in zip(chosen.shapes, shapes, strict=True):
        work = step(shape, chosen.groups, SIZES[size][0])

        def make(rows: int, work: Step = work) -> Pass:
            return padded(model, work, rows, device, lora)

        plain, rows = fitting(make, max(1, chosen.budget // (shape.prompt + shape.response)))
        sides = {"ostinato": ostinato(policy, work), "transformers padded": plain}
        counts = operations(size, shape, chosen.groups, 16 if lora else None)
        result[text] = {**compare(sides, counts, shape, work, rate, chosen.repeats), "padded_rows": rows}
        for side in sides:
            shared.show(f"{text} {side}", result[text][side])
        print(f"{text} times faster {result[text]['times_faster']:.2f}", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
