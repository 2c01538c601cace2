"""Every objective of the package, alone and as the presets set it, and tokens to try it on."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

import algorithms
from algorithms.divergence import TopK
from params.base import Config
from params.load import compose, presets


@dataclass(frozen=True)
class Case:
    """An objective and its options."""

    name: str
    module: ModuleType
    config: Config


@dataclass(frozen=True)
class Tokens:
    """T sampled tokens: two policies' logits [T, V], what was sampled [T], advantages and responses [T]."""

    logits: Tensor
    behaviour_logits: Tensor
    ids: Tensor
    advantage: Tensor
    sequence: Tensor

    def pick(self, index: Tensor) -> Tokens:
        """Some of the tokens, in that order."""
        return Tokens(
            self.logits[index],
            self.behaviour_logits[index],
            self.ids[index],
            self.advantage[index],
            self.sequence[index],
        )

    def scaled(self, factor: float) -> Tokens:
        """With advantages that are ``factor`` times as large."""
        return Tokens(self.logits, self.behaviour_logits, self.ids, factor * self.advantage, self.sequence)


def cases() -> list[Case]:
    """Each module that has a ``token_loss`` with its defaults, then each preset's objective."""
    names = [info.name for info in pkgutil.iter_modules(algorithms.__path__)]
    modules = {name: importlib.import_module(f"algorithms.{name}") for name in names}
    found = {n: Case(n, m, m.Config()) for n, m in modules.items() if hasattr(m, "token_loss")}
    for preset in presets("methods"):
        choice = compose("nano", "arithmetic", preset).method.objective
        module = modules[choice.name]
        found[f"{preset}.yaml"] = Case(
            f"{preset}.yaml", module, choice.resolve(module.Config, "method.objective")
        )
    return list(found.values())


def tokens(seed: int, spread: float = 1.0, vocabulary: int = 12) -> Tokens:
    """Seven responses of one to nine tokens, interleaved, called by arbitrary integers; float64."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([1, 4, 9, 2, 6, 3, 5])
    names = torch.tensor([40, 3, 17, 5, 1000, 0, 8])
    advantages = torch.tensor([1.5, -0.7, 0.3, -2.0, 0.0, 0.9, -0.1], dtype=torch.float64)
    order = torch.randperm(int(lengths.sum()), generator=generator)
    shape = (len(order), vocabulary)
    behaviour = 2.0 * torch.randn(shape, generator=generator, dtype=torch.float64)
    moved = behaviour + spread * torch.randn(shape, generator=generator, dtype=torch.float64)
    ids = torch.distributions.Categorical(logits=behaviour).probs.multinomial(1, generator=generator)[:, 0]
    return Tokens(
        moved,
        behaviour,
        ids,
        advantages.repeat_interleave(lengths)[order],
        names.repeat_interleave(lengths)[order],
    )


def loss_of(case: Case, sample: Tokens, logits: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective's loss [T] and metrics, with the top tokens where it asks for them."""
    now = (sample.logits if logits is None else logits).log_softmax(-1)
    before = sample.behaviour_logits.log_softmax(-1)
    logp = now.gather(-1, sample.ids[:, None])[:, 0]
    behaviour_logp = before.gather(-1, sample.ids[:, None])[:, 0]
    arguments = [logp, behaviour_logp, sample.advantage, sample.sequence, case.config]
    k = getattr(case.module, "top_k", lambda config: 0)(case.config)
    if k:
        best = before.topk(min(k, before.shape[-1] - 2), dim=-1)
        arguments.append(
            TopK(best.values, now.gather(-1, best.indices).detach(), best.indices == sample.ids[:, None])
        )
    loss, metrics = case.module.token_loss(*arguments)
    return loss, metrics


def slope(loss: Tensor, logp: Tensor) -> Tensor:
    """The gradient [T] of the loss's sum."""
    (found,) = torch.autograd.grad(loss.sum(), logp)
    return found
