"""The update's forward and backward pass: three layouts of the same responses, and the machine's ceiling.

    python benchmarks/update.py                     8 prompts of 409 tokens x 8 x 36 to 48
    python benchmarks/update.py --shape arithmetic  8 prompts of 43 tokens x 8 x 24 to 32
    python benchmarks/update.py --grow prompt       shared rows, one dimension growing

- ``padded``: transformers and peft as they come: one sequence a row, padded, 8 rows a micro-batch, logits of
  the response positions only, log-softmax over them.
- ``packed``: Ostinato's pass with a copy of the prompt for every response.
- ``shared``: Ostinato's pass as it runs.
- ``replay``: the same with DyJR's term on a fifth more responses, drawn by whole groups (``together``);
- ``replay-apart``: the same, each of them behind a prompt of its own, at worst what DyJR's preset draws.

The loss is GRPO's, the adapter LoRA of rank 16 on every linear layer. Every way runs in a process of its own,
where its peak memory is read; runs alternate, and medians are reported. The ceiling is what this machine
reaches on products of the model's own widths in bf16, measured after every pass in the same process. FLOPs
are those of the products that a way needs once: nothing that is computed again counts.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import shared
import torch
from peft.tuners.lora import Linear
from step_shapes import endless_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from algorithms import dyjr, grpo
from algorithms.contract import Hooks
from algorithms.terms import Batch, objective_term
from params.load import compose
from params.parts import filled
from params.schema import Params
from tasks.policy import packing
from tasks.policy.gradient import Step, accumulate
from tasks.policy.policy import Policy, offsets

SHAPES = {"sql": (409, 48, 8, 8), "arithmetic": (43, 32, 8, 8), "tiny": (20, 6, 4, 2)}
"""Prompt tokens, longest response, responses a prompt, prompts."""
WAYS = ("padded", "packed", "shared", "replay", "replay-apart")
GROWTH: dict[str, tuple[int, ...]] = {
    "prompt": (50, 100, 200, 400, 800),
    "response": (16, 32, 64, 128, 256),
    "group": (1, 2, 4, 8, 16),
    "vocabulary": (16_384, 49_152, 131_072),
}


def synthetic(shape: tuple[int, int, int, int], vocabulary: int, replayed: Sequence[int] = ()) -> Step:
    """Random tokens; responses from three quarters of the longest up, advantages of both signs.

    The last ``sum(replayed)`` responses are from a buffer, so many behind one prompt.
    """
    prompt, longest, group, prompts = shape
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> list[int]:
        return torch.randint(4, vocabulary, (count,), generator=generator).tolist()

    asked, answered = [], []
    for size in [group] * prompts + [*replayed]:
        asked += [draw(prompt)] * size
        for _ in range(size):
            least = max(1, 3 * longest // 4)
            answered.append(draw(int(torch.randint(least, longest + 1, (1,), generator=generator))))
    fresh = torch.arange(len(answered)) < group * prompts
    lengths = torch.tensor([len(response) for response in answered])
    total = int(lengths.sum())
    batch = Batch(
        sequence=torch.arange(len(answered)).repeat_interleave(lengths),
        behaviour_logp=torch.full((total,), -10.0),
        advantage=torch.randn(len(answered), generator=generator).repeat_interleave(lengths),
        importance=torch.ones(total),
        fresh=fresh,
        max_tokens=longest,
        age=(~fresh).long(),
    )
    terms = [objective_term(batch, filled(Hooks, grpo), grpo.Config(), "token_mean")]
    if replayed:
        terms.append(dyjr.term(batch, dyjr.Config()))
    return Step(asked, answered, batch, terms)


def flops(policy: Policy, layout: packing.Layout, step: Step) -> float:
    """Of the products of forward and backward pass: linear layers twice over (their weights are frozen), the
    adapter three times, attention three times, the head twice."""
    network = policy.network
    head = network.get_output_embeddings().weight.numel()
    frozen = sum(w.numel() for n, w in network.named_parameters() if w.ndim == 2 and "lora" not in n) - head
    adapter = sum(w.numel() for w in policy.weights.masters.values())
    config = network.config.get_text_config()
    wide = config.num_attention_heads * getattr(
        config, "head_dim", config.hidden_size // config.num_attention_heads
    )
    positions = pairs = 0.0
    bare = packing.Layout(layout.share, True, packing.Cost(pair=1.0))
    for held in packing.plan(step.prompts, step.responses, 1 << 20, bare):
        positions += sum(row.length for row in held)
        pairs += sum(row.cost - row.length for row in held)
    tokens = sum(len(response) for response in step.responses)
    linear = 2 * positions * (2 * frozen + 3 * adapter)
    return linear + 3 * 4 * pairs * wide * config.num_hidden_layers + 2 * 2 * tokens * head


def padded_pass(policy: Policy, step: Step) -> None:
    """What transformers and peft do by themselves."""
    starts = offsets([len(response) for response in step.responses])
    order = sorted(range(len(step.responses)), key=lambda i: -len(step.prompts[i]) - len(step.responses[i]))
    for first in range(0, len(order), 8):
        chosen = order[first : first + 8]
        longest = max(len(step.responses[i]) for i in chosen)
        whole = [[*step.prompts[i], *step.responses[i]] for i in chosen]
        length = max(map(len, whole))
        ids = torch.tensor([[0] * (length - len(w)) + w for w in whole])
        seen = torch.tensor([[0] * (length - len(w)) + [1] * len(w) for w in whole])
        out = policy.network(input_ids=ids, attention_mask=seen, logits_to_keep=longest + 1, use_cache=False)
        logs = out.logits[:, :-1].float().log_softmax(-1)
        logp = logs.gather(2, ids[:, -longest:, None]).squeeze(2)
        own = [logp[r, longest - len(step.responses[i]) :] for r, i in enumerate(chosen)]
        index = torch.cat([torch.arange(starts[i], starts[i] + len(step.responses[i])) for i in chosen])
        batch = step.batch
        loss, _ = grpo.token_loss(
            torch.cat(own),
            batch.behaviour_logp[index],
            batch.advantage[index],
            batch.sequence[index],
            grpo.Config(),
        )
        (step.terms[0].scale[index] * loss).sum().backward()


def unfused(policy: Policy) -> None:
    """Give the adapter's layers back peft's own forward pass."""
    for module in policy.network.modules():
        if isinstance(module, Linear):
            module.forward = Linear.forward.__get__(module)  # type: ignore[method-assign]


def replayed(way: str, shape: tuple[int, int, int, int]) -> list[int]:
    """Responses behind each prompt from the buffer: a fifth of the fresh ones."""
    group, count = shape[2], round(shape[2] * shape[3] / 5)
    if way == "replay":
        return [min(group, count - begun) for begun in range(0, count, group)]
    return [1] * count if way == "replay-apart" else []


def worker(way: str, model: Path, params: Params, shape: tuple[int, int, int, int]) -> None:
    """Run one pass for every line on standard input; answer with its figures."""
    if params.threads:
        torch.set_num_threads(params.threads)
    policy = Policy.open(model, params)
    step = synthetic(shape, policy.network.config.vocab_size, replayed(way, shape))
    shares = way not in ("padded", "packed")
    policy.layout = packing.Layout(shares, policy.layout.flat, policy.layout.cost)
    if way == "padded":
        unfused(policy)
    work = flops(policy, packing.Layout(share=shares), step)
    tokens = sum(len(response) for response in step.responses)
    plan = policy.plan(step.prompts, step.responses)
    positions = sum(row.length for batch in plan for row in batch)
    for _ in sys.stdin:
        for master in policy.weights.masters.values():
            master.grad = None
        began = time.perf_counter()
        if way == "padded":
            padded_pass(policy, step)
        else:
            accumulate(policy, step, 1.0)
        facts = {"seconds": time.perf_counter() - began, "flops": work, "tokens": tokens}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        facts |= {"positions": positions, "peak": peak, "top": ceiling(model)}
        print(json.dumps(facts), flush=True)


def ceiling(model: Path) -> float:
    """FLOP/s of products of the model's widths in bf16 on this machine, now: the median of many."""
    config = json.loads((model / "config.json").read_text())
    x = torch.randn(2048, config["hidden_size"]).bfloat16()
    weight = torch.randn(config["intermediate_size"], config["hidden_size"]).bfloat16()
    taken = timeit.repeat(lambda: x @ weight.T, number=1, repeat=150)
    return 2.0 * x.numel() * len(weight) / median(taken)


