"""TRL's side of step.py, run by the Python of TRL's own environment: ``step_trl.py SPECIFICATION.json``.

Prints one JSON line: the seconds of each step (sampling, reward and update), and what was sampled.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import shared

if importlib.util.find_spec("trl") is None:
    shared.refuse("TRL is not installed here; expected the Python of the environment that step.py makes")
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from tasks.rewards.similarity import Config, judge

PAGE = 32


class Clock(TrainerCallback):
    """Wall seconds from the end of one optimiser step to the end of the next."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._last = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


class Watched(GRPOTrainer):
    """Notes the prompts and the lengths of responses, a generation at a time."""

    prompts: set[str]
    tokens: list[int]
    sampling: list[float]

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **more: Any) -> Any:
        began = time.perf_counter()
        result = super()._generate_single_turn(prompt_ids, *args, **more)
        self.sampling.append(time.perf_counter() - began)
        self.tokens.append(sum(len(ids) for ids in result[0]))
        self.prompts |= {" ".join(map(str, ids)) for ids in prompt_ids}
        return result


def reward(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    """The judge of Ostinato's side."""
    texts = [completion[0]["content"] for completion in completions]
    return [judge(gold, text, Config()).reward or 0.0 for gold, text in zip(answer, texts, strict=True)]


def settings(spec: dict[str, Any], folder: str) -> GRPOConfig:
    """GRPO as Ostinato does it; everything that only takes time is off."""
    samples = spec["problems"] * spec["samples"]
    batch = min(spec["batch"], samples)
    pages = -(-spec["context"] // PAGE)
    continuous = {
        "page_size": PAGE,
        "num_blocks": pages * samples,
        "max_batch_tokens": 512,
        "use_cuda_graph": False,
        "use_async_batching": False,
        "safety_margin": 0.0,
    }
    return GRPOConfig(
        output_dir=folder,
        use_cpu=not torch.cuda.is_available(),
        bf16=spec["dtype"] == "bfloat16",
        model_init_kwargs={"dtype": spec["dtype"]},
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=samples // batch,
        num_generations=spec["samples"],
        max_completion_length=spec["max_tokens"],
        max_steps=spec["steps"],
        learning_rate=2e-4,
        lr_scheduler_type="constant",
        beta=0.0,
        temperature=1.0,
        num_iterations=1,
        shuffle_dataset=False,
        gradient_checkpointing=False,
        dataloader_num_workers=0,
        use_transformers_continuous_batching=spec["mode"] == "continuous",
        transformers_continuous_batching_config=continuous if spec["mode"] == "continuous" else None,
        report_to=[],
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        seed=0,
    )


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("specification", type=Path, help="JSON, as step.py writes it")
    spec = json.loads(parser.parse_args().specification.read_text())
    torch.set_num_threads(spec["threads"])
    rows = [
        {"prompt": [{"role": "user", "content": row["prompt"]}], "answer": row["answer"]}
        for row in spec["rows"]
    ]
    lora = LoraConfig(
        r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Watched(
            spec["model"],
            reward_funcs=reward,
            args=settings(spec, folder),
            train_dataset=Dataset.from_list(rows),
            peft_config=lora,
            callbacks=[clock],
        )
        trainer.prompts, trainer.tokens, trainer.sampling = set(), [], []
        trainer.train()
    prompts = sorted(trainer.prompts)
    result = {
        "seconds": clock.seconds,
        "sampling_seconds": trainer.sampling,
        "tokens": trainer.tokens,
        "prompt_tokens": sorted({len(prompt.split()) for prompt in prompts}),
        "prompts": hashlib.sha256("\n".join(prompts).encode()).hexdigest(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
