"""The likelihood of given tokens as a term: what supervised fine-tuning and UFT's hints learn by.

L = sum over the tokens of scale_t * -log pi(y_t)
"""

from __future__ import annotations

from torch import Tensor

from algorithms.terms import Metrics, Signals, Term


def surprisal_term(name: str, scale: Tensor) -> Term:
    """``scale`` [T]; metric [t]: ``nll``, minus the log-probability of the tokens, nats."""

    def token_loss(signals: Signals, index: Tensor) -> tuple[Tensor, Metrics]:
        loss = -signals.logp
        return loss, {"nll": loss.detach()}

    return Term(name=name, scale=scale, token_loss=token_loss)
