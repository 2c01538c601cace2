"""One answer of a rollout, of one turn or of several, before it is a row of its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tasks.core.segments import spread
from tasks.engines.base import Response
from tasks.rewards.base import Verdict


@dataclass(frozen=True)
class Answered:
    """What was asked, sampled and given."""

    prompt_ids: Sequence[int]
    seed: int
    """Of its first turn."""
    response: Response
    """Every token with what the engine says of it; of an episode the sampled ones, end to end."""
    thinking_tokens: int | None
    verdict: Verdict | None = None
    """Of the environment; None: the judge's counts."""
    ids: Sequence[int] = ()
    """Of an episode: every token after the prompt, the given ones too."""
    sampled: Sequence[bool] | None = None
    """Of an episode: which of them were sampled; None: all, and ``ids`` are the response's."""
    turn_rewards: Sequence[float | None] | None = None
    trace: str | None = None
    """What was said, as a JSON list of messages."""

    def columns(self, top: int, entropy: bool) -> dict[str, Any]:
        """What of ``tables.ROLLOUTS`` is its own."""
        made, mask = self.response, self.sampled
        return {
            "prompt_ids": self.prompt_ids,
            "response_ids": made.token_ids if mask is None else self.ids,
            "sampled": mask,
            "behaviour_logp": spread(made.logp, mask),
            "finish_reason": made.finish_reason,
            "thinking_tokens": self.thinking_tokens,
            "seed": self.seed,
            "top_ids": spread(made.top_ids, mask, top) if top else None,
            "top_logp": spread(made.top_logp, mask, top) if top else None,
            "entropy": spread(made.entropy, mask) if entropy else None,
            "turn_rewards": self.turn_rewards,
            "trace": self.trace,
        }
