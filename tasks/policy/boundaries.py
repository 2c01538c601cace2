"""Which tokens of a tokenizer close a step of an answer."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from algorithms.terms import Boundary
from tasks.core.segments import Segmented, sampled_ids, turn_ends


@functools.lru_cache(maxsize=4)
def boundary_table(tokenizer: Any, closes: Boundary) -> Tensor:
    """[V] bool: which words of the tokenizer close a step. Special tokens have no text."""
    texts = tokenizer.batch_decode(
        [[word] for word in range(len(tokenizer))],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    closing = [w in closes.ids or any(part in text for part in closes.texts) for w, text in enumerate(texts)]
    return torch.tensor(closing, dtype=torch.bool)


def closed(tokenizer: Any, closes: Boundary, responses: Sequence[Sequence[int]]) -> list[Tensor]:
    """Of each response [sampled tokens] bool: the token closes a step. The end of each of several turns does
    (ours)."""
    table = boundary_table(tokenizer, closes)
    known = torch.cat([table, torch.tensor([False])])  # a word beyond the tokenizer's closes nothing
    words = [torch.tensor(sampled_ids(response), dtype=torch.int64) for response in responses]
    found = [known[each.clamp(max=len(table))] for each in words]
    for place, response in enumerate(responses):
        if isinstance(response, Segmented):
            found[place] |= torch.tensor(turn_ends(response))
    return found
