"""One policy update: what trains, by which steps, and what it computes on."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from params.base import Config
from params.speed import Speed


class Update(Config):
    """One policy update."""

    adapter: Literal["lora", "full"] = "lora"
    """Train a LoRA adapter on every linear layer, or all weights."""
    lora_rank: PositiveInt = 16
    """Rank of the adapter."""
    lora_alpha: PositiveFloat = 32.0
    """Scale of the adapter: its output is multiplied by alpha / rank."""
    learning_rate: PositiveFloat = 2e-4
    """AdamW's step length after the warm-up; 1e-6 where all weights train and none is chosen."""
    warmup_steps: Annotated[int, Field(ge=0)] = 2
    """Optimiser steps, counted over the whole run, in which the learning rate rises linearly."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """AdamW's decoupled weight decay."""
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """AdamW's first-moment decay."""
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """AdamW's second-moment decay."""
    optimiser: Literal["adamw", "adamw_8bit"] = "adamw"
    """AdamW with its moments in float32, 8 bytes a trained weight, or in 8 bits, 2 bytes (bitsandbytes)."""
    offload: Annotated[bool, Speed] = False
    """Keep the optimiser's moments, and of full weights masters and gradients, in the host's memory; all pass
    through the device for each step, whose numbers are the same."""
    clip_norm: PositiveFloat = 1.0
    """Largest global norm of the gradient."""
    epochs: PositiveInt = 1
    """Passes over a round's rollouts."""
    minibatches: PositiveInt = 1
    """Optimiser steps per pass; problems are split evenly among them."""
    measure_terms: bool = False
    """Measure the norm of each loss term's own gradient, which takes a backward pass more for each."""
    attention: Annotated[Literal["auto", "products", "flash", "flex"], Speed] = "auto"
    """What computes attention over shared prompts: ``products`` of the parts that are seen; torch's ``flash``
    kernels, for 16-bit models on a GPU, or its FlexAttention, which a GPU compiles. ``auto``: flash where it
    runs, else products."""
    checkpointing: Annotated[bool | None, Speed] = None
    """Keep each layer's input alone and compute its inside again in the backward pass: a third more time, a
    tenth of the memory of activations; null: on a GPU, where they would fill a third of what the engine
    leaves of its memory."""
    tokens_per_micro_batch: Annotated[PositiveInt | None, Speed] = None
    """Token positions, padding included, in one forward pass; null: 1,024, or 16,384 on a GPU, and at least
    ``model.context``."""
    head_chunk: Annotated[PositiveInt | None, Speed] = None
    """Positions whose logits are held at once; null: 512, or 4,096 on a GPU."""
    ranks: Annotated[PositiveInt, Speed] = 1
    """Processes of this machine that share the update, each with a shard of the weights; a GPU each."""
    rank_timeout: Annotated[PositiveInt, Speed] = 1800
    """Seconds that one of them waits for the others before the update fails."""
    machines: Annotated[PositiveInt, Speed] = 1
    """Machines that share the update, with so many ranks each; they see the workspace under the same path."""
    meeting: Annotated[str | None, Speed] = None
    """``HOST:PORT`` of the first machine, where the launchers of several meet; null: one machine, or a free
    port where ``placed_by`` says who knows it."""
    placed_by: Annotated[Literal["ray"] | None, Speed] = None
    """What starts the ranks of further machines: ``ray``, on other nodes of the cluster that ``RAY_ADDRESS``
    names; null: a person, by ``ostinato ranks``."""
    gpus: Annotated[tuple[NonNegativeInt, ...], Speed] = ()
    """GPUs of the trainer and its ranks, counted from 0 among those that the process sees; empty: the first
    ones."""

    @model_validator(mode="before")
    @classmethod
    def _rate_of_all_weights(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("adapter") == "full":
            return {"learning_rate": 1e-6, **given}
        return given

    @model_validator(mode="after")
    def _does_alone(self) -> Update:
        if self.optimiser == "adamw_8bit" and self.offload:
            raise ValueError("update.offload keeps moments in float32; expected update.optimiser adamw")
        if self.placed_by and self.machines == 1:
            raise ValueError(
                f"update.placed_by: {self.placed_by} starts the ranks of further machines; expected null, or "
                "update.machines above 1"
            )
        if (self.machines > 1) != (self.meeting is not None) and not self.placed_by:
            raise ValueError(
                "update.meeting: HOST:PORT of the first machine goes with update.machines above 1"
            )
        if self.meeting is not None and not re.fullmatch(r"[\w.-]+:\d{1,5}", self.meeting):
            raise ValueError(
                f"update.meeting: {self.meeting[:60]}; expected HOST:PORT, such as 10.0.0.1:29500"
            )
        if self.ranks * self.machines == 1:
            return self
        if self.measure_terms:
            raise ValueError("update.measure_terms measures in one process; expected update.ranks 1")
        if self.optimiser == "adamw_8bit" or self.offload:
            name = "offload" if self.offload else "optimiser: adamw_8bit"
            raise ValueError(
                f"update.{name} is for one process; expected update.ranks 1 on one machine, or neither"
            )
        return self
