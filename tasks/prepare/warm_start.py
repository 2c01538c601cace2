"""Supervised fine-tuning of ``nano`` on half-right solutions: what is left to learn is which half is right.

The model reads practice problems like the training set's, and each answer is spoilt with a fixed
probability, in the way in which people err: one off, a digit wrong, a sign lost, or as the problems' source
says (``spoil``). At temperature 1 it then gives the right answer less than half of the time and several
plausible wrong ones otherwise, so that groups of samples differ. For a task with an environment a problem
stands behind up to as many others as an episode has further turns.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaForCausalLM

from params.schema import Params
from params.views import of_task, told_of
from tasks.core import seeds
from tasks.policy.chat import Chat, talk
from tasks.policy.load import response_ids
from tasks.prepare import nano
from tasks.problems.contract import find_source, normalised

SPOILT = 0.5
"""Share of answers that are wrong."""
CLEAN = 0.6
"""Share of the steps, at the beginning, in which every answer is right: that teaches arithmetic sooner."""
BATCH_TOKENS = 1344
"""Tokens of a step, about: short problems come 64 at a time, longer ones fewer."""
MATRIX_RATE, OTHER_RATE = 0.02, 3e-3
"""Learning rates of Muon, which learns sums in half the steps of AdamW, and of AdamW for the rest."""
_IGNORED = -100
_PAD = nano.SPECIAL.index("<pad>")

Example = tuple[list[int], list[int]]
"""A prompt and a response, in token ids."""


def warm_started(params: Params, tell: Callable[[int, int, float], None]) -> LlamaForCausalLM:
    """``nano`` after ``model.warm_start_steps`` steps; ``tell(step, steps, loss)`` after each.

    The practice problems hold none of the held-out questions. Works in one thread, so that the bytes of the
    result depend on the seed and not on how many cores there are.
    """
    steps = params.model.warm_start_steps
    batches = _batches(params, steps)
    model = nano.create(seeds.seed(params.seed, "warm_start", 0))
    optimisers = _optimisers(model)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for step, examples in enumerate(batches):
            loss = _loss(model, examples)
            loss.backward()
            for optimiser, rate in optimisers:
                optimiser.param_groups[0]["lr"] = rate * _schedule(step, steps)
                optimiser.step()
                optimiser.zero_grad()
            tell(step + 1, steps, loss.item())
    finally:
        torch.set_num_threads(threads)
    model.eval()
    return model


def spoil(answer: str, rng: random.Random) -> str:
    """A plausible wrong answer: an integer near by or with another sign; else a digit changed."""
    try:
        right = int(answer)
    except ValueError:
        places = [i for i, character in enumerate(answer) if character.isdecimal()]
        if not places:
            return answer[::-1] if answer[::-1] != answer else answer + answer[-1:]
        place = rng.choice(places)
        return answer[:place] + str((int(answer[place]) + rng.randint(1, 9)) % 10) + answer[place + 1 :]
    near = [right + shift for shift in (-10, -2, -1, 1, 2, 10)] + ([-right] if right else [])
    return str(rng.choice(near))


def _batches(params: Params, steps: int) -> list[list[Example]]:
    """The examples of each step, all right at first and half right afterwards; of a mixture, each task's in
    turn."""
    of_each = [_batches_of(params, steps)]
    for name in params.tasks:
        with told_of(f"tasks.{name}"):
            of_each.append(_batches_of(of_task(params, name), steps))
    return [of_each[step % len(of_each)][step] for step in range(len(of_each[0]))]


def _batches_of(params: Params, steps: int) -> list[list[Example]]:
    rows = _practice(params, 64 * steps).to_pylist()
    longest = max(len(prompt + response) for prompt, response in _examples(params, rows[:64], spoilt=0.0))
    width = min(64, max(8, BATCH_TOKENS // longest))
    clean = width * math.ceil(CLEAN * steps)
    examples = _examples(params, rows[:clean], spoilt=0.0)
    examples += _examples(params, rows[clean : width * steps], spoilt=SPOILT)
    return [examples[i : i + width] for i in range(0, len(examples), width)]


def _examples(params: Params, rows: list[dict[str, Any]], spoilt: float) -> list[Example]:
    rng = random.Random(seeds.seed(params.seed, "warm_start_answers", 0))
    source = find_source(params.task.problems.name, "task.problems.name")
    wrong, shown = source.spoil or spoil, source.shown_answer or str
    words = nano.tokenizer()
    prompt = params.task.prompt
    chat, examples = Chat(words, prompt), list[Example]()
    said: list[tuple[str, str]] = []
    turns = params.task.episode.turns if params.task.environment else 1
    for row in rows:
        right = shown(row["answer"])
        answer = wrong(right, rng) if rng.random() < spoilt else right
        before = rng.randrange(turns) if turns > 1 else 0
        asked = talk(prompt, row["question"], said[len(said) - before :] if before else ())
        examples.append((list(chat.ids([asked])[0]), response_ids(words, answer)))
        said = [*said, (row["question"], answer)][-turns:]
    return examples


def _practice(params: Params, count: int) -> pa.Table:
    """``count`` problems. A source that can make more makes them, without the held-out questions; of one that
    cannot, the training set is read over and over."""
    choice = params.task.problems
    source = find_source(choice.name, "task.problems.name")
    config = choice.resolve(source.Config, "task.problems")
    train, held_out = source.tables(config, params.task, params.seed)
    if source.practice:
        without = {normalised(question) for question in held_out["question"].to_pylist()}
        return source.practice(config, count, params.seed, without)
    order = [*range(train.num_rows)] * math.ceil(count / train.num_rows)
    random.Random(params.seed).shuffle(order)
    return train.take(pa.array(order[:count]))


def _loss(model: LlamaForCausalLM, examples: list[Example]) -> Tensor:
    """Mean cross-entropy of the responses' tokens. Rows are padded on the right, where causality hides it."""
    whole = [torch.tensor(prompt + response) for prompt, response in examples]
    learned = [torch.tensor([_IGNORED] * len(prompt) + response) for prompt, response in examples]
    tokens = pad_sequence(whole, batch_first=True, padding_value=_PAD)
    labels = pad_sequence(learned, batch_first=True, padding_value=_IGNORED)
    states = model.model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
    target = labels[:, 1:]
    answered = target != _IGNORED
    return torch.nn.functional.cross_entropy(model.lm_head(states[answered]), target[answered])


def _optimisers(model: LlamaForCausalLM) -> list[tuple[torch.optim.Optimizer, float]]:
    """Each with its learning rate."""
    matrices = [weight for layer in model.model.layers for weight in layer.parameters() if weight.ndim == 2]
    taken = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in taken]
    return [
        (torch.optim.Muon(matrices, weight_decay=0.01), MATRIX_RATE),
        (torch.optim.AdamW(others, betas=(0.9, 0.95)), OTHER_RATE),
    ]


def _schedule(step: int, steps: int) -> float:
    """A short linear rise, then half a cosine down to a tenth."""
    rise = min(1.0, (step + 1) / max(1, min(50, steps // 10)))
    return rise * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
