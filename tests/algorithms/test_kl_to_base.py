"""The KL penalty: k3's value and gradient over the fresh tokens, and nothing at the base."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from algorithms import kl_to_base
from algorithms.terms import Batch, Signals


def batch(reference: torch.Tensor | None) -> Batch:
    zeros = torch.zeros(4)
    return Batch(
        sequence=torch.tensor([0, 0, 1, 2]),
        behaviour_logp=zeros,
        advantage=zeros,
        importance=torch.ones(4),
        fresh=torch.tensor([True, True, False]),
        max_tokens=5,
        reference_logp=reference,
    )


def test_it_is_the_mean_of_k3_over_the_fresh_tokens() -> None:
    logp = torch.tensor([-1.0, -2.0, -0.5, -0.1], requires_grad=True)
    base = torch.tensor([-1.5, -1.0, -0.5, -9.0])
    term = kl_to_base.term(batch(base), kl_to_base.Config(coefficient=0.3))
    loss, metrics = term.token_loss(Signals(logp), torch.arange(4))
    (slope,) = torch.autograd.grad((term.scale * loss).sum(), logp)
    gap = base - logp.detach()
    value = gap.exp() - 1.0 - gap
    torch.testing.assert_close(metrics["kl"], value)
    wanted = 0.3 * (1.0 - gap.exp()) / 3.0
    torch.testing.assert_close(slope, torch.where(torch.arange(4) < 3, wanted, torch.zeros(4)))


def test_at_the_base_it_pulls_nowhere() -> None:
    logp = torch.tensor([-1.0, -2.0, -0.5, -0.1], requires_grad=True)
    term = kl_to_base.term(batch(logp.detach().clone()), kl_to_base.Config())
    loss, _ = term.token_loss(Signals(logp), torch.arange(4))
    (slope,) = torch.autograd.grad((term.scale * loss).sum(), logp)
    assert torch.equal(slope, torch.zeros(4))


def test_it_needs_the_base() -> None:
    assert kl_to_base.reference(kl_to_base.Config())
    assert not kl_to_base.reference(kl_to_base.Config(coefficient=0.0))
    with pytest.raises(ValueError, match="log-probabilities of the base"):
        kl_to_base.term(dataclasses.replace(batch(None)), kl_to_base.Config())
