"""Whole rounds on one GPU as `ostinato run` makes them, engine and hand-over included: where seconds go.

    python benchmarks/gpu_round.py            1.5B, random weights, LoRA, vLLM at 0.4 of the card's memory
    python benchmarks/gpu_round.py --models 1.5b 7b --set engine.memory_fraction=0.4 engine.sleep=true
    python benchmarks/gpu_round.py --tiny     the same code with a tiny model, also without a GPU

For each model a folder with random weights of its shape in bf16, then a run of --rounds rounds in a
workspace that goes afterwards: --answers (problems x samples x tokens), nearly all of full length, and a
reward in which answers to one problem differ, so that every round learns. In the first round engine and
trainer compile; later ones say what a run costs. Seconds are those of the stages and of their parts, from
the run's manifests. The memory is the most that nvidia-smi saw in use on the card, half a second apart. The
mismatch is between the engine's and the trainer's log-probabilities of the sampled tokens, in nats: from the
second round on with an adapter that was handed over.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import random_models
import shared
import torch

from tasks.artefacts.artefact import Artefact
from tasks.artefacts.record import Record
from tasks.core.json_process import environment

PARTS = (
    "seconds",
    "sampling_seconds",
    "tokens_per_second",
    "open_seconds",
    "train_seconds",
    "save_seconds",
    "trained_tokens_per_second",
)
SEEN = ("mismatch", "mismatch_max", "mismatch_kl")
ASK = ("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits")


class CardMemory:
    """The most MiB in use on the first card while this is open; nothing without ``nvidia-smi``."""

    def __init__(self) -> None:
        self.most = 0
        self._end = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> CardMemory:
        if shutil.which(ASK[0]):
            self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()

    def _look(self) -> None:
        while not self._end.wait(0.5):
            said = subprocess.run(ASK, capture_output=True, text=True, check=True).stdout
            self.most = max(self.most, int(said.split()[0]))


def run(folder: Path, home: Path, answers: random_models.Work, problems: int, more: list[str]) -> Path:
    """A run of ``ostinato run`` on a model's folder; its directory."""
    settings = [
        "task.reward=odd_tokens:odd",
        "model.dtype=bfloat16",
        f"model.context={answers.prompt + answers.response}",
        f"rollout.problems_per_round={problems}",
        f"rollout.samples_per_problem={answers.samples}",
        f"rollout.max_response_tokens={answers.response}",
        "task.held_out_count=8",
        "evaluate.every=1000",
        "evaluate.bootstrap_samples=20",
        *more,
    ]
    words = ["-m", "flows.cli", "run", "--name", "round", "--model", str(folder), "--task", "sums"]
    words += [part for setting in settings for part in ("--set", setting)]
    path = os.pathsep.join([str(Path(__file__).parent), environment()["PYTHONPATH"]])
    around = environment(OSTINATO_HOME=str(home), PYTHONPATH=path)
    if subprocess.run([sys.executable, *words], env=around, check=False).returncode:
        shared.refuse(f"{folder.name}: the run did not come to its end (see above)")
    return home / "runs" / "round"


def figures(directory: Path) -> dict[str, dict[str, float]]:
    """By stage and round: the parts of its seconds and, of an update, the mismatch."""
    found: dict[str, dict[str, float]] = {}
    for step in Record.read(directory).steps:
        if step.stage not in ("rollout", "update"):
            continue
        made = Artefact.open(directory / step.place)
        told = {name: made.manifest.measured[name] for name in PARTS if name in made.manifest.measured}
        if step.stage == "update":
            metrics: dict[str, Any] = json.loads(made.file("metrics.json").read_text())
            told |= {name: metrics[name] for name in SEEN if metrics[name] is not None}
        found[f"round {step.round} {step.stage}"] = {"stage_seconds": step.seconds, **told}
    return found


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--models", nargs="+", default=["1.5b"], help="shapes that `ostinato plan` knows")
    parser.add_argument("--answers", default="32x8x512", metavar="PROBLEMSxSAMPLESxTOKENS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", nargs="+", default=["engine.memory_fraction=0.4"], dest="settings")
    chosen = shared.arguments(
        parser,
        models=["tiny"],
        answers="2x4x4",
        rounds=2,
        settings=["engine.name=transformers", "task.train_count=8"],
    )
    if not (chosen.tiny or torch.cuda.is_available()):
        shared.refuse("torch sees no CUDA device here; expected one, or --tiny")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    problems, samples, tokens = map(int, chosen.answers.split("x"))
    answers = random_models.Work(64, tokens, samples)
    result: dict[str, Any] = {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    for name in chosen.models:
        shape = random_models.shape(name)
        with tempfile.TemporaryDirectory() as place, CardMemory() as memory:
            folder = Path(place) / name
            random_models.create(folder, shape, device)
            more = [f"rounds={chosen.rounds}", *chosen.settings]
            found = figures(run(folder, Path(place) / "home", answers, problems, more))
        for title, values in found.items():
            shared.show(f"{name} {title}", values)
        result[name] = {**found, "card_mib_at_most": memory.most}
        shared.show(name, {"card_mib_at_most": memory.most})
    print(json.dumps(result))


if __name__ == "__main__":
    main()
