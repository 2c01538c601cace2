"""What a machine computes on, and the settings that depend on it where nothing is chosen."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from params.base import BadInput
from params.engine import Engine
from params.update import Update

VISIBLE = "CUDA_VISIBLE_DEVICES"
NARROW = 768
"""Hidden states of a model. Below, two threads on one product gain little on a CPU."""
FEW_CORES = 2
OLDEST_DRIVER = 580
"""The first that runs CUDA 13, which the builds of torch on the package index are made for."""


def has_driver() -> bool:
    """Whether a GPU's driver is here and ``CUDA_VISIBLE_DEVICES`` does not hide it; imports nothing heavy."""
    hidden = os.environ.get(VISIBLE, "0").strip() in ("", "-1")
    return not hidden and (Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None)


@functools.cache
def sees_gpu() -> bool:
    """Whether torch can compute on a GPU; without a driver torch is not imported for it."""
    if not has_driver():
        return False
    import torch

    return torch.cuda.is_available()


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    if not sees_gpu():
        return []
    if VISIBLE in os.environ:
        return [name.strip() for name in os.environ[VISIBLE].split(",")]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def gpu_memory() -> float | None:
    """Bytes of the smallest GPU that is seen; None without one."""
    if not sees_gpu():
        return None
    import torch

    count = torch.cuda.device_count()
    return float(min(torch.cuda.get_device_properties(index).total_memory for index in range(count)))


def named_gpus(chosen: Sequence[int], setting: str) -> list[str]:
    """The visible GPUs that a setting chooses, by name; raises ``BadInput`` for one that is not there."""
    names = visible_gpus()
    if missing := [index for index in chosen if index >= len(names)]:
        raise BadInput(f"{setting}: {missing[0]}, but {len(names)} GPUs are seen; expected numbers from 0 on")
    if len(set(chosen)) < len(chosen):
        raise BadInput(f"{setting}: names a GPU twice; expected each once")
    return [names[index] for index in chosen]


def check_placement(engine: Engine, update: Update) -> None:
    """Raises ``BadInput`` where engine or trainer are placed on GPUs that are not there."""
    named_gpus(engine.gpus, "engine.gpus")
    named_gpus(update.gpus, "update.gpus")
    if update.gpus and len(update.gpus) < update.ranks:
        raise BadInput(
            f"update.gpus: {len(update.gpus)} for update.ranks {update.ranks}; expected one a rank"
        )
    wide = engine.tensor_parallel
    if wide > 1 and wide > len(engine.gpus or visible_gpus()):
        raise BadInput(
            f"engine.tensor_parallel: {wide}, but the engine has {len(engine.gpus or visible_gpus())} GPUs; "
            "expected at most as many"
        )


def share_gpus(engine: Engine, update: Update) -> bool:
    """Whether engine and trainer are on the same GPUs, some of them."""
    starts = engine.start_servers if engine.name == "server" else 1
    trainer = set(update.gpus or range(update.ranks))
    its = set(engine.gpus or (range(1 << 10) if engine.name == "server" else range(engine.tensor_parallel)))
    return bool(starts and trainer & its)


def engine_share(engine: Engine, update: Update) -> float:
    """Of the memory of the trainer's GPUs, what the engine holds while weights train."""
    return engine.memory_fraction if share_gpus(engine, update) and not engine.sleep else 0.0


def driver_version() -> str | None:
    """Of the kernel module, such as ``580.65.06``."""
    path = Path("/proc/driver/nvidia/version")
    words = path.read_text().split() if path.is_file() else []
    return next((word for word in words if word[0].isdigit() and word.count(".") >= 1), None)


def check_device() -> None:
    """Raises ``BadInput`` where a GPU's driver is here and torch sees no GPU: all would run on processors."""
    if not has_driver() or sees_gpu():
        return
    import torch

    driver, runs = driver_version(), torch.version.cuda
    remedy = "a build of torch for CUDA (make setup installs one)"
    if runs is not None:
        remedy = f"a driver that runs CUDA {runs}: {OLDEST_DRIVER} or newer for CUDA 13"
    raise BadInput(
        f"a GPU's driver{f' {driver}' if driver else ''} is here, and torch {torch.__version__} sees no GPU; "
        f"expected {remedy}, or {VISIBLE}= to run on the processor"
    )


@functools.cache
def can_compile() -> bool:
    """Whether this machine can build GPU kernels: Triton, a C compiler and Python's headers."""
    compiler = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return importlib.util.find_spec("triton") is not None and compiler and headers.is_file()


def micro_batch(update: Update, longest: int, gpu: bool) -> int:
    """Positions of a forward pass: as chosen, or 1,024 on a CPU and 16,384 on a GPU, and a whole sequence."""
    return update.tokens_per_micro_batch or max(16384 if gpu else 1024, longest)


def checkpoints(update: Update, activations: float, memory: float, engine: Engine) -> bool:
    """Whether layers keep their input alone: as chosen, or where a pass's ``activations`` would fill a third
    of what the engine leaves of a GPU's ``memory``, both in bytes."""
    if update.checkpointing is not None:
        return update.checkpointing
    return activations > memory * (1 - engine_share(engine, update)) / 3


def head_chunk(update: Update, gpu: bool) -> int:
    """Positions whose logits are held at once: as chosen, or 512 on a CPU and 4,096 on a GPU."""
    return update.head_chunk or (4096 if gpu else 512)


def side_by_side(engine: Engine, gpu: bool) -> int:
    """Responses that an engine decodes side by side; a step on a GPU takes hardly longer for more of them."""
    return engine.max_sequences or (512 if gpu else 128)


def samples_well_in_process(width: int) -> bool:
    """Whether the transformers engine samples a model with hidden states of this width as quickly as vLLM:
    so it was measured on two cores (docs/performance.md), and with more of them vLLM has not been tried."""
    return width < NARROW and len(os.sched_getaffinity(0)) <= FEW_CORES and not sees_gpu()


def start_timeout(engine: Engine, gpu: bool) -> int:
    """Seconds that an engine may take to start; the first time, one on a GPU compiles kernels."""
    return engine.start_timeout or (900 if gpu else 300)
