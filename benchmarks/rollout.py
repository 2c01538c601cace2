"""Sampling: vLLM and the transformers engine, as stages use them, against padded `model.generate`.

    python benchmarks/rollout.py                                 SmolLM2-135M in bf16, 64 x 64 tokens
    python benchmarks/rollout.py --model nano --dtype float32    a million parameters
    python benchmarks/rollout.py --model nano --dtype float32 --tokens 8 --engines transformers generate

Eight prompts of 44-45 tokens (--shape sql: of about 405) and eight samples of each; nothing stops a response
before its last token, so every engine samples the same number of them at temperature 1. Ostinato's engines
give every response a seed and every token its log-probability; generate does neither, and it runs the base
model without the adapter that the transformers engine carries. Calls alternate, the first of each warms up
and is left out, the figures are medians. Starting an engine, once the trainer's model is open, is reported
beside them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import shared
import torch
from step_shapes import SHAPES, endless_model, problems

from params.load import compose
from params.schema import Params
from tasks.core.seeds import seed
from tasks.engines.base import Request, Sampling
from tasks.engines.in_process import InProcess
from tasks.engines.vllm_child import Vllm
from tasks.policy.policy import Policy

Prompts = list[tuple[int, ...]]
Sampler = Callable[[int], int]
"""Samples every response once, with the seeds of a repeat, and says how many tokens came back."""


def generate(policy: Policy, prompts: Prompts, samples: int, tokens: int) -> Sampler:
    """transformers' `model.generate` on rows padded to the left."""
    network: Any = policy.network
    rows = [prompt for prompt in prompts for _ in range(samples)]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=policy.device)
    seen = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=policy.device)
    network.generation_config.eos_token_id = None

    def once(repeat: int) -> int:
        torch.manual_seed(repeat)
        with torch.no_grad(), policy.weights.reference():
            out = network.generate(
                input_ids=ids, attention_mask=seen, max_new_tokens=tokens, do_sample=True, top_k=0, top_p=1.0
            )
        return int(out[:, width:].numel())

    return once


def engine(made: InProcess | Vllm, prompts: Prompts, samples: int, tokens: int) -> Sampler:
    def once(repeat: int) -> int:
        asked = [
            Request(prompt, seed(repeat, "benchmark", place, sample))
            for place, prompt in enumerate(prompts)
            for sample in range(samples)
        ]
        done = made.generate(asked, Sampling(1.0, tokens, ()))
        return sum(len(response.token_ids) for response in done)

    return once


def encoded(policy: Policy, shape: str, count: int) -> Prompts:
    found = []
    for row in problems(shape, count):
        text = SHAPES[shape].instruction.replace("{question}", row.question)
        talk = [{"role": "user", "content": text}]
        ids = policy.tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
        found.append(tuple(ids))
    return found


def measure(
    chosen: argparse.Namespace, policy: Policy, params: Params, base: Path, prompts: Prompts
) -> dict[str, dict[str, float]]:
    """Tokens a second of each engine, and the seconds that it took to start."""
    work = (prompts, chosen.samples, chosen.tokens)
    expected = len(prompts) * chosen.samples * chosen.tokens
    samplers: dict[str, Sampler] = {}
    rates: dict[str, list[float]] = {name: [] for name in chosen.engines}
    result: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        for name in chosen.engines:
            began = time.perf_counter()
            if name == "vllm":
                server = Vllm(base, lambda: policy, params, Path(scratch))
                stack.callback(server.close)
                server.load(None)
                samplers[name] = engine(server, *work)
            elif name == "transformers":
                samplers[name] = engine(InProcess(policy, params), *work)
            else:
                samplers[name] = generate(policy, *work)
            result[name] = {"start_seconds": time.perf_counter() - began}
        for repeat in range(chosen.repeats + 1):
            for name, sample in samplers.items():
                began = time.perf_counter()
                count = sample(repeat)
                rates[name].append(count / (time.perf_counter() - began))
                assert count == expected, f"{name}: {count} tokens, expected {expected}"
    for name, (_, *found) in rates.items():  # the first warms up
        result[name] |= {"tokens_per_second": median(found), "least": min(found), "most": max(found)}
        if "generate" in rates:
            result[name]["times_generate"] = median(found) / median(rates["generate"][1:])
    return result


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--model", choices=("smollm2-135m", "nano"), default="smollm2-135m")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--shape", choices=SHAPES, default="arithmetic-short")
    parser.add_argument("--problems", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8, help="of each problem")
    parser.add_argument("--tokens", type=int, default=64, help="of each response")
    parser.add_argument("--repeats", type=int, default=5)
    names = ["vllm", "transformers", "generate"]
    parser.add_argument("--engines", nargs="+", choices=names, default=names)
    few = {"problems": 2, "samples": 2, "tokens": 4, "repeats": 1}
    chosen = shared.arguments(parser, model="nano", dtype="float32", shape="tiny", **few)
    torch.set_num_threads(shared.THREADS)
    base = endless_model(chosen.model)
    settings = [f"model.dtype={chosen.dtype}", f"rollout.max_response_tokens={chosen.tokens}"]
    params = compose(chosen.model, "arithmetic", "grpo", settings)
    policy = Policy.open(base, params)
    prompts = encoded(policy, chosen.shape, chosen.problems)
    result = measure(chosen, policy, params, base, prompts)
    for name, values in result.items():
        shared.show(name, values)
    facts = {"model": chosen.model, "dtype": chosen.dtype, "threads": torch.get_num_threads()}
    facts |= {"prompt_tokens": sorted({len(prompt) for prompt in prompts}), "tokens": chosen.tokens}
    print(json.dumps({**result, **facts, "responses": len(prompts) * chosen.samples}))


if __name__ == "__main__":
    main()
