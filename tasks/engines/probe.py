"""Does the engine hold the weights that it was given? A few fixed tokens, scored by it and by the trainer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from params.base import BadInput
from params.prompt import PLAIN, Prompt
from tasks.engines.base import EngineFailure
from tasks.engines.float8 import Rounded
from tasks.policy.chat import Chat, talk
from tasks.policy.policy import Policy

QUESTIONS = ("What is 7 + 5?", "What is 30 - 12 + 4?", "Name a colour.", "Count: 1, 2, 3,")
ANSWERS = ("The answer is 12.", "22", "Blue is a colour of the sky.", " 4, 5, 6, 7, 8, 9, 10")
MEASURABLE = 1e-3
"""Nats. A change of the policy that is smaller on average is not looked for in the engine."""
FOLLOWED = 0.25
"""Of the trainer's step, along its direction: 1 of an engine that follows, 0 of one that stays, each within
rounding over the step, which is at most a half a token and averages out over some sixty."""


class Probe:
    """Fixed prompts and responses in a model's tokens, cut to half of its context."""

    def __init__(self, tokenizer: Any, context: int) -> None:
        self.prompts = [list(ids[: context // 4]) for ids in _asked(tokenizer)]
        self.responses = [
            tokenizer.encode(answer, add_special_tokens=False)[: context // 4] for answer in ANSWERS
        ]

    def scores(self, expected: Policy | Rounded) -> Tensor:
        """The log-probabilities in the trainer's process, in nats at temperature 1, by the weights that the
        engine should hold: a policy, as it is or rounded."""
        return expected.score(self.prompts, self.responses, 1.0).logp


def _asked(tokenizer: Any) -> list[tuple[int, ...]]:
    """The questions as prompts; by the plain template where the model's own wants more than a question."""
    talks = [talk(Prompt(), question) for question in QUESTIONS]
    try:
        return Chat(tokenizer, Prompt()).ids(talks)
    except BadInput:
        return Chat(tokenizer, Prompt(chat_template=PLAIN)).ids(talks)


def mismatch(engine: Tensor, trainer: Tensor) -> float:
    """Mean absolute difference, in nats."""
    return float((engine - trainer).abs().mean())


def check(engine: Tensor, trainer: Tensor, tolerance: float) -> None:
    """Raise ``EngineFailure`` unless the engine's scores agree with the trainer's."""
    apart = mismatch(engine, trainer)
    if not apart < tolerance:
        raise EngineFailure(
            "the engine holds other weights than it was given: its log-probabilities differ from the "
            f"trainer's by {apart:.3f} nats on average; expected less than "
            f"engine.probe_tolerance, {tolerance:g}"
        )


def check_changed(engine: Tensor, engine_before: Tensor, trainer: Tensor, trainer_before: Tensor) -> None:
    """Raise ``EngineFailure`` where the engine still holds the weights of before.

    It does where its scores have not moved at all although the trainer's have. And where the trainer's
    moved by more than twice what rounding keeps the two apart, the engine's must have moved with them, by at
    least ``FOLLOWED`` of the way; after a smaller step that says nothing. (In bf16 an update moves 0.04 nats
    and rounding alone 0.03 to 0.08, so that a right engine may well be nearer to the old scores.)
    """
    step = trainer - trainer_before
    moved = float(step.abs().mean())
    if moved < MEASURABLE:
        return
    followed = float(((engine - engine_before) * step).sum() / step.square().sum())
    telling = moved > 2 * mismatch(engine_before, trainer_before)
    if bool((engine == engine_before).all()) or (telling and followed < FOLLOWED):
        to_new, to_old = mismatch(engine, trainer), mismatch(engine, trainer_before)
        raise EngineFailure(
            f"the engine still holds the policy of before: its log-probabilities are {to_old:.3f} nats from "
            f"that one's and {to_new:.3f} from the new one's, on average"
        )
