"""Micro-batches side by side: on a CPU, a few threads share the cores, each with a micro-batch of its own.

Small operations, of which a pass has thousands, gain little from a second core: their threads wait for each
other at every one. Whole micro-batches do not wait. Results come in the order of the jobs, so that sums are
the same whichever finishes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

MAX_THREADS = 4
"""Each thread holds the activations of a micro-batch; where there are more cores, a thread gets several."""

T = TypeVar("T")


def thread_count(device: torch.device) -> int:
    """How many micro-batches this process should compute at once."""
    return min(torch.get_num_threads(), MAX_THREADS) if device.type == "cpu" else 1


def map_in_order(count: int, jobs: Sequence[Callable[[], T]]) -> Iterator[T]:
    """The result of each job, in order, from ``count`` threads.

    Closing the iterator cancels the jobs that have not begun.
    """
    count = min(count, len(jobs))
    if count < 2:
        yield from (job() for job in jobs)
        return
    cores = torch.get_num_threads()
    share = max(cores // count, 1)
    enabled = torch.is_grad_enabled()

    def run(job: Callable[[], T]) -> T:
        with torch.set_grad_enabled(enabled):  # which each thread has for itself
            return job()

    pool = ThreadPoolExecutor(count, "micro-batch", initializer=torch.set_num_threads, initargs=(share,))
    try:
        yield from pool.map(run, jobs)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)  # a thread's setting reaches some libraries of the whole process