def compare(
    ways: Sequence[str], model: Path, arguments: list[str], repeats: int
) -> dict[str, dict[str, float]]:
    """Start a process for each way, let them take turns, and take medians."""
    command = [sys.executable, __file__, "--model", str(model), *arguments]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = {way: subprocess.Popen([*command, "--worker", way], **pipes) for way in ways}
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(repeats + 1):  # the first pass warms up
        for way, process in processes.items():
            print("go", file=process.stdin, flush=True)
            found[way].append(json.loads(process.stdout.readline()))
    for process in processes.values():
        process.communicate()
    return {way: summary(runs[1:]) for way, runs in found.items()}


def summary(runs: list[dict[str, float]]) -> dict[str, float]:
    """Medians over the passes of one way."""
    seconds, last = median(run["seconds"] for run in runs), runs[-1]
    return {
        "seconds": seconds,
        "positions": last["positions"],
        "tokens_per_second": last["tokens"] / seconds,
        "tflop": last["flops"] / 1e12,
        "gflops": last["flops"] / seconds / 1e9,
        "of_ceiling": median(run["flops"] / run["seconds"] / run["top"] for run in runs),
        "ceiling_gflops": median(run["top"] for run in runs) / 1e9,
        "peak_gib": last["peak"] / 2**30,
    }


