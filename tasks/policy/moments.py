"""AdamW on float32 masters, by where its moments lie: beside the masters, in the host's memory, in 8 bits.

Loshchilov and Hutter 2019 (arXiv 1711.05101); moments in 8 bits by blocks: Dettmers et al. 2022 (arXiv
2110.02861). All take the same steps but for the rounding of 8 bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from params.update import Update
from tasks.core import few_bits
from tasks.policy import distributed

KEYS = ("exp_avg", "exp_avg_sq")
"""AdamW's moments of a weight, by torch's names."""
EIGHT_BIT = ("state1", "state2", "absmax1", "absmax2")
"""The same by bitsandbytes' names, and the scales of their blocks; a small weight has no scales."""
SMALL = 4096
"""A weight of fewer numbers keeps moments in float32."""
BLOCK = 256
"""Numbers that share a scale."""


class Moments(ABC):
    """Moves ``masters`` by their gradients. ``rate`` is of each step."""

    def __init__(self, masters: Sequence[Tensor], settings: Update, device: torch.device) -> None:
        self._masters = list(masters)
        self._settings = settings
        self._device = device

    def clip(self, limit: float) -> Tensor:
        """Scale the gradients down to a global norm of ``limit``; their norm before."""
        return torch.nn.utils.clip_grad_norm_(self._masters, limit)

    def drop_gradients(self) -> None:
        """There are none any more."""
        for master in self._masters:
            master.grad = None

    @abstractmethod
    def step(self, rate: float) -> None:
        """Move every master by its gradient."""

    def form(self, master: Tensor) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """What ``held`` has of a master that has moved: shape and type by name."""
        return dict.fromkeys(KEYS, (master.shape, master.dtype))

    @abstractmethod
    def held(self, master: Tensor) -> dict[str, Tensor]:
        """The moments of a master; nothing before the first step."""

    @abstractmethod
    def put(self, master: Tensor, held: dict[str, Tensor], steps: int) -> None:
        """Take up what ``held`` gave after so many steps."""


class _OnDevice(Moments):
    def __init__(self, masters: Sequence[Tensor], settings: Update, device: torch.device) -> None:
        super().__init__(masters, settings, device)
        self._adamw: Any = self._made(list(masters), settings)

    @staticmethod
    def _made(masters: list[Tensor], settings: Update) -> Any:
        return torch.optim.AdamW(masters, fused=True, **_options(settings))

    def step(self, rate: float) -> None:
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.step()

    def held(self, master: Tensor) -> dict[str, Tensor]:
        state = self._adamw.state.get(master) or {}
        return {key: state[key] for key in self.form(master) if state}

    def put(self, master: Tensor, held: dict[str, Tensor], steps: int) -> None:
        placed = {key: distributed.placed_like(moment, master) for key, moment in held.items()}
        self._adamw.state[master] = {"step": torch.tensor(float(steps), device=master.device), **placed}


class _EightBits(_OnDevice):
    @staticmethod
    def _made(masters: list[Tensor], settings: Update) -> Any:
        optim = few_bits.library("update.optimiser: adamw_8bit").optim
        return optim.AdamW8bit(masters, min_8bit_size=SMALL, **_options(settings))

    def form(self, master: Tensor) -> dict[str, tuple[torch.Size, torch.dtype]]:
        if master.numel() < SMALL:
            return dict.fromkeys(EIGHT_BIT[:2], (master.shape, torch.float32))
        scales = torch.Size([-(-master.numel() // BLOCK)])
        numbers = dict.fromkeys(EIGHT_BIT[:2], (master.shape, torch.uint8))
        return {**numbers, **dict.fromkeys(EIGHT_BIT[2:], (scales, torch.float32))}

    def put(self, master: Tensor, held: dict[str, Tensor], steps: int) -> None:
        self._adamw.init_state(self._adamw.param_groups[0], master, 0, self._place(master))
        state = self._adamw.state[master]
        state["step"] = steps
        for key, moment in held.items():
            state[key].copy_(moment)

    def _place(self, master: Tensor) -> int:
        return next(place for place, each in enumerate(self._masters) if each is master)


class _OnHost(Moments):
    """Master, gradient and moments of one weight after the other pass through the device."""

    def __init__(self, masters: Sequence[Tensor], settings: Update, device: torch.device) -> None:
        super().__init__(masters, settings, device)
        self._state: dict[Tensor, dict[str, Tensor]] = {}
        self._steps = 0
        self._scale: Tensor | None = None

    @torch.no_grad()
    def clip(self, limit: float) -> Tensor:
        """As torch does, a weight at a time; the gradients are scaled as they pass through the device."""
        norms = [_norm(master.grad.to(self._device)) for master in self._masters if master.grad is not None]
        total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        self._scale = torch.clamp(limit / (total + 1e-6), max=1.0)
        return total

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for master in self._masters:
            if master.grad is None:
                continue
            if master not in self._state:
                self._state[master] = {key: self._zeros(master) for key in KEYS}
            homes = [master.detach(), *self._state[master].values()]
            here = [x.to(self._device) for x in homes]
            gradient = master.grad.to(self._device)
            if self._scale is not None:
                gradient = gradient * self._scale
            counted = torch.tensor(float(self._steps), device=self._device)
            weight, first, second = ([x] for x in here)
            fixed = {"eps": 1e-8, "fused": True, "amsgrad": False, "maximize": False}
            options: dict[str, Any] = {**_functional(self._settings, rate), **fixed}
            state: tuple[Any, ...] = (weight, [gradient], first, second, [], [counted])
            adamw(*state, **options)
            for home, x in zip(homes, here, strict=True):
                if home is not x:
                    home.copy_(x)
        self._steps, self._scale = self._steps + 1, None

    def held(self, master: Tensor) -> dict[str, Tensor]:
        return self._state.get(master, {})

    def put(self, master: Tensor, held: dict[str, Tensor], steps: int) -> None:
        self._steps = steps
        for key, moment in held.items():
            self._state.setdefault(master, {})[key] = self._zeros(master).copy_(moment)

    def _zeros(self, like: Tensor) -> Tensor:
        return torch.zeros(like.shape, dtype=like.dtype, pin_memory=self._device.type == "cuda")


def open_moments(masters: Sequence[Tensor], settings: Update, device: torch.device) -> Moments:
    """Those that the settings ask for. Raises ``BadInput`` where 8 bits are asked for and not to be had."""
    if settings.offload:
        return _OnHost(masters, settings, device)
    return (_EightBits if settings.optimiser == "adamw_8bit" else _OnDevice)(masters, settings, device)


def _options(settings: Update) -> dict[str, Any]:
    betas = (settings.beta1, settings.beta2)
    return {"lr": settings.learning_rate, "betas": betas, "weight_decay": settings.weight_decay}


def _functional(settings: Update, rate: float) -> dict[str, float]:
    betas = {"beta1": settings.beta1, "beta2": settings.beta2}
    return {"lr": rate, "weight_decay": settings.weight_decay, **betas}


def _norm(gradient: Tensor) -> Tensor:
    """By the operation that torch's clipping takes on this device."""
    norms: Any = torch._foreach_norm([gradient]) if gradient.is_cuda else [torch.linalg.vector_norm(gradient)]
    return cast(Tensor, norms[0])
