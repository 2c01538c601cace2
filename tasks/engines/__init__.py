"""What samples text: one protocol, two implementations."""

from __future__ import annotations

import functools
import importlib.util
from typing import Literal

from params import BadInput
from tasks.engines.base import Engine
from tasks.stage import Job

__all__ = ["Engine", "kept", "resolve"]


def resolve(name: str) -> Literal["vllm", "transformers"]:
    """Which engine ``auto`` stands for here; raises ``BadInput`` for vLLM where it is not installed."""
    installed = importlib.util.find_spec("vllm") is not None
    if name == "transformers" or (name == "auto" and not installed):
        return "transformers"
    if not installed:
        raise BadInput(
            "engine.name: vllm is not installed; expected it to be, by pip install 'ostinato[cpu]' or "
            "'ostinato[gpu]', or engine.name=transformers"
        )
    return "vllm"


def kept(job: Job) -> Engine:
    """The engine over this job's base model, started once a run."""
    from tasks import policy  # torch and transformers, which whoever only asks for a name need not wait for

    base, params = job.inputs["model"], job.params
    name = resolve(params.engine.name)
    trainer = functools.partial(policy.kept, job)

    def make() -> Engine:
        if name == "vllm":
            from tasks.engines.vllm_server import Vllm

            return Vllm(base.path, trainer, params, job.context.scratch)
        from tasks.engines.in_process import InProcess

        return InProcess(trainer(), params)

    return job.context.keep(("engine", name, base.digest, params.engine, params.model, params.update), make)
