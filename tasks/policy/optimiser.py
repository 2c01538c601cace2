"""AdamW over a policy's float32 masters: warm-up, clipping, refusal, and a state on disk that is exact."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from params.base import BadInput
from params.schema import Update
from tasks.artefacts.artefact import write_json
from tasks.core.errors import NotFinite
from tasks.policy import distributed
from tasks.policy.load import read_tensors

MOMENTS = "optimizer.safetensors"
STATE = "state.json"
KEYS = ("exp_avg", "exp_avg_sq")
"""AdamW's moments of a weight, by torch's names."""
PATIENCE = 3


class Optimiser:
    """Moves ``masters`` in place. Counts its steps over the whole run, and refusals in a row."""

    def __init__(self, masters: dict[str, Tensor], settings: Update) -> None:
        self.steps = 0
        self.refused_in_a_row = 0
        self._masters = masters
        self._settings = settings
        self._adamw = torch.optim.AdamW(
            list(masters.values()),
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def rate(self) -> float:
        """The learning rate of the next step: rising linearly over the warm-up, then constant."""
        warm = self._settings.warmup_steps
        return self._settings.learning_rate * min(1.0, (self.steps + 1) / (warm + 1))

    def step(self, loss: float) -> float | None:
        """Clip the gradients and take one step; the gradient's norm before clipping.

        With a ``loss`` or a norm that is not finite nothing moves and the answer is None; raises
        ``NotFinite`` the third time in a row.
        """
        for master in self._masters.values():
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        clipped = torch.nn.utils.clip_grad_norm_(self._masters.values(), self._settings.clip_norm)
        norm = float(distributed.full_tensor(clipped))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.refuse(f"loss {loss}, gradient norm {norm}")
            return None
        for group in self._adamw.param_groups:
            group["lr"] = self.rate()
        self._adamw.step()
        self._adamw.zero_grad()
        self.steps += 1
        self.refused_in_a_row = 0
        return norm

    def refuse(self, why: str) -> None:
        """Drop the gradients and count it; raises ``NotFinite`` the third time in a row."""
        self._adamw.zero_grad()
        self.refused_in_a_row += 1
        if self.refused_in_a_row >= PATIENCE:
            raise NotFinite(
                f"{self.refused_in_a_row} optimiser steps in a row were refused: the loss or gradient was "
                f"not finite (after step {self.steps}: {why}); the weights are those of the last good step"
            )

    def save(self, folder: Path) -> None:
        """Write the moments as safetensors and the counts as JSON."""
        states = {name: self._adamw.state.get(master) for name, master in self._masters.items()}
        held = {f"{name}.{key}": state[key] for name, state in states.items() if state for key in KEYS}
        moments = distributed.gather_full(held)
        if distributed.rank():
            return
        save_file(moments, folder / MOMENTS)
        write_json(folder / STATE, {"steps": self.steps, "refused_in_a_row": self.refused_in_a_row})

    def load(self, folder: Path) -> None:
        """Take up the state that ``save`` wrote, bit for bit; raises ``BadInput`` where it is damaged or does
        not fit, and nothing has changed then."""
        try:
            counts = json.loads((folder / STATE).read_text())
            steps, refused = int(counts["steps"]), int(counts["refused_in_a_row"])
        except (OSError, ValueError, LookupError, TypeError):
            raise BadInput(f"{folder / STATE}: not the counts of an optimiser; train it again") from None
        moments = read_tensors(folder / MOMENTS)
        for name, master in self._masters.items() if steps else ():
            for moment in (moments.get(f"{name}.{key}") for key in KEYS):
                if moment is None or moment.shape != master.shape or moment.dtype != master.dtype:
                    raise BadInput(f"{folder / MOMENTS}: does not fit the weights that train: {name}")
        self.steps, self.refused_in_a_row = steps, refused
        for name, master in self._masters.items() if steps else ():
            held = {key: distributed.placed_like(moments[f"{name}.{key}"], master) for key in KEYS}
            self._adamw.state[master] = {"step": torch.tensor(float(steps), device=master.device), **held}
