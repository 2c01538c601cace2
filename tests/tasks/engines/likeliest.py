"""What top-k and top-p promise of an engine's responses, by the plain definition."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from tasks.engines.base import Request, Response, Sampling
from tasks.policy.policy import Policy


def drawn_from_the_likeliest(
    policy: Policy,
    asked: Sequence[Request],
    responses: Sequence[Response],
    sampling: Sampling,
    within: float = 1e-4,
) -> None:
    """Each token is one of the top k, of those the fewest that reach p; its log-probability is among them.

    ``within``: nats by which a log-probability may differ, and by which a token may miss the edge.
    """
    ids = [list(response.token_ids) for response in responses]
    tokens = torch.arange(policy.network.config.vocab_size)
    every = tokens.expand(sum(map(len, ids)), -1)
    scores = policy.score([one.prompt_ids for one in asked], ids, sampling.temperature, others=every)
    assert scores.others is not None
    drawn = torch.tensor([token for response in ids for token in response])
    told = torch.tensor([value for response in responses for value in response.logp])
    for row, token, logp in zip(scores.others.double(), drawn.tolist(), told.tolist(), strict=True):
        mass = row.exp()
        kept = sorted(range(len(mass)), key=lambda i: -float(mass[i]))[: sampling.top_k or None]
        mass = mass / mass[kept].sum()
        reached, chosen = 0.0, []
        for i in kept:
            if reached >= sampling.top_p:
                break
            reached += float(mass[i])
            chosen.append(i)
        assert token in chosen or float((mass[chosen[-1]] / mass[token]).log()) < within
        assert logp == pytest.approx(float((mass[token] / reached).log()), abs=within)
