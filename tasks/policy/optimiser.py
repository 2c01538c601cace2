"""AdamW over a policy's float32 masters: warm-up, clipping, refusal, and a state on disk that is exact."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from params.base import BadInput
from params.update import Update
from tasks.artefacts.artefact import MOMENTS, write_json
from tasks.core.errors import NotFinite
from tasks.policy import distributed
from tasks.policy.load import read_tensors
from tasks.policy.moments import open_moments

STATE = "state.json"
PATIENCE = 3


class Optimiser:
    """Moves ``masters`` in place. Counts its steps over the whole run, and refusals in a row."""

    def __init__(
        self, masters: dict[str, Tensor], settings: Update, device: torch.device | None = None
    ) -> None:
        """``device``: where the policy computes; by default where the masters are."""
        self.steps = 0
        self.refused_in_a_row = 0
        self._masters = masters
        self._settings = settings
        self._moments = open_moments(
            list(masters.values()), settings, device or next(iter(masters.values())).device
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
        norm = float(distributed.full_tensor(self._moments.clip(self._settings.clip_norm)))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.refuse(f"loss {loss}, gradient norm {norm}")
            return None
        self._moments.step(self.rate())
        self._moments.drop_gradients()
        self.steps += 1
        self.refused_in_a_row = 0
        return norm

    def refuse(self, why: str) -> None:
        """Drop the gradients and count it; raises ``NotFinite`` the third time in a row."""
        self._moments.drop_gradients()
        self.refused_in_a_row += 1
        if self.refused_in_a_row >= PATIENCE:
            raise NotFinite(
                f"{self.refused_in_a_row} optimiser steps in a row were refused: the loss or gradient was "
                f"not finite (after step {self.steps}: {why}); the weights are those of the last good step"
            )

    def save(self, folder: Path) -> None:
        """Write the moments as safetensors and the counts as JSON."""
        states = {name: self._moments.held(master) for name, master in self._masters.items()}
        held = {f"{name}.{key}": x for name, state in states.items() for key, x in state.items()}
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
        found: dict[str, dict[str, Tensor]] = {}
        for name, master in self._masters.items() if steps else ():
            form = self._moments.form(master)
            found[name] = {key: moments[f"{name}.{key}"] for key in form if f"{name}.{key}" in moments}
            if {key: (x.shape, x.dtype) for key, x in found[name].items()} != form:
                raise BadInput(f"{folder / MOMENTS}: does not fit the weights that train: {name}")
        self.steps, self.refused_in_a_row = steps, refused
        for name, held in found.items():
            self._moments.put(self._masters[name], held, steps)
