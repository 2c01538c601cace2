"""What this process held at most."""

from __future__ import annotations

import resource
import sys

import torch


def peak_memory(device: torch.device) -> float:
    """The largest memory that the process ever held, in bytes; on a GPU, that of the GPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
