"""The parts of an update that have a method each: all responses, or those of one task of a mixture.

A task's terms are built from the whole step, as if its method were everybody's, and then have no scale on the
tokens of other tasks: a token weighs what it would in a run with its task's method alone, so that the
denominators are those of the whole step, and with one method for all the sum is the run's own (ours).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from algorithms.contract import Recipe
from algorithms.mismatch import correction_weights
from algorithms.terms import Batch, Term
from params.mixture import MAIN
from params.schema import Params
from tasks.policy.gradient import Step
from tasks.update.responses import Responses


def recipes_of(params: Params, round: int) -> dict[str, Recipe]:
    """The method of each task, as it is in that round; of ``MAIN`` alone where all have the same."""
    methods = params.methods
    if all(method == params.method for method in methods.values()):
        methods = {MAIN: params.method}
    return {
        name: Recipe.of(method, params.method_at(name)).in_round(round) for name, method in methods.items()
    }


@dataclass(frozen=True)
class Share:
    """Responses that one method learns from, among all of them."""

    task: str
    """``MAIN`` and ``alone``, or the one task."""
    recipe: Recipe
    given: Responses
    """All of them, as this method weighs them."""
    alone: bool
    """Whether there is no other method."""

    def own(self) -> Tensor:
        """[S] bool: those that it learns from."""
        return torch.tensor([self.alone or name == self.task for name in self.given.task], dtype=torch.bool)

    def terms(
        self, members: Sequence[int], max_tokens: int, old: list[Tensor] | None
    ) -> tuple[Batch, list[Term]]:
        """The whole step as its method sees it, and its terms, the objective first."""
        batch = self.given.batch(members, max_tokens, old, self.recipe.method.correction)
        terms = self.recipe.on(batch)
        if self.alone:
            return batch, terms
        mine = self.own()[list(members)]
        token = mine[batch.sequence]
        return batch, [
            replace(
                term,
                scale=torch.where(token, term.scale, torch.zeros_like(term.scale)),
                spans=tuple(span for span in term.spans if mine[span.response]),
                task=self.task,
            )
            for term in terms
        ]

    def corrected(self, old: Sequence[Tensor]) -> tuple[Tensor, Tensor] | None:
        """What its correction makes of its fresh tokens: their weights, and [t] bool, truncated or masked;
        None where it has none. ``old``: the trainer's log-probabilities of the fresh responses."""
        choice = self.recipe.method.correction
        members = [i for i in self.own().nonzero().squeeze(1).tolist() if i < len(old)]
        if choice is None or not members:
            return None
        sequence = torch.repeat_interleave(torch.tensor([len(old[i]) for i in members]))
        trainer, engine = (torch.cat([logp[i] for i in members]) for logp in (old, self.given.engine_logp))
        return correction_weights(trainer, engine, sequence, choice)


def shares_of(recipes: dict[str, Recipe], given: Responses) -> tuple[Responses, list[Share]]:
    """A share for each method, and the responses as each is weighed by its own."""
    if len(recipes) == 1:
        (recipe,) = recipes.values()
        return given, [Share(MAIN, recipe, given, alone=True)]
    shares = [
        Share(name, recipe, given.under(recipe.method), alone=False) for name, recipe in recipes.items()
    ]
    advantage = given.advantage.clone()
    for share in shares:
        advantage[share.own()] = share.given.advantage[share.own()]
    return replace(given, weighed=replace(given.weighed, advantage=advantage)), shares


def step_of(
    shares: Sequence[Share], members: Sequence[int], max_tokens: int, old: list[Tensor] | None
) -> Step:
    """One optimiser step over these responses; the objectives come first."""
    made = [share.terms(members, max_tokens, old) for share in shares]
    objectives = [terms[0] for _, terms in made]
    others = [term for _, terms in made for term in terms[1:]]
    given = shares[0].given
    return Step(
        prompts=[given.prompts[i] for i in members],
        responses=[given.responses[i] for i in members],
        batch=made[0][0],
        terms=[*objectives, *others],
        objectives=len(objectives),
    )
