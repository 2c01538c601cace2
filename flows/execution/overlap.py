"""Whether a run's rounds overlap, and how its stages then share the machine's cores."""

from __future__ import annotations

import os
from dataclasses import dataclass

from params.base import BadInput
from params.schema import Params
from tasks.core.device import sees_gpu


@dataclass(frozen=True)
class Share:
    """What the stages of one resource get of this machine's cores."""

    threads: int
    """Of torch."""
    cores: tuple[int, ...] = ()
    """Those that its process, and what that starts, keep to; empty: any."""


def overlaps(params: Params, on_gpu: bool | None = None) -> bool:
    """Whether stages of several resources run at the same time. ``engine.name`` must be decided.
    ``on_gpu``: whether the trainer is on one; None: as on this machine.

    Raises ``BadInput`` where that is asked for and the engine samples on the trainer's GPU.
    """
    rollout = params.rollout
    if rollout.overlap is False or not rollout.lag:
        return False
    if not _shares_gpu(params, sees_gpu() if on_gpu is None else on_gpu):
        return True
    if rollout.overlap:
        raise BadInput(
            "rollout.overlap: the engine samples on the trainer's GPU; expected engine.name=server, or vllm "
            "with engine.gpus that the trainer does not use"
        )
    return False


def _shares_gpu(params: Params, on_gpu: bool) -> bool:
    engine = params.engine
    elsewhere = engine.servers or engine.servers_file or (engine.gpus and 0 not in engine.gpus)
    return on_gpu and not elsewhere


def shares(params: Params) -> tuple[Share, Share]:
    """What the engine gets and what the trainer gets. ``threads``, where it is set, holds for each of the
    two; else they share the cores, half each, unless the engine computes elsewhere.

    vLLM binds a thread to every core that it sees, so it must see those alone that are to be its own.
    """
    engine, available = params.engine, sorted(os.sched_getaffinity(0))
    here = not sees_gpu() and (engine.name != "server" or engine.start_servers > 0)
    half = available[(len(available) + 1) // 2 :] if here else []
    usual = params.threads or max(1, len(available) - len(half))
    own = tuple(half) if here and engine.name != "transformers" else ()
    return Share(params.threads or max(1, len(half)), own), Share(usual)