def widened(model: Path, vocabulary: int, folder: Path) -> Path:
    """The model with random weights and another vocabulary."""
    config = AutoConfig.from_pretrained(model)
    config.vocab_size = vocabulary
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


def grow(
    what: str, values: Sequence[int], model: Path, shape: list[int], more: list[str], repeats: int
) -> dict[str, dict[str, float]]:
    """Shared rows while one dimension grows."""
    table = {}
    for value in values:
        here = list(shape)
        with tempfile.TemporaryDirectory() as folder:
            base = widened(model, value, Path(folder)) if what == "vocabulary" else model
            if what != "vocabulary":
                here[("prompt", "response", "group").index(what)] = value
            sizes = ["--sizes", *map(str, here)]
            table[f"{what} {value}"] = compare(("shared",), base, [*sizes, *more], repeats)["shared"]
    return table


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="a preset, or a Hugging Face folder")
    parser.add_argument("--shape", choices=SHAPES, default="sql")
    parser.add_argument(
        "--sizes", type=int, nargs=4, help="prompt, response, group, prompts; instead of --shape"
    )
    parser.add_argument("--grow", choices=GROWTH)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS[:3])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--budget", type=int, default=1024, help="update.tokens_per_micro_batch")
    parser.add_argument("--worker", help="an internal process of this way")
    chosen = shared.arguments(parser, model="nano", shape="tiny", ways=WAYS[:4], repeats=1)
    model = Path(chosen.model) if Path(chosen.model).is_dir() else endless_model(chosen.model)
    shape = tuple(chosen.sizes or SHAPES[chosen.shape])
    needed = max(chosen.budget, shape[0] + shape[1])
    if chosen.worker:
        settings = [f"update.tokens_per_micro_batch={needed}", f"model.context={needed + shape[1]}"]
        settings += [f"rollout.max_response_tokens={shape[1]}", f"threads={chosen.threads or 'null'}"]
        worker(chosen.worker, model, compose("smollm2-135m", "arithmetic", "grpo", settings), shape)
        return
    more = ["--budget", str(chosen.budget), *(["--threads", str(chosen.threads)] if chosen.threads else [])]
    if chosen.grow:
        values = GROWTH[chosen.grow][: 2 if chosen.tiny else None]
        result = grow(chosen.grow, values, model, list(shape), more, chosen.repeats)
    else:
        result = compare(chosen.ways, model, ["--sizes", *map(str, shape), *more], chosen.repeats)
    for way, figures in result.items():
        shared.show(way, figures)
    print(json.dumps({"shape": shape, "budget": needed, "result": result}))


if __name__ == "__main__":
    main()
