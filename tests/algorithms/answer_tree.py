"""A tabular tree of answers, where every expectation is a sum, and a batch of answers of some lengths."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from algorithms.terms import Batch

V, DEPTH = 3, 3
ANSWERS = list(itertools.product(range(V), repeat=DEPTH))
STATES = {prefix: place for place, prefix in enumerate(
    prefix for depth in range(DEPTH) for prefix in itertools.product(range(V), repeat=depth)
)}  # fmt: skip
STATE = torch.tensor([STATES[answer[:depth]] for answer in ANSWERS for depth in range(DEPTH)])
WORD = torch.tensor([answer[depth] for answer in ANSWERS for depth in range(DEPTH)])
SEQUENCE = torch.arange(len(ANSWERS)).repeat_interleave(DEPTH)
FIRST = torch.arange(len(ANSWERS)) * DEPTH


def logits(seed: int, spread: float = 1.0) -> Tensor:
    """A policy: a row of logits for each state of the tree."""
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(len(STATES), V, generator=generator, dtype=torch.float64)


def tokens(policy: Tensor) -> Tensor:
    """Log-probabilities of the tokens of every answer."""
    return policy.log_softmax(-1)[STATE, WORD]


def answers(policy: Tensor) -> Tensor:
    """Log-probabilities of the answers."""
    return tokens(policy).view(-1, DEPTH).sum(1)


def rewards(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(len(ANSWERS), generator=generator) < 0.3).double()


def batch_of(reward: Tensor, group: Tensor, lengths: list[int]) -> Batch:
    sequence = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    zeros = torch.zeros(len(sequence))
    return Batch(
        sequence=sequence,
        behaviour_logp=zeros,
        advantage=zeros,
        importance=torch.ones_like(zeros),
        fresh=torch.ones(len(lengths), dtype=torch.bool),
        max_tokens=9,
        reward=reward,
        group=group,
    )
