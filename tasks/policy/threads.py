"""Micro-batches side by side: on a CPU, a few threads that share the cores, each with its own micro-batch.

Small operations, of which a pass has thousands, gain little from a second core: their threads wait for each
other at every one. Whole micro-batches do not wait. Results come in the order of the work, so that sums are
the same whatever finishes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

MOST = 4
"""Lanes: each holds the activations of a micro-batch; where there are more cores, a lane gets several."""

T = TypeVar("T")


def count(device: torch.device) -> int:
    """How many micro-batches this process should have under way at once."""
    return min(torch.get_num_threads(), MOST) if device.type == "cpu" else 1


def in_order(lanes: int, work: Sequence[Callable[[], T]]) -> Iterator[T]:
    """The result of each, in order. Whoever stops listening stops the work that has not begun."""
    lanes = min(lanes, len(work))
    if lanes < 2:
        yield from (job() for job in work)
        return
    threads = torch.get_num_threads()
    share = max(threads // lanes, 1)
    pool = ThreadPoolExecutor(lanes, "lane", initializer=torch.set_num_threads, initargs=(share,))
    try:
        yield from pool.map(_with_grad_mode(torch.is_grad_enabled()), work)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # a lane's setting reaches some libraries of the whole process


def _with_grad_mode(enabled: bool) -> Callable[[Callable[[], T]], T]:
    """Gradients are recorded or not by thread."""

    def run(job: Callable[[], T]) -> T:
        with torch.set_grad_enabled(enabled):
            return job()

    return run
