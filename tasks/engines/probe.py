"""Does the engine hold the weights that it was given? A few fixed tokens, scored by it and by the trainer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tasks.engines.base import EngineFailure
from tasks.policy import Policy

QUESTIONS = ("What is 7 + 5?", "What is 30 - 12 + 4?", "Name a colour.", "Count: 1, 2, 3,")
ANSWERS = ("The answer is 12.", "22", "Blue is a colour of the sky.", " 4, 5, 6, 7, 8, 9, 10")
MEASURABLE = 1e-3
"""Nats. A change of the policy that is smaller on average is not looked for in the engine."""


class Probe:
    """Fixed prompts and responses in a model's tokens, cut to half of its context."""

    def __init__(self, tokenizer: Any, context: int) -> None:
        self.prompts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": question}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
            )[: context // 4]
            for question in QUESTIONS
        ]
        self.responses = [
            tokenizer.encode(answer, add_special_tokens=False)[: context // 4] for answer in ANSWERS
        ]

    def scores(self, policy: Policy) -> Tensor:
        """The trainer's log-probabilities, in nats at temperature 1."""
        return policy.score(self.prompts, self.responses, 1.0).logp


def mismatch(engine: Tensor, trainer: Tensor) -> float:
    """Mean absolute difference, in nats."""
    return float((engine - trainer).abs().mean())


def check(engine: Tensor, trainer: Tensor, tolerance: float) -> None:
    """Raise ``EngineFailure`` unless the engine's scores agree with the trainer's."""
    apart = mismatch(engine, trainer)
    if not apart < tolerance:
        raise EngineFailure(
            f"the engine holds other weights than it was given: its log-probabilities differ from the "
            f"trainer's by {apart:.3g} nats on average; expected less than engine.probe_tolerance, {tolerance:g}"
        )


def check_changed(engine: Tensor, engine_before: Tensor, trainer: Tensor, trainer_before: Tensor) -> None:
    """Raise ``EngineFailure`` where the engine still holds the weights of before.

    It does where its scores have not moved at all although the trainer's have; and where the trainer's have
    moved by more than the two round differently, and the engine's are still nearer to the old ones.
    """
    moved = mismatch(trainer, trainer_before)
    if moved < MEASURABLE:
        return
    to_new, to_old = mismatch(engine, trainer), mismatch(engine, trainer_before)
    if bool((engine == engine_before).all()) or (moved > to_new and to_old <= to_new):
        raise EngineFailure(
            f"the engine still holds the policy of before: its log-probabilities are {to_old:.3g} nats from "
            f"that one's and {to_new:.3g} from the new one's, on average"
        )
